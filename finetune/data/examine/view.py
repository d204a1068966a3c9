"""One row as the checks see it: all that is said in it as one text, and who says which part."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from finetune.data.formats import Values
from finetune.data.rows import Message, Pair, Row, Text, Vote, answer, every_turn

AROUND = 30  # characters shown on each side of what was found


class Part(NamedTuple):
    """What one turn says; its reasoning and its calls are parts of their own."""

    number: int  # of the turn, from 1; 0 for plain text
    role: str
    kind: str  # content, reasoning or call
    text: str


class Hit(NamedTuple):
    """A defect in the text of a row."""

    code: str
    begin: int
    end: int
    what: str
    shown: bool = True  # whether the text around it may be shown


@dataclass(slots=True)
class View:
    """One row."""

    row: Row
    values: Values
    parts: list[Part]
    begins: list[int]
    text: str

    @property
    def answer(self) -> str:
        """The last answer, of a pair the better one; for plain text the text."""
        return answer(self.row)

    def answers(self) -> Iterator[tuple[int, str]]:
        """What the assistant says, with the place in the text at which it begins."""
        for part, begin in zip(self.parts, self.begins, strict=True):
            if part.role == "assistant" and part.kind == "content" and part.text:
                yield begin, part.text

    def asked(self) -> str:
        """The last thing that the user says."""
        return next((part.text for part in reversed(self.parts) if part.role == "user"), "")

    def who(self, place: int) -> str:
        """Who says what stands at a place, as messages name it; nothing for plain text."""
        part = self.parts[bisect_right(self.begins, place) - 1]
        kind = "" if part.kind == "content" else f", {part.kind}"
        return f"turn {part.number} ({part.role}{kind})" if part.number else ""

    def turn(self, place: int) -> tuple[int | None, int]:
        """In which turn a place of the text lies, and where in what it says; no turn for plain text."""
        index = bisect_right(self.begins, place) - 1
        part = self.parts[index]
        # The rejected answer of a pair has the number of the other one, and comes after it.
        turn = part.number - 1 + (part.role == "rejected" and isinstance(self.row, Pair))
        return (turn if part.number else None), (place - self.begins[index] if part.kind == "content" else 0)

    def around(self, hit: Hit, text: str) -> str:
        """The text around a hit, of the same turn; `text` is the row's with what is private masked."""
        place = bisect_right(self.begins, hit.begin) - 1
        first = self.begins[place]
        last = first + len(self.parts[place].text)
        begin, end = max(first, hit.begin - AROUND), min(last, hit.end + AROUND, hit.begin + 3 * AROUND)
        return f"{'…' if begin > first else ''}{text[begin:end]}{'…' if end < last else ''}"


def view(row: Row, values: Values) -> View:
    """A row as the checks see it."""
    if isinstance(row, Text):
        parts = [Part(0, "text", "content", row.text)]
    else:
        parts = [part for number, turn in _turns(row) for part in _parts(number, turn)]
    begins, position = [], 0
    for part in parts:
        begins.append(position)
        position += len(part.text) + 1
    return View(row, values, parts, begins, parts[0].text if len(parts) == 1 else "\n".join([p[3] for p in parts]))


def _turns(row: Row) -> Iterator[tuple[int, Message]]:
    """Every turn of a row with its number; an answer that is not to be given has a role of its own."""
    turns = list(enumerate(every_turn(row), 1))
    if isinstance(row, Pair) or (isinstance(row, Vote) and not row.label):
        number, last = turns.pop()
        yield from turns
        yield (number - isinstance(row, Pair), {**last, "role": "rejected"})
    else:
        yield from turns


def _parts(number: int, message: Message) -> Iterator[Part]:
    role = str(message["role"])
    if len(message) > 2:
        if "reasoning_content" in message:
            yield Part(number, role, "reasoning", str(message["reasoning_content"]))
        if "tool_calls" in message:
            yield Part(number, role, "call", json.dumps(message["tool_calls"], ensure_ascii=False))
    yield Part(number, role, "content", str(message["content"]))
