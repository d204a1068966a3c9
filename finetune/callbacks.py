"""What happens at each step besides learning: metrics.jsonl, progress, sealed checkpoints, guards and stops."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from finetune import artefact, checkpoint
from finetune.ahead import Ahead
from finetune.compose import identity
from finetune.errors import FinetuneError, Interrupted, RunFailed, StoppedEarly
from finetune.log import rank
from finetune.methods import METHODS
from finetune.plan import RunPlan
from finetune.plan.checks import seconds
from finetune.rundir import CHECKPOINTS, write_text

METRICS = "metrics.jsonl"
# A rank that has not reached the end of its step this long after it was told to stop is ended by the system.
GRACE_SECONDS = 20
KEPT_METRICS = ("loss", "eval_loss", "learning_rate", "grad_norm", "mean_token_accuracy", "entropy")


@dataclass(frozen=True)
class Watch:
    """The callbacks of a run, and the one that knows why it stopped early."""

    callbacks: list[TrainerCallback]
    stops: Stops


def build(plan: RunPlan, tokens: Callable[[int], int], resume_step: int, ahead: Ahead | None = None) -> Watch:
    """Every callback of a run; only the main process writes, and prepares rows ahead.

    `tokens` tells how many tokens the first so many rows of the run have.
    """
    limit = seconds(plan.config.training.max_time) if plan.config.training.max_time else None
    stops = Stops(limit, plan.batch.window)
    patience = METHODS[plan.config.method.option].PATIENCE
    callbacks: list[TrainerCallback] = [NumberGuard(), LearningGuard(resume_step, patience), Cadence(), Schedule()]
    if plan.config.training.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(plan.config.training.early_stopping))
    callbacks.append(stops)
    if rank() == 0:
        progress = Bar(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
        callbacks += [Metrics(plan, tokens, resume_step, progress), Checkpoints(plan)]
    if ahead is not None:
        callbacks.append(Feed(plan, ahead))
    return Watch(callbacks, stops)


class Cadence(TrainerCallback):  # type: ignore[misc]
    """Log, save and evaluate as this run's settings say, and close the logging window at each checkpoint.

    A resumed Trainer goes on with the cadence that the checkpoint was saved with; and a run that resumes inside a
    logging window would log another mean than the run that was never interrupted.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if control.should_save or control.should_training_stop:
            control.should_log = True
        return control


class Schedule(TrainerCallback):  # type: ignore[misc]
    """Go on with this run's own rate, schedule and weight decay, not with those that the checkpoint was saved under.

    A longer run would spend its first step on the last rate of the shorter one, often zero; and a rate or decay that
    may differ from the earlier one would have no effect.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, lr_scheduler: Any, **kwargs: Any
    ) -> None:
        if not isinstance(lr_scheduler, LambdaLR):  # DeepSpeed's own, which it steps itself
            return
        groups = lr_scheduler.optimizer.param_groups
        lr_scheduler.base_lrs = [args.learning_rate] * len(groups)
        rates = [args.learning_rate * share(lr_scheduler.last_epoch) for share in lr_scheduler.lr_lambdas]
        for group, rate in zip(groups, rates, strict=True):
            group["initial_lr"], group["lr"] = args.learning_rate, rate
        lr_scheduler._last_lr = rates  # what is logged
        groups[0]["weight_decay"] = args.weight_decay  # the other group holds what never decays


class NumberGuard(TrainerCallback):  # type: ignore[misc]
    """Stop at the first loss or gradient that is not a number."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        # In fp16 a step whose gradients overflow is skipped and the loss scaled down: no fault by itself.
        for name in ("loss", "eval_loss") if args.fp16 else ("loss", "grad_norm", "eval_loss"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                since = f"after step {state.global_step - args.logging_steps:.0f}"
                mend = "lower training.learning_rate, or look at the rows; the last checkpoint is kept"
                raise RunFailed(f"{name} became {value} {since}, by step {state.global_step}; {mend}")


class LearningGuard(TrainerCallback):  # type: ignore[misc]
    """Fail a run that does not begin at the step it was to continue from, or whose first steps change nothing."""

    def __init__(self, resume_step: int, patience: int) -> None:
        self.resume_step, self.patience = resume_step, patience
        self.before: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **kwargs: Any
    ) -> None:
        if state.global_step != self.resume_step:
            what = f"the trainer began at step {state.global_step} instead of {self.resume_step}"
            raise RunFailed(f"resume: {what}")
        self.before = artefact.snapshot(model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **kwargs: Any
    ) -> None:
        # The schedule starts at zero, so the first step may be idle by design; by the second something has moved,
        # unless the method learns from differences between answers, of which there may be none at first.
        # In fp16 the first steps may be skipped until the loss is scaled right.
        first = self.resume_step + max(self.patience, 20 if args.fp16 else 0)
        if self.before and (state.global_step == first or state.global_step == state.max_steps):
            artefact.changed_since(self.before, model)
            self.before = {}


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Write metrics.jsonl, a row a logged step, and show progress.

    Tokens are counted from the order of the rows, so the counts are those of the whole run, resumed or not; where the
    model answers itself, they are those of all questions and answers.
    """

    def __init__(self, plan: RunPlan, tokens: Callable[[int], int], resume_step: int, progress: Bar | Lines) -> None:
        self.path = Path(plan.run_dir) / METRICS
        self.plan, self.progress = plan, progress
        self.tokens = tokens
        own = METHODS[plan.config.method.option].METRICS
        self.kept = (*KEPT_METRICS, *own, *(f"eval_{name}" for name in own))
        self.resume_step = resume_step
        self.last_tokens, self.last_time = 0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        forget_after(self.path, self.resume_step)
        self.last_tokens = self._tokens(state)
        self.last_time = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress.step(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        row: dict[str, Any] = {"step": state.global_step}
        # a trainer gives None where a window had nothing to measure
        row.update({name: value for name, value in logs.items() if value is not None and self._keeps(name)})
        row["tokens"] = self._tokens(state)
        if self.plan.batch.epochs is not None:
            row["epoch"] = round(self.plan.batch.epochs * state.global_step / self.plan.batch.steps, 4)
        now = time.monotonic()
        if "loss" in logs:
            trained = row["tokens"] - self.last_tokens
            row["tokens_per_second"] = round(trained / max(now - self.last_time, 1e-9), 1)
            self.last_tokens = row["tokens"]
        elif "eval_loss" not in logs:
            return
        self.last_time = now
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.progress.log(row, state.max_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.close()

    def _keeps(self, name: str) -> bool:
        return name in self.kept or any(name.startswith(one) for one in self.kept if one.endswith("/"))

    def _tokens(self, state: TrainerState) -> int:
        if self.plan.batch.answers > 1:
            return int(state.num_input_tokens_seen)  # counted by the trainer, which writes most of them
        return self.tokens(state.global_step * self.plan.batch.rows)


def forget_after(path: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl later than the step that a run continues from, and a last line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class Lines:
    """Progress as plain lines, where there is no terminal."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.started, self.first = time.monotonic(), 0

    def step(self, step: int, steps: int) -> None:
        """One more step is done."""
        self.first = self.first or step

    def log(self, row: dict[str, Any], steps: int) -> None:
        """Metrics were logged."""
        print(f"step {row['step']}/{steps}  {_readable(row)}", file=self.out, flush=True)

    def close(self) -> None:
        """Nothing more will be shown."""


class Bar(Lines):
    """Progress as one line that is drawn over and over."""

    latest = ""

    def step(self, step: int, steps: int) -> None:
        super().step(step, steps)
        done, elapsed = step - self.first + 1, time.monotonic() - self.started
        left = _clock(elapsed / done * (steps - step))
        columns = shutil.get_terminal_size().columns
        filled = int(20 * step / steps)
        line = f"{'█' * filled}{'░' * (20 - filled)} {step}/{steps}  {left} left  {self.latest}"
        print(f"\r\x1b[2K{line[: columns - 1]}", end="", file=self.out, flush=True)

    def log(self, row: dict[str, Any], steps: int) -> None:
        if "eval_loss" in row:
            print("\r\x1b[2K", end="", file=self.out)
            super().log(row, steps)
        else:
            self.latest = f"{_measured(row)}  {row['tokens_per_second']:,.0f} tokens/s"

    def close(self) -> None:
        print("\r\x1b[2K", end="", file=self.out, flush=True)


def _readable(row: dict[str, Any]) -> str:
    if "eval_loss" in row:
        return f"held-out {_measured(row, 'eval_')}"
    rate = f"learning rate {row['learning_rate']:.2e}"
    return f"{_measured(row)}  {rate}  {row['tokens_per_second']:,.0f} tokens/s"


def _measured(row: dict[str, Any], prefix: str = "") -> str:
    """What tells how training goes: the reward where there is one, for the loss then says nothing."""
    name = "reward" if f"{prefix}reward" in row else "loss"
    return f"{name} {row[prefix + name]:.4f}"


def _clock(span: float) -> str:
    minutes, rest = divmod(int(span), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Seal each checkpoint with its manifest, then delete the superseded ones."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        run_dir = Path(self.plan.run_dir)
        folder = run_dir / CHECKPOINTS / f"checkpoint-{state.global_step}"
        facts = {
            "step": state.global_step,
            "config": identity(self.plan.config),
            "data": self.plan.data.fingerprint,
            "processes": self.plan.batch.processes,
            "versions": self.plan.machine.versions,
        }
        checkpoint.seal(folder, facts)
        best = state.best_model_checkpoint
        checkpoint.retain(run_dir, state.global_step, self.plan.config.training.keep_checkpoints, best)


class Feed(TrainerCallback):  # type: ignore[misc]
    """Tell how far the rows of a stream are trained, and stop where no more can be prepared."""

    def __init__(self, plan: RunPlan, ahead: Ahead) -> None:
        self.effective, self.ahead = plan.batch.effective, ahead

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.ahead.check()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.ahead.trained(state.global_step * self.effective)


class Stops(TrainerCallback):  # type: ignore[misc]
    """Stop at the end of a step, with a checkpoint, when time is up or a signal asks for it.

    The first signal lets the step finish and saves; a second one stops at once. Steps that learn from the same answers
    are finished together: the answers are not part of a checkpoint.
    """

    def __init__(self, limit: int | None, window: int) -> None:
        self.limit, self.window = limit, window
        self.started = time.monotonic()
        self.signal: int | None = None
        self.out_of_time = False
        self.finished = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM while training; one that came too late to stop the run is passed on after it."""
        previous = {number: signal.signal(number, self._received) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            signal.alarm(0)
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.signal is not None and self.finished:
            before = previous[signal.Signals(self.signal)]
            if callable(before) and before is not signal.default_int_handler:  # whose run this is a part of
                before(self.signal, None)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # A rank may be stuck waiting for one that has died; the system then ends it.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(GRACE_SECONDS)
        elif rank() == 0:
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nfinishing the step and saving; once more stops at once\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.out_of_time = self.limit is not None and time.monotonic() - self.started > self.limit
        self.signal, self.out_of_time = agree(self.signal, self.out_of_time, args)
        signal.alarm(0)  # every rank is there: saving may take as long as it takes
        self.finished = state.global_step >= state.max_steps
        at_border = state.global_step % self.window == 0
        if (self.signal is not None or self.out_of_time) and not self.finished and at_border:
            control.should_save = control.should_training_stop = control.should_log = True
        return control

    def reason(self, step: int, command: str) -> FinetuneError | None:
        """Why the run has to be continued, or None when it is done."""
        if self.finished:
            return None
        if self.signal is not None:
            text = f"stopped at step {step}, saved; continue with:\n  {command}"
            return Interrupted(text, 128 + self.signal)
        if self.out_of_time:
            return StoppedEarly(f"training.max_time is over at step {step}, saved; continue with:\n  {command}")
        return None


def agree(number: int | None, out_of_time: bool, args: TrainingArguments) -> tuple[int | None, bool]:
    """Let every rank know what any rank was told, so that all stop at the same step."""
    if args.world_size == 1:
        return number, out_of_time
    told = torch.tensor([number or 0, int(out_of_time)], device=args.device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    number, late = told.tolist()
    return number or None, bool(late)


def mean_loss(path: Path) -> float | None:
    """The mean training loss over all steps of a run, from its metrics."""
    total, last = 0.0, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row:
            total += row["loss"] * (row["step"] - last)
            last = row["step"]
    return round(total / last, 6) if last else None
