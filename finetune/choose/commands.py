"""The next commands: real ones, in their order, each with what it is for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune.choose.needs import NEEDS
from finetune.choose.situation import (
    BETTER_WORSE,
    CHAT,
    FEW_SHOT,
    GROUNDED,
    PROMPT,
    PROMPTS,
    ROWS,
    TEXT,
    Advice,
    Rows,
    Situation,
    Stage,
)

SYNTH_ROWS = "synth/rows.jsonl"
STAND_IN = "my.jsonl"  # for rows that were only counted by word
LEARNED = (CHAT, TEXT)  # kinds of rows that are there to be learned as they are
# Settings that `finetune data check` takes too, beside the files.
OF_ROWS = ("data.columns", "data.layout", "data.split", "data.revision", "data.limit")


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
class Given:
    """What of the command line goes into the next ones."""

    model: tuple[str, ...]
    data: tuple[str, ...]  # but the training rows
    others: tuple[str, ...]  # settings of the evaluation
    proposed: str  # the preset of a base for the devices

    @property
    def run(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.model, *self.data, *self.others)


def given(passed: Sequence[str], proposed: str) -> Given:
    """The arguments apart; `proposed` is the preset of the base where none is named."""
    model = tuple(one for one in passed if one.startswith(("model=", "model.")))
    named = any(one.startswith(("model=", "model.name=")) for one in model)
    data = tuple(one for one in passed if one.startswith("data."))
    others = tuple(one for one in passed if one.startswith("evaluate."))
    return Given(model if named else (f"model={proposed}", *model), data, others, proposed)


def next_commands(advice: Advice, situation: Situation, arguments: Given) -> list[Command]:
    """What to type next; nothing for which there is no command yet."""
    situation = replace(situation, rows=tuple(replace(one, given=one.given or STAND_IN) for one in situation.rows))
    found = [*_checking(situation, arguments), *_measuring(advice, situation, arguments)]
    if advice.rung == ROWS:
        found += _writing(advice, situation)
    elif advice.tunes and advice.tuning is not None:
        found += _training(advice, situation, arguments)
    elif advice.tunes:
        found += _smaller(situation, arguments)
    return found


def _checking(situation: Situation, arguments: Given) -> Iterator[Command]:
    files = [rows.given for rows in situation.rows if rows.kind in LEARNED]
    if files:
        settings = [one for one in arguments.data if one.startswith(OF_ROWS)]
        yield Command(("finetune", "data", "check", *files, *settings), "what is wrong with the rows")


def _measuring(advice: Advice, situation: Situation, arguments: Given) -> Iterator[Command]:
    """Whether a cheap rung is good enough: measured before anything is tuned."""
    rows = [one for one in situation.rows if one.kind == CHAT]
    if situation.evidence is None and rows and (advice.tunes or advice.rung in (PROMPT, FEW_SHOT)):
        words = ("finetune", "choose", train_argument(rows), *arguments.run, "--measure")
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


def _smaller(situation: Situation, arguments: Given) -> Iterator[Command]:
    """The same question for a base that suits the devices, where the one that was named does not."""
    model = f"model={arguments.proposed}"
    if situation.rows and model not in arguments.model:
        words = ("finetune", "choose", train_argument(situation.rows), *arguments.data, *arguments.others, model)
        yield Command(words, "the same for a smaller base")


def _training(advice: Advice, situation: Situation, arguments: Given) -> Iterator[Command]:
    """Every stage that there is, each on what the one before it made; else what can be done until they are."""
    there = [one for one in advice.stages if one.there]
    earlier = ""
    for stage in there:
        settings = _settings(stage, advice, situation)
        rows = _rows(stage.method, situation)
        if rows:
            name = "variant-1" if situation.variants > 1 else stage.method
            yield from _run(name, rows, settings, arguments, earlier)
            earlier = name
    if not there and (rows := _until(situation)):
        yield from _run("sft", rows, _of_tuning(advice, situation), arguments, "")


def _settings(stage: Stage, advice: Advice, situation: Situation) -> tuple[str, ...]:
    method = () if stage.method == "sft" else (f"method={stage.method}",)
    teacher = (f"method.teacher={situation.teacher}",) if stage.method == "distill" else ()
    return (*method, *teacher, *_of_tuning(advice, situation))


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
