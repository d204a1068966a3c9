"""Sources → checked rows: read, converted and checked, with every fault of every file gathered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from finetune.config import DataConfig, RowsConfig
from finetune.data import formats
from finetune.data.convert import Converter
from finetune.data.faults import FaultLog
from finetune.data.pieces import Piece, records
from finetune.data.read import Record, Source
from finetune.data.rows import Row, is_plain, to_json
from finetune.errors import UserError, did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row that is fit to be learned from."""

    json: str  # canonical
    shape: str
    file: str
    row: int
    source: int  # index in data.train or data.eval
    plain: bool = False  # needs no chat template
    groups: tuple[str, ...] = ()  # what it has in each column of data.group_by

    @property
    def where(self) -> str:
        """The place of the row, as faults name it."""
        return f"{self.file}:{self.row}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A record, its layout, and the row that it became."""

    record: Record
    layout: str
    row: Row
    source: int  # index of its source


def load(
    sources: Sequence[Source], data: DataConfig, shapes: tuple[str, ...], used: set[str], seen: set[str]
) -> Iterator[Loaded]:
    """Every row of the sources; raises all their faults after the last one.

    Notes in `used` which of `data.columns` they have, and in `seen` which of `data.group_by`.
    """
    check_columns(data.columns)
    faults = FaultLog()
    for index, source in enumerate(sources):
        yield from load_piece(Piece("", source, index), data, shapes, used, seen, faults)
    faults.raise_any()


def load_piece(
    piece: Piece, data: DataConfig, shapes: tuple[str, ...], used: set[str], seen: set[str], faults: FaultLog
) -> Iterator[Loaded]:
    """The sound rows of a piece."""
    for item in read_piece(piece, data, shapes, used, seen, faults, also=data.group_by):
        place = (item.record.file, item.record.row, item.source)
        groups = groups_of(item.record, data.group_by)
        yield Loaded(to_json(item.row), item.row.shape, *place, is_plain(item.row), groups)


def read_rows(
    sources: Sequence[Source],
    data: RowsConfig,
    shapes: tuple[str, ...],
    used: set[str],
    seen: set[str],
    faults: FaultLog,
    *,
    also: Sequence[str] = (),
    others: bool = False,
) -> Iterator[Checked]:
    """The sound rows of the sources, one by one, with the records that they came from; faults go to the log.

    `also` are columns that are needed besides those of the layouts, of which `seen` notes those that are there;
    `others` asks for every column there is.
    """
    check_columns(data.columns)
    for index, source in enumerate(sources):
        yield from read_piece(Piece("", source, index), data, shapes, used, seen, faults, also=also, others=others)


def read_piece(
    piece: Piece,
    data: RowsConfig,
    shapes: tuple[str, ...],
    used: set[str],
    seen: set[str],
    faults: FaultLog,
    *,
    also: Sequence[str] = (),
    others: bool = False,
) -> Iterator[Checked]:
    """The same for one piece."""
    converter = Converter(data, shapes, faults)
    if piece.first is not None:
        converter.begin(piece.first)
    others = others or "task" in shapes
    found = noting(records(piece, data, wanted(data, shapes, also), faults, others=others), data.columns, used)
    for record in noting(found, {column: column for column in also}, seen):
        row = converter.row(record)
        if row is not None:
            yield Checked(record, converter.layout, row, piece.index)


def wanted(data: RowsConfig, shapes: Sequence[str], also: Sequence[str] = ()) -> set[str]:
    """The columns that a row of these shapes can be made of, and those that are needed besides."""
    return {*formats.columns_of(shapes), *formats.TELLING, *data.columns.values(), *also}


def groups_of(record: Record, columns: Sequence[str]) -> tuple[str, ...]:
    """What a record holds in the columns that rows are grouped by, as JSON; "" for nothing."""
    found = (record.values.get(column) for column in columns)
    return tuple("" if value in (None, "") else json.dumps(value, sort_keys=True, default=str) for value in found)


def check_hub(data: RowsConfig, sources: Sequence[Source]) -> None:
    """Refuse settings of hub datasets where no rows come from the hub."""
    if not any(source.on_hub for source in sources):
        given = {"data.revision": data.revision is not None, "data.split": data.split != "train"}
        for key in (key for key, is_given in given.items() if is_given):
            raise UserError.at(key, "has no effect: no rows come from the hub", "leave it out")


def check_used(columns: dict[str, str], used: set[str]) -> None:
    """Refuse names of columns that no source has: they would be passed over in silence."""
    faults = FaultLog()
    for ours in sorted(set(columns) - used):
        what = f"no row has a column {columns[ours]!r}, so it has no effect"
        faults.add(f"data.columns.{ours}", what, "correct it, or leave it out", "columns-setting")
    faults.raise_any()


def check_groups(columns: Sequence[str], seen: set[str]) -> None:
    """Refuse columns to group by that no row has."""
    faults = FaultLog()
    for column in columns:
        if column not in seen:
            what = f"no row has a column {column!r}, so it has no effect"
            faults.add("data.group_by", what, "correct it, or leave it out", "columns-setting")
    faults.raise_any()


def noting(records: Iterator[Record], columns: Mapping[str, str], used: set[str]) -> Iterator[Record]:
    """The records, noting which of the named columns they have."""
    for record in records:
        if len(used) < len(columns):
            used.update(ours for ours, theirs in columns.items() if theirs in record.values)
        yield record


def check_columns(columns: dict[str, str]) -> None:
    """Refuse names of columns that no layout has."""
    faults = FaultLog()
    for ours in columns:
        if ours not in formats.COLUMNS:
            mend = did_you_mean(ours, formats.COLUMNS) or f"ours are {listed(sorted(formats.COLUMNS), 20)}"
            faults.add(f"data.columns.{ours}", "no layout has a column of that name", mend, "columns-setting")
    for first, second in combinations(columns, 2):
        if columns[first] == columns[second]:
            what = f"names the column {columns[second]!r}, as data.columns.{first} does"
            faults.add(f"data.columns.{second}", what, "give each its own column", "columns-setting")
    faults.raise_any()
