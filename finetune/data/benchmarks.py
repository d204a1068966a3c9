"""The rows of benchmarks, of which nothing may be trained on: files of any layout, of any columns, or plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data import formats
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow
from finetune.data.jsonl import decode
from finetune.data.leaks import Compared
from finetune.data.read import Record, Source, find_sources, read
from finetune.data.rows import compared

KEY = "data.benchmarks"
LINES = ".txt"


@dataclass(frozen=True, slots=True)
class Passage:
    """What a row of a benchmark says, and where it stands."""

    text: str
    where: str


def find_benchmarks(given: Any) -> list[Source]:
    """The files that `data.benchmarks` names."""
    return find_sources(given, KEY) if given else []


def read_benchmarks(sources: Sequence[Source], faults: FaultLog) -> list[Passage]:
    """Every row of the benchmarks; what is wrong with their files goes to the log."""
    return [passage for source in sources for passage in _read(source, faults) if passage.text.strip()]


def whole_benchmarks(sources: Sequence[Source]) -> list[Passage]:
    """The same, where whatever is wrong ends it."""
    faults = FaultLog()
    found = read_benchmarks(sources, faults)
    faults.raise_any()
    return found


def as_compared(passages: Sequence[Passage]) -> Compared:
    """The rows of the benchmarks, to be compared with those that are trained on."""
    return Compared(KEY, [passage.text for passage in passages], lambda index: passages[index].where)


def _read(source: Source, faults: FaultLog) -> Iterator[Passage]:
    for path in source.files:
        if path.suffix.lower() == LINES and path.is_file():
            yield from _lines(path, faults)
        else:
            yield from map(_passage, read(Source(source.given, (path,)), faults, wanted=(), others=True))
    if source.on_hub:
        yield from map(_passage, read(source, faults, wanted=(), others=True, split="test"))


def _lines(path: Path, faults: FaultLog) -> Iterator[Passage]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = decode(line, str(path), number, faults)
            if text is None:
                return
            yield Passage(text.strip(), f"{path}:{number}")


def _passage(record: Record) -> Passage:
    """A record by what is asked and answered where it has a layout of ours, else by every text in it."""
    layout = formats.detect(record.values)
    if layout:
        try:
            return Passage(compared(formats.convert(layout, record.values)), record.where)
        except (BadRow, IndexError):  # a benchmark need not be fit to be learned from
            pass
    return Passage("\n".join(_texts(record.values)), record.where)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
