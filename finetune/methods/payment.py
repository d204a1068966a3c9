"""What answers are paid while a model learns from them, and which of them are kept to be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from finetune.data.rows import Task, from_json
from finetune.plan.batches import BatchPlan
from finetune.rewards.batch import last_question
from finetune.rewards.judge import Rewards, Scored

KEPT_GROUPS = 2  # of each logged step
LONGEST_KEPT = 4000  # characters of an answer
LONG = 8  # tokens of answers that seldom repeat each other by chance


@dataclass(frozen=True)
class Asked:
    """A question, as tokens and as the row that it comes from."""

    ids: list[int]
    row: str

    @property
    def task(self) -> Task:
        """The row."""
        found = from_json(self.row)
        assert isinstance(found, Task)
        return found


@dataclass(frozen=True)
class Answer:
    """One answer of a group."""

    text: str
    tokens: int
    stopped: bool
    reward: float | None
    rewards: dict[str, float | None]


class Payment:
    """Pays answers with all rewards at once; TRL sees their sum, the logs each of them."""

    def __init__(
        self,
        rewards: Rewards,
        columns: Sequence[str],
        batch: BatchPlan,
        stop_ids: Collection[int],
        path: Path | None,
    ) -> None:
        self.rewards, self.columns, self.batch, self.stop_ids, self.path = rewards, columns, batch, stop_ids, path
        self.is_measuring = False
        self._measured: list[Scored] = []

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Held-out answers are paid, and not kept."""
        self.is_measuring, self._measured = True, []
        try:
            yield
        finally:
            self.is_measuring = False

    def measured(self) -> dict[str, list[float]]:
        """The mean pay of the answers that were measured, by all processes, as TRL keeps its metrics."""
        paid: dict[str, list[float | None]] = {"reward": [value for one in self._measured for value in one.totals]}
        for part in self.rewards.parts:
            paid[f"reward/{part.name}"] = [value for one in self._measured for value in one.parts[part.name].values]
        every = {name: gather_object(values) for name, values in paid.items()}
        known = {name: [value for value in values if value is not None] for name, values in every.items()}
        return {name: [fmean(values)] for name, values in known.items() if values}

    def total(
        self,
        prompts: Sequence[Asked],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any,
        log_extra: Callable[..., None],
        log_metric: Callable[[str, float], None],
    ) -> list[float | None]:
        """The weighted sum of the rewards for each answer, as TRL asks for it."""
        finished = [self.has_stopped(ids) for ids in completion_ids]
        scored = self.score(prompts, completions, finished)
        for name, paid in scored.parts.items():
            if known := [value for value in paid.values if value is not None]:
                log_metric(f"reward/{name}", fmean(known))
        log_metric("unpaid", fmean(value is None for value in scored.totals))
        if self.is_measuring:
            self._measured.append(scored)
        else:
            groups = self.groups(prompts, completions, completion_ids, scored)
            if long := [group for _, group in groups if fmean(one.tokens for one in group) >= LONG]:
                log_metric("duplicates", fmean(map(_repeated, long)))
            done, window = trainer_state.global_step, self.batch.window
            if (done + window) // self.batch.log_every > done // self.batch.log_every:
                self.keep(done + 1, groups)
        return list(scored.totals)

    def has_stopped(self, ids: Sequence[int]) -> bool:
        """Whether an answer ended by itself."""
        return bool(ids) and ids[-1] in self.stop_ids

    def score(self, prompts: Sequence[Asked], completions: Sequence[str], finished: Sequence[bool]) -> Scored:
        """What each answer is paid."""
        rows = {one.row: one.task for one in prompts}
        given = [rows[one.row] for one in prompts]
        # all columns of the run: of a few rows none may have one that a reward asks for
        names = dict.fromkeys([*self.columns, *(name for task in rows.values() for name in task.columns)])
        columns = {name: [task.columns.get(name) for task in given] for name in names}
        return self.rewards.score([task.messages for task in given], completions, columns, finished)

    def groups(
        self, prompts: Sequence[Asked], texts: Sequence[str], ids: Sequence[Sequence[int]], scored: Scored
    ) -> list[tuple[Asked, list[Answer]]]:
        """The answers to each question, which follow each other."""
        found = []
        for _, places in groupby(range(len(prompts)), key=lambda at: prompts[at].row):
            there = list(places)
            group = [
                Answer(
                    texts[at],
                    len(ids[at]),
                    self.has_stopped(ids[at]),
                    scored.totals[at],
                    {name: paid.values[at] for name, paid in scored.parts.items()},
                )
                for at in there
            ]
            found.append((prompts[there[0]], group))
        return found

    def keep(self, step: int, groups: Sequence[tuple[Asked, list[Answer]]]) -> None:
        """Write the first groups down, where this process writes."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for asked, group in groups[:KEPT_GROUPS]:
                said = [{**vars(one), "text": one.text[:LONGEST_KEPT]} for one in group]
                row = {"step": step, "question": last_question(asked.task.messages), "answers": said}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


class Closing(TrainerCallback):  # type: ignore[misc]
    """Ends the processes of the rewards when training ends."""

    def __init__(self, close: Callable[[], object]) -> None:
        self.close = close

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()


def _repeated(group: Sequence[Answer]) -> float:
    """The share of a group's answers that another one of it says too."""
    texts = [one.text for one in group]
    return 1 - len(set(texts)) / len(texts)
