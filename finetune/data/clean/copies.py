"""Which of several copies are kept: of equal rows, and of near copies."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune.data.clean.item import Item, answered, frame, said, unpack
from finetune.data.clean.settings import NearConfig
from finetune.data.faults import kind_of
from finetune.data.likeness.similar import earlier_pairs
from finetune.data.likeness.words import fold
from finetune.data.rows import compared, hashed, to_json
from finetune.data.shelf import Reordered, Shelf
from finetune.data.split import Neighbours
from finetune.errors import UserError

Rank = tuple[Any, ...]  # the copy with the lowest is kept
Drop = Callable[[Item, str], None]

# Answers of fewer words must be equal for their rows to be copies.
SHORT_ANSWER = 20
RUN = 5  # words of a run by which longer answers are compared


class Preference:
    """Which copy is the best."""

    def __init__(self, keep: str, column: str | None) -> None:
        self.keep, self._column = keep, column or ""
        self._kind = ""
        self.used = False  # whether any row has the column

    def rank(self, item: Item, place: int) -> Rank:
        """The rank of an item; `place` is how many came before it."""
        if self.keep == "last":
            return (-place,)
        if self.keep == "longest":
            return (-sum(map(len, said(item.row))) if item.row is not None else 0, place)
        if self.keep == "highest":
            return (*self._falling(item), place)
        return (place,)

    def _falling(self, item: Item) -> Rank:
        """A rank that falls as the column's value rises; a row without a value comes last."""
        value: Any = item.record.values.get(self._column)
        self.used = self.used or self._column in item.record.values
        if isinstance(value, datetime.date):  # a table may hold dates, of which JSON knows the text alone
            value = value.isoformat()
        if value is None or value == "":
            return (1, 0)
        where, kind = f"{item.record.where} {self._column}", kind_of(value)
        if kind not in ("a number", "text") or self._kind not in ("", kind):
            before = f", and {self._kind} in earlier rows" if self._kind else ""
            mend = "give clean.keep_by a column of numbers or one of dates such as 2026-01-31"
            raise UserError.at(where, f"holds {kind}{before}, by which rows cannot be ranked", mend)
        self._kind = kind
        return (0, -value) if kind == "a number" else (0, (*(-ord(char) for char in value), 1))


def drop_equal(items: Iterator[Item], preference: Preference, drop: Drop, folder: Path) -> Iterator[Item]:
    """One row of each set of equal ones."""
    if preference.keep == "first":
        yield from _drop_later(items, drop)
        return
    shelf = Shelf(folder)
    best: dict[bytes, tuple[Rank, int, str]] = {}
    for place, item in enumerate(items):
        shelf.add(item.pack())
        rank, digest = preference.rank(item, place), _digest(item)
        if digest not in best or rank < best[digest][0]:
            best[digest] = (rank, place, item.record.where)
    for place, text in enumerate(shelf):
        item = unpack(text)
        _, kept, where = best[_digest(item)]
        if kept == place:
            yield item
        else:
            drop(item, f"the same as {where}")


def _drop_later(items: Iterator[Item], drop: Drop) -> Iterator[Item]:
    seen: dict[bytes, str] = {}
    for item in items:
        first = seen.setdefault(_digest(item), item.record.where)
        if first == item.record.where:
            yield item
        else:
            drop(item, f"the same as {first}")


def _digest(item: Item) -> bytes:
    """What equal rows have in common; a record that is no row is like no other."""
    text = to_json(item.row) if item.row is not None else item.record.where
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def drop_near(
    items: Iterator[Item], preference: Preference, config: NearConfig, drop: Drop, folder: Path
) -> Iterator[Item]:
    """The rows that are no near copies of a better one that is kept."""
    rows = _Rows(folder)
    for place, item in enumerate(items):
        rows.add(item, preference.rank(item, place))
    copies = _copies(rows, config)
    for place, text in enumerate(rows.items):
        item = unpack(text)
        if place in copies:
            kept, similarity = copies[place]
            drop(item, f"a near copy ({similarity:.0%} alike) of {unpack(rows.items[kept]).record.where}")
        else:
            yield item


class _Rows:
    """Rows on the disk, and in memory only what tells which are alike."""

    def __init__(self, folder: Path) -> None:
        self.items, self.texts, self.answers = Shelf(folder), Shelf(folder), Shelf(folder)
        self.frames: list[int] = []
        self.ranks: list[Rank] = []

    def add(self, item: Item, rank: Rank) -> None:
        """Add one row; a record that is no row has no text, and is like no other."""
        row = item.row
        self.items.add(item.pack())
        self.texts.add(compared(row) if row is not None else "")
        self.answers.add(answered(row) if row is not None else "")
        self.frames.append(hashed(frame(row)) if row is not None else len(self.frames))
        self.ranks.append(rank)


def _copies(rows: _Rows, config: NearConfig) -> dict[int, tuple[int, float]]:
    """Each row that is dropped: the better one that is kept instead, and how alike they are."""
    order = sorted(range(len(rows.ranks)), key=rows.ranks.__getitem__)
    best, same = _distinct(rows, order)
    pairs = earlier_pairs(Reordered(rows.texts, best), threshold=config.threshold)
    neighbours = Neighbours(len(best), pairs)
    instead: dict[int, tuple[int, float]] = {}
    for place, row in enumerate(best):
        for other, similarity in neighbours.before(place):
            if best[other] not in instead and _is_copy(rows, row, best[other], config):
                instead[row] = (best[other], similarity)
                break
    for row, first in same.items():
        instead[row] = instead.get(first, (first, 1.0))
    return instead


def _distinct(rows: _Rows, order: list[int]) -> tuple[list[int], dict[int, int]]:
    """The rows that differ once normalised, the best of each; and for each other row the one that it equals."""
    first: dict[tuple[str, ...], int] = {}
    best: list[int] = []
    same: dict[int, int] = {}
    for begin in range(0, len(order), 256):
        part = order[begin : begin + 256]
        texts = fold([rows.texts[row] for row in part]).texts
        answers = fold([rows.answers[row] for row in part]).texts
        for row, text, given in zip(part, texts, answers, strict=True):
            known = first.setdefault((str(rows.frames[row]), str(hashed(text)), str(hashed(given))), row)
            if known == row or not text:
                best.append(row)
            else:
                same[row] = known
    return best, same


def _is_copy(rows: _Rows, row: int, kept: int, config: NearConfig) -> bool:
    """Whether two rows of like text are copies: the same system text and tools, and answers that say the same."""
    if rows.frames[row] != rows.frames[kept]:
        return False
    if config.other_answers:
        return True
    given, other = (text.split(" ") for text in fold([rows.answers[row], rows.answers[kept]]).texts)
    if given == other:
        return True
    if min(len(given), len(other)) < SHORT_ANSWER:
        return False
    runs, others = ({tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)} for words in (given, other))
    return len(runs & others) >= config.threshold * len(runs | others)
