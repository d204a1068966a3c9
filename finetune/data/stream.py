"""The sources as a stream of rows: read a window at a time, from where the last one ended, over and over."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from finetune.config import DataConfig
from finetune.data.faults import FaultLog
from finetune.data.jsonl import Part, parts, read_jsonl
from finetune.data.load import load_piece, wanted
from finetune.data.pieces import PART_BYTES, TRAIN, Piece, can_be_cut, first_of
from finetune.data.prepared import START, Place
from finetune.data.read import Record, Source, hub_version, read, shorten
from finetune.data.reading import Reading
from finetune.data.spool import SpoolWriter
from finetune.errors import UserError

LEAVE_ALONE = "leave the files alone while they are streamed"
END_BYTES = 2**16  # of each end of a file: to read a terabyte only to know it again would take hours


def stream_digest(sources: Sequence[Source], data: DataConfig) -> str:
    """What tells one state of the sources from another: names, sizes, times and ends of files, versions on the hub."""
    digest = hashlib.sha256()
    for source in sources:
        if source.on_hub:
            version = hub_version(source.given, data.split, data.revision)
            digest.update(json.dumps([source.given, data.split, version]).encode())
        for path in source.files:
            digest.update(json.dumps([path.name, *_state(path)]).encode())
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(file.read(END_BYTES))
                    file.seek(max(0, path.stat().st_size - END_BYTES))
                    digest.update(file.read(END_BYTES))
        digest.update(b"|")
    return digest.hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@dataclass
class _Opened:
    """A file, or a dataset of the hub, that is read from its first row on."""

    number: int
    rows: Iterator[Record]  # those that are still to come
    first: Record | None
    taken: int = 0

    def take(self, most: int) -> Iterator[Record]:
        """The rows that follow."""
        for record in islice(self.rows, most):
            self.taken += 1
            yield record

    def is_over(self) -> bool:
        """Whether no row follows."""
        following = list(islice(self.rows, 1))
        self.rows = chain(following, self.rows)
        return not following


@dataclass
class WindowReader:
    """Reads windows. Of JSON lines each is found by its byte; other files stay open from one window to the next."""

    sources: Sequence[Source]
    data: DataConfig
    reading: Reading
    faults: FaultLog = field(default_factory=FaultLog)
    opened: _Opened | None = None

    def __post_init__(self) -> None:
        self.files = [
            (index, part)
            for index, source in enumerate(self.sources)
            for part in ([source] if source.on_hub else [Source(source.given, (path,)) for path in source.files])
        ]
        self.states = {path: _state(path) for _, source in self.files for path in source.files}

    def check_beginnings(self, after: Place) -> None:
        """Refuse now what is wrong with the first row of a file that comes up in hours.

        Not of JSON arrays, which can only be read whole.
        """
        known = self.data, self.reading.shapes, self.reading.used, self.reading.seen
        for index, source in self.files[after.file + 1 :] if after != START else []:
            if source.on_hub or source.files[0].suffix.lower() != ".json":
                records = islice(self._records(source), 1)
                for _ in load_piece(Piece(TRAIN, source, index, records=records), *known, self.faults):
                    pass
        self.faults.raise_any()

    def read(self, begins: Place, writer: SpoolWriter) -> Place:
        """Write the rows of the window that begins there, and tell where it ends; raises all their faults.

        It has at most `data.window` rows, and none of the next pass over the sources.
        """
        place, most = begins, self.data.window
        while True:
            place = self._take(place, most, writer)
            most = self.data.window - writer.rows
            if place == START or most <= 0 or self.faults.total:
                self.faults.raise_any()
                return place

    def _take(self, place: Place, most: int, writer: SpoolWriter) -> Place:
        """Write rows of one file; where to go on."""
        index, source = self.files[place.file]
        for path in source.files:
            if _state(path) != self.states[path]:
                raise UserError.at(shorten(path), "has changed since the run began to read it", LEAVE_ALONE)
        if source.files and can_be_cut(source.files[0]):
            after = self._take_lines(place, index, source, most, writer)
        else:
            after = self._take_records(place, index, source, most, writer)
        return after or Place((place.file + 1) % len(self.files))

    def _take_lines(self, place: Place, index: int, source: Source, most: int, writer: SpoolWriter) -> Place | None:
        """Write so many lines of a file; where to go on in it, or None at its end."""
        path = source.files[0]
        found = list(parts(path, PART_BYTES, Part(place.byte, None, place.row), most))
        first = first_of(path) if place.row or len(found) > 1 else None
        pieces = [Piece(TRAIN, source, index, part, first) for part in found]
        self.reading.add(pieces or [Piece(TRAIN, source, index)], writer, self.faults)
        end = found[-1].end if found else None
        if end is None or end == path.stat().st_size:
            return None
        unsound, after = FaultLog(), Part(end, None, place.row + most)
        more = next(read_jsonl(path, shorten(path), unsound, after), None)
        return Place(place.file, place.row + most, end) if more or unsound.total else None  # blank lines are no rows

    def _take_records(self, place: Place, index: int, source: Source, most: int, writer: SpoolWriter) -> Place | None:
        """Write so many rows of a file that has to be read from its beginning."""
        opened = self.opened
        if opened is None or (opened.number, opened.taken) != (place.file, place.row):
            opened = self.opened = self._open(place, source)
        first = opened.first if place.row else None
        self.reading.add([Piece(TRAIN, source, index, None, first, opened.take(most))], writer, self.faults)
        return None if opened.is_over() else Place(place.file, opened.taken)

    def _open(self, place: Place, source: Source) -> _Opened:
        rows = self._records(source)
        first = list(islice(rows, 1))
        opened = _Opened(place.file, chain(first, rows), first[0] if first else None)
        for _ in opened.take(place.row):
            pass
        return opened

    def _records(self, source: Source) -> Iterator[Record]:
        split, revision = self.data.split, self.data.revision
        columns = wanted(self.data, self.reading.shapes)
        return read(source, self.faults, wanted=columns, split=split, revision=revision, streaming=True)
