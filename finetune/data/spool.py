"""Checked rows on their way to tokens, kept in a file: nothing that grows with the text stays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from finetune.data import arrow
from finetune.data.load import Loaded

Indices = NDArray[np.int64]

PIECE_ROWS, PIECE_CHARACTERS = 1000, 4_000_000  # most that is written, or handed out, in one piece


def _schema() -> Any:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("json", "shape", "file")]
    counts = [(name, pa.int64()) for name in ("row", "source", "plain")]
    return pa.schema([*texts, *counts, ("groups", pa.list_(pa.string()))])


class SpoolWriter:
    """Takes rows one after the other and writes them to a file."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._pa, self._path, self._schema = pa, path, _schema()
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._pending: list[Loaded] = []
        self._characters = 0
        self._digest = hashlib.sha256()
        self._shapes: set[str] = set()
        self._needs_template = False

    def add(self, row: Loaded) -> None:
        """Take the next row."""
        add_to_digest(self._digest, row)
        self._shapes.add(row.shape)
        self._needs_template |= row.shape == "chat" and not row.plain
        self._pending.append(row)
        self._characters += len(row.json)
        if len(self._pending) == PIECE_ROWS or self._characters > PIECE_CHARACTERS:
            self._write()

    def _write(self) -> None:
        rows = self._pending
        texts = [arrow.texts([getattr(row, name) for row in rows]) for name in ("json", "shape", "file")]
        counts = [np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in ("row", "source", "plain")]
        groups = arrow.texts([group for row in rows for group in row.groups])
        columns = [*texts, *map(arrow.numbers, counts), arrow.lists(groups, [len(row.groups) for row in rows])]
        self._writer.write_batch(self._pa.record_batch(columns, schema=self._schema))
        self._pending, self._characters = [], 0

    def close(self) -> Spool:
        """Finish the file; what was written can be read from then on."""
        if self._pending:
            self._write()
        self._writer.close()
        self._sink.close()
        return Spool(self._path, self._digest.hexdigest(), frozenset(self._shapes), self._needs_template)


class Spool(Sequence[Loaded]):
    """The rows of a spool file in their order, memory-mapped."""

    def __init__(
        self, path: Path, digest: str = "", shapes: frozenset[str] = frozenset(), needs_template: bool = False
    ) -> None:
        """What is told of the rows besides their file is known to whoever wrote it."""
        import pyarrow as pa

        self.path, self.digest, self.shapes, self.needs_template = path, digest, shapes, needs_template
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._pieces = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(piece.num_rows for piece in self._pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Loaded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Loaded]: ...
    def __getitem__(self, index: int | slice) -> Loaded | list[Loaded]:
        if isinstance(index, slice):
            return [row for part in self.parts(np.arange(len(self))[index]) for row in part]
        place = range(len(self))[index]
        return next(self.parts(np.array([place])))[0]

    def __iter__(self) -> Iterator[Loaded]:
        for piece in self._pieces:
            yield from _rows(piece)

    def parts(self, indices: Indices, size: int = PIECE_ROWS) -> Iterator[list[Loaded]]:
        """The rows at these places, in their order, in parts of at most `size` rows and not too much text."""
        part: list[Loaded] = []
        characters = 0
        for row in self._at(indices, size):
            if len(part) == size or characters > PIECE_CHARACTERS:
                yield part
                part, characters = [], 0
            part.append(row)
            characters += len(row.json)
        if part:
            yield part

    def _at(self, indices: Indices, size: int) -> Iterator[Loaded]:
        for begin in range(0, len(indices), size):
            some = np.asarray(indices[begin : begin + size], dtype=np.int64)
            numbers = np.searchsorted(self._starts, some, side="right") - 1
            cuts = np.flatnonzero(np.diff(numbers)) + 1
            for group, places in zip(np.split(numbers, cuts), np.split(some, cuts), strict=True):
                local = arrow.numbers(places - self._starts[group[0]])
                yield from _rows(self._pieces[group[0]].take(local))

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, of all rows."""
        parts = [piece.column(name).to_numpy(zero_copy_only=False) for piece in self._pieces]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def texts(self, of: Callable[[str], str] = str, places: Indices | None = None) -> Texts:
        """A text of each row, or of those at some places, made of its canonical JSON when it is asked for."""
        return Texts(self, of, np.arange(len(self)) if places is None else places)


class Texts(Sequence[str]):
    """The texts of spooled rows, one after the other or by their places, never all in memory."""

    def __init__(self, spool: Spool, of: Callable[[str], str], places: Indices) -> None:
        self._spool, self._of, self._places = spool, of, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._of(row.json) for part in self._spool.parts(self._places[index]) for row in part]
        return self._of(self._spool[int(self._places[index])].json)

    def __iter__(self) -> Iterator[str]:
        return (self._of(row.json) for part in self._spool.parts(self._places) for row in part)


def add_to_digest(digest: Any, row: Loaded) -> None:
    """Let a row count in the hash of rows."""
    digest.update(f"{row.source}\0{row.json}\0{row.groups}\n".encode())


def _rows(piece: Any) -> Iterator[Loaded]:
    *columns, plain, groups = (piece.column(name).to_pylist() for name in piece.schema.names)
    return starmap(Loaded, zip(*columns, map(bool, plain), map(tuple, groups), strict=True))
