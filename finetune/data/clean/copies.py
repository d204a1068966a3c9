"""Which of several copies are kept: of equal rows, and of near copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.data.clean.item import Item, frame, said
from finetune.data.faults import kind_of
from finetune.data.rows import Row, answer, compared, to_json
from finetune.data.similar import near_pairs
from finetune.data.split import Neighbours
from finetune.data.words import key
from finetune.errors import UserError

Rank = tuple[Any, ...]  # the copy with the lowest is kept
# Answers of fewer words must be equal for their rows to be copies.
SHORT_ANSWER = 20


@dataclass(frozen=True)
class Preference:
    """Which copy is the best."""

    keep: str
    column: str | None = None

    def rank(self, item: Item, place: int) -> Rank:
        """The rank of an item; `place` is how many came before it."""
        if self.keep == "last":
            return (-place,)
        if self.keep == "longest":
            return (-sum(map(len, said(item.row))) if item.row is not None else 0, place)
        if self.keep == "highest":
            return (*_falling(item, self.column or ""), place)
        return (place,)


def _falling(item: Item, column: str) -> Rank:
    """Ranks that fall as the column's value rises; a row without one comes last."""
    value = item.record.values.get(column)
    if value is None or value == "":
        return (1, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        what = f"holds {kind_of(value)}, by which rows cannot be ranked"
        raise UserError.at(f"{item.record.where} {column}", what, "give clean.keep_by a column of numbers or dates")
    return (0, -value) if not isinstance(value, str) else (0, tuple(-ord(char) for char in value) + (1,))


def same(row: Row) -> str:
    """What equal rows have in common: everything but the space between words."""
    return " ".join(to_json(row).replace("\\n", " ").replace("\\t", " ").split())
