"""What all pieces hold, joined in their order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import tee

from finetune.data import workers
from finetune.data.examine.examine import Look, Looked
from finetune.data.examine.notes import Notes
from finetune.data.examine.settings import MOST_ROWS, CheckSettings
from finetune.data.examine.sums import Sums
from finetune.data.load import check_used
from finetune.data.pieces import TRAIN, Piece
from finetune.data.read import note_empty, shorten
from finetune.data.shelf import Shelf
from finetune.errors import Fault, UserError
from finetune.log import log

TELL_EVERY = 10.0  # seconds


class Gathered:
    """The notes of all rows, and the sums of each split."""

    def __init__(self, settings: CheckSettings, compares: bool) -> None:
        """`compares`: whether there are held-out rows, with which all others are compared."""
        self._settings = settings
        self._keeps_all = compares or settings.check.near is True
        self._most = settings.check.samples
        self.notes = Notes(self._most, frozenset(settings.check.disable))
        self.train, self.held_out = Sums(), Sums()
        self.texts, self.held_texts = Shelf(), Shelf()
        self._used: set[str] = set()
        self._unmeasured: Fault | None = None
        self._open: tuple[str, int, int] | None = None  # a file read in parts: name, records, faults before it

    def take(self, pieces: Iterator[Piece], processes: int) -> None:
        """Have all pieces looked at, and join what they hold."""
        given, known = tee(pieces)
        told = time.monotonic()
        with closing(workers.mapped(Look(self._settings), given, processes)) as results:
            for piece, looked in zip(known, results, strict=True):
                self._close_before(piece)
                self._join(piece, looked)
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    log.info(f"{self.train.records + self.held_out.records:,} rows looked at")
        self._close_before(None)
        if self._unmeasured is not None:
            fault = self._unmeasured
            self.notes.add(fault.where, fault.what, fault.mend, fault.code)
        self._check_columns()

    def _join(self, piece: Piece, looked: Looked) -> None:
        self.notes.join(looked.notes)
        sums = self.train if piece.split == TRAIN else self.held_out
        sums.join(looked.sums, self._most)
        if self._keeps_all or len(self.texts) <= MOST_ROWS:
            shelf = self.texts if piece.split == TRAIN else self.held_texts
            for text in looked.texts:
                shelf.add(text)
        self._used |= looked.used
        self._unmeasured = self._unmeasured or looked.unmeasured
        if self._open is not None:
            name, records, faults = self._open
            self._open = (name, records + looked.sums.records, faults)

    def _close_before(self, piece: Piece | None) -> None:
        """Note that a file read in parts has no rows, once all of them were looked at."""
        if piece is not None and piece.is_later:
            return
        if self._open is not None:
            name, records, faults = self._open
            if not records and self.notes.total == faults:
                note_empty(name, self.notes)
        self._open = (shorten(piece.source.files[0]), 0, self.notes.total) if piece and piece.part else None

    def _check_columns(self) -> None:
        if self.notes.total:
            return  # `train` says these first
        try:
            check_used(self._settings.data.columns, self._used)
        except UserError as error:
            for fault in error.faults:
                self.notes.add(fault.where, fault.what, fault.mend, fault.code)
