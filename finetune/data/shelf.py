"""Many texts that lie on the disk, and are read like a list."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Sequence
from itertools import pairwise
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
        places = range(len(self))[index]
        if isinstance(places, int):
            return self._block(places, places + 1)[0]
        if places.step != 1:
            return [self[place] for place in places]
        return self._block(places.start, max(places.start, places.stop))

    def _block(self, begin: int, end: int) -> list[str]:
        """The texts from `begin` to `end`, read at once."""
        if self._written < self._ends[end]:
            self._file.flush()
            self._written = self._ends[-1]
        first, last = self._ends[begin], self._ends[end]
        data = os.pread(self._file.fileno(), last - first, first)
        bounds = [bound - first for bound in self._ends[begin : end + 1]]
        return [data[low:high].decode("utf-8", "surrogatepass") for low, high in pairwise(bounds)]


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
