"""Warnings while a model learns from its own answers, once each, with the number that they rest on."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.log import log, rank

WINDOW = 5  # logged steps that a warning rests on
SIGMAS = 2.0


@dataclass(frozen=True)
class Limit:
    """A metric whose mean over the last logged steps should stay on one side of a bound."""

    metric: str
    is_bad: Callable[[float, float], bool]  # the mean now, and of the first logged steps
    said: str


LIMITS = (
    Limit(
        "frac_reward_zero_std",
        lambda now, first: now > 0.8,
        "{now:.0%} of the groups are paid alike and teach nothing: take rows that the model sometimes gets right, or "
        "raise method.generations",
    ),
    Limit(
        "completions/clipped_ratio",
        lambda now, first: now > 0.3,
        "{now:.0%} of the answers are cut off at method.max_new_tokens: raise it, or ask for shorter ones",
    ),
    Limit(
        "entropy",
        lambda now, first: now < 0.1 * first,
        "the model's choice of tokens has narrowed from {first:.3f} to {now:.3f} nats: little is left to learn from; "
        "lower training.learning_rate or raise method.temperature if this came too early",
    ),
    Limit(
        "kl",
        lambda now, first: now > 1.0,
        "the divergence from the start is {now:.2f} nats a token: raise method.beta, or lower training.learning_rate",
    ),
    Limit(
        "duplicates",
        lambda now, first: now > 0.8,
        "{now:.0%} of the answers of a group repeat another one: raise method.temperature",
    ),
    Limit(
        "unpaid",
        lambda now, first: now > 0.2,
        "{now:.0%} of the answers are paid nothing, not even 0, and teach nothing: look at the rewards",
    ),
)


class Drift(TrainerCallback):  # type: ignore[misc]
    """Watches what is logged."""

    def __init__(self, held_out_rows: int) -> None:
        self.held_out_rows = held_out_rows
        self.first: dict[str, float] = {}
        self.last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self.said: set[str] = set()
        self.best: tuple[float, float] | None = None  # the best held-out reward, and the training reward then

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        if rank() != 0:
            return
        for name, text in [*self._limits(logs), *self._parting(logs)]:
            if name not in self.said:
                self.said.add(name)
                log.warning("step %d: %s", state.global_step, text)

    def _limits(self, logs: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for metric in ("reward", *(limit.metric for limit in LIMITS)):
            if (value := logs.get(metric)) is not None and math.isfinite(value):
                self.last[metric].append(value)
        for limit in LIMITS:
            kept = self.last[limit.metric]
            if limit.metric in logs and len(kept) == WINDOW:
                now = fmean(kept)
                first = self.first.setdefault(limit.metric, now)
                if limit.is_bad(now, first):
                    yield limit.metric, limit.said.format(now=now, first=first)

    def _parting(self, logs: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Held-out reward that falls while that of the trained rows rises."""
        held_out, trained = logs.get("eval_reward"), self.last["reward"]
        if held_out is None or not trained:
            return
        now = fmean(trained)
        if self.best is None or held_out > self.best[0]:
            self.best = held_out, now
            return
        best, then = self.best
        # further than the chance of two draws leads
        chance = SIGMAS * math.sqrt(2 / self.held_out_rows) * (logs.get("eval_reward_std") or 0.0)
        if held_out < best - chance and now > then:
            yield (
                "eval_reward",
                f"the held-out reward has fallen from {best:.3f} to {held_out:.3f} while that of the trained rows rose "
                f"from {then:.3f} to {now:.3f}: the model learns these rows, or a way around the rewards; read "
                "completions.jsonl",
            )
