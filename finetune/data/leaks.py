"""Training rows that stand in the held-out rows or in a benchmark too: a score on those would mean nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.data.examine.private import masked
from finetune.data.faults import FaultLog
from finetune.data.likeness.contamination import Overlap, overlaps
from finetune.data.prepared import Allowed
from finetune.errors import printable

# Characters of a shared passage that a message shows.
SHOWN = 60
MEND = "delete it in one of them, or set data.allow_contamination=true to have it said in the report"
CODES = {"same": "held-out-trained", "ngram": "held-out-shares", "near": "held-out-near-copy"}
SAID_ROW = {"data.eval": "held-out row", "data.benchmarks": "row of a benchmark"}


@dataclass(frozen=True)
class Compared:
    """Rows by what is compared, and where each stands; the texts may be read from the disk as they are asked for."""

    key: str  # the setting that names the rows
    texts: Sequence[str]
    where: Callable[[int], str]


def check_leaks(train: Compared, measured: Sequence[Compared], *, words: int, allowed: bool) -> tuple[Allowed, ...]:
    """Raise every overlap of the training rows with those on which the model is measured.

    Where overlap is allowed, it is counted instead.
    """
    faults, counts = FaultLog(), Counter[tuple[str, str]]()
    for part in measured:
        for overlap in strongest(overlaps(train.texts, part.texts, words=words)):
            if allowed:
                counts[part.key, overlap.kind] += 1
            else:
                note_leak(overlap, train, part, words, faults)
    faults.raise_any()
    return tuple(Allowed(key, kind, rows) for (key, kind), rows in sorted(counts.items()))


def note_leak(overlap: Overlap, train: Compared, part: Compared, words: int, faults: FaultLog) -> None:
    """Note one overlap."""
    what = f"this {SAID_ROW[part.key]} is {_said(overlap, train.where(overlap.train), words)}"
    faults.add(part.where(overlap.held_out), what, MEND, CODES[overlap.kind])


def strongest(found: Sequence[Overlap]) -> list[Overlap]:
    """The strongest overlap of each row that is measured on."""
    best: dict[int, Overlap] = {}
    for overlap in found:
        known = best.get(overlap.held_out)
        if known is None or (overlap.kind == "same", overlap.share) > (known.kind == "same", known.share):
            best[overlap.held_out] = overlap
    return [best[row] for row in sorted(best)]


def _said(overlap: Overlap, where: str, words: int) -> str:
    if overlap.kind == "same":
        return f"trained on too, at {where}"
    text = masked(overlap.sample)
    sample = printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
    if overlap.kind == "near":
        return f"nearly the same ({overlap.share:.0%} alike) as one that is trained on, at {where}: {sample!r}"
    return f"in part trained on too ({overlap.share:.0%} of its runs of {words} words), at {where}: {sample!r}"
