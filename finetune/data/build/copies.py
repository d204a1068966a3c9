"""Examples that are there already: in the rows to train on, among those just made, or held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.config import DataConfig


@dataclass(frozen=True)
class Known:
    """The texts that new examples are compared with."""

    train: Sequence[str]
    held_out: Sequence[str]
    near: float

    def judge(self, texts: Sequence[str], made: Sequence[str]) -> dict[int, tuple[str, str]]:
        """Which of the texts are refused, by their index: the gate and the reason. `made` are rows of before."""
        refused: dict[int, tuple[str, str]] = {}
        for index, reason in self._held_out(texts).items():
            refused[index] = ("held_out", reason)
        for index, likeness in self._nearest(texts, self.train).items():
            refused.setdefault(index, ("copy", f"{likeness:.2f} like a row of data.train"))
        left = [index for index in range(len(texts)) if index not in refused]
        for place, likeness in self._repeated([texts[index] for index in left], made).items():
            refused[left[place]] = ("repeated", f"{likeness:.2f} like an example before it")
        return refused

    def _nearest(self, texts: Sequence[str], others: Sequence[str]) -> dict[int, float]:
        """The texts that are like one of the others, and how like."""
        if not texts or not others:
            return {}
        from finetune.data.likeness.similar import near_between

        pairs, most = near_between(texts, others, threshold=self.near), dict[int, float]()
        for index, likeness in zip(pairs.first.tolist(), pairs.similarity.tolist(), strict=True):
            most[index] = max(likeness, most.get(index, 0.0))
        return most

    def _repeated(self, texts: Sequence[str], made: Sequence[str]) -> dict[int, float]:
        """The texts that are like one made before, or like an earlier one of them; copies of copies are copies."""
        if not texts:
            return {}
        from finetune.data.likeness.similar import components, near_pairs

        pairs = near_pairs([*made, *texts], threshold=self.near)
        most = dict[int, float]()
        for first, second, likeness in zip(
            pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True
        ):
            for index in (first, second):
                most[index] = max(likeness, most.get(index, 0.0))
        groups = components(len(made) + len(texts), pairs).tolist()
        seen, refused = set(groups[: len(made)]), dict[int, float]()
        for place, group in enumerate(groups[len(made) :]):
            if group in seen:
                refused[place] = most[len(made) + place]
            seen.add(group)
        return refused

    def _held_out(self, texts: Sequence[str]) -> dict[int, str]:
        """The texts that overlap with a held-out row: equal, alike, or with a long run of words in common.

        The comparison names every row of its second side that overlaps, so the new texts stand there.
        """
        if not texts or not self.held_out:
            return {}
        from finetune.data.likeness.contamination import overlaps

        found = dict[int, str]()
        for overlap in overlaps(self.held_out, texts, threshold=self.near):
            said = {"same": "equal to", "ngram": "shares a run of words with"}.get(overlap.kind)
            found.setdefault(overlap.held_out, f"{said or f'{overlap.share:.2f} like'} a held-out row")
        return found


def known_texts(given: Any, key: str, settings: DataConfig, used: set[str]) -> list[str]:
    """The texts of rows, as they are compared; none when nothing is given. Notes in `used` which columns they have."""
    if given is None:
        return []
    from finetune.data.load import load
    from finetune.data.read import find_sources
    from finetune.data.rows import SHAPES, compared, from_json

    loaded = load(find_sources(given, key), replace(settings, train=given), SHAPES, used, set())
    return [compared(from_json(row.json)) for row in loaded]
