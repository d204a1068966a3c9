"""The plan of a run: every decision, made once, from the settings and the facts of model, data and machine.

`plan_run` gathers the facts; `make_plan` is pure. Nothing here imports torch, and nothing after it decides anything.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import adapter
from finetune.compose import Composed, config_from_dict, config_to_dict
from finetune.config import RunConfig
from finetune.data.prepare import PreparedData, SplitFacts
from finetune.data.prepared import tuples
from finetune.errors import UserError
from finetune.evaluate.stats import Reach
from finetune.machine import Machine, check_floors, look
from finetune.model_files import AdapterFacts, ModelFacts
from finetune.plan import checks
from finetune.plan.batches import BatchPlan, plan_batches
from finetune.plan.facts import Facts, gather
from finetune.plan.memory import MemoryEstimate
from finetune.plan.reach import reach, warn_reach
from finetune.plan.table import USABLE_MEMORY, Resolved, resolve
from finetune.rundir import check_writable, run_directory

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run does, decided. Ranks load it from plan.json and decide nothing."""

    run_dir: str
    config: RunConfig
    model: ModelFacts
    frozen: dict[str, ModelFacts]  # models that are only read, by their role
    data: PreparedData
    machine: Machine
    resolved: Resolved
    reasons: dict[str, str]  # of each resolved value
    batch: BatchPlan
    trainable: int
    memory: MemoryEstimate
    sources: dict[str, str]  # of each value that is not a default
    warnings: tuple[str, ...]
    padding: str  # the padding token, and why it is that one
    preview: str  # one row as the model will see it
    reach: Reach | None  # what the held-out rows will be able to show
    command: str  # that a person types to start or continue the run
    resume_from: str | None = None  # the checkpoint that the run continues from


def plan_run(composed: Composed) -> RunPlan:
    """Find out what the run stands on, and decide how it goes; every fault found is raised at once."""
    config = composed.config
    machine = look()
    faults = check_floors(machine.versions) + checks.check_settings(config, composed.sources, machine)
    if unwritable := check_writable(run_directory(config)):
        # The prepared rows are kept there too, so nothing further can be found out.
        raise UserError([*faults, *unwritable])
    facts, untold = None, 0
    try:
        facts = gather(config, machine)
    except UserError as error:
        faults += error.faults
        untold = error.total - len(error.faults)
    if facts is not None:
        faults += checks.check_facts(config, composed.sources, facts)
    if faults or facts is None:
        raise UserError(faults, len(faults) + untold)
    plan = make_plan(composed, facts)
    if full := checks.check_room(Path(plan.run_dir), plan.trainable, plan.memory.optimizer):
        raise UserError(full)
    return plan


def make_plan(composed: Composed, facts: Facts) -> RunPlan:
    """Decide everything that the settings leave open; pure."""
    config, model = composed.config, facts.model
    trainable = adapter.trainable_parameters(model, adapter.as_continued(config.tuning, model), facts.new_rows)
    resolved, reasons, estimate = resolve(config, facts, trainable)
    batch = plan_batches(config, facts.data, resolved.keep_best)
    if faults := checks.check_batches(config, composed.sources, facts.data, batch, resolved.keep_best):
        raise UserError(faults)
    if faults := checks.check_frozen(config, facts, estimate):
        raise UserError(faults)
    shown = reach(config, facts.data)
    warnings = checks.warn(config, batch, estimate, facts.machine, USABLE_MEMORY)
    warnings += warn_reach(config, facts.data, shown)
    return RunPlan(
        run_dir=str(run_directory(config)),
        config=config,
        model=model,
        frozen=dict(facts.frozen),
        data=facts.data,
        machine=facts.machine,
        resolved=resolved,
        reasons=reasons,
        batch=batch,
        trainable=trainable,
        memory=estimate,
        sources=composed.sources,
        warnings=(*facts.data.warnings, *warnings),
        padding=facts.padding,
        preview=facts.preview,
        reach=shown,
        command=shlex.join(["finetune", "train", *composed.arguments]),
    )


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan as plan.json holds it."""
    values = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan)}
    return {key: config_to_dict(value) if key == "config" else _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def load_plan(run_dir: str | Path) -> RunPlan:
    """The plan of a run directory."""
    stored = json.loads((Path(run_dir) / PLAN_FILE).read_text(encoding="utf-8"))
    model, data = stored["model"], stored["data"]
    return RunPlan(
        run_dir=str(run_dir),
        config=config_from_dict(stored["config"]),
        model=_model_facts(model),
        frozen={role: _model_facts(facts) for role, facts in stored["frozen"].items()},
        data=PreparedData(
            **{
                **data,
                "train": SplitFacts(**data["train"]),
                "held_out": SplitFacts(**data["held_out"]) if data["held_out"] else None,
                **tuples(data),
            }
        ),
        machine=Machine(**stored["machine"]),
        resolved=Resolved(**stored["resolved"]),
        reasons=stored["reasons"],
        batch=BatchPlan(**stored["batch"]),
        trainable=stored["trainable"],
        memory=MemoryEstimate(**stored["memory"]),
        sources=stored["sources"],
        warnings=tuple(stored["warnings"]),
        padding=stored["padding"],
        preview=stored["preview"],
        reach=Reach(**stored["reach"]) if stored["reach"] else None,
        command=stored["command"],
        resume_from=stored["resume_from"],
    )


def _model_facts(stored: dict[str, Any]) -> ModelFacts:
    shapes = {name: (rows, columns) for name, (rows, columns) in stored["linear_shapes"].items()}
    adapter_facts = None
    if stored["adapter"]:
        adapter_facts = AdapterFacts(**{**stored["adapter"], "targets": tuple(stored["adapter"]["targets"])})
    lists = {"embeddings": tuple(stored["embeddings"])}
    return ModelFacts(**{**stored, **lists, "linear_shapes": shapes, "adapter": adapter_facts})
