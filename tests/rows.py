"""Rows that tests train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Words that differ in every letter that counts, to make texts of.
WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "jetty",
    "knoll",
    "ledge",
    "marsh",
    "north",
    "ocean",
    "pearl",
    "quartz",
)
NAMES = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jun")
THINGS = ("lamp", "chair", "kettle", "radio", "coat", "clock", "ladder", "basket")


def chat_row(number: int) -> dict[str, Any]:
    """A short conversation with one right answer; lengths differ from row to row."""
    name, thing = NAMES[number % len(NAMES)], THINGS[number // 3 % len(THINGS)]
    extra = " please" * (number % 7)
    return {
        "messages": [
            {"role": "user", "content": f"{name} wants {number % 9 + 1} of the {thing}{extra}."},
            {"role": "assistant", "content": f"{thing.upper()} x{number % 9 + 1} for {name}"},
        ]
    }


def worded(number: int, answer: str) -> dict[str, Any]:
    """A conversation whose question is no near copy of another number's."""
    turns = [{"role": "user", "content": asked(number)}]
    return {"messages": [*turns, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(number: int, answer: str = "") -> dict[str, Any]:
    """A row of messages."""
    turns = [{"role": "user", "content": f"Question {number}?"}]
    return {"messages": [*turns, {"role": "assistant", "content": answer or f"Answer {number}."}]}


def pair_row(number: int, better: str = "violet", worse: str = "umber") -> dict[str, Any]:
    """A question with a better and a worse answer."""
    return {"prompt": asked(number), "chosen": better, "rejected": worse}


def vote_row(number: int, good: str = "violet", bad: str = "umber") -> dict[str, Any]:
    """A question with one answer, every second one good."""
    up = number % 2 == 0
    return {"prompt": asked(number), "completion": good if up else bad, "label": up}


def asked(number: int) -> str:
    """A question that is no near copy of another number's."""
    return f"{' '.join(WORDS[number * step % len(WORDS)] for step in (1, 3, 5, 7))} {number}?"
