"""JSON and JSON lines, read strictly: what another reader might take in silence is a fault with its row."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.faults import FaultLog, kind_of

MAX_LINE = 10_000_000  # bytes of one row; longer ones are a broken file far more often than a row
MAX_JSON = 2_000_000_000  # bytes of one JSON array, which has to be held in memory
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")


class Refused(ValueError):
    """Valid for Python's reader, not for us."""

    def __init__(self, what: str, mend: str, code: str) -> None:
        super().__init__(what)
        self.what, self.mend, self.code = what, mend, code


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = first_repeated([name for name, _ in pairs])
        raise Refused(f"has the key {twice!r} twice", "keep one of them", "json-key-twice")
    return found


def _constant(literal: str) -> Any:
    raise Refused(f"holds the literal {literal}, which is not JSON", "write null, or leave the field out", "json-nan")


def first_repeated(names: Sequence[str]) -> str | None:
    """The first of the names that is there again later."""
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None)


DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


@dataclass(frozen=True)
class Part:
    """Some lines of a file: where they begin and end in bytes, and how many lines come before."""

    begin: int = 0
    end: int | None = None  # the first byte of the line after the last; None for the end of the file
    lines_before: int = 0


WHOLE = Part()


def read_jsonl(path: Path, name: str, faults: FaultLog, part: Part = WHOLE) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; blank lines are passed over."""
    with path.open("rb") as file:
        file.seek(part.begin)
        number, position = part.lines_before, part.begin
        while (part.end is None or position < part.end) and (line := file.readline(MAX_LINE + 1)):
            number += 1
            position += len(line)
            if len(line) > MAX_LINE:
                skipped = _skip_line(file)
                position, size = position + skipped, len(line) + skipped
                mend = "split the row, or find the line break that is missing"
                faults.add(
                    f"{name}:{number}",
                    f"one line of {size:,} bytes, over the limit of {MAX_LINE:,}",
                    mend,
                    "line-too-long",
                )
                continue
            if number == 1 and line.startswith(BOM):
                line = line[len(BOM) :]
            text = decode(line, name, number, faults)
            if text is None:
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    return  # every further line of a UTF-16 file would tell the same
                continue
            if not text or text.isspace():
                continue
            value = _parse(text, name, number, not line.endswith(b"\n"), faults)
            if value is not None:
                yield number, value


def parts(path: Path, size: int, start: Part = WHOLE, most: int | None = None) -> Iterator[Part]:
    """A file of JSON lines in parts of about so many bytes, each of whole lines; from a place on, so many lines."""
    begin = position = start.begin
    before = lines = start.lines_before
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(size):
            left = None if most is None else start.lines_before + most - lines
            if left is not None and block.count(b"\n") >= left:
                yield Part(begin, position + _after(block, left), before)
                return
            last = block.rfind(b"\n")
            if last < 0:
                position += len(block)
                continue
            lines += block.count(b"\n")
            end = position + last + 1
            yield Part(begin, end, before)
            begin, before, position = end, lines, position + len(block)
    if position > begin:
        yield Part(begin, position, before)


def _after(block: bytes, lines: int) -> int:
    """Where the line after so many lines begins."""
    place = 0
    for _ in range(lines):
        place = block.index(b"\n", place) + 1
    return place


def _skip_line(file: Any) -> int:
    skipped = 0
    while part := file.readline(MAX_LINE):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def decode(data: bytes, name: str, row: int, faults: FaultLog) -> str | None:
    """The bytes as text, or None and a fault that names the byte and the mend."""
    where = f"{name}:{row}"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        mend = f"convert it: iconv -f UTF-16 -t UTF-8 {name}"
        faults.add(where, "not UTF-8 at byte 1: this is UTF-16", mend, "not-utf8")
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        mend = f"convert it: iconv -f LATIN1 -t UTF-8 {name} (or from the encoding that it has)"
        faults.add(where, f"not UTF-8 at byte {error.start + 1} of the row", mend, "not-utf8")
        return None
    if "\0" in text:
        faults.add(
            where, f"a NUL byte at byte {data.index(0) + 1} of the row", "remove it: tr -d '\\000'", "nul-character"
        )
        return None
    return text


def _parse(text: str, name: str, row: int, last: bool, faults: FaultLog) -> dict[str, Any] | None:
    where = f"{name}:{row}"
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        if last and _is_cut(text, error):
            faults.add(where, "the line is cut short", "copy the file again, or delete its last line", "json-cut")
        else:
            mend = "mend the line, or delete it: each line is one whole JSON object, with no comma after it"
            faults.add(where, f"not valid JSON (col {error.colno}): {error.msg.lower()}", mend, "json-invalid")
        return None
    except (ValueError, RecursionError) as error:
        add_refused(f"{where} {_literal_field(text)}".rstrip(), error, faults)
        return None
    return as_record(value, text, where, faults)


def _literal_field(text: str, position: int = 0) -> str:
    """The field that holds NaN or an infinity, which Python reads though JSON has none; "" for no field."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text, position)
        return _infinite(value, "")
    except (ValueError, RecursionError):
        return ""


def _infinite(value: Any, path: str) -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, item in items if (found := _infinite(item, f"{path}.{key}".lstrip(".")))), "")


def add_refused(where: str, error: Exception, faults: FaultLog) -> None:
    """A fault for what the strict reader refused."""
    if isinstance(error, RecursionError):
        faults.add(where, "is nested too deeply", "flatten it", "json-nested")
    elif isinstance(error, Refused):
        faults.add(where, error.what, error.mend, error.code)
    else:  # Python's own limit
        faults.add(where, "holds a number of more than 4,300 digits", "write it as text", "json-number")


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())


def as_record(value: Any, text: str, where: str, faults: FaultLog) -> dict[str, Any] | None:
    """The value if it can be a row; `text` is what it was read from."""
    if not isinstance(value, dict):
        mend = 'write {"messages": [...]} or the like'
        faults.add(where, f"a row must be an object, got {kind_of(value)}", mend, "row-not-object")
        return None
    if "\\u" in text and (found := _bad_text(value, "")):
        faults.add(f"{where} {found[0]}", found[1], "remove it", found[2])
        return None
    return value


def _bad_text(value: Any, path: str) -> tuple[str, str, str] | None:
    """The place of a lone surrogate or an escaped NUL, which no tokenizer can encode."""
    if isinstance(value, str):
        if "\0" in value:
            return path, "holds a NUL character", "nul-character"
        if SURROGATE.search(value):
            return path, "holds half of a surrogate pair, which is no character", "lone-surrogate"
        return None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if found := _bad_text(item, f"{path}.{key}" if path else str(key)):
            return found
    return None


def read_json(path: Path, name: str, faults: FaultLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a JSON array, numbered from 1. JSON lines under a `.json` name are read as such."""
    first = first_byte(path)
    if first != b"[":
        yield from _json_object_or_lines(path, name, faults)
        return
    size = path.stat().st_size
    if size > MAX_JSON:
        mend = f"write it as JSON lines: jq -c '.[]' {name}"
        faults.add(name, f"one JSON array of {size:,} bytes", mend, "file-too-large")
        return
    data = path.read_bytes()
    text = decode(data[len(BOM) :] if data.startswith(BOM) else data, name, 1, faults)
    if text is not None:
        yield from _array(text, name, faults)


def first_byte(path: Path) -> bytes:
    """The first byte of a file that is not white space or a byte order mark."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.removeprefix(BOM).lstrip()[:1]


def _array(text: str, name: str, faults: FaultLog) -> Iterator[tuple[int, dict[str, Any]]]:
    blank = re.compile(r"[ \t\r\n]*")
    position, row = text.index("[") + 1, 0
    while True:
        position = blank.match(text, position).end()  # type: ignore[union-attr]  # matches the empty string too
        if text[position : position + 1] == "]":
            return
        if row:
            if text[position : position + 1] != ",":
                _bad_array(text, position, name, row, faults)
                return
            position = blank.match(text, position + 1).end()  # type: ignore[union-attr]
        row += 1
        try:
            value, end = DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            _bad_array(text, error.pos, name, row, faults)
            return
        except (ValueError, RecursionError) as error:
            add_refused(f"{name}:{row} {_literal_field(text, position)}".rstrip(), error, faults)
            return
        record = as_record(value, text[position:end], f"{name}:{row}", faults)
        position = end
        if record is not None:
            yield row, record


def _bad_array(text: str, position: int, name: str, row: int, faults: FaultLog) -> None:
    if position >= len(text.rstrip()):
        faults.add(f"{name}:{row}", "the file is cut short: its list is not closed", "copy it again", "json-cut")
        return
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    what = f"not valid JSON (line {line} col {column})"
    faults.add(f"{name}:{row}", what, "mend the record, or delete it", "json-invalid")


def _json_object_or_lines(path: Path, name: str, faults: FaultLog) -> Iterator[tuple[int, dict[str, Any]]]:
    whole: Any = None
    if path.stat().st_size <= MAX_LINE:
        try:
            whole = DECODER.decode(path.read_bytes().removeprefix(BOM).decode("utf-8"))
        except ValueError:
            whole = None
    lists = [key for key, value in whole.items() if isinstance(value, list)] if isinstance(whole, dict) else []
    keyed = [key for key in lists if whole[key] and all(isinstance(item, dict) for item in whole[key])]
    if keyed and not any(key in ("messages", "conversations") for key in keyed):
        mend = f"keep the list alone: jq -c '.{keyed[0]}[]' {name} > rows.jsonl"
        faults.add(
            name, f"is one object that holds a list under {keyed[0]!r}, not a list of rows", mend, "file-not-rows"
        )
    elif isinstance(whole, dict):
        record = as_record(whole, "\\u", f"{name}:1", faults)
        if record is not None:
            yield 1, record
    else:
        yield from read_jsonl(path, name, faults)
