"""CSV, TSV and Parquet files as records."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import FaultLog
from finetune.data.jsonl import BOM, DECODER, MAX_LINE, decode, first_repeated
from finetune.data.rows import REFERENCES

LIST_COLUMNS = ("messages", "conversations", "tools", "history")  # hold JSON where a table can hold only text
# May hold objects: messages, or what a layout that reads it only as text tells row by row.
JUDGEMENTS = ("label", "rating", "feedback", "margin", "scores", "ranks", "winner", "preference")
OBJECT_COLUMNS = frozenset(("input", "chosen", "rejected", *JUDGEMENTS, *REFERENCES))
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_csv(path: Path, name: str, delimiter: str, faults: FaultLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a CSV file, each numbered by the line of the file that it begins on."""
    csv.field_size_limit(MAX_LINE)
    with path.open("rb") as raw:
        reader = csv.reader(_lines(raw, name, faults), delimiter=delimiter, strict=True)
        header, begins = None, 1
        try:
            for cells in reader:
                line, begins = begins, reader.line_num + 1
                if header is None:
                    header = _header(cells, name, delimiter, faults)
                    if header is None:
                        return
                elif not cells:
                    continue
                elif len(cells) != len(header):
                    what = f"{len(cells)} cells where the header has {len(header)}"
                    faults.add(f"{name}:{line}", what, "quote the cells that hold the delimiter", "csv-ragged")
                else:
                    record = {key: _cell(key, cell) for key, cell in zip(header, cells, strict=True)}
                    yield line, record
        except csv.Error as error:
            _bad_csv(name, begins, str(error), faults)


def _lines(raw: Any, name: str, faults: FaultLog) -> Iterator[str]:
    for number, line in enumerate(raw, 1):
        data = line.removeprefix(BOM) if number == 1 else line
        text = decode(data, name, number, faults)
        if text is None:
            return
        yield text


def _cell(key: str, cell: str) -> Any:
    if key in LIST_COLUMNS and cell.lstrip()[:1] == "[":
        try:
            return DECODER.decode(cell)
        except (ValueError, RecursionError):
            return cell
    return None if key in LIST_COLUMNS and not cell else cell


def _header(cells: list[str], name: str, delimiter: str, faults: FaultLog) -> list[str] | None:
    names = [cell.strip() for cell in cells]
    where = f"{name}:1"
    if names and names[0].startswith("{"):
        faults.add(where, "holds JSON, not a table", "give the file the ending .jsonl", "file-kind")
        return None
    if len(names) == 1:
        other = next((mark for mark in DELIMITERS if mark != delimiter and mark in names[0]), None)
        if other:
            mend = f"save it with {DELIMITERS[delimiter]} between the cells"
            faults.add(
                where,
                f"the cells seem to be parted by {DELIMITERS[other]}, not {DELIMITERS[delimiter]}",
                mend,
                "csv-delimiter",
            )
            return None
    if not all(names):
        faults.add(
            where,
            f"column {names.index('') + 1} has no name",
            "name it in the first line, or leave it out (in pandas: to_csv(…, index=False))",
            "csv-header",
        )
        return None
    twice = first_repeated(names)
    if twice:
        faults.add(where, f"the column {twice!r} is there twice", "rename or remove one", "csv-header")
        return None
    return names


def _bad_csv(name: str, line: int, error: str, faults: FaultLog) -> None:
    if "unexpected end" in error:
        faults.add(
            f"{name}:{line}",
            "a quote that opens here is never closed",
            'close it, or write "" for a quote in a cell',
            "csv-quote",
        )
    else:
        faults.add(
            f"{name}:{line}",
            f"not valid CSV: {error}",
            'put cells that hold quotes in quotes and write "" inside',
            "csv-quote",
        )


def read_parquet(
    path: Path, name: str, wanted: Collection[str], faults: FaultLog, *, others: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a Parquet file: the columns that a layout can use, and the others when they are asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read(4)
    if head != b"PAR1":
        faults.add(name, "not a Parquet file", "give the file the name of what it is", "parquet-broken")
        return
    if tail != b"PAR1":
        faults.add(name, "is cut short: the end of the Parquet file is missing", "copy it again", "parquet-broken")
        return
    try:
        table = pq.ParquetFile(path)
        columns = [field.name for field in table.schema_arrow if field.name in wanted]
        for field in table.schema_arrow:
            if field.name in wanted and not _readable(field.type, field.name):
                faults.add(
                    f"{name} {field.name}",
                    f"holds {field.type}, not text",
                    "write the column as text or as a list",
                    "parquet-type",
                )
                return
        columns = table.schema_arrow.names if others or not columns else columns
        row = 0
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                row += 1
                yield row, record
    except (pa.ArrowException, OSError) as error:
        what = f"not a readable Parquet file: {str(error).splitlines()[0]}"
        faults.add(name, what, "write or copy it again", "parquet-broken")


def _readable(kind: Any, column: str) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        return column in OBJECT_COLUMNS
    return not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_map(kind))
