"""Pairs and votes: whether a model finds the better answers likelier, and what their length alone would say.

A row's value of a ranking is its part in the AUC: the mean over the rows is the AUC, and the rows' values are spread so
that this mean varies as the AUC does from one set of rows to another (DeLong, DeLong and Clarke-Pearson, 1988). So the
rows can be compared as if each stood for itself, though every one was held against all those with the other label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from finetune.data.rows import Chat, Vote
from finetune.evaluate.engines import Engine
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.hearing import Hearing, Way, rejected
from finetune.evaluate.questions import Asked

PREFERENCE, PREFERENCE_MEAN = "preference", "preference_mean"
VOTE, VOTE_LIKELIHOOD = "vote", "vote_likelihood"
FEWEST = 10  # rows of each label: with fewer, differences that are chance are told too often
ALIKE = 0.1  # answers whose lengths differ by no larger a share of the longer one count as equally long


def prefers(heard: Hearing) -> tuple[float, ...]:
    """1 where the whole chosen answer is likelier than the whole rejected one."""
    pairs = zip(heard.predicted, heard.rejected, strict=True)
    return tuple(float(chosen.nll < worse.nll) for chosen, worse in pairs)


def prefers_by_token(heard: Hearing) -> tuple[float, ...]:
    """1 where a token of the chosen answer is likelier on average."""
    pairs = zip(heard.predicted, heard.rejected, strict=True)
    return tuple(float(_by_token(chosen) < _by_token(worse)) for chosen, worse in pairs)


def ranks_over(climber: Engine) -> Way:
    """Liked answers against disliked ones, by how much likelier each is than to the climber with the bare question.

    Likelier by token: whoever finds every answer a little likelier would else put the long ones first.
    """

    def way(heard: Hearing) -> tuple[float, ...]:
        bare = climber.predict([climber.prompt(row, row.messages[:-1]) for row in heard.rows])
        gains = [_by_token(before) - _by_token(after) for before, after in zip(bare, heard.predicted, strict=True)]
        return ranked(gains, are_liked(heard.rows))

    return way


def ranks_by_token(heard: Hearing) -> tuple[float, ...]:
    """Liked answers against disliked ones, by how likely a token of each is on average."""
    return ranked([-_by_token(one) for one in heard.predicted], are_liked(heard.rows))


def are_liked(rows: Sequence[Chat]) -> list[bool]:
    """The votes."""
    return [row.liked for row in rows if isinstance(row, Asked)]


def ranked(signal: Sequence[float], liked: Sequence[bool]) -> tuple[float, ...]:
    """The part of each row in the AUC of a signal that should be larger for liked rows; it may lie outside 0 to 1."""
    import numpy as np

    values, labels = np.asarray(signal, dtype=np.float64), np.asarray(liked, dtype=np.bool_)
    right = np.empty(len(values))
    for label, sign in ((True, 1.0), (False, -1.0)):
        own, others = sign * values[labels == label], np.sort(sign * values[labels != label])
        below, up_to = np.searchsorted(others, own), np.searchsorted(others, own, side="right")
        right[labels == label] = (below + up_to) / (2 * len(others))
    area, counts = right[labels].mean(), np.where(labels, labels.sum(), (~labels).sum())
    # of a label with few rows less of the spread is seen than there is
    weights = len(labels) / counts * np.sqrt(counts / np.maximum(1, counts - 1))
    return tuple(float(value) for value in area + (right - area) * weights)


@dataclass(frozen=True)
class ByLength:
    """What the length of the answers alone would say, by the better of both rules."""

    rule: str  # longer or shorter
    values: tuple[float, ...]


def by_length(rows: Sequence[Chat]) -> ByLength | None:
    """Pairs or votes judged by length; answers of equal length count half. None for other rows."""
    if not all(isinstance(row, Asked) and (row.rejected or isinstance(row.origin, Vote)) for row in rows):
        return None
    lengths = [_length(row) for row in rows]
    worse = [other for row in rows if (other := rejected(row))]
    if worse:
        gaps = [own - _length(other) for own, other in zip(lengths, worse, strict=True)]
        longer = tuple((gap > 0) + (gap == 0) / 2 for gap in gaps)
    else:
        longer = ranked(lengths, are_liked(rows))
    if fmean(longer) >= 0.5:
        return ByLength("longer", longer)
    return ByLength("shorter", tuple(1 - value for value in longer))


def length_parts(rows: Sequence[Chat]) -> dict[str, list[bool]]:
    """Pairs by which of their answers is the longer one: the name of each part, and whether each row is in it."""
    both = [(_length(row), _length(worse)) for row in rows if (worse := rejected(row))]
    alike = [abs(own - other) <= ALIKE * max(own, other) for own, other in both]
    longer = [not same and own > other for same, (own, other) in zip(alike, both, strict=True)]
    shorter = [not same and own < other for same, (own, other) in zip(alike, both, strict=True)]
    return {"equally long": alike, "chosen is longer": longer, "chosen is shorter": shorter} if both else {}


def _by_token(one: Likelihood) -> float:
    return one.nll / max(1, one.tokens)


def _length(row: Chat) -> int:
    return len(row.messages[-1]["content"])
