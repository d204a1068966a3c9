"""Records → rows: the layout of each file, the columns that were renamed, and the faults of what does not fit."""

from __future__ import annotations

from finetune.config import RowsConfig
from finetune.data import formats
from finetune.data.check import check
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow, Tie, Values
from finetune.data.read import Record
from finetune.data.rows import LEARNED, Row
from finetune.errors import UserError, did_you_mean, listed


class Converter:
    """Turns the records of files into rows; the first record of each file decides on its layout."""

    def __init__(self, data: RowsConfig, shapes: tuple[str, ...], faults: FaultLog) -> None:
        self._data, self._shapes, self._faults = data, shapes, faults
        self._first: Record | None = None
        self.layout = ""

    def begin(self, record: Record) -> None:
        """Find the layout of a file by its first record; raises UserError when it has none."""
        self._first = record
        self.layout = self._data.layout or _detect(record, self.values(record), self._data.columns, self._shapes)

    def row(self, record: Record) -> Row | None:
        """The record as a row that is fit to be learned from; notes its faults when it is not."""
        if self._first is None or record.file != self._first.file:
            self.begin(record)
        values = self.values(record)
        row = self._row(record, values)
        if row is None:
            return None
        if row.shape not in self._shapes:
            raise _other_method(record, row.shape)
        found = list(check(row))
        for turn, what, mend, code in found:
            column = formats.column(self.layout, values, row, turn)
            self._faults.add(f"{record.where} {their_name(column, record, self._data.columns)}", what, mend, code)
        return None if found else row

    def values(self, record: Record) -> Values:
        """The record's values under our names of the columns."""
        return _renamed(record, self._data.columns) if self._data.columns else record.values

    def _row(self, record: Record, values: Values) -> Row | None:
        try:
            return formats.convert(self.layout, values)
        except Tie as tie:
            self._faults.pass_over(record.where, tie.what)
            return None
        except BadRow as bad:
            other = None if self._data.layout else formats.mixed_in(self.layout, values)
            if self._first and other:
                what = f"the row is {other}, but row {self._first.row} of the file is {self.layout}"
                mend = "keep one layout in a file; data.train takes several files"
                self._faults.add(record.where, what, mend, "layout-mixed")
            else:
                column = their_name(bad.field, record, self._data.columns)
                self._faults.add(f"{record.where} {column}", bad.what, bad.mend, bad.code)
            return None


def their_name(column: str, record: Record, columns: dict[str, str]) -> str:
    """The name that a column of ours has in the file."""
    theirs = columns.get(column, column)
    return column if theirs not in record.values and column in record.values else theirs


def _renamed(record: Record, columns: dict[str, str]) -> Values:
    values = dict(record.values)
    for ours, theirs in columns.items():
        if theirs in record.values:
            values.pop(theirs, None) if theirs not in columns else None
            values[ours] = record.values[theirs]
    return values


def _other_method(record: Record, shape: str) -> UserError:
    """What is said of rows that another method learns from."""
    from finetune.methods import METHODS

    names = [f"method={name}" for name, method in METHODS.items() if shape in method.ROW_SHAPE]
    mend = f"use {' or '.join(names)}, or another file" if names else "use another file or method"
    what = f"the rows are {formats.SAID[shape]}, which this method does not learn from"
    return UserError.at(record.where, what, mend, "other-method")


def _detect(record: Record, values: Values, columns: dict[str, str], shapes: tuple[str, ...]) -> str:
    # A source that has our names already needs no mapping: `data.columns` may be meant for another one.
    absent = [(ours, theirs) for ours, theirs in columns.items() if theirs not in record.values and ours not in values]
    if absent:
        ours, theirs = absent[0]
        mend = did_you_mean(theirs, record.values, "did you mean {}?") or "set it to one of these"
        found = f"the row has no column {theirs!r} (it has: {listed(list(record.values))})"
        raise UserError.at(f"{record.where} data.columns.{ours}", found, mend, "columns-setting")
    if formats.is_of_tree(values):
        what = "the rows are single messages of a tree of conversations (parent_id), which no method learns from"
        raise UserError.at(record.where, what, "join each conversation into one row", "other-method")
    unlearnable = formats.unlearnable(values)
    if unlearnable and set(shapes) <= set(LEARNED):
        raise _other_method(record, unlearnable)
    layout = formats.detect(values, shapes)
    if layout is not None:
        return layout
    is_learned = set(shapes) <= set(LEARNED)
    # A question and columns of other names are more likely answers that go by another name.
    other = formats.other_shape(values, (*shapes, "task") if is_learned else shapes)
    if other:
        raise _other_method(record, other)
    found = listed(list(values)) or "none"
    wanted = LEARNED if set(LEARNED) & set(shapes) else shapes
    names = "prompt=question data.columns.completion=answer" if wanted == LEARNED else "prompt=question"
    mend = f"name them, such as data.columns.{names}"
    what = f"columns fit no layout (found: {found}; wanted: {formats.wanted_text(wanted)})"
    raise UserError.at(record.where, what, mend, "layout-unknown")
