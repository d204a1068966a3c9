"""Answers on their way to rewards, and what rewards pay for them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from finetune.evaluate.score import visible
from finetune.rewards.form import inside

Text = str | Sequence[Mapping[str, Any]]  # plain, or the turns of a conversation


class Task(Protocol):
    """A row that asks something: its conversation, and its columns by name."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The turns up to the question."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """What else the row has."""


@dataclass(frozen=True)
class Batch:
    """Answers and what they answer, row by row."""

    answers: tuple[str, ...]  # as they were given
    said: tuple[str, ...]  # without the reasoning, and from inside of the last tag
    prompts: tuple[str, ...]  # the last question of the user
    messages: tuple[list[dict[str, Any]], ...]
    columns: dict[str, list[Any]]

    def references(self, column: str) -> list[str | None]:
        """The right answers, as texts; none where a row has none."""
        return [None if value is None else as_text(value) for value in self.columns[column]]


@dataclass(frozen=True)
class Paid:
    """What a reward paid for each answer, none where it said nothing, and what went wrong with how many."""

    values: tuple[float | None, ...]
    exceptions: int = 0
    timeouts: int = 0
    not_finite: int = 0
    trace: str = ""  # of the first exception
    refused: str = ""  # why what it gave is no payment

    @property
    def troubled(self) -> int:
        """For how many answers something went wrong."""
        return self.exceptions + self.timeouts + self.not_finite


Pay = Callable[[Batch], Paid]


def batch_of(
    prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Sequence[Any]], tags: Sequence[str]
) -> Batch:
    """Answers of any shape as texts, beside their rows."""
    answers = tuple(_last(one, "assistant") for one in completions)
    messages = tuple(_turns(one) for one in prompts)
    if len({len(answers), len(messages), *map(len, columns.values())}) > 1:
        raise ValueError("prompts, completions and columns differ in length")
    said = tuple(inside(visible(answer), tags) for answer in answers)
    asked = tuple(map(last_question, prompts))
    return Batch(answers, said, asked, messages, {name: list(values) for name, values in columns.items()})


def finite(paid: Paid) -> Paid:
    """The same without what is no number, which is counted."""
    bad = sum(value is not None and not math.isfinite(value) for value in paid.values)
    kept = tuple(value if value is not None and math.isfinite(value) else None for value in paid.values)
    return replace(paid, values=kept, not_finite=bad)


def as_text(value: Any) -> str:
    """A column's value as an answer would say it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def last_question(text: Text) -> str:
    """What the user asked last."""
    return _last(text, "user")


def _turns(text: Text) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}] if isinstance(text, str) else [dict(turn) for turn in text]


def _last(text: Text, role: str) -> str:
    """The text of the last turn of a role, or of the last turn where there is none."""
    if isinstance(text, str):
        return text
    turns = [turn for turn in text if turn["role"] == role] or list(text)
    return _content(turns[-1].get("content")) if turns else ""


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""
