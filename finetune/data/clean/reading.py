"""Files → items: every record that can be read, and beside it every line that cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finetune.config import RowsConfig
from finetune.data import formats
from finetune.data.clean.item import Item
from finetune.data.convert import Converter
from finetune.data.faults import FaultLog
from finetune.data.jsonl import MAX_LINE
from finetune.data.load import check_columns, check_used, noting
from finetune.data.read import Record, Source, is_lines, read, shorten
from finetune.data.rows import SHAPES
from finetune.errors import UserError

# A line that cannot be read: the row, what is wrong with it, and its text.
Broken = Callable[[str, int, str, str], None]


class LineFaults(FaultLog):
    """Keeps which lines of a file cannot be read, and the faults of whole files as any log does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._place = re.compile(rf"{re.escape(name)}:(\d+)(?: .*)?", re.DOTALL)
        self.lines: dict[int, str] = {}

    def add(self, where: str, what: str, mend: str = "", code: str = "refused") -> None:
        """Note one fault."""
        super().add(where, what, mend, code)
        if place := self._place.fullmatch(where):
            self.lines[int(place[1])] = what


def read_items(sources: Sequence[Source], data: RowsConfig, broken: Broken | None) -> Iterator[Item]:
    """The items of all sources. Lines that cannot be read go to `broken`, or are faults when there is none."""
    check_columns(data.columns)
    used: set[str] = set()
    shape = ""
    for source in sources:
        for part in [Source(source.given, (path,)) for path in source.files] or [source]:
            for item in _of_part(part, data, broken, used):
                if item.row is not None and item.row.shape != shape:
                    if shape:
                        what = f"the row is {item.row.shape}, and those before it are {shape}"
                        raise UserError.at(item.record.where, what, "clean them by two commands")
                    shape = item.row.shape
                yield item
    check_used(data.columns, used)


def _of_part(source: Source, data: RowsConfig, broken: Broken | None, used: set[str]) -> Iterator[Item]:
    """The items of one file, or of a dataset of the hub."""
    path = source.files[0] if source.files else None
    faults, rows = LineFaults(shorten(path) if path else source.given), 0
    records = read(
        source,
        faults,
        wanted=formats.COLUMNS,
        others=True,
        limit=data.limit,
        split=data.split,
        revision=data.revision,
    )
    converter, first = Converter(data, SHAPES, FaultLog()), True
    for record in noting(records, data.columns, used):
        if first:
            converter.begin(record)
            first = False
        rows += 1
        yield _item(record, converter)
    if broken is None or not faults.lines or path is None or not is_lines(path) or faults.total > len(faults.lines):
        faults.raise_any()
    elif path is not None:
        _tell_broken(path, faults, rows, data.limit, broken)


def _item(record: Record, converter: Converter) -> Item:
    item = Item(record, converter.layout, record.values)
    item.convert(converter.values(record))
    return item


def _tell_broken(path: Path, faults: LineFaults, rows: int, limit: int | None, broken: Broken) -> None:
    """Hand on the text of each line that cannot be read, once it is sure that no other line was passed over."""
    name, lines, found = shorten(path), 0, dict[int, str]()
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            whole = line.endswith(b"\n") or len(line) < MAX_LINE
            lines += bool(line.strip())
            if number in faults.lines:
                found[number] = line.decode("utf-8", "backslashreplace").rstrip("\n")
            while not whole:
                rest = file.readline(MAX_LINE)
                whole = rest.endswith(b"\n") or len(rest) < MAX_LINE
    if limit is None and lines != rows + len(faults.lines):
        faults.raise_any()
    for number, text in sorted(found.items()):
        broken(name, number, faults.lines[number], text)
