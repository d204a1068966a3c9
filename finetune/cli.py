"""The command line: verbs → functions, imported when they are called. No logic.

finetune <verb> [argument …] [key=value …] [--flags]
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune import __version__, log
from finetune.errors import FinetuneError, UserError, did_you_mean


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    verb: str
    arguments: tuple[str, ...]  # overrides, and the verb's own arguments
    recipe: str | None
    json: bool
    debug: bool
    compose_only: bool  # --cfg job
    measure: bool = False


@dataclass(frozen=True)
class Verb:
    """What a verb is called, takes and does."""

    run: Callable[[Command], int]
    usage: str
    summary: str
    flags: tuple[str, ...]
    settings: Callable[[], list[str]] | None = None  # the settings that it takes, for its help


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no × gets a question mark
    debug = "--debug" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except FinetuneError as error:
        return _say(error, debug)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `finetune … | head`; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # the outermost edge: whatever arrives here is a bug of ours
        return _say_bug(debug)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"finetune {__version__}")
        return 0
    name, rest = _find_verb(arguments)
    if name not in VERBS and ("--help" in rest or "-h" in rest or not rest):
        print(_overview(name))
        return 0
    if name not in VERBS:
        raise _no_such_verb(name, rest[0])
    if "--help" in rest or "-h" in rest:
        print(_help(name))
        return 0
    command = _parse(name, rest)
    log.set_up(command.debug)
    return VERBS[name].run(command)


def _find_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb that is meant, of one word or several, or the first words of several verbs; and what follows it."""
    name, rest = "", list(arguments)
    while rest and _family(longer := f"{name} {rest[0]}".lstrip()):
        name, rest = longer, rest[1:]
        if name in VERBS:
            return name, rest
    if not name:
        raise _no_such_verb("", arguments[0])
    return name, rest


def _family(words: str) -> list[str]:
    """The verbs that begin with these words."""
    return [name for name in VERBS if f"{name} ".startswith(f"{words} " if words else "")]


def _no_such_verb(family: str, word: str) -> UserError:
    known = list(dict.fromkeys(name.removeprefix(f"{family} ").partition(" ")[0] for name in _family(family)))
    where = f"{family} {word}".strip()
    return UserError.at(where, "no such command", did_you_mean(word, known) or f"known are {', '.join(known)}")


# The verbs


def _train(command: Command) -> int:
    from finetune.compose import compose

    composed = compose(command.arguments, command.recipe)
    if command.compose_only:
        return _print(composed.yaml.rstrip())
    from finetune.launch import foresee, launch
    from finetune.plan import plan_run
    from finetune.plan.text import describe, describe_outcome

    plan = foresee(plan_run(composed))
    print(describe(plan), file=sys.stderr if command.json else sys.stdout, flush=True)
    outcome = launch(plan, composed)
    return _print(json.dumps(outcome) if command.json else describe_outcome(outcome))


def _plan(command: Command) -> int:
    from finetune.compose import compose

    composed = compose(command.arguments, command.recipe)
    if command.compose_only:
        return _print(composed.yaml.rstrip())
    from finetune.launch import foresee
    from finetune.plan import as_json, plan_run
    from finetune.plan.text import describe

    plan = foresee(plan_run(composed))
    return _print(json.dumps(as_json(plan)) if command.json else describe(plan))


def _evaluate(command: Command) -> int:
    from finetune import evaluate

    return evaluate.command(command.arguments, json_output=command.json)


def _data_split(command: Command) -> int:
    from finetune.data import split_files

    return split_files.command(command.arguments, json_output=command.json)


def _data_clean(command: Command) -> int:
    from finetune.data.clean import command as clean

    return clean.command(command.arguments, json_output=command.json)


def _data_check(command: Command) -> int:
    from finetune.data.examine import command as check

    return check.command(command.arguments, json_output=command.json)


def _data_build_synth(command: Command) -> int:
    from finetune.data.build import synth

    return synth.command(command.arguments, json_output=command.json)


def _reward_verify(command: Command) -> int:
    from finetune.rewards import command as verify

    return verify.command(command.arguments, json_output=command.json)


def _verify_settings() -> list[str]:
    from finetune.rewards.command import VerifySettings
    from finetune.settings.reference import own_settings

    return own_settings(VerifySettings())


def _runs_list(command: Command) -> int:
    from finetune.runs import listing

    return listing.command(command.arguments, json_output=command.json)


def _runs_show(command: Command) -> int:
    from finetune.runs import show

    return show.command(command.arguments, json_output=command.json)


def _runs_compare(command: Command) -> int:
    from finetune.runs import compare

    return compare.command(command.arguments, json_output=command.json)


def _runs_verify(command: Command) -> int:
    from finetune.runs import verify

    return verify.command(command.arguments, json_output=command.json)


def _compare_settings() -> list[str]:
    from finetune.runs.compare import CompareSettings
    from finetune.settings.reference import own_settings

    return own_settings(CompareSettings())


def _choose(command: Command) -> int:
    from finetune.choose import command as choose

    measure = ["choose.measure=true"] if command.measure else []
    return choose.command([*command.arguments, *measure], json_output=command.json)


def _choose_settings() -> list[str]:
    from finetune.choose.settings import settings_in_brief

    return settings_in_brief()


def _clean_settings() -> list[str]:
    from finetune.data.clean.settings import CleanSettings
    from finetune.settings.reference import own_settings

    return own_settings(CleanSettings())


def _split_settings() -> list[str]:
    from finetune.data.split_files import SplitSettings
    from finetune.settings.reference import own_settings

    return own_settings(SplitSettings())


def _synth_settings() -> list[str]:
    from finetune.data.build.settings import SynthSettings
    from finetune.settings.reference import own_settings

    return own_settings(SynthSettings())


def _evaluate_settings() -> list[str]:
    from finetune.evaluate.settings import EvaluateSettings
    from finetune.settings.reference import own_settings

    return own_settings(EvaluateSettings())


def _demo(command: Command) -> int:
    if command.arguments:
        raise UserError.at(command.arguments[0], "`finetune demo` takes no arguments", "use `finetune train`")
    from finetune import demo

    return demo.command(json_output=command.json)


def _run_settings() -> list[str]:
    from finetune.settings.reference import settings_in_brief

    return settings_in_brief()


def _check_settings() -> list[str]:
    from finetune.data.examine.settings import settings_in_brief

    return settings_in_brief()


FLAGS = {
    "--recipe NAME": "start from a recipe: a name, or the path of a recipe's file or folder",
    "--cfg job": "print the composed configuration and stop",
    "--measure": "measure the base and a prompted base on held-out rows first",
    "--json": "print one JSON object on stdout and nothing else there",
    "--debug": "say more, and add the traceback to an error",
    "--help": "this text",
}
EVERY = ("--json", "--debug", "--help")
OF_RUNS = ("--recipe NAME", "--cfg job", *EVERY)

VERBS: dict[str, Verb] = {
    "demo": Verb(_demo, "[--flags]", "the whole story on the embedded model, offline, about a minute", EVERY),
    "choose": Verb(
        _choose,
        "[FILE…] [model=…] [key=value …] [--flags]",
        "which method, if any, fits the problem, the rows and this machine",
        ("--measure", *EVERY),
        settings=_choose_settings,
    ),
    "train": Verb(
        _train,
        "[key=value …] [--flags]",
        "train; continue if it was interrupted",
        OF_RUNS,
        settings=_run_settings,
    ),
    "plan": Verb(
        _plan,
        "[key=value …] [--flags]",
        "all that `train` would do, without doing it",
        OF_RUNS,
        settings=_run_settings,
    ),
    "data check": Verb(
        _data_check,
        "FILE… [key=value …] [--flags]",
        "look at every row, and say what is wrong with it",
        EVERY,
        settings=_check_settings,
    ),
    "evaluate": Verb(
        _evaluate,
        "RUN|ADAPTER|MODEL|ENDPOINT… [data.eval=FILE] [key=value …] [--flags]",
        "compare a run with its base, or with anything else, on held-out rows",
        EVERY,
        settings=_evaluate_settings,
    ),
    "data clean": Verb(
        _data_clean,
        "FILE… [output=DIR] [clean.steps=[…]] [key=value …] [--flags]",
        "repair rows and drop bad ones, each with its reason",
        EVERY,
        settings=_clean_settings,
    ),
    "data split": Verb(
        _data_split,
        "FILE… [output=DIR] [split.share=0.1] [data.group_by=[COLUMN]] [--flags]",
        "part rows into train and held out, without leaks",
        EVERY,
        settings=_split_settings,
    ),
    "data build synth": Verb(
        _data_build_synth,
        "prompts=FILE|documents=PATH|examples=FILE [key=value …] [--flags]",
        "rows written by a bigger model, and judged",
        EVERY,
        settings=_synth_settings,
    ),
    "reward verify": Verb(
        _reward_verify,
        "rewards=[NAME|FILE.py:FUNCTION,…] data=FILE [good=…] [bad=…] [key=value …] [--flags]",
        "try rewards on good, bad and cheating answers",
        EVERY,
        settings=_verify_settings,
    ),
    "runs list": Verb(_runs_list, "[FOLDER] [--flags]", "what was run, newest first, and how it went", EVERY),
    "runs show": Verb(_runs_show, "RUN [--flags]", "one run: how it was made, what it left, what to type next", EVERY),
    "runs compare": Verb(
        _runs_compare,
        "RUN RUN… [evaluate.metric=…] [--flags]",
        "runs side by side: what differs, and which answers better",
        EVERY,
        settings=_compare_settings,
    ),
    "runs verify": Verb(_runs_verify, "RUN [--flags]", "whether a run is whole, byte by byte", EVERY),
}


# Parsing


def _parse(verb: str, arguments: list[str]) -> Command:
    """Flags from everything else; a flag that the verb has not is an error."""
    allowed = {flag.partition(" ")[0]: " " in flag for flag in VERBS[verb].flags}
    given: dict[str, str] = {}
    others: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            others.append(argument)
        elif argument in ("-m", "--multirun"):
            raise UserError.at(argument, "sweeps are not supported", "run one command for each value")
        elif flag not in allowed:
            mend = _nearest_flag(argument, allowed, VERBS[verb].settings is not None)
            raise UserError.at(argument, f"`finetune {verb}` has no such flag", mend)
        elif allowed[flag] and flag in given:
            raise UserError.at(flag, "is given twice", "keep one of them")
        elif allowed[flag] and not equals:
            if not waiting or not waiting[0]:
                raise UserError.at(flag, "needs a value", f"write {_shown_flag(verb, flag)}")
            given[flag] = waiting.pop(0)
        elif allowed[flag] and not value:
            raise UserError.at(flag, "nothing stands after `=`", f"write {_shown_flag(verb, flag)}")
        elif equals and not allowed[flag]:
            raise UserError.at(argument, f"{flag} takes no value", f"write {flag}")
        else:
            given[flag] = value
    if given.get("--cfg", "job") != "job":
        raise UserError.at(f"--cfg {given['--cfg']}", "there is only one configuration to print", "write --cfg job")
    json_output, debug, compose_only, measure = (flag in given for flag in ("--json", "--debug", "--cfg", "--measure"))
    return Command(verb, tuple(others), given.get("--recipe"), json_output, debug, compose_only, measure)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides and the recipe among the arguments of `train`."""
    command = _parse("train", list(arguments))
    return list(command.arguments), command.recipe


def _nearest_flag(argument: str, allowed: dict[str, bool], settings: bool) -> str:
    flag, equals, value = argument.partition("=")
    near = did_you_mean(flag, allowed)
    name = flag.lstrip("-")
    if near or not settings or not name:
        return near or f"known are {', '.join(allowed)}"
    return f"known are {', '.join(allowed)}; a setting has no dashes: {name}={value if equals else '…'}"


def _shown_flag(verb: str, flag: str) -> str:
    return next(shown for shown in VERBS[verb].flags if shown.startswith(flag))


# Help and messages


def _overview(family: str = "") -> str:
    lines = ["usage: finetune <command> [argument …] [key=value …] [--flags]", "", "commands:"]
    shown = {name: verb for name, verb in VERBS.items() if name in _family(family)}
    width = max(map(len, shown)) + 2
    lines += [f"  {name:<{width}} {verb.summary}" for name, verb in shown.items()]
    lines += [
        "",
        "start with:",
        "  finetune demo",
        "  finetune choose my.jsonl",
        "  finetune train model=tiny data.train=my.jsonl",
    ]
    return "\n".join([*lines, "", "`finetune <command> --help` says more about each."])


def _help(name: str) -> str:
    verb = VERBS[name]
    lines = [
        f"usage: finetune {name} {verb.usage}",
        "",
        f"{verb.summary[0].upper()}{verb.summary[1:]}.",
        "",
        "flags:",
    ]
    lines += [f"  {flag:<14} {FLAGS[flag]}" for flag in verb.flags]
    if verb.settings:
        lines += ["", *verb.settings()]
    return "\n".join(lines)


def _print(text: str) -> int:
    print(text)
    return 0


def _say(error: FinetuneError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print("\n".join(error.lines()), file=sys.stderr)
    return error.exit_code


def _say_bug(debug: bool) -> int:
    kind, value, _ = sys.exc_info()
    said = f"{kind.__name__ if kind else 'error'}: {value}".splitlines()[0][:200]
    if debug:
        traceback.print_exc()
    print(f"error: {said}; this is a bug of ours, please report it with {_saved_trace()}", file=sys.stderr)
    return 1


def _saved_trace() -> Path:
    """The file that holds the trace, private to the user."""
    descriptor, path = tempfile.mkstemp(prefix="finetune-error-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return Path(path)
