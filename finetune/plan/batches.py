"""The arithmetic of a run: rows, epochs and batch become steps, and how often something happens among them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config import RunConfig
from finetune.data.prepare import PreparedData
from finetune.errors import UserError, counted

# Most evaluations and checkpoints that a run makes when their cadence is not given.
MOST_EVALUATIONS = 5


@dataclass(frozen=True)
class BatchPlan:
    """The arithmetic of the run: micro × accumulation × processes = effective, and the steps that follow."""

    micro: int
    accumulation: int
    processes: int
    effective: int
    steps: int
    epochs: float | None  # passes over the rows that these steps make; not known of a stream
    left_over: int  # rows of the last short batch, which is not trained
    warmup_steps: int
    log_every: int
    save_every: int
    eval_every: int | None


def plan_batches(config: RunConfig, data: PreparedData, keep_best: str) -> BatchPlan:
    """Rows, epochs and batch become steps."""
    training, rows = config.training, data.train.rows
    processes = config.launch.processes
    effective = training.batch_size * training.accumulation * processes
    seen = math.floor(rows * (training.epochs or 0) + 1e-9)
    steps = training.max_steps or seen // effective
    if steps == 0:
        batch = f"{training.batch_size} × {training.accumulation} × {processes} = {effective}"
        what = (
            f"{counted(rows, 'row')} in {counted(training.epochs or 0, 'epoch')} cannot fill one batch of {batch} rows"
        )
        raise UserError.at("training.batch_size", what, "use a smaller batch, more epochs or more rows")
    warmup = training.warmup
    cadence = max(1, math.ceil(steps / MOST_EVALUATIONS))
    eval_every = None
    if data.held_out is not None:
        # The best checkpoint can only be kept if it was saved when it was measured.
        eval_every = training.eval_every or (training.save_every if keep_best != "none" else None) or cadence
    return BatchPlan(
        micro=training.batch_size,
        accumulation=training.accumulation,
        processes=processes,
        effective=effective,
        steps=steps,
        epochs=None if data.is_partial else round(steps * effective / rows, 3),
        left_over=0 if training.max_steps else seen - steps * effective,
        # Rounding a share up never makes it more than half of a short run.
        warmup_steps=int(warmup)
        if warmup >= 1
        else min(math.ceil(warmup * steps), max(steps // 2, int(warmup * steps))),
        log_every=training.log_every or max(1, min(10, steps // 20)),
        save_every=training.save_every or eval_every or cadence,
        eval_every=eval_every,
    )
