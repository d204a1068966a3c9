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

    @property
    def is_later(self) -> bool:
        """Whether it is a part of a file that another part of has come before."""
        return self.part is not None and self.part.begin > 0


def pieces(split: str, sources: Sequence[Source], data: RowsConfig) -> Iterator[Piece]:
    """The pieces of some sources, in the order of their rows."""
    for index, source in enumerate(sources):
        if source.on_hub or data.limit is not None:
            yield Piece(split, source, index)
        else:
            for path in source.files:
                yield from _of_file(Piece(split, Source(source.given, (path,)), index), path)


def _of_file(whole: Piece, path: Path) -> Iterator[Piece]:
    if not is_lines(path) or path.stat().st_size <= PART_BYTES or _is_utf_16(path):
        yield whole
        return
    name = shorten(path)
    first = next((Record(name, row, values) for row, values in read_jsonl(path, name, FaultLog())), None)
    for part in parts(path, PART_BYTES):
        yield replace(whole, part=part, first=first)


def _is_utf_16(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in UTF_16


def records(
    piece: Piece, data: RowsConfig, wanted: Collection[str], faults: FaultLog, *, others: bool = False
) -> Iterator[Record]:
    """The records of a piece; see `read` about `wanted` and `others`."""
    if piece.part is None:
        limit, split, revision = data.limit, data.split, data.revision
        yield from read(piece.source, faults, wanted=wanted, others=others, limit=limit, split=split, revision=revision)
        return
    path = piece.source.files[0]
    name = shorten(path)
    for row, values in read_jsonl(path, name, faults, piece.part):
        yield Record(name, row, values)
