"""One run as a list shows it, read from the files of its directory; neither answers nor weights are read whole."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.evaluate.contents import EVALUATION, artefact_digest
from finetune.rundir import LOCK, OUTCOME, holder_of, is_begun
from finetune.runs.state import RUNNING, UNSTARTED, State, state_of
from finetune.runs.values import Values, read_values

PLAN, METRICS, LINEAGE = "plan.json", "metrics.jsonl", "lineage.json"
TUNED = "tuned"


@dataclass(frozen=True)
class Planned:
    """What a run was to do."""

    method: str
    tuning: str
    model: str
    base: str  # fingerprint of the base model
    trainable: int
    rows: int | None  # None of a stream, whose rows nobody has counted
    held_out_rows: int
    data_fingerprint: str
    held_out_fingerprint: str | None
    batch: int  # rows a step
    steps: int
    command: str


@dataclass(frozen=True)
class Losses:
    """What metrics.jsonl says, as far as the run has come."""

    step: int = 0
    train: float | None = None  # the last that was logged
    held_out: float | None = None  # the best


@dataclass(frozen=True)
class Score:
    """What the evaluation of a run's result found."""

    metric: str
    score: float
    interval: tuple[float, float]
    rows: int
    fingerprint: str  # of the rows that were answered
    verdict: str | None  # None when there was nothing to compare with
    seed: int


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path
    state: State
    when: datetime  # the last sign of training
    planned: Planned | None  # None for one that never started
    losses: Losses
    score: Score | None

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.resolve().name


def read_run(run_dir: Path) -> Run:
    """Read a run directory; one that is foreign or damaged is refused by name."""
    try:
        return _read(run_dir)
    except OSError as error:  # closed to us, or deleted meanwhile
        what = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise UserError.at(str(error.filename or run_dir), what) from error


def _read(run_dir: Path) -> Run:
    plan = read_values(run_dir / PLAN)
    if plan is None:
        return _unstarted(run_dir)
    planned, losses = _planned(plan), read_losses(run_dir / METRICS)
    outcome = read_values(run_dir / OUTCOME)
    state = state_of(run_dir, outcome, planned.steps, losses.step)
    return Run(run_dir, state, _when(run_dir), planned, losses, read_score(run_dir))


def _unstarted(run_dir: Path) -> Run:
    if not is_begun({path.name for path in run_dir.iterdir()}):
        raise UserError.at(str(run_dir), f"is no run: it has no {PLAN}", "name a run directory")
    holder = holder_of(run_dir)
    state = State(RUNNING, said=holder) if holder else State(UNSTARTED)
    return Run(run_dir, state, _when(run_dir), None, Losses(), None)


def _planned(plan: Values) -> Planned:
    held_out = plan.maybe("data.held_out.rows", int)
    return Planned(
        plan.at("config.method.option", str),
        plan.at("config.tuning.option", str),
        plan.at("config.model.name", str),
        plan.at("model.fingerprint", str),
        plan.at("trainable", int),
        plan.at("data.train.rows", int) if plan.maybe("batch.epochs", float) is not None else None,
        held_out or 0,
        plan.at("data.fingerprint", str),
        plan.maybe("data.held_out_fingerprint", str),
        plan.at("batch.effective", int),
        plan.at("batch.steps", int),
        plan.at("command", str),
    )


def read_losses(path: Path) -> Losses:
    """The last step and training loss and the best held-out loss; other lines of a long file are not parsed."""
    if not path.is_file():
        return Losses()
    lines = path.read_bytes().split(b"\n")
    trained = next((row for line in reversed(lines) if b'"loss"' in line and (row := _row(line))), {})
    measured = [row for line in lines if b'"eval_loss"' in line and (row := _row(line))]
    held_out = [loss for row in measured if (loss := _finite(row.get("eval_loss"))) is not None]
    step = max((row["step"] for row in (trained, *measured[-1:]) if isinstance(row.get("step"), int)), default=0)
    return Losses(step, _finite(trained.get("loss")), min(held_out, default=None))


def _row(line: bytes) -> dict[str, Any]:
    """A row of metrics; nothing for one that a kill cut short."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def read_score(run_dir: Path) -> Score | None:
    """The evaluation of the result that is there; None when there is none, or it is of an earlier result."""
    found = read_values(run_dir / EVALUATION)
    if found is None or found.at("artefact", str) != artefact_digest(run_dir):
        return None
    rungs = [Values(found.path, rung) for rung in found.at("rungs", list) if isinstance(rung, dict)]
    tuned = next((rung for rung in rungs if rung.found.get("name") == TUNED), None)
    if tuned is None:
        raise UserError.at(f"{found.path} rungs", f"has no {TUNED}", f"run finetune evaluate {run_dir}")
    return Score(
        found.at("metric", str),
        tuned.at("score", float),
        tuned.interval("interval"),
        found.at("held_out.rows", int),
        found.at("held_out.fingerprint", str),
        found.maybe("verdict", str),
        found.at("seed", int),
    )


def _when(run_dir: Path) -> datetime:
    """When the run ended, or last gave a sign."""
    ended = run_dir / OUTCOME
    signs = [ended] if ended.exists() else [run_dir, *(run_dir / name for name in (LOCK, PLAN, METRICS))]
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in signs if path.exists()), UTC)


def as_json(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    planned, state = run.planned, run.state
    told = ("method", "tuning", "model", "trainable", "rows", "held_out_rows", "data_fingerprint",
            "held_out_fingerprint", "batch")  # fmt: skip
    values = {} if planned is None else asdict(planned)
    return {
        "name": run.name,
        "path": str(run.path),
        "state": state.kind,
        "step": state.step,
        "steps": state.steps,
        "said": state.said or None,
        "when": run.when.isoformat(timespec="seconds"),
        **{name: values.get(name) for name in told},
        "train_loss": run.losses.train,
        "held_out_loss": run.losses.held_out,
        "evaluation": None if run.score is None else {**asdict(run.score), "interval": list(run.score.interval)},
    }
