"""The next commands: real ones, in their order, each with what it is for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune.choose.needs import NEEDS
from finetune.choose.paths import path_of
from finetune.choose.situation import (
    BETTER_WORSE,
    CHAT,
    FEW_SHOT,
    GROUNDED,
    NEVER,
    PROMPT,
    PROMPTS,
    ROWS,
    TASKS,
    TEXT,
    TRIED,
    TUNING,
    Advice,
    Rows,
    Situation,
)
from finetune.methods import METHODS

SYNTH_ROWS = "synth/rows.jsonl"
STAND_IN = "my.jsonl"  # for rows that are not shown
EXAMPLES = "examples.jsonl"  # for rows that are to be made of those that are shown
LEARNED = (CHAT, TEXT)  # kinds of rows that are there to be learned as they are
# Settings that `finetune data check` takes too, beside the files.
OF_ROWS = ("data.columns", "data.layout", "data.split", "data.revision", "data.limit")
# Settings of an advice that the next one does not take: its rows are shown, and it is asked for measuring by a flag.
COUNTED_OR_DONE = ("choose.rows=", "choose.measure=")
LARGE_GPU = 80  # gigabytes, where nothing smaller does
NO_ROWS = "no_rows"
DONE = ("enough", "no_room")  # stops after which nothing is left to do
LOOKS = ("data", "demo")  # commands that bring nobody nearer to a decision


@dataclass(frozen=True)
class Command:
    """A command, and what it is for."""

    words: tuple[str, ...]
    why: str

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Preset:
    """A model's preset, and about how large the model is."""

    name: str
    parameters: int


@dataclass(frozen=True)
class Given:
    """What of the command line goes into the next ones."""

    model: tuple[str, ...]
    data: tuple[str, ...]  # but the training rows
    others: tuple[str, ...]  # settings of the evaluation
    said: tuple[str, ...]  # of the problem, for the next advice
    proposed: Preset  # of a base for the devices

    @property
    def run(self) -> tuple[str, ...]:
        """All that a run takes."""
        return (*self.model, *self.data, *self.others)


def given(passed: Sequence[str], proposed: Preset) -> Given:
    """The arguments apart; `proposed` is the preset of the base where none is named."""
    model = tuple(one for one in passed if one.startswith(("model=", "model.")))
    named = any(one.startswith(("model=", "model.name=")) for one in model)
    data = tuple(one for one in passed if one.startswith("data."))
    others = tuple(one for one in passed if one.startswith("evaluate."))
    said = tuple(one for one in passed if one.startswith("choose.") and not one.startswith(COUNTED_OR_DONE))
    return Given(model if named else (f"model={proposed.name}", *model), data, others, said, proposed)


def next_commands(advice: Advice, situation: Situation, arguments: Given, refused: str = "") -> list[Command]:
    """What to type next: the last that there always is asks again, for when what is advised was done.

    Of a run that its plan would refuse, with `refused`, no command is shown: it would fail.
    """
    situation = replace(situation, rows=tuple(replace(one, given=one.given or STAND_IN) for one in situation.rows))
    found = [*_checking(situation, arguments)]
    if refused and (advice.tunes or advice.rung in (PROMPT, FEW_SHOT)):
        run = (*arguments.run, *arguments.said)
        return [*found, _choose(situation.rows, run, situation, f"once this is mended: {refused}")]
    found += _measuring(advice, situation, arguments)
    if advice.rung == ROWS:
        found += _writing(advice, situation)
    elif advice.tunes and advice.tuning is not None:
        found += _training(advice, situation, arguments)
    elif advice.tunes:
        found.append(_smaller(situation, arguments))
    if advice.stop == NO_ROWS:
        found.append(Command(("finetune", "demo"), "a whole run, with rows and a model that are there already"))
    if advice.stop not in DONE and all(command.words[1] in LOOKS for command in found):
        found.append(_again(advice, situation, arguments))
    return found


def first_run(situation: Situation) -> tuple[str, ...]:
    """Method and rows of the first run that can be trained in a situation; nothing where there is none."""
    for method in path_of(situation).stages:
        if method in METHODS and (rows := _rows(method, situation)):
            return (*_method(method, situation), *rows)
    return _until(situation)


def _checking(situation: Situation, arguments: Given) -> Iterator[Command]:
    files = [rows.given for rows in situation.rows if rows.kind in LEARNED]
    if files:
        settings = [one for one in arguments.data if one.startswith(OF_ROWS)]
        yield Command(("finetune", "data", "check", *files, *settings), "what is wrong with the rows")


def _measuring(advice: Advice, situation: Situation, arguments: Given) -> Iterator[Command]:
    """Whether a cheap rung is good enough: measured before anything is tuned."""
    rows = [one for one in situation.rows if one.kind == CHAT]
    if situation.evidence is None and rows and (advice.tunes or advice.rung in (PROMPT, FEW_SHOT)):
        words = ("finetune", "choose", train_argument(rows), *arguments.run, *arguments.said, "--measure")
        yield Command(words, "what the base does alone, and with examples in its prompt")


def _writing(advice: Advice, situation: Situation) -> Iterator[Command]:
    """Rows written by the larger model."""
    rows = next((one for one in situation.rows if one.kind in (PROMPTS, CHAT)), None)
    if situation.teacher is None or rows is None:
        return
    source = "prompts" if rows.kind == PROMPTS else "examples"
    wanted = f"rows={advice.stages[0].missing}"
    teacher = f"model.name={situation.teacher}"
    words = ("finetune", "data", "build", "synth", f"{source}={rows.given}", wanted, teacher)
    yield Command(words, f"writes {SYNTH_ROWS}; choose again with these rows")


def _smaller(situation: Situation, arguments: Given) -> Command:
    """The same question for a base that suits the devices, or for a device that suits a base which is small already."""
    model, said, base = f"model={arguments.proposed.name}", arguments.said, situation.base
    if model not in arguments.model and (base is None or arguments.proposed.parameters < base.parameters):
        settings = (*arguments.data, *arguments.others, *said, model)
        return _choose(situation.rows, settings, situation, "the same for a smaller base")
    settings = (*arguments.run, *_instead(said, "choose.memory", str(LARGE_GPU)))
    return _choose(situation.rows, settings, situation, f"the same for a GPU of {LARGE_GPU} GB")


def _again(advice: Advice, situation: Situation, arguments: Given) -> Command:
    """The same question, for when what is advised was done: a rung was tried, or there are other rows or more."""
    said, rows, run = arguments.said, situation.rows, arguments.run
    if advice.rung in TRIED and advice.rung not in (*situation.tried, TUNING):
        tried = [one for one in TRIED if one in (*situation.tried, advice.rung)]
        said = _instead(said, "choose.tried", f"[{','.join(tried)}]")
        why = f"when {TRIED[advice.rung]} was measured and falls short"
    elif advice.stop == "moving":
        said, why = _instead(said, "choose.changes", NEVER), "for the part of it that is stable"
    elif advice.tunes or advice.stop == "unanswered":
        said = tuple(one for one in said if not one.startswith("choose.images="))
        rows, run = (Rows(EXAMPLES, CHAT, 0),), (*arguments.model, *arguments.others)
        why = f"when {EXAMPLES} holds questions with answers, made of these rows"
    elif rows:
        why = "when there are more rows"
    else:
        rows, why = (Rows(STAND_IN, CHAT, 0),), f"when {STAND_IN} holds your rows"
    return _choose(rows, (*run, *said), situation, why)


def _choose(rows: Sequence[Rows], settings: Sequence[str], situation: Situation, why: str) -> Command:
    """The same question, measured again where it was measured."""
    measure = ("--measure",) if situation.evidence is not None else ()
    return Command(("finetune", "choose", *([train_argument(rows)] if rows else []), *settings, *measure), why)


def _instead(said: Sequence[str], key: str, value: str) -> tuple[str, ...]:
    """The settings with another value for one of them."""
    return (*(one for one in said if not one.startswith(f"{key}=")), f"{key}={value}")


def _training(advice: Advice, situation: Situation, arguments: Given) -> Iterator[Command]:
    """Every stage that there is, each on what the one before it made; else what can be done until they are."""
    there = [one for one in advice.stages if one.there]
    earlier = ""
    for stage in there:
        settings = (*_method(stage.method, situation), *_of_tuning(advice, situation))
        rows = _rows(stage.method, situation)
        if rows:
            name = "variant-1" if situation.variants > 1 else stage.method
            yield from _run(name, rows, settings, arguments, earlier)
            earlier = name
    if not there and (rows := _until(situation)):
        yield from _run("sft", rows, _of_tuning(advice, situation), arguments, "")


def _method(method: str, situation: Situation) -> tuple[str, ...]:
    own = (f"method.teacher={situation.teacher}",) if method == "distill" else ()
    if method in ("grpo", "rloo"):
        # rows with right answers can be compared with them; for others somebody has to say what is good
        known = any(rows.kind == TASKS for rows in situation.rows)
        own = ("method.rewards=[exact]",) if known else ("method.rewards=[reward.py:pay]",)
    return (*(() if method == "sft" else (f"method={method}",)), *own)


def _of_tuning(advice: Advice, situation: Situation) -> tuple[str, ...]:
    start = ("tuning.start=continue",) if situation.base and situation.base.adapter else ()
    return (f"tuning={advice.tuning}", *start, *advice.settings)


def _rows(method: str, situation: Situation) -> tuple[str, ...]:
    """The settings that give a method its rows."""
    fitting = [one for one in situation.rows if one.kind in NEEDS[method].kinds]
    learned = [one for one in fitting if one.kind in LEARNED]
    if method in ("sft", "distill") and not learned:
        return _better(fitting)
    return (train_argument(learned or fitting),) if fitting else ()


def _until(situation: Situation) -> tuple[str, ...]:
    """The rows that can be learned as examples until their own method is there."""
    passages = [one for one in situation.rows if one.kind == GROUNDED and one.layout]
    return _better([one for one in situation.rows if one.kind == BETTER_WORSE]) or (
        (train_argument(passages),) if passages else ()
    )


def _better(pairs: Sequence[Rows]) -> tuple[str, ...]:
    """The better answers of pairs, read as examples."""
    columns = {"prompt_completion": "completion", "messages": "messages"}
    layout = pairs[0].layout if pairs else ""
    if layout not in columns or any(one.layout != layout for one in pairs):
        return ()
    return (train_argument(pairs), f"data.layout={layout}", f"data.columns.{columns[layout]}=chosen")


def train_argument(rows: Sequence[Rows]) -> str:
    """The sources as a setting."""
    names = [one.given for one in rows]
    return f"data.train={names[0]}" if len(names) == 1 else f"data.train=[{','.join(names)}]"


def _run(
    name: str, rows: tuple[str, ...], settings: tuple[str, ...], arguments: Given, earlier: str
) -> Iterator[Command]:
    if earlier:
        base: tuple[str, ...] = (f"model.name=runs/{earlier}", "tuning.start=continue")
    else:
        base = arguments.model
    words = (*base, *rows, *arguments.data, *settings, *arguments.others)
    if not earlier:
        yield Command(("finetune", "plan", *words, f"name={name}"), "what it would do and need")
    yield Command(("finetune", "train", *words, f"name={name}"), "trains")
    yield Command(("finetune", "evaluate", f"runs/{name}"), "whether it helped")
