"""The arithmetic of a run: rows, epochs and batch become steps, and how often something happens among them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config import RunConfig
from finetune.data.prepare import PreparedData
from finetune.errors import UserError, counted
from finetune.methods import METHODS

# Most evaluations and checkpoints that a run makes when their cadence is not given.
MOST_EVALUATIONS = 5


@dataclass(frozen=True)
class BatchPlan:
    """The arithmetic of the run: micro × accumulation × processes = effective, and the steps that follow.

    A method that has the model answer itself counts answers: `effective` of them a step, several to each row.
    """

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
    answers: int = 1  # to each row of a step
    window: int = 1  # steps that learn from the same answers

    @property
    def rows(self) -> int:
        """Rows that a step sees, each with its answers."""
        return self.effective // self.answers

    @property
    def rows_ordered(self) -> int:
        """Rows of the whole run, in the order in which they are taken."""
        return self.steps // self.window * self.rows


def plan_batches(config: RunConfig, data: PreparedData, keep_best: str) -> BatchPlan:
    """Rows, epochs and batch become steps."""
    training, rows = config.training, data.train.rows
    processes = config.launch.processes
    effective = training.batch_size * training.accumulation * processes
    answers, window = METHODS[config.method.option].answers(config.method)
    if effective % answers:
        raise UserError.at("method.generations", *_not_divided(config, effective, answers))
    rows_a_step = effective // answers
    seen = math.floor(rows * (training.epochs or 0) + 1e-9)
    steps = training.max_steps or seen // rows_a_step * window
    if steps == 0:
        batch = f"{training.batch_size} × {training.accumulation} × {processes} = {effective}"
        of = f"{batch} rows" if answers == 1 else f"{batch} answers, {answers} to each row"
        what = f"{counted(rows, 'row')} in {counted(training.epochs or 0, 'epoch')} cannot fill one batch of {of}"
        raise UserError.at("training.batch_size", what, "use a smaller batch, more epochs or more rows")
    warmup = training.warmup
    cadence = math.ceil(steps / MOST_EVALUATIONS / window) * window
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
        epochs=None if data.is_partial else round(steps // window * rows_a_step / rows, 3),
        left_over=0 if training.max_steps else seen - steps // window * rows_a_step,
        # Rounding a share up never makes it more than half of a short run.
        warmup_steps=int(warmup)
        if warmup >= 1
        else min(math.ceil(warmup * steps), max(steps // 2, int(warmup * steps))),
        log_every=training.log_every or max(1, min(10, steps // 20)),
        save_every=training.save_every or eval_every or cadence,
        eval_every=eval_every,
        answers=answers,
        window=window,
    )


def _not_divided(config: RunConfig, effective: int, answers: int) -> tuple[str, str]:
    """What is said of a batch that is no whole number of groups, and the nearest ones that are."""
    training, processes = config.training, config.launch.processes
    batch = f"{training.batch_size} × {training.accumulation} × {processes} = {counted(effective, 'answer')} a step"
    unit = answers // math.gcd(answers, training.accumulation * processes)
    below, above = training.batch_size // unit * unit, -(-training.batch_size // unit) * unit
    sizes = " or ".join(str(size) for size in (below, above) if size)
    fitting = sorted((abs(size - answers), size) for size in range(2, effective + 1) if effective % size == 0)
    groups = f", or method.generations={fitting[0][1]}" if fitting else ""
    what = f"groups of {answers} do not divide the {batch}"
    return what, f"use training.batch_size={sizes}{groups}"
