"""What the rows are: kind, number and size, from the first of each file, also where no method learns from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.choose import situation as kinds
from finetune.choose.situation import Rows
from finetune.config import DataConfig
from finetune.data import formats
from finetune.data.check import check
from finetune.data.convert import Converter
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow, Values
from finetune.data.load import check_columns, check_hub
from finetune.data.read import Record, Source, find_sources, read
from finetune.data.rows import REFERENCES, SHAPES, answer, compared
from finetune.errors import UserError, listed

MOST_ROWS, MOST_CHARACTERS = 2000, 8_000_000  # of one file that are looked at

# Columns by which rows are known that no layout reads.
IMAGE_COLUMNS = ("image", "images")
IMAGE_PARTS = ("image", "image_url", "input_image", "inlineData", "inline_data")
PASSAGES = ("documents", "document", "passages", "context", "contexts")
ASKED = ("question", "prompt", "instruction", "query", "problem")
CHECKED_BY = (*REFERENCES, "test", "tests", "test_list", "test_cases")
TURNS = ("messages", "conversations", "prompt")


@dataclass
class Looked:
    """What was seen of one file."""

    kinds: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    characters: int = 0
    longest: int = 0
    size: int = 0  # bytes of the rows, roughly as they are stored
    refused: int = 0
    layout: str = ""
    unread: int = 0  # further rows, counted but not looked at
    whole: bool = True  # all rows were counted


def look_at_rows(data: DataConfig) -> tuple[Rows, ...]:
    """The rows of each source; refused when nothing in one of them is a row."""
    sources = find_sources(data.train, "data.train")
    check_hub(data, sources)
    check_columns(data.columns)
    return tuple(_source(source, data) for source in sources)


def _source(source: Source, data: DataConfig) -> Rows:
    files = [Source(source.given, (path,)) for path in source.files] or [source]
    looked = [_look(one, data) for one in files]
    counts = [_count(one, seen, data) for one, seen in zip(files, looked, strict=True)]
    found: Counter[str] = sum((seen.kinds for seen in looked), Counter())
    rows, total = sum(seen.rows for seen in looked), sum(counts)
    mean = sum(seen.characters for seen in looked) / max(1, rows)
    return Rows(
        given=source.given,
        kind=found.most_common(1)[0][0],
        count=total,
        exact=all(seen.whole for seen in looked),
        characters=round(mean * total),
        longest=max(seen.longest for seen in looked),
        refused=sum(seen.refused for seen in looked),
        layout=looked[0].layout,
    )


def _look(source: Source, data: DataConfig) -> Looked:
    """Look at the first rows of a file."""
    faults, seen = FaultLog(), Looked()
    converter = Converter(data, SHAPES, faults)
    records = _records(source, data, faults)
    for record in records:
        if seen.rows == MOST_ROWS or seen.size > MOST_CHARACTERS:
            seen.whole = source.on_hub
            seen.unread = 1 + sum(1 for _ in records) if source.on_hub else 0
            break
        _note(seen, record, converter.values(record), data.layout)
    if not seen.rows:
        faults.raise_any()
        raise UserError.at(source.given, "no rows", "the file is empty: check that it was copied whole", "file-empty")
    seen.refused += faults.total
    return seen


def _records(source: Source, data: DataConfig, faults: FaultLog) -> Iterator[Record]:
    wanted = {*formats.COLUMNS, *formats.TELLING, *data.columns.values(), *data.group_by}
    return read(source, faults, wanted=wanted, others=True, limit=data.limit, split=data.split, revision=data.revision)


def samples(data: DataConfig) -> Iterator[Iterator[str]]:
    """The first rows of each source, as JSON lines."""
    for source in find_sources(data.train, "data.train"):
        yield _first_lines(_records(source, data, FaultLog()))


def _first_lines(records: Iterator[Record]) -> Iterator[str]:
    size = 0
    for record in islice(records, MOST_ROWS):
        line = json.dumps(record.values, ensure_ascii=False, default=str)
        size += len(line)
        if size > MOST_CHARACTERS:
            return
        yield line + "\n"


def _note(seen: Looked, record: Record, values: Values, layout: str | None) -> None:
    kind = kind_of(values, layout)
    if kind is None:
        found = listed(list(record.values)) or "none"
        what = f"columns fit no kind of rows (found: {found}; wanted: {formats.wanted_text()})"
        mend = "name them, such as data.columns.prompt=question data.columns.completion=answer"
        raise UserError.at(record.where, what, mend, "layout-unknown")
    seen.kinds[kind] += 1
    seen.rows += 1
    seen.size += len(json.dumps(record.values, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")) + 1
    seen.layout = seen.layout or layout or _layout(kind, values)
    characters = sum(map(len, _texts(values)))
    if kind in (kinds.CHAT, kinds.TEXT):
        characters = _convert(seen, values, layout, characters)
    seen.characters += characters
    seen.longest = max(seen.longest, characters)


def _layout(kind: str, values: Values) -> str:
    """The layout of a row; of a pair that in which its better answer can be read."""
    if kind != kinds.BETTER_WORSE:
        return formats.detect(values) or ""
    if "prompt" in values:
        return "prompt_completion"
    return "messages" if isinstance(values["chosen"], list) else ""


def _convert(seen: Looked, values: Values, layout: str | None, characters: int) -> int:
    """The length of a row as it would be learned; notes when it would be refused."""
    try:
        row = formats.convert(layout or formats.detect(values) or seen.layout, values)
    except BadRow:
        seen.refused += 1
        return characters
    seen.refused += any(True for _ in check(row))
    return len(compared(row)) or len(answer(row))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def kind_of(values: Values, layout: str | None = None) -> str | None:
    """The kind of a row, also of those that no method learns from yet; None when it is none that is known."""
    if layout is not None:
        shapes = {"text": kinds.TEXT, "pair": kinds.BETTER_WORSE, "vote": kinds.VOTES, "task": kinds.TASKS}
        return shapes.get(formats.LAYOUTS[layout].shape, kinds.CHAT)
    if _has_images(values):
        return kinds.IMAGES
    if all(values.get(column) is not None for column in formats.PREFERENCES):
        return kinds.BETTER_WORSE
    if isinstance(values.get("label"), bool) and "text" not in values:
        return kinds.VOTES
    if _first(values, PASSAGES) and _first(values, ASKED):
        return kinds.GROUNDED
    if not _is_asked(values) and (found := formats.detect(values)):
        return kinds.TEXT if found == "text" else kinds.CHAT
    if _is_asked(values) or _first(values, ASKED):
        return kinds.TASKS if _first(values, CHECKED_BY) else kinds.PROMPTS
    return None


def _first(values: Values, columns: Sequence[str]) -> Any:
    """The first of these columns that holds something."""
    return next((values[name] for name in columns if values.get(name)), None)


def _has_images(values: Values) -> bool:
    if _first(values, IMAGE_COLUMNS):
        return True
    turns = [turn for name in (*TURNS, "contents") for turn in _listed(values.get(name)) if isinstance(turn, dict)]
    parts = [part for turn in turns for part in (*_listed(turn.get("content")), *_listed(turn.get("parts")))]
    return any(isinstance(part, dict) and (part.get("type") in IMAGE_PARTS or _keys(part)) for part in parts)


def _keys(part: dict[str, Any]) -> bool:
    return any(name in part for name in IMAGE_PARTS)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_asked(values: Values) -> bool:
    """Whether a conversation ends with a question."""
    last = next((turns[-1] for name in TURNS[:2] if (turns := _listed(values.get(name)))), None)
    return isinstance(last, dict) and (last.get("role") or last.get("from")) in ("user", "human")


def _count(source: Source, seen: Looked, data: DataConfig) -> int:
    """How many rows a file has: counted when it was read to its end, else from its size."""
    if seen.whole:
        return seen.rows + seen.unread
    (path,) = source.files
    if path.suffix.lower() == ".parquet":
        return _limited(_parquet_rows(path), data.limit)
    return _limited(round(path.stat().st_size / (seen.size / seen.rows)), data.limit)


def _limited(rows: int, limit: int | None) -> int:
    return rows if limit is None else min(rows, limit)


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)
