"""The table: the settings whose right value depends on device, tuning or rows, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.config import FsdpParallel, LoraTuning, RunConfig, Zero3Parallel
from finetune.flat import KEEP_ROWS_APART
from finetune.machine import Machine
from finetune.methods import METHODS
from finetune.model_files import ModelFacts
from finetune.plan import memory
from finetune.plan.facts import Facts, longest_possible
from finetune.plan.memory import MemoryEstimate

# Share of a device's memory that a run may plan to use; the rest is fragmentation and the driver's.
USABLE_MEMORY = 0.85
# Longest row over the mean up to which rows are padded: that costs less than a mask does.
LIKE_LENGTH = 1.25
# Tokens of a flat batch up to which a mask over the whole batch costs less than padding does.
FLAT_TOKENS = 4096
# What a method calls the tokens that it has the model write, on top of a row.
NEW_TOKENS = "max_new_tokens"


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
    method: dict[str, Any]  # settings of the method that were left open


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
    rate = choose("training.learning_rate", training.learning_rate, *best_rate(config, facts.model))
    alpha = None
    if isinstance(tuning, LoraTuning):
        alpha = choose("tuning.alpha", tuning.alpha, *best_alpha(tuning, facts.model))
    length = choose("data.max_length", config.data.max_length, longest_possible(facts.model), "the model's context")
    own = {
        name: choose(f"method.{name}", getattr(config.method, name), value, reason)
        for name, (value, reason) in METHODS[config.method.option].open_settings(config.method, facts).items()
    }
    best = (METHODS[config.method.option].BEST, f"method={config.method.option} is measured by it")
    if facts.data.held_out is None:
        best = ("none", "no held-out rows to measure it on")
    keep_best = choose("training.keep_best", training.keep_best, *best)
    launcher, why = best_launcher(config)
    reasons["launch"] = why

    def estimate(checkpointing: bool) -> MemoryEstimate:
        longest = facts.data.train.longest + own.get(NEW_TOKENS, 0)
        return _estimate(config, facts, trainable, checkpointing, precision, attention, optimizer, longest)

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
        method=own,
    )
    return resolved, reasons, estimate(checkpointing)


def _estimate(
    config: RunConfig,
    facts: Facts,
    trainable: int,
    checkpointing: bool,
    precision: str,
    attention: str,
    optimizer: str,
    longest: int,
) -> MemoryEstimate:
    return memory.estimate(
        facts.model,
        tuning=config.tuning,
        trainable=trainable,
        precision=precision,
        micro_batch=config.training.batch_size * METHODS[config.method.option].ROWS_TOGETHER,
        longest=longest,
        gradient_checkpointing=checkpointing,
        optimizer=optimizer,
        parallel=config.parallel.option,
        processes=config.launch.processes,
        offload=isinstance(config.parallel, (FsdpParallel, Zero3Parallel)) and config.parallel.offload,
        attention=attention,
        frozen=tuple(facts.frozen.values()),
        reference=METHODS[config.method.option].keeps_reference(config.method),
    )


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
    method = METHODS[config.method.option]
    if method.answers(config.method)[0] > 1:
        return "padded", "a step learns best from questions of all kinds, and padding them costs little beside answers"
    if not method.LAYS_FLAT:
        return "grouped", f"method={config.method.option} pads its rows, least where they are of like length"
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


def best_rate(config: RunConfig, model: ModelFacts) -> tuple[float, str]:
    """Peak learning rate: smaller models bear more, and an adapter wants about ten times the rate of full tuning."""
    full = 2e-5 if model.parameters >= 1e9 else 5e-5 if model.parameters >= 5e7 else 3e-4
    size, share = f"a model of {model.parameters / 1e6:,.0f}M parameters", METHODS[config.method.option].RATE
    of = "" if share == 1 else f", times {share:g} for method={config.method.option}"
    if config.tuning.option == "full":
        return round(full * share, 12), f"full tuning of {size}{of}"
    return round(full * 10 * share, 12), f"ten times the rate of full tuning, for an adapter on {size}{of}"


def best_alpha(tuning: LoraTuning, model: ModelFacts) -> tuple[float, str]:
    """The scale of the adapter."""
    if tuning.start == "continue" and model.adapter:
        return model.adapter.alpha, "the continued adapter's"
    return 2.0 * tuning.rank, "twice the rank"


def best_launcher(config: RunConfig) -> tuple[str, str]:
    """Who starts the processes."""
    if config.launch.option != "auto":
        return config.launch.option, "as set"
    if config.launch.processes == 1:
        return "inline", "one process"
    return "accelerate", f"{config.launch.processes} processes"
