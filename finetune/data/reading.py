"""Pieces of files → rows in a spool: large files are read by several processes, and joined in the order of their rows.

Whatever reads them, the rows and the faults are the same, and so is which fault is raised first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, tee

from finetune.config import DataConfig
from finetune.data.faults import FaultLog
from finetune.data.load import check_columns, load_piece
from finetune.data.pieces import Piece
from finetune.data.read import note_empty, shorten
from finetune.data.spool import SpoolWriter, pack
from finetune.errors import UserError


@dataclass
class Read:
    """What a part of a file holds."""

    rows: bytes = b""  # as `spool.pack` gives them
    used: set[str] = field(default_factory=set)  # which of data.columns it has
    seen: set[str] = field(default_factory=set)  # which of data.group_by it has
    faults: FaultLog = field(default_factory=FaultLog)
    refused: UserError | None = None  # what ends all reading, if this part is come to


Reader = Callable[[Iterable[Piece]], Iterator[Read]]


def read_part(piece: Piece, data: DataConfig, shapes: tuple[str, ...]) -> Read:
    """Read a part of a file."""
    read = Read()
    try:
        read.rows = pack(load_piece(piece, data, shapes, read.used, read.seen, read.faults))
    except UserError as error:
        read.refused = error
    return read


@dataclass
class Reading:
    """Reads pieces into spools: parts of files through `reader`, everything else by itself, row by row."""

    data: DataConfig
    shapes: tuple[str, ...]
    reader: Reader
    used: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    ties: int = 0  # records of which no pair can be made

    def spool(self, pieces: Iterable[Piece], writer: SpoolWriter) -> None:
        """Write the rows of all pieces; raises all their faults after the last one."""
        check_columns(self.data.columns)
        faults = FaultLog()
        self.add(pieces, writer, faults)
        self.ties += faults.ties
        faults.raise_any()

    def add(self, pieces: Iterable[Piece], writer: SpoolWriter, faults: FaultLog) -> None:
        """Write the rows of some pieces, and note their faults."""
        given, known = tee(pieces)
        results = self.reader(piece for piece in given if piece.part is not None)
        for (_, source), same in groupby(known, lambda piece: (piece.index, piece.source)):
            before, is_begun = (writer.rows, faults.total), None
            for piece in same:
                is_begun = piece.is_later if is_begun is None else is_begun
                if piece.part is not None:
                    self._join(next(results), writer, faults)
                else:
                    writer.extend(load_piece(piece, self.data, self.shapes, self.used, self.seen, faults))
            if source.files and not is_begun and before == (writer.rows, faults.total):
                note_empty(shorten(source.files[0]), faults)

    def _join(self, read: Read, writer: SpoolWriter, faults: FaultLog) -> None:
        if read.refused is not None:
            raise read.refused
        writer.extend_packed(read.rows)
        self.used |= read.used
        self.seen |= read.seen
        faults.extend(read.faults.faults, read.faults.total)
        faults.ties += read.faults.ties
