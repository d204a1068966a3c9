"""The advice as a person reads it, and as `--json` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.choose.commands import Command
from finetune.choose.known import ASSUMED, Fact
from finetune.choose.situation import Advice, Situation

WIDTH = 110


@dataclass(frozen=True)
class Answer:
    """Everything that is told."""

    advice: Advice
    situation: Situation
    facts: tuple[Fact, ...]
    commands: tuple[Command, ...]
    remarks: tuple[str, ...]  # what could not be looked at, and what is proposed instead

    @property
    def assumed(self) -> list[Fact]:
        """What nobody said, and what matters."""
        return [fact for fact in self.facts if fact.how == ASSUMED and fact.why]


def lines(answer: Answer) -> Iterator[str]:
    """The advice as lines."""
    advice, variants = answer.advice, answer.situation.variants
    yield from textwrap.wrap(advice.sentence, WIDTH)
    yield from _section("why", advice.reasons)
    yield from _section("what is not there yet", advice.missing)
    yield from _section("what would change this", advice.would_change)
    assumed = [f"{fact.setting} ({fact.why})" for fact in answer.assumed]
    yield from _section("assumed; say it as a setting if it is otherwise", [*assumed, *answer.remarks])
    if answer.commands:
        yield ""
        yield f"next{f', once for each of the {variants} variants with its own rows' if variants > 1 else ''}:"
        for command in answer.commands:
            yield f"  {command.text}"
            yield f"      {command.why}"


def _section(head: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield ""
        yield f"{head}:"
        for item in items:
            yield from textwrap.wrap(
                item, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False
            )


def as_json(answer: Answer) -> dict[str, Any]:
    """The advice as one object."""
    advice, situation = answer.advice, answer.situation
    return {
        "advice": advice.sentence,
        "rung": advice.rung,
        "rules": {"stop": advice.stop, "path": advice.path, "tuning": advice.tuning_rule},
        "tune": advice.tunes,
        "stages": [{**asdict(stage), "missing": stage.missing} for stage in advice.stages],
        "tuning": advice.tuning,
        "settings": list(advice.settings),
        "reasons": list(advice.reasons),
        "would_change": list(advice.would_change),
        "missing": list(advice.missing),
        "known": {fact.name: {"value": fact.value, "how": fact.how} for fact in answer.facts},
        "assumed": [{"setting": fact.setting, "why": fact.why} for fact in answer.assumed],
        "remarks": list(answer.remarks),
        "rows": [asdict(rows) for rows in situation.rows],
        "tokens": asdict(situation.tokens),
        "base": asdict(situation.base) if situation.base else None,
        "measured": asdict(situation.evidence) if situation.evidence else None,
        "commands": [{"command": command.text, "why": command.why} for command in answer.commands],
    }
