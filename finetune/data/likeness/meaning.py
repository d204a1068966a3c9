"""Which rows of a sequence say the same as an earlier one, by the cosine of vectors, compared block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.data.likeness.embedding import Vectors

if TYPE_CHECKING:
    import torch

Places = NDArray[np.int64]
Hit = tuple[int, float]  # a row, and how alike it is
Hits = tuple[Places, Places, NDArray[np.float32]]  # a row of each side, and how alike they are

BLOCK = 2048  # rows that are compared with others together
KEPT = 8192  # rows that they are compared with at once


@dataclass(frozen=True)
class Meanings:
    """What is compared of each row, in their order."""

    vectors: Vectors  # of length 1 or 0
    frame: Places  # rows of other frames are not alike
    asked: Places  # the vector of what is asked
    given: Places  # a number for what is answered, the same for equal answers
    answered: Places  # the vector of the answer; -1 where only an equal one says the same


def same_as_earlier(rows: Meanings, threshold: float, device: str = "cpu", block: int = BLOCK) -> dict[int, Hit]:
    """Each row that says the same as an earlier one of those that stay: the first of them, and how alike they are.

    How alike two rows are is the lower cosine of what is asked and of what is answered.
    """
    if not len(rows.vectors):
        return {}
    comparison = _Comparison(rows, threshold, device)
    stay, same = np.zeros(0, dtype=np.int64), dict[int, Hit]()
    for begin in range(0, len(rows.asked), block):
        own = np.arange(begin, min(begin + block, len(rows.asked)))
        for first in range(0, len(stay), KEPT):
            _take(comparison.hits(own, stay[first : first + KEPT]), same)
            own = own[[row not in same for row in own.tolist()]]
        _take(comparison.hits(own, own), same)
        stay = np.concatenate([stay, own[[row not in same for row in own.tolist()]]])
    return same


def _take(hits: Hits, same: dict[int, Hit]) -> None:
    """Note the first hit of each row among earlier ones that stay; they come row by row, in order."""
    earlier = hits[1] < hits[0]
    for row, other, alike in zip(*(part[earlier].tolist() for part in hits), strict=True):
        if row not in same and other not in same:
            same[row] = (other, min(alike, 1.0))


@dataclass(frozen=True)
class _Comparison:
    """Rows and what they must have in common."""

    rows: Meanings
    threshold: float
    device: str

    def hits(self, ours: Places, theirs: Places) -> Hits:
        """The pairs that are alike, sorted."""
        import torch

        likeness = self._cosines(self.rows.asked[ours], self.rows.asked[theirs])
        near = likeness >= self.threshold
        # Most rows are near to none, and nothing more is computed of them.
        rows, columns = (near.any(dim=dim).nonzero()[:, 0].cpu().numpy() for dim in (1, 0))
        ours, theirs = ours[rows], theirs[columns]
        likeness = likeness[torch.from_numpy(rows)][:, torch.from_numpy(columns)]
        answers = self._cosines(self.rows.answered[ours], self.rows.answered[theirs])
        answers[self._equal(self.rows.given, ours, theirs)] = 1.0
        likeness = torch.minimum(likeness, answers)
        likeness[~self._equal(self.rows.frame, ours, theirs)] = 0.0
        at = (likeness >= self.threshold).nonzero().cpu().numpy()
        alike = likeness.cpu().numpy()[at[:, 0], at[:, 1]]
        return ours[at[:, 0]], theirs[at[:, 1]], alike

    def _cosines(self, ours: Places, theirs: Places) -> torch.Tensor:
        return self._vectors(ours) @ self._vectors(theirs).T

    def _vectors(self, places: Places) -> torch.Tensor:
        """The vectors at these places; zeros where there is none."""
        import torch

        found = torch.from_numpy(self.rows.vectors[np.maximum(places, 0)]).to(self.device).float()
        return found * torch.from_numpy(places >= 0).to(self.device).unsqueeze(-1)

    def _equal(self, numbers: Places, ours: Places, theirs: Places) -> torch.Tensor:
        import torch

        one, two = (torch.from_numpy(numbers[places]).to(self.device) for places in (ours, theirs))
        return one.unsqueeze(1) == two.unsqueeze(0)
