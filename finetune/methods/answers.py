"""A prepared row, cut where its answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.encode import MASKED


@dataclass(frozen=True)
class Answered:
    """A row as prompt and answer. In a conversation of several turns the answer holds all from the first one on."""

    prompt: list[int]
    answer: list[int]
    learned: list[int]  # of each token of the answer: 1 or 0
    asked: list[int]  # all that comes before the last answer: what the student answers itself


def answered(ids: Sequence[int], labels: Sequence[int]) -> Answered:
    """Cut a row. Its first token is part of the prompt in any case: nothing foretells it."""
    first = next((place for place in range(1, len(ids)) if labels[place] != MASKED), len(ids) - 1)
    end = next((place for place in range(len(ids), first, -1) if labels[place - 1] != MASKED), len(ids))
    last = next((place for place in range(end - 1, first, -1) if labels[place - 1] == MASKED), first)
    return Answered(
        prompt=list(ids[:first]),
        answer=list(ids[first:end]),
        learned=[int(label != MASKED) for label in labels[first:end]],
        asked=list(ids[:last]),
    )
