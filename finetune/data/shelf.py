"""Many texts that lie on the disk, and are read like a list."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import overload


class Shelf(Sequence[str]):
    """Texts in a file that has no name, so that it is gone when the program ends, however it ends."""

    def __init__(self, folder: Path | None = None) -> None:
        # Closed with the last reference to the shelf.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._ends = array("Q", [0])
        self._written = 0

    def add(self, text: str) -> None:
        """Add one text behind the others."""
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(place) for place in range(*index.indices(len(self)))]
        return self._text(range(len(self))[index])

    def _text(self, place: int) -> str:
        if self._written < self._ends[place + 1]:
            self._file.flush()
            self._written = self._ends[-1]
        begin, end = self._ends[place], self._ends[place + 1]
        return os.pread(self._file.fileno(), end - begin, begin).decode("utf-8", "surrogatepass")


class Reordered(Sequence[str]):
    """Some of the texts of a sequence, in another order."""

    def __init__(self, texts: Sequence[str], places: Sequence[int]) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._texts[place] for place in self._places[index]]
        return self._texts[self._places[index]]
