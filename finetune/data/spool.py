"""Checked rows on their way to tokens, kept in a file: nothing that grows with the text stays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from finetune.data import arrow
from finetune.data.load import Loaded
from finetune.data.rows import SHAPES

Indices = NDArray[np.int64]

PIECE_ROWS, PIECE_CHARACTERS = 1000, 4_000_000  # most that is written, or handed out, in one batch
MARK_BYTES = 32
_TURNS = frozenset((shape, 0) for shape in SHAPES if shape != "text")  # rows that need a chat template


def _schema() -> Any:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("json", "shape", "file")]
    counts = [(name, pa.int64()) for name in ("row", "source", "plain")]
    return pa.schema([*texts, *counts, ("groups", pa.list_(pa.string())), ("mark", pa.binary(MARK_BYTES))])


def pack(rows: Iterable[Loaded]) -> bytes:
    """Some rows as one piece of memory, in which they come from another process."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _schema()) as writer:
        for batch in _batches(rows):
            writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _batches(rows: Iterable[Loaded]) -> Iterator[Any]:
    """The rows as Arrow has them, in batches of bounded size."""
    pending: list[Loaded] = []
    characters = 0
    for row in rows:
        pending.append(row)
        characters += len(row.json)
        if len(pending) == PIECE_ROWS or characters > PIECE_CHARACTERS:
            yield _batch(pending)
            pending, characters = [], 0
    if pending:
        yield _batch(pending)


def _batch(rows: Sequence[Loaded]) -> Any:
    import pyarrow as pa

    texts = [arrow.texts([getattr(row, name) for row in rows]) for name in ("json", "shape", "file")]
    counts = [np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in ("row", "source", "plain")]
    groups = arrow.lists(
        arrow.texts([group for row in rows for group in row.groups]), [len(row.groups) for row in rows]
    )
    marks = arrow.fixed(b"".join(hashlib.sha256(row.json.encode()).digest() for row in rows), MARK_BYTES)
    return pa.record_batch([*texts, *map(arrow.numbers, counts), groups, marks], schema=_schema())


class SpoolWriter:
    """Takes rows in their order and writes them to a file."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._pa, self._path = pa, path
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _schema())
        self._texts, self._places = hashlib.sha256(), hashlib.sha256()
        self._shapes: set[str] = set()
        self._needs_template = False
        self.rows = 0

    def extend(self, rows: Iterable[Loaded]) -> None:
        """Take the rows that follow."""
        for batch in _batches(rows):
            self._write(batch)

    def extend_packed(self, packed: bytes) -> None:
        """Take the rows that follow, as `pack` gave them."""
        for batch in self._pa.ipc.open_stream(self._pa.py_buffer(packed)):
            self._write(batch)

    def _write(self, batch: Any) -> None:
        self._writer.write_batch(batch)
        self.rows += len(batch)
        shapes, plain, sources, groups = (
            batch.column(name).to_pylist() for name in ("shape", "plain", "source", "groups")
        )
        self._shapes.update(shapes)
        self._needs_template |= not _TURNS.isdisjoint(zip(shapes, plain, strict=True))
        # Two hashes, neither of which depends on where one batch ends and the next begins.
        self._texts.update(_marks(batch))
        self._places.update("".join(f"{pair}\n" for pair in zip(sources, groups, strict=True)).encode())

    def close(self) -> Spool:
        """Finish the file; what was written can be read from then on."""
        self._writer.close()
        self._sink.close()
        digest = hashlib.sha256(self._texts.digest() + self._places.digest()).hexdigest()
        return Spool(self._path, digest, frozenset(self._shapes), self._needs_template)


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
        parts = [arrow.values(piece.column(name)) for piece in self._pieces]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def groups(self) -> Iterator[tuple[str, ...]]:
        """What each row has in each column of data.group_by."""
        return (tuple(row) for piece in self._pieces for row in piece.column("groups").to_pylist())

    def marks(self) -> NDArray[np.uint64]:
        """A hash of the canonical JSON of each row."""
        parts = [np.frombuffer(_marks(piece), dtype=np.uint64)[:: MARK_BYTES // 8] for piece in self._pieces]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

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


def _rows(batch: Any) -> Iterator[Loaded]:
    columns = (batch.column(name).to_pylist() for name in ("json", "shape", "file", "row", "source"))
    plain, groups = (batch.column(name).to_pylist() for name in ("plain", "groups"))
    return starmap(Loaded, zip(*columns, map(bool, plain), map(tuple, groups), strict=True))


def _marks(batch: Any) -> memoryview:
    """The hashes of the rows of a batch, one after the other."""
    marks = batch.column("mark")
    return memoryview(marks.buffers()[1])[marks.offset * MARK_BYTES : (marks.offset + len(marks)) * MARK_BYTES]
