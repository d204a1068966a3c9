"""Whether a stage's result is good enough for the stages that build on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import checkpoint
from finetune.errors import GateRefused, RunFailed
from finetune.evaluate.contents import read_lines
from finetune.pipeline.recipe import Limit
from finetune.pipeline.stages import Pipeline, Stage
from finetune.plan import RunPlan

METRICS = "metrics.jsonl"
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Measured:
    """A limit, and what the stage's result was measured at."""

    limit: Limit
    value: float
    step: int

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.limit.holds(self.value)

    @property
    def said(self) -> str:
        """The measurement beside its bound."""
        bound = self.limit.bound.replace("_", " ")
        return f"{self.limit.metric} {self.value:.4g} at step {self.step:,}, wanted {bound} {self.limit.value:g}"


def measure(stage: Stage, plan: RunPlan) -> list[Measured]:
    """What the weights that a stage ended with scored on its held-out rows."""
    run_dir = Path(plan.run_dir)
    rows = [row for row in read_lines(run_dir / METRICS) if "eval_loss" in row]
    best = best_step(run_dir) if plan.resolved.keep_best != "none" else None
    chosen = [row for row in rows if row["step"] == best] or rows[-1:]
    found = []
    for limit in stage.limits:
        if not chosen or limit.metric not in chosen[0]:
            raise RunFailed(f"{run_dir}: {METRICS} has no {limit.metric}, which {limit.where} asks for")
        found.append(Measured(limit, float(chosen[0][limit.metric]), int(chosen[0]["step"])))
    return found


def best_step(run_dir: Path) -> int | None:
    """The step whose checkpoint became the result; None where the last one did."""
    kept = sorted(checkpoint.folders(run_dir))
    state = kept[-1][1] / TRAINER_STATE if kept else None
    if state is None or not state.is_file():
        return None
    best = json.loads(state.read_text(encoding="utf-8"))["best_model_checkpoint"]
    return checkpoint.step_of(best) if best else None


def refusal(stage: Stage, pipeline: Pipeline, measured: list[Measured]) -> GateRefused | None:
    """The error of limits that are not kept, with what can be done; None when all are."""
    broken = [one for one in measured if not one.holds]
    if not broken:
        return None
    first = broken[0].limit
    said = "; ".join(one.said for one in broken)
    mend = (
        f"give the stage other rows or settings ({stage.name}.training.learning_rate=…; in its place with "
        f"{stage.name}.resume=none), or change the limit: {stage.name}.{first.key}=…; then the same command goes on"
    )
    return GateRefused(f"{stage.run_dir}: the stage {stage.name} is not good enough to go on from: {said}; {mend}")


def as_json(measured: list[Measured]) -> list[dict[str, Any]]:
    """The measurements as pipeline.json holds them."""
    return [
        {"metric": one.limit.metric, one.limit.bound: one.limit.value, "value": one.value, "holds": one.holds}
        for one in measured
    ]
