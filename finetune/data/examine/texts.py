"""The texts of all rows on disk, so that rows can be compared without being held in memory."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class Texts(Sequence[str]):
    """Texts in an unnamed file, which is gone with the process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="finetune-")  # noqa: SIM115  # closed by close()
        self._ends = array("Q", [0])

    def add(self, texts: Iterable[str]) -> None:
        """Append some texts."""
        for text in texts:
            data = text.encode("utf-8", "replace")
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
            begin, end, step = index.indices(len(self))
            if step != 1:
                return [self[place] for place in range(begin, end, step)]
            return self._read(begin, max(begin, end))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        return self._read(place, place + 1)[0]

    def _read(self, begin: int, end: int) -> list[str]:
        """The texts from `begin` to `end`, read as one block."""
        self._file.flush()
        first, last = self._ends[begin], self._ends[end]
        block = os.pread(self._file.fileno(), last - first, first)
        bounds = [bound - first for bound in self._ends[begin : end + 1]]
        return [block[bounds[i] : bounds[i + 1]].decode("utf-8") for i in range(end - begin)]

    def close(self) -> None:
        """Give the room back."""
        self._file.close()
