"""How long it takes to find equal, similar and leaked rows among generated chat rows, and what memory it needs.

Prints one JSON line. The rows have some 120 words drawn as often as words are in real text; one in ten is a copy of
another with a word changed, one in fifty an equal one, and a twentieth shares a template, as do the held-out rows,
which hold planted leaks.

    python benchmarks/data_similar.py [--rows 1000000] [--held-out 10000] [--processes N] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from finetune.data.likeness.contamination import contamination
from finetune.data.likeness.similar import components, near_pairs
from finetune.data.likeness.sketch import has_rensa

VOCABULARY = 40_000
PORTION = 2_000


class FileTexts(Sequence[str]):
    """Texts in a memory-mapped file."""

    def __init__(self, path: Path, ends: list[int]) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = np.array([0, *ends])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> str | list[str]:  # type: ignore[override]
        if isinstance(index, slice):
            return [str(self[place]) for place in range(*index.indices(len(self)))]
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()


class Writer:
    """Writes generated rows, and remembers where they end."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._ends = path, path.open("wb"), [0]

    def add(self, text: str) -> None:
        """One row."""
        self._ends.append(self._ends[-1] + self._file.write(text.encode()))

    def close(self) -> FileTexts:
        """The rows, to be read."""
        self._file.close()
        return FileTexts(self._path, self._ends[1:])


class Language:
    """Words made of syllables, as frequent as their rank says."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.default_rng(seed)
        syllables = [
            onset + vowel + coda for onset in "bcdfghklmnprstvw" for vowel in "aeiou" for coda in ("", "n", "r")
        ]
        lengths = 1 + self.dice.poisson(1.3, VOCABULARY)
        self.words = np.array(["".join(self.dice.choice(syllables, size)) for size in lengths], dtype=object)
        share = 1 / (np.arange(VOCABULARY) + 2.7)
        self._below = np.cumsum(share / share.sum())
        self.template = self.draw(40)

    def draw(self, count: int) -> list[str]:
        """So many words."""
        return list(self.words[np.minimum(np.searchsorted(self._below, self.dice.random(count)), VOCABULARY - 1)])

    def row(self, words: list[str]) -> str:
        """The words as sentences."""
        ends = set(np.cumsum(self.dice.integers(7, 19, size=len(words) // 7 + 1)).tolist())
        parts = [word + ("." if place in ends else "") for place, word in enumerate(words)]
        return " ".join(parts).capitalize() + "?"


def make(language: Language, count: int, path: Path, leaks: list[list[str]]) -> tuple[FileTexts, dict[str, int]]:
    """The rows, and how many copies are among them."""
    dice, writer, planted = language.dice, Writer(path), {"equal": 0, "near": 0}
    before: list[list[str]] = [language.draw(120)]
    for row in range(count):
        kind = dice.random()
        words = language.draw(int(np.clip(dice.lognormal(4.75, 0.3), 30, 400)))
        if kind < 0.05:
            words = language.template + words[40:]
        elif kind < 0.15:
            words = list(before[dice.integers(len(before))])
            words[dice.integers(len(words))] = language.draw(1)[0] + "x"
            planted["near"] += 1
        elif kind < 0.17:
            words = [word.upper() for word in before[dice.integers(len(before))]]
            planted["equal"] += 1
        if kind >= 0.17:
            before[row % PORTION : row % PORTION + 1] = [words]
            if len(leaks) < PORTION and dice.random() < 0.01:
                leaks.append(words)
        writer.add(language.row(words))
    return writer.close(), planted


def make_held_out(language: Language, count: int, path: Path, leaks: list[list[str]]) -> tuple[FileTexts, int]:
    """Held-out rows, some with thirteen words of a training row, and how many of those."""
    writer, planted = Writer(path), 0
    for row in range(count):
        words = language.draw(120)
        if row % 20 == 1:
            words[:40] = language.template
        if row % 20 == 0 and leaks:
            leak = leaks[row // 20 % len(leaks)]
            begin = int(language.dice.integers(len(leak) - 12))
            words[50:63] = leak[begin : begin + 13]
            planted += 1
        writer.add(language.row(words))
    return writer.close(), planted


def spent() -> tuple[float, float]:
    """Seconds on the clock, and seconds of processor in this process and those that ended."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Make rows, compare them, print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        language, leaks = Language(given.seed), list[list[str]]()
        train, planted = make(language, given.rows, Path(folder) / "train", leaks)
        held_out, leaked = make_held_out(language, given.held_out, Path(folder) / "held_out", leaks)
        started, processor = spent()
        pairs = near_pairs(train, processes=given.processes)
        groups = components(len(train), pairs)
        middle, middle_processor = spent()
        found = contamination(train, held_out, processes=given.processes)
        ended, end_processor = spent()
        line = {
            "rows": len(train),
            "held_out": len(held_out),
            "processes": given.processes,
            "similar_s": round(middle - started, 2),
            "contamination_s": round(ended - middle, 2),
            "total_s": round(ended - started, 2),
            "cpu_us_per_row_similar": round(1e6 * (middle_processor - processor) / len(train), 1),
            "cpu_us_per_row_contamination": round(1e6 * (end_processor - middle_processor) / len(train), 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "peak_mib_of_largest_child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
            "planted_copies": planted,
            "pairs": len(pairs),
            "rows_that_repeat_others": len(train) - len(np.unique(groups)),
            "planted_leaks": leaked,
            "held_out_rows_with_leaks": len({overlap.held_out for overlap in found.overlaps}),
            "forms": found.forms,
            "rensa": version("rensa") if has_rensa() else None,
            "numpy": version("numpy"),
            "python": platform.python_version(),
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
