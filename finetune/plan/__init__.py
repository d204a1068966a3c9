"""The plan of a run: every decision, made once, from the settings and the facts of model, data and machine.

`plan_run` gathers the facts; `make_plan` is pure. Nothing here imports torch, and nothing after it decides anything.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import adapter
from finetune.compose import Composed, config_from_dict, config_to_dict
from finetune.config import FsdpParallel, LoraTuning, RunConfig, Zero3Parallel
from finetune.data.prepare import PreparedData, SplitFacts, prepare
from finetune.data.preview import sample
from finetune.errors import UserError
from finetune.failures import explained
from finetune.flat import KEEP_ROWS_APART
from finetune.machine import Machine, check_floors, look
from finetune.methods import METHODS
from finetune.model_files import AdapterFacts, ModelFacts, inspect_model
from finetune.plan import checks, memory
from finetune.plan.memory import MemoryEstimate
from finetune.rundir import check_writable, run_directory
from finetune.tokenizer import load_with_padding, stop_ids

PLAN_FILE = "plan.json"
# Share of a device's memory that a run may plan to use; the rest is fragmentation and the driver's.
USABLE_MEMORY = 0.85
# Most evaluations and checkpoints that a run makes when their cadence is not given.
MOST_EVALUATIONS = 5
# Longest row over the mean up to which rows are padded: that costs less than a mask does.
LIKE_LENGTH = 1.25
# Tokens of a flat batch up to which a mask over the whole batch costs less than padding does.
FLAT_TOKENS = 4096


@dataclass(frozen=True)
class Facts:
    """What was found out before deciding anything."""

    model: ModelFacts
    data: PreparedData
    machine: Machine
    flash_attention: bool  # the package is installed
    padding: str = ""  # the padding token, and why it is that one
    preview: str = ""  # one row as the model will see it
    new_rows: tuple[int, ...] = ()  # ids of the tokens whose rows are added or trained by themselves


@dataclass(frozen=True)
class Resolved:
    """The settings whose right value depends on device, tuning or data."""

    precision: str
    attention: str
    learning_rate: float
    optimizer: str
    gradient_checkpointing: bool
    batching: str
    alpha: float | None
    max_length: int
    keep_best: str
    launcher: str


@dataclass(frozen=True)
class BatchPlan:
    """The arithmetic of the run: micro × accumulation × processes = effective, and the steps that follow."""

    micro: int
    accumulation: int
    processes: int
    effective: int
    steps: int
    epochs: float  # passes over the rows that these steps make
    left_over: int  # rows of the last short batch, which is not trained
    warmup_steps: int
    log_every: int
    save_every: int
    eval_every: int | None


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run does, decided. Ranks load it from plan.json and decide nothing."""

    run_dir: str
    config: RunConfig
    model: ModelFacts
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
        faults += checks.check_facts(config, composed.sources, facts.model, facts.data)
    if faults or facts is None:
        raise UserError(faults, len(faults) + untold)
    plan = make_plan(composed, facts)
    if full := checks.check_room(Path(plan.run_dir), plan.trainable, plan.memory.optimizer):
        raise UserError(full)
    return plan


def gather(config: RunConfig, machine: Machine) -> Facts:
    """Read the model's files and prepare the rows."""
    model = inspect_model(config.model.name, config.model.revision, config.model.trust_remote_code)
    max_length = config.data.max_length or _longest_possible(model)
    if model.context and max_length > model.context:
        where, what = (
            "data.max_length",
            f"{max_length} is more than the model's context of {model.context} tokens",
        )
        raise UserError.at(where, what, f"use at most {model.context}")
    tokenizer, padding = load_with_padding(model, config.model.chat_template, tuple(config.tuning.new_tokens))
    method = METHODS[config.method.option]
    cache = run_directory(config).parent / ".prepared"
    with explained(cache):
        data = prepare(
            config.data,
            learn=method.learned_tokens(config.method),
            shapes=method.ROW_SHAPE,
            tokenizer=tokenizer,
            stop_ids=stop_ids(model, tokenizer),
            max_length=max_length,
            seed=config.seed,
            cache=str(cache),
        )
    new_rows = adapter.new_token_ids(tokenizer, model, config.tuning.new_tokens)
    flash_attention = importlib.util.find_spec("flash_attn") is not None
    return Facts(
        model=model,
        data=data,
        machine=machine,
        flash_attention=flash_attention,
        padding=f"{padding.token} ({padding.reason})",
        preview=sample(data, tokenizer),
        new_rows=new_rows,
    )


def make_plan(composed: Composed, facts: Facts) -> RunPlan:
    """Decide everything that the settings leave open; pure."""
    config, model = composed.config, facts.model
    trainable = adapter.trainable_parameters(model, adapter.as_continued(config.tuning, model), facts.new_rows)
    resolved, reasons, estimate = resolve(config, facts, trainable)
    batch = plan_batches(config, facts.data, resolved.keep_best)
    if faults := checks.check_batches(config, composed.sources, batch, resolved.keep_best):
        raise UserError(faults)
    warnings = checks.warn(config, batch, estimate, facts.machine, USABLE_MEMORY)
    return RunPlan(
        run_dir=str(run_directory(config)),
        config=config,
        model=model,
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
        command=shlex.join(["finetune", "train", *composed.arguments]),
    )


def resolve(config: RunConfig, facts: Facts, trainable: int) -> tuple[Resolved, dict[str, str], MemoryEstimate]:
    """The table: each open setting's value and its reason, in the order in which they depend on each other."""
    reasons: dict[str, str] = {}

    def choose(key: str, given: Any, value: Any, reason: str) -> Any:
        reasons[key] = "as set" if given is not None else reason
        return value if given is None else given

    tuning, training, machine = config.tuning, config.training, facts.machine
    precision = choose("model.precision", config.model.precision, *best_precision(machine))
    attention = choose("model.attention", config.model.attention, *best_attention(machine, precision, facts))
    optimizer = choose("training.optimizer", training.optimizer, *best_optimizer(machine))
    batching = choose("training.batching", training.batching, *best_batching(config, facts, attention))
    rate = choose("training.learning_rate", training.learning_rate, *best_rate(tuning.option, facts.model))
    alpha = None
    if isinstance(tuning, LoraTuning):
        continued = tuning.start == "continue" and facts.model.adapter
        default = (continued.alpha, "the continued adapter's") if continued else (2.0 * tuning.rank, "twice the rank")
        alpha = choose("tuning.alpha", tuning.alpha, *default)
    length = choose("data.max_length", config.data.max_length, _longest_possible(facts.model), "the model's context")
    held_out = facts.data.held_out is not None
    keep_best = config.training.keep_best if held_out else "none"
    if not held_out:
        reasons["training.keep_best"] = "no held-out rows to measure it on"
    launcher, why = best_launcher(config)
    reasons["launch"] = why

    def estimate(checkpointing: bool) -> MemoryEstimate:
        return memory.estimate(
            facts.model,
            tuning=tuning,
            trainable=trainable,
            precision=precision,
            micro_batch=training.batch_size,
            longest=facts.data.train.longest,
            gradient_checkpointing=checkpointing,
            optimizer=optimizer,
            parallel=config.parallel.option,
            processes=config.launch.processes,
            offload=isinstance(config.parallel, (FsdpParallel, Zero3Parallel)) and config.parallel.offload,
            attention=attention,
        )

    fits = estimate(False).total <= machine.device_memory * USABLE_MEMORY
    why = "fits into memory without it" if fits else "does not fit into memory without it"
    checkpointing = choose("training.gradient_checkpointing", training.gradient_checkpointing, not fits, why)
    resolved = Resolved(
        precision=precision,
        attention=attention,
        learning_rate=rate,
        optimizer=optimizer,
        gradient_checkpointing=checkpointing,
        batching=batching,
        alpha=alpha,
        max_length=length,
        keep_best=keep_best,
        launcher=launcher,
    )
    return resolved, reasons, estimate(checkpointing)


def best_precision(machine: Machine) -> tuple[str, str]:
    """The number format that the device trains best in."""
    if machine.device == "cuda" and machine.bf16:
        return "bf16", f"{machine.device_name} computes in bf16"
    if machine.device == "cuda":
        return "fp16", f"{machine.device_name} has no bf16"
    return "fp32", f"exact, and fastest on {machine.device}"


def best_attention(machine: Machine, precision: str, facts: Facts) -> tuple[str, str]:
    """The fastest exact attention kernel that is there."""
    if machine.device == "cuda" and facts.flash_attention and precision != "fp32":
        return "flash_attention_2", "flash-attn is installed"
    return "sdpa", "PyTorch's own kernel, exact everywhere"


def best_batching(config: RunConfig, facts: Facts, attention: str) -> tuple[str, str]:
    """Flat batches compute no padding and keep the batches random; what they cost is a mask over the whole batch.

    Grouped batches pad little, but short rows then fill whole batches and weigh more than their tokens: on 1,000 rows
    of mixed length the loss on held-out rows was 4 % higher after as many steps.
    """
    train = facts.data.train
    tokens = config.training.batch_size * train.tokens / max(1, train.rows)
    if train.longest * train.rows <= LIKE_LENGTH * train.tokens:
        return "padded", "the rows are of like length, so there is little to pad"
    if facts.model.model_type not in KEEP_ROWS_APART or facts.model.trust_remote_code:
        return "grouped", f"{facts.model.model_type} is not known to keep the rows of a flat batch apart"
    if attention.startswith("flash"):
        return "flat", "no padding, at no cost with this attention kernel"
    if tokens <= FLAT_TOKENS:
        return "flat", f"no padding; a batch has about {tokens:,.0f} tokens"
    return "grouped", f"a flat batch of about {tokens:,.0f} tokens needs flash attention to be fast"


def best_optimizer(machine: Machine) -> tuple[str, str]:
    """AdamW, in one fused kernel where there is one."""
    if machine.device == "mps":
        return "adamw_torch", "no fused kernel on mps"
    return "adamw_torch_fused", "one kernel a step"


def best_rate(tuning: str, model: ModelFacts) -> tuple[float, str]:
    """Peak learning rate: smaller models bear more, and an adapter wants about ten times the rate of full tuning."""
    full = 2e-5 if model.parameters >= 1e9 else 5e-5 if model.parameters >= 5e7 else 3e-4
    size = f"a model of {model.parameters / 1e6:,.0f}M parameters"
    if tuning == "full":
        return full, f"full tuning of {size}"
    return round(full * 10, 9), f"ten times the rate of full tuning, for an adapter on {size}"


def best_launcher(config: RunConfig) -> tuple[str, str]:
    """Who starts the processes."""
    if config.launch.option != "auto":
        return config.launch.option, "as set"
    if config.launch.processes == 1:
        return "inline", "one process"
    return "accelerate", f"{config.launch.processes} processes"


def plan_batches(config: RunConfig, data: PreparedData, keep_best: str) -> BatchPlan:
    """Rows, epochs and batch become steps."""
    training, rows = config.training, data.train.rows
    processes = config.launch.processes
    effective = training.batch_size * training.accumulation * processes
    seen = math.floor(rows * (training.epochs or 0) + 1e-9)
    steps = training.max_steps or seen // effective
    if steps == 0:
        batch = f"{training.batch_size} × {training.accumulation} × {processes} = {effective}"
        what = f"{rows} rows in {training.epochs:g} epochs do not fill one batch of {batch} rows"
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
        epochs=round(steps * effective / rows, 3),
        left_over=0 if training.max_steps else seen - steps * effective,
        # Rounding a share up never makes it more than half of a short run.
        warmup_steps=int(warmup)
        if warmup >= 1
        else min(math.ceil(warmup * steps), max(steps // 2, int(warmup * steps))),
        log_every=training.log_every or max(1, min(10, steps // 20)),
        save_every=training.save_every or eval_every or cadence,
        eval_every=eval_every,
    )


def _longest_possible(model: ModelFacts) -> int:
    return model.context or 4096


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan as plan.json holds it."""
    values = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan)}
    return {key: config_to_dict(value) if key == "config" else _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def load_plan(run_dir: str | Path) -> RunPlan:
    """The plan of a run directory."""
    stored = json.loads((Path(run_dir) / PLAN_FILE).read_text(encoding="utf-8"))
    model, data = stored["model"], stored["data"]
    return RunPlan(
        run_dir=str(run_dir),
        config=config_from_dict(stored["config"]),
        model=_model_facts(model),
        data=PreparedData(
            **{
                **data,
                "train": SplitFacts(**data["train"]),
                "held_out": SplitFacts(**data["held_out"]) if data["held_out"] else None,
                "warnings": tuple(data["warnings"]),
                "stop_ids": tuple(data["stop_ids"]),
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
