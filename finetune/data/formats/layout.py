"""What a layout is, and what is said of a record that does not fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.data.rows import Row

Values = Mapping[str, Any]


class BadRow(Exception):
    """A record that cannot become a row: the field, what is wrong with it, the mend, and the code of the defect."""

    def __init__(self, field: str, what: str, mend: str, code: str = "field-type") -> None:
        super().__init__(what)
        self.field, self.what, self.mend, self.code = field, what, mend, code


class Tie(BadRow):
    """A record in which no answer is better than another: nothing is wrong with it, but it is no pair."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(field, what, "leave the row out", "pair-tie")


@dataclass(frozen=True)
class Layout:
    """One way of writing rows."""

    needs: tuple[str, ...]  # columns that every record has
    may: tuple[str, ...]  # columns that are used where they are
    convert: Callable[[Values], Row]
    unless: tuple[str, ...] = ()  # columns that tell of another kind of data
    common: bool = False  # named when no layout fits
    shape: str = "chat"  # of the rows
    answers: tuple[str, ...] = ()  # columns of what is answered, where rows are not there to be learned as they are
    tells: Callable[[Values], bool] | None = None  # more that must hold where rows of other shapes are wanted too
