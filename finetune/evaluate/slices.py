"""Held-out rows in parts: where tuning helps most, and where it does not.

Parts are looked at after the fact, so their intervals are a hint and no verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.rows import Chat, Row
from finetune.evaluate.preference import length_parts

LEAST = 8  # rows; of fewer nothing can be said
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class Slice:
    """Some of the rows, by their places, and what they have in common."""

    by: str
    name: str
    rows: tuple[int, ...]


def slices(rows: Sequence[Row], references: Sequence[str]) -> tuple[list[Slice], list[Slice]]:
    """The rows by length of question and answer and by turns, pairs by which answer is longer, as far as they differ.

    Parts that are large enough, and those that are not or are left without another to compare with.
    """
    chats = [row for row in rows if isinstance(row, Chat)]
    if len(chats) < len(rows):
        return [], []
    asked = [sum(len(message["content"]) for message in row.messages[:-1]) for row in chats]
    turns = [sum(message["role"] == "user" for message in row.messages) for row in chats]
    found = [*_thirds("question", asked), *_thirds("answer", [len(text) for text in references])]
    named = {"one": [count == 1 for count in turns], "several": [count > 1 for count in turns]}
    found += [Slice("questions in the row", name, _places(members)) for name, members in named.items()]
    found += [Slice("answers", name, _places(members)) for name, members in length_parts(chats).items()]
    several = Counter(one.by for one in found if one.rows)
    parts = [one for one in found if one.rows and several[one.by] > 1]
    large = Counter(one.by for one in parts if len(one.rows) >= LEAST)
    shown = [one for one in parts if len(one.rows) >= LEAST and large[one.by] > 1]
    return shown, [one for one in parts if one not in shown]


def _thirds(by: str, sizes: Sequence[int]) -> list[Slice]:
    """Rows of equal size stay together, so the parts need not be of one size."""
    order = sorted(sizes)
    low, high = order[len(order) // 3], order[2 * len(order) // 3]
    places = [0 if size < low else 1 if size < high else 2 for size in sizes]
    return [Slice(by, name, _places([place == third for place in places])) for third, name in enumerate(THIRDS)]


def _places(members: Sequence[bool]) -> tuple[int, ...]:
    return tuple(place for place, is_member in enumerate(members) if is_member)
