"""Sources → checked rows: read, converted and checked, with every fault of every file gathered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from finetune.config import DataConfig
from finetune.data import formats
from finetune.data.convert import Converter
from finetune.data.faults import FaultLog
from finetune.data.read import Record, Source, read
from finetune.data.rows import Chat, Row, to_json
from finetune.errors import did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row that is fit to be learned from."""

    json: str  # canonical
    shape: str
    file: str
    row: int
    source: int  # index in data.train or data.eval
    plain: bool = False  # needs no chat template
    groups: tuple[str, ...] = ()  # what it has in each column by which rows are kept together

    @property
    def where(self) -> str:
        """The place of the row, as faults name it."""
        return f"{self.file}:{self.row}"


def load(sources: Sequence[Source], data: DataConfig, shapes: tuple[str, ...], used: set[str]) -> Iterator[Loaded]:
    """Every row of the sources; raises all their faults after the last one.

    Notes in `used` which of `data.columns` the sources have.
    """
    check_columns(data.columns)
    faults = FaultLog()
    wanted = {*formats.COLUMNS, *formats.TELLING, *data.columns.values()}
    for index, source in enumerate(sources):
        records = read(source, faults, wanted=wanted, limit=data.limit, split=data.split, revision=data.revision)
        for record, row in _rows(_noting(records, data.columns, used), Converter(data, shapes, faults)):
            plain = isinstance(row, Chat) and row.plain
            yield Loaded(to_json(row), row.shape, record.file, record.row, index, plain)
    faults.raise_any()


def check_used(columns: dict[str, str], used: set[str]) -> None:
    """Refuse names of columns that no source has: they would be passed over in silence."""
    faults = FaultLog()
    for ours in sorted(set(columns) - used):
        what = f"no row has a column {columns[ours]!r}, so it has no effect"
        faults.add(f"data.columns.{ours}", what, "correct it, or leave it out", "columns-setting")
    faults.raise_any()


def _noting(records: Iterator[Record], columns: dict[str, str], used: set[str]) -> Iterator[Record]:
    """The records, noting which of the given columns they have."""
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


def _rows(records: Iterator[Record], converter: Converter) -> Iterator[tuple[Record, Row]]:
    for record in records:
        row = converter.row(record)
        if row is not None:
            yield record, row
