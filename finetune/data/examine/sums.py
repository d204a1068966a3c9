"""What is counted over the rows, in a form that can be joined: numbers of rows, and per row only a few numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.examine.notes import Sample
from finetune.data.rows import SHAPES, Chat, Pair, Row, Vote, hashed, to_json

MOST_LABELS = 5000
LONGEST_LABEL = 40  # characters of an answer that may be a label
MOST_WORDS_OF_LABEL = 5

# All that is kept of a row. Hashes are of 64 bits; a hash of 0 stands for nothing to compare.
ROW = np.dtype(
    [
        ("row", "u8"),
        ("shape", "u1"),  # its place in rows.SHAPES
        ("prompt", "u8"),  # of what is asked; of a pair or a vote, of all but the judgement
        ("answer", "u8"),  # of the last answer; of a pair or a vote, of the judgement
        ("number", "u4"),  # of the row in its file
        ("words", "u4"),
        ("answer_words", "u4"),
        ("turns", "u4"),
        ("tokens", "u4"),
        ("learned", "u4"),
    ]
)


@dataclass(frozen=True)
class Run:
    """Rows that follow each other and come from one file."""

    file: str
    rows: int


@dataclass
class Sums:
    """The counts of some rows of one split."""

    records: int = 0  # read
    characters: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    up: int = 0  # votes
    longer: int = 0  # pairs whose chosen answer is the longer one
    shorter: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    short: int = 0  # answers that may be labels
    ended: int = 0  # answers that end as sentences do
    unended: int = 0
    json: int = 0  # answers that are JSON
    private: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    speakers: dict[str, list[Sample]] = field(default_factory=dict)  # the first rows of each language
    runs: list[Run] = field(default_factory=list)
    rows: list[NDArray[Any]] = field(default_factory=list)  # of ROW

    def add_label(self, label: str) -> None:
        """Count an answer that may be a label; new ones only while there is room."""
        self.short += 1
        if label in self.labels or len(self.labels) < MOST_LABELS:
            self.labels[label] += 1

    def add_language(self, name: str, sample: Sample, most: int) -> None:
        """Count a row whose language is known."""
        self.languages[name] += 1
        known = self.speakers.setdefault(name, [])
        if len(known) < most:
            known.append(sample)

    def join(self, other: Sums, most: int) -> None:
        """Take over the counts of the rows that come next."""
        for name in ("records", "characters", "up", "longer", "shorter", "short", "ended", "unended", "json"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.shapes += other.shapes
        self.private += other.private
        self.languages += other.languages
        for label, count in other.labels.items():
            if label in self.labels or len(self.labels) < MOST_LABELS:
                self.labels[label] += count
        for name, samples in other.speakers.items():
            known = self.speakers.setdefault(name, [])
            known += samples[: most - len(known)]
        self.runs += other.runs
        self.rows += other.rows

    def table(self) -> NDArray[Any]:
        """The numbers of all rows."""
        return np.concatenate(self.rows) if self.rows else np.zeros(0, dtype=ROW)


def hashes(row: Row) -> tuple[int, int, int, int]:
    """The hash of a row, its shape, and the hashes of two parts: rows that agree in the first alone speak apart."""
    own, shape = hashed(to_json(row)), SHAPES.index(row.shape)
    if isinstance(row, Chat):
        asked, answer = Chat(row.messages[:-1], row.tools), Chat(row.messages[-1:])
        return own, shape, hashed(to_json(asked)), hashed(to_json(answer))
    if isinstance(row, Pair):
        both = [to_json(row.chosen), to_json(row.rejected)]
        return own, shape, hashed("\0".join(sorted(both))), hashed(both[0])
    if isinstance(row, Vote):
        return own, shape, hashed(to_json(row.chat)), hashed(str(row.label))
    return own, shape, 0, 0


class Places:
    """Where rows come from, by their number among all of a split."""

    def __init__(self, runs: Sequence[Run], table: NDArray[Any]) -> None:
        self._files = [run.file for run in runs]
        self._ends = np.cumsum([run.rows for run in runs])
        self._numbers = table["number"]

    def where(self, index: int) -> str:
        """The place of a row, as faults name it."""
        file = self._files[int(np.searchsorted(self._ends, index, side="right"))]
        return f"{file}:{int(self._numbers[index])}"
