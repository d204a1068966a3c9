"""The rows of a stream as a dataset: which windows there are, and reading from the few that are on disk."""

from __future__ import annotations

import dataclasses
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data import arrow, store
from finetune.data.order import Indices, part_order
from finetune.data.prepared import PreparedData, Window, as_window
from finetune.errors import RunFailed
from finetune.log import rank

if TYPE_CHECKING:
    import datasets

Found = TypeVar("Found")

FOLDER = "windows"  # in the run directory
LIST = "windows.json"
AT_WORK = "at-work"  # there while further windows are prepared
LONGEST_WAIT, PAUSE = 3600.0, 0.05  # seconds
KEPT_OPEN = 2


@dataclass(frozen=True)
class Part:
    """A window among all that a run is trained on, counted over all passes: the same one comes again in the next."""

    number: int
    begins: int  # the first of its rows among all of the run
    ends: int
    tokens: int  # of the rows before it


@dataclass(frozen=True)
class Windows:
    """The windows of one pass over the sources, as far as they are known."""

    known: tuple[Window, ...]

    @property
    def are_all(self) -> bool:
        """Whether the pass ends with the last of them."""
        return self.known[-1].is_last

    @cached_property
    def _rows(self) -> list[int]:
        return [0, *accumulate(window.rows for window in self.known)]

    @cached_property
    def _tokens(self) -> list[int]:
        return [0, *accumulate(window.tokens for window in self.known)]

    def find(self, row: int) -> Part | None:
        """Where a row of the run is, if that is known."""
        passes, row_of_pass = divmod(row, self._rows[-1]) if self.are_all else (0, row)
        if row_of_pass >= self._rows[-1]:
            return None
        index = bisect_right(self._rows, row_of_pass) - 1
        begins, ends = (passes * self._rows[-1] + self._rows[place] for place in (index, index + 1))
        tokens = passes * self._tokens[-1] + self._tokens[index]
        return Part(passes * len(self.known) + index, begins, ends, tokens)


def read_windows(folder: Path, data: PreparedData) -> Windows:
    """The windows that are known: those of the list, if it is of these rows, or the first."""
    assert data.window is not None
    try:
        kept = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if kept["fingerprint"] == data.fingerprint:
            return Windows(tuple(as_window(window) for window in kept["windows"]))
    except (OSError, ValueError, LookupError, TypeError):
        pass  # without the list they are made again, one after the other
    return Windows((data.window,))


def listed_windows(windows: Windows, data: PreparedData) -> dict[str, Any]:
    """The list as it is kept."""
    return {"fingerprint": data.fingerprint, "windows": [dataclasses.asdict(window) for window in windows.known]}


def window_folder(folder: Path, data: PreparedData, index: int) -> Path:
    """Where a window lies; the first one stays where the rows of all runs are prepared."""
    return folder / str(index) if index else Path(data.folder)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A window that is read from."""

    part: Part
    rows: Any
    order: Indices
    tokens: NDArray[np.int64]  # up to each of its rows, in the order of training

    def read(self, places: Iterable[int]) -> Any:
        """Rows by their places among all of the run."""
        return self.rows[[int(self.order[place - self.part.begins]) for place in places]]


@dataclass
class StreamedRows:
    """Rows of a stream by their places in the run; waits for windows that are still being prepared."""

    folder: Path
    data: PreparedData
    seed: int
    effective_batch: int
    group_by_length: bool
    opened: tuple[_Opened, ...] = ()

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """The rows at these places: what a `datasets.Dataset` calls its transform."""
        places = batch["input_ids"]
        # All ranks wait for all that the step needs: none is left alone in a collective, which has a shorter patience.
        step_end = (max(places) // self.effective_batch + 1) * self.effective_batch
        self._at(step_end - 1)
        parts = [opened.read(some) for opened, some in groupby(places, self._at)]
        return {name: [row for part in parts for row in part[name]] for name in ("input_ids", "labels")}

    def tokens(self, rows: int) -> int:
        """How many tokens the first so many rows of the run have."""
        if not rows:
            return 0
        opened = self._at(rows - 1)
        return opened.part.tokens + int(opened.tokens[rows - 1 - opened.part.begins])

    def _at(self, place: int) -> _Opened:
        found = next((one for one in self.opened if one.part.begins <= place < one.part.ends), None)
        if found is None:
            found = self._wait(lambda: self._open(place))
            self.opened = (*self.opened[1 - KEPT_OPEN :], found)
        return found

    def _open(self, place: int) -> _Opened | None:
        windows = read_windows(self.folder, self.data)
        part = windows.find(place)
        if part is None:
            return None
        path = str(window_folder(self.folder, self.data, part.number % len(windows.known)) / "train")
        try:
            rows, lengths = store.open_rows(path), store.lengths(path)
        except FileNotFoundError:  # not there yet, or just deleted to be made again later
            return None
        grouped_by = self.effective_batch if self.group_by_length else None
        order = part_order(lengths, number=part.number, before=part.begins, seed=self.seed, grouped_by=grouped_by)
        return _Opened(part, rows, order, np.cumsum(lengths[order], dtype=np.int64))

    def _wait(self, attempt: Callable[[], Found | None]) -> Found:
        deadline = time.monotonic() + LONGEST_WAIT
        while (found := attempt()) is None:
            # Other ranks are ended with the first one, whose error says why.
            if rank() == 0 and not (self.folder / AT_WORK).exists():
                raise RunFailed("the rows that come next could not be prepared")
            if time.monotonic() > deadline:
                raise RunFailed(f"the rows that come next were not prepared in {LONGEST_WAIT:.0f} s")
            time.sleep(PAUSE)
        return found


def as_dataset(rows: StreamedRows, count: int) -> datasets.Dataset:
    """So many rows of a stream as the trainers take them: places, in whose stead rows are read."""
    import datasets
    import pyarrow as pa

    places = pa.table({"input_ids": arrow.numbers(np.arange(count))})
    dataset = datasets.Dataset(datasets.table.InMemoryTable(places), fingerprint=rows.data.fingerprint[:16])
    return dataset.with_transform(rows)
