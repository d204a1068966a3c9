"""One answer to every row, the commonest of the training rows: what form and frequencies of answers are worth alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finetune.evaluate import stats
from finetune.evaluate.classes import ROWS_A_CLASS, label


@dataclass(frozen=True)
class Majority:
    """An answer, the share of the training rows that have it, and what it scores on each held-out row."""

    answer: str
    share: float
    values: tuple[float, ...]

    def as_json(self, tuned: Sequence[float], *, seed: int, clusters: Sequence[object] | None) -> dict[str, Any]:
        """Its score, and the first target's difference from it, row by row."""
        found = against(self.values, tuned, seed=seed, clusters=clusters)
        return {"answer": self.answer, "share": self.share, **found}


def against(
    values: Sequence[float], tuned: Sequence[float], *, seed: int, clusters: Sequence[object] | None
) -> dict[str, Any]:
    """What a rule without a model scores, and the first target's difference from it, row by row."""
    found = stats.paired_difference(tuned, values, seed=seed, clusters=clusters)
    return {
        "score": fmean(values),
        "difference": found.difference,
        "interval": list(found.interval),
        "p": found.p,
        "verdict": stats.verdict(found, found.p),
    }


def commonest(training: Sequence[str], references: Sequence[str], way: Callable[[str, str], float]) -> Majority | None:
    """The commonest training answer, scored as if it were always given; none where references hardly come again."""
    if not training or len({label(text) for text in references}) > len(references) // ROWS_A_CLASS:
        return None
    (name, rows), *_ = Counter(map(label, training)).most_common(1)
    (spelled, _), *_ = Counter(text.strip() for text in training if label(text) == name).most_common(1)
    return Majority(spelled, rows / len(training), tuple(way(spelled, right) for right in references))
