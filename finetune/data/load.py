"""Sources → checked rows: read, converted and checked, with every fault of every file gathered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from finetune.config import DataConfig
from finetune.data import formats
from finetune.data.check import check
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow
from finetune.data.read import Record, Source, read
from finetune.data.rows import Chat, Row, to_json
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
    groups: tuple[str, ...] = ()  # what it has in each column by which rows are kept together

    @property
    def where(self) -> str:
        """The place of the row, as faults name it."""
        return f"{self.file}:{self.row}"


def load(sources: Sequence[Source], data: DataConfig, shapes: tuple[str, ...], used: set[str]) -> Iterator[Loaded]:
    """Every row of the sources; raises all their faults after the last one.

    Notes in `used` which of `data.columns` the sources have.
    """
    _check_columns(data.columns)
    faults = FaultLog()
    wanted = {*formats.COLUMNS, *formats.PREFERENCES, "label", *data.columns.values()}
    for index, source in enumerate(sources):
        records = read(source, faults, wanted=wanted, limit=data.limit, split=data.split, revision=data.revision)
        for record, row in _rows(_noting(records, data.columns, used), data, shapes, faults):
            plain = isinstance(row, Chat) and row.plain
            yield Loaded(to_json(row), row.shape, record.file, record.row, index, plain)
    faults.raise_any()


def check_used(columns: dict[str, str], used: set[str]) -> None:
    """Refuse names of columns that no source has: they would be passed over in silence."""
    faults = FaultLog()
    for ours in sorted(set(columns) - used):
        what = f"no row has a column {columns[ours]!r}, so it has no effect"
        faults.add(f"data.columns.{ours}", what, "correct it, or leave it out")
    faults.raise_any()


def _noting(records: Iterator[Record], columns: dict[str, str], used: set[str]) -> Iterator[Record]:
    """The records, noting which of the given columns they have."""
    for record in records:
        if len(used) < len(columns):
            used.update(ours for ours, theirs in columns.items() if theirs in record.values)
        yield record


def _check_columns(columns: dict[str, str]) -> None:
    faults = FaultLog()
    for ours in columns:
        if ours not in formats.COLUMNS:
            mend = did_you_mean(ours, formats.COLUMNS) or f"ours are {listed(sorted(formats.COLUMNS), 20)}"
            faults.add(f"data.columns.{ours}", "no layout has a column of that name", mend)
    for first, second in combinations(columns, 2):
        if columns[first] == columns[second]:
            what = f"names the column {columns[second]!r}, as data.columns.{first} does"
            faults.add(f"data.columns.{second}", what, "give each its own column")
    faults.raise_any()


def _rows(
    records: Iterator[Record], data: DataConfig, shapes: tuple[str, ...], faults: FaultLog
) -> Iterator[tuple[Record, Row]]:
    layout: str | None = None
    first: Record | None = None
    for record in records:
        values = _renamed(record, data.columns) if data.columns else record.values
        if first is None or record.file != first.file:
            first, layout = record, data.layout
            if layout is None:
                layout = _detect(record, values, data.columns)
        row = _row(layout or "", record, values, None if data.layout else first, faults)
        if row is None:
            continue
        if row.shape not in shapes:
            raise UserError.at(
                record.where,
                f"the rows are {row.shape}, and the method learns from {' or '.join(shapes)}",
                "use another file or method",
            )
        found = list(check(row))
        for field, what, mend in found:
            faults.add(f"{record.where} {_their_field(field, layout or '', values)}", what, mend)
        if not found:
            yield record, row


def _their_field(field: str, layout: str, values: formats.Values) -> str:
    """The column to name for a fault of the row: the layout's own, where it is not called messages."""
    needs = formats.LAYOUTS[layout].needs
    return needs[-1] if field == "messages" and field not in values else field


def _renamed(record: Record, columns: dict[str, str]) -> formats.Values:
    values = dict(record.values)
    for ours, theirs in columns.items():
        if theirs in record.values:
            values.pop(theirs, None) if theirs not in columns else None
            values[ours] = record.values[theirs]
    return values


def _detect(record: Record, values: formats.Values, columns: dict[str, str]) -> str:
    # A source that has our names already needs no mapping: `data.columns` may be meant for another one.
    absent = [(ours, theirs) for ours, theirs in columns.items() if theirs not in record.values and ours not in values]
    if absent:
        ours, theirs = absent[0]
        mend = did_you_mean(theirs, record.values, "did you mean {}?") or "set it to one of these"
        found = f"the row has no column {theirs!r} (it has: {listed(list(record.values))})"
        raise UserError.at(f"{record.where} data.columns.{ours}", found, mend)
    other = formats.other_method(values)
    if other:
        raise UserError.at(
            record.where,
            f"the rows are {other}, which this method does not learn from",
            "use another file or method",
        )
    layout = formats.detect(values)
    if layout is None:
        found = listed(list(values)) or "none"
        what = f"columns fit no layout (found: {found}; wanted: {formats.wanted_text()})"
        raise UserError.at(
            record.where,
            what,
            "name them, such as data.columns.prompt=question data.columns.completion=answer",
        )
    return layout


def _row(layout: str, record: Record, values: formats.Values, first: Record | None, faults: FaultLog) -> Row | None:
    """The record as a row, or a fault; `first` is the record that the layout was found by."""
    try:
        return formats.convert(layout, values)
    except BadRow as bad:
        other = formats.detect(values)
        if first and other and other != layout:
            what = f"the row is {other}, but row {first.row} of the file is {layout}"
            faults.add(record.where, what, "keep one layout in a file; data.train takes several files")
        else:
            faults.add(f"{record.where} {bad.field}", bad.what, bad.mend)
        return None
