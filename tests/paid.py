"""Rows that answers to are paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.rewards.judge import Rewards

Judge = Callable[..., Rewards]


@dataclass(frozen=True)
class Asks:
    """A row that asks something."""

    messages: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, Any]


CITIES = ("Paris", "Rome", "Berlin", "Madrid", "Lisbon", "Vienna", "Oslo", "Dublin")


def asks(question: str, **columns: Any) -> Asks:
    """A row with one question."""
    return Asks(({"role": "system", "content": "Be short."}, {"role": "user", "content": question}), columns)


def capitals(count: int = 16) -> list[Asks]:
    """Questions with short answers."""
    return [asks(f"What is the capital of land {at}?", answer=CITIES[at % len(CITIES)]) for at in range(count)]


def sums(count: int = 16) -> list[Asks]:
    """Questions with numbers as answers, and how they come about."""
    return [asks(f"What is {at} plus 31?", answer=f"{at} plus 31 is {at + 31}") for at in range(count)]
