"""TRL's trainers of preferences, given rows that are tokens already. Imports TRL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trl import DPOTrainer, KTOTrainer


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with one method in place of its own, which would tokenise the rows."""

    def _prepare_dataset(self, dataset: Any, *given: Any) -> Any:
        """The rows as they are: prompt_ids, chosen_ids and rejected_ids."""
        return dataset


class VoteTrainer(KTOTrainer):  # type: ignore[misc]
    """TRL's trainer with one method in place of its own, which would tokenise the rows."""

    def _prepare_dataset(self, dataset: Any, *given: Any) -> Any:
        """The rows as they are: prompt_ids, completion_ids, label, and KL_completion_ids where the loss needs them."""
        return dataset


def with_others(rows: Any, together: int) -> Any:
    """Votes, each with the answer of another one beside its own: how far the model has moved is measured on them.

    `together` rows are in memory at a time, on all processes, and take their answers from each other, so that the
    estimate is made of the answers that are learned from, and is the same for any number of processes.
    """
    import datasets

    places = np.arange(len(rows))
    table = datasets.Dataset.from_dict({"own": places, "other": other_places(len(rows), together)})
    return table.with_transform(partial(_read, rows))


def other_places(count: int, together: int) -> NDArray[np.int64]:
    """For each of so many rows the one before it, among those that are in memory together; for the first the last."""
    parts = [np.roll(np.arange(begin, end), 1) for begin, end in _parts(count, together)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _parts(count: int, together: int) -> Iterator[tuple[int, int]]:
    """Parts of rows; a row that would be alone goes with those before it."""
    ends = [*range(together, count, together), count]
    if len(ends) > 1 and count - ends[-2] == 1:
        ends.pop(-2)
    yield from zip([0, *ends[:-1]], ends, strict=True)


def _read(rows: Any, given: dict[str, list[int]]) -> dict[str, list[Any]]:
    own, others = rows[given["own"]], rows[given["other"]]
    return {**own, "KL_completion_ids": others["completion_ids"]}
