"""How far a run has come: finished, running, interrupted, failed, or claimed and never started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import Interrupted, StoppedEarly, counted
from finetune.rundir import holder_of
from finetune.runs.made import fault_of_made
from finetune.runs.values import Values, read_values

FINISHED, RUNNING, INTERRUPTED, FAILED, UNSTARTED = "finished", "running", "interrupted", "failed", "unstarted"
STOPPED = (StoppedEarly.exit_code, Interrupted("").exit_code, 143)  # exit codes after which a run goes on


@dataclass(frozen=True)
class State:
    """How far a run has come."""

    kind: str
    step: int = 0
    steps: int = 0  # planned; 0 when nothing is planned yet
    said: str = ""  # by whom a running one is held, what a failed one said, or what is wrong with a finished one

    @property
    def shown(self) -> str:
        """The state in a few words."""
        if self.kind == UNSTARTED:
            return "claimed, never started"
        if self.kind == FINISHED and self.step == self.steps:
            shown = f"finished, {counted(self.steps, 'step')}"
        else:
            shown = f"{self.kind} at step {self.step:,} of {self.steps:,}" if self.steps else self.kind
        return f"{shown}, damaged" if self.kind == FINISHED and self.said else shown


def state_of(run_dir: Path, outcome: Values | None, steps: int, step: int) -> State:
    """The state of a run that has plan and metrics up to a step."""
    if outcome is not None:
        return State(FINISHED, outcome.at("steps", int), outcome.at("planned_steps", int), fault_of_made(run_dir))
    if holder := holder_of(run_dir):
        return State(RUNNING, step, steps, holder)
    if failure := _failure(run_dir):
        return State(FAILED, step, steps, failure)
    return State(INTERRUPTED, step, steps)


def _failure(run_dir: Path) -> str:
    """What the rank said that failed first; nothing when the run was stopped, or ended without a word."""
    records = [record for record in _records(run_dir) if record.at("code", int) not in STOPPED]
    if not records:
        return ""
    return min(records, key=lambda record: record.at("time", float)).at("error", str).split("\n")[0]


def _records(run_dir: Path) -> Iterator[Values]:
    """The errors that the ranks of a run left."""
    for path in sorted((run_dir / "errors").glob("rank-*.json")):
        record = read_values(path)
        if record is not None:
            yield record
