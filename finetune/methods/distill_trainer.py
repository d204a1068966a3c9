"""TRL's distillation trainer, told where its answers come from. Imports TRL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trl import DistillationTrainer

from finetune.methods.answers import Answered, answered

Transform = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
Generated = tuple[list[list[int]], list[list[int]], list[list[int]] | None, None, list[Any]]


class AnsweringTrainer(DistillationTrainer):  # type: ignore[misc]
    """TRL's trainer with one method in place of its own: which tokens follow each prompt.

    TRL has the student answer every prompt itself, and tokenises prompts again. Here the rows come tokenised, and a
    share of the batches takes the answers that the rows hold. Loss, teacher, padding and batches stay TRL's.
    """

    own_samples: float = 1.0

    def _generate(self, prompts: Sequence[Answered]) -> Generated:
        """Ids of prompts and answers, and which of the answers' tokens are learned; no images, no tools."""
        if not self._answers_itself():
            learned = [row.learned for row in prompts]
            return [row.prompt for row in prompts], [row.answer for row in prompts], learned, None, []
        asked = [row.asked for row in prompts]
        return asked, self._generate_single_turn(asked, None, {}), None, None, []

    def _answers_itself(self) -> bool:
        """Whether the student answers this batch: decided by the step, so that all ranks and a resumed run agree."""
        if not self.model.training:
            # Held-out rows are measured on their own answers, so that one evaluation compares with another.
            return False
        step: int = self.state.global_step
        return math.floor((step + 1) * self.own_samples) > math.floor(step * self.own_samples)


def with_answers(rows: Any) -> Any:
    """Prepared rows as the trainer reads them: one column with prompt, answer and what of it is learned."""
    return rows.with_transform(partial(_read, rows.format["format_kwargs"].get("transform", dict)))


def _read(first: Transform, given: dict[str, list[Any]]) -> dict[str, list[Answered]]:
    batch = first(given)  # rows of a stream are read by a transform too
    pairs = zip(batch["input_ids"], batch["labels"], strict=True)
    return {"prompt": [answered(ids, labels) for ids, labels in pairs]}
