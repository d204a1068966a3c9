"""The files in pieces that can be read apart: large files of JSON lines in parts, everything else whole.

Pieces depend on the files alone and not on how many processes there are, and what is found is joined in their order;
so the result is the same for any number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config import RowsConfig
from finetune.data.faults import FaultLog
from finetune.data.jsonl import Part, parts, read_jsonl
from finetune.data.read import Record, Source, is_lines, read, shorten

PART_BYTES = 4_000_000
TRAIN, HELD_OUT = "train", "held_out"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Piece:
    """Some rows: a source whole, one of its files, or a part of one."""

    split: str
    source: Source
    index: int = 0  # of its source in data.train or data.eval
    part: Part | None = None
    first: Record | None = None  # the first record of the file, when this is a later part of it
    records: Iterator[Record] | None = None  # those that are meant, when others of the source are not

    @property
    def is_later(self) -> bool:
        """Whether it is a part of a file that another part of has come before."""
        return self.first is not None if self.part is None else self.part.begin > 0


def pieces(split: str, sources: Sequence[Source], data: RowsConfig) -> Iterator[Piece]:
    """The pieces of some sources, in the order of their rows."""
    for index, source in enumerate(sources):
        if source.on_hub or data.limit is not None:
            yield Piece(split, source, index)
        else:
            for path in source.files:
                yield from _of_file(Piece(split, Source(source.given, (path,)), index), path)


def _of_file(whole: Piece, path: Path) -> Iterator[Piece]:
    if not can_be_cut(path) or path.stat().st_size <= PART_BYTES:
        yield whole
        return
    first = first_of(path)
    for part in parts(path, PART_BYTES):
        yield replace(whole, part=part, first=first)


def can_be_cut(path: Path) -> bool:
    """Whether a file can be read from any of its lines on."""
    if not is_lines(path):
        return False
    with path.open("rb") as file:
        return file.read(2) not in UTF_16


def first_of(path: Path) -> Record | None:
    """The first record of a file of JSON lines, which decides on the layout of all."""
    name = shorten(path)
    return next((Record(name, row, values) for row, values in read_jsonl(path, name, FaultLog())), None)


def records(
    piece: Piece, data: RowsConfig, wanted: Collection[str], faults: FaultLog, *, others: bool = False
) -> Iterator[Record]:
    """The records of a piece; see `read` about `wanted` and `others`."""
    if piece.records is not None:
        yield from piece.records
        return
    if piece.part is None:
        limit, split, revision = data.limit, data.split, data.revision
        yield from read(piece.source, faults, wanted=wanted, others=others, limit=limit, split=split, revision=revision)
        return
    path = piece.source.files[0]
    name = shorten(path)
    for row, values in read_jsonl(path, name, faults, piece.part):
        yield Record(name, row, values)
