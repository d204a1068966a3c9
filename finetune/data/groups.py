"""Which rows depend on each other: those that have a value of `data.group_by` in common, by whatever chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from finetune.data.faults import FaultLog
from finetune.data.likeness.words import fold
from finetune.data.rows import hashed
from finetune.data.spool import Indices, Spool


def row_groups(rows: Spool, columns: Sequence[str]) -> Indices:
    """The group of every spooled row, named by the place of its first one."""
    return groups_of_rows(rows.groups()) if columns else np.arange(len(rows))


def groups_of_rows(held: Iterable[Sequence[str]]) -> Indices:
    """The group of each row, of what it holds in each of the columns ("" for nothing)."""
    parents: list[int] = []
    first: dict[int, int] = {}  # the row that had a value first
    for row, values in enumerate(held):
        parents.append(row)
        for value in _hashes(values):
            other, own = _root(parents, first.setdefault(value, row)), _root(parents, row)
            parents[max(own, other)] = min(own, other)
    for row, parent in enumerate(parents):  # a parent comes before its children, and has been led to the first by now
        parents[row] = parents[parent]
    return np.array(parents, dtype=np.int64)


def dependent_rows(held: Iterable[Sequence[str]], texts: Sequence[str]) -> list[int]:
    """The group of each row, where rows whose texts are equal once normalised depend on each other too."""
    pairs = zip(fold(texts).texts, held, strict=True)
    found: list[int] = groups_of_rows((text, *values) for text, values in pairs).tolist()
    return found


def shared_groups(train: Spool, held_out: Spool, columns: Sequence[str], *, allowed: bool) -> int:
    """Refuse held-out rows of a group that is trained on too, or count them where that is allowed."""
    faults, count = FaultLog(), 0
    first: dict[int, int] = {}
    for row, values in enumerate(train.groups()):
        for value in _hashes(values):
            first.setdefault(value, row)
    for row, values in enumerate(held_out.groups()):
        shared = [
            (name, first[value]) for name, value in zip(columns, _all_hashes(values), strict=True) if value in first
        ]
        count += bool(shared)
        if shared and not allowed:
            name, other = shared[0]
            what = f"its {name} is that of a row that is trained on, at {train[other].where}"
            faults.add(held_out[row].where, what, "keep each group in one of the files, or leave data.group_by out")
    faults.raise_any()
    return count


def check_columns_held_out(held_out: Spool, columns: Sequence[str]) -> None:
    """Refuse columns to group by that no held-out row has: rows held out would count as independent."""
    faults, found = FaultLog(), np.zeros(len(columns), dtype=bool)
    for groups in held_out.groups():
        found |= [bool(one) for one in groups]
    for column, there in zip(columns, found, strict=True):
        if not there:
            what = f"no row of data.eval has a column {column!r}, so it has no effect"
            faults.add("data.group_by", what, "give the column to the held-out rows too, or leave it out")
    faults.raise_any()


def _all_hashes(values: Sequence[str]) -> list[int]:
    """A hash of the value in each column, 0 for nothing."""
    return [hashed(f"{column}\0{value}") if value else 0 for column, value in enumerate(values)]


def _hashes(values: Sequence[str]) -> Iterator[int]:
    return filter(None, _all_hashes(values))


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row
