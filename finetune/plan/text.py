"""The plan as a person reads it, and as `plan --json` prints it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from finetune.config import LaunchConfig, MethodConfig, ParallelConfig, TrackingConfig, TuningConfig
from finetune.errors import counted
from finetune.launch_command import shown_command
from finetune.model_files import ModelFacts
from finetune.plan import RunPlan
from finetune.plan.batches import BatchPlan
from finetune.plan.memory import shown_memory
from finetune.plan.reach import describe_reach

TYPED_GROUPS = (TuningConfig, MethodConfig, LaunchConfig, ParallelConfig, TrackingConfig)
OPEN_SETTINGS = (
    "model.precision",
    "model.attention",
    "data.max_length",
    "training.learning_rate",
    "training.optimizer",
    "training.batching",
    "training.gradient_checkpointing",
    "tuning.alpha",
    "training.keep_best",
    "launch",
)


def describe(plan: RunPlan) -> str:
    """The plan in about twenty lines: what is trained, on what, how, where, and why so."""
    lines = [*_what(plan), *_rows(plan), *_steps(plan), *_machine(plan)]
    lines += [("run directory", plan.run_dir), ("command", plan.command)]
    if plan.resolved.launcher != "inline":
        lines.append(("launches", shown_command(plan)))
    if plan.resume_from:
        lines.append(("continues from", plan.resume_from))
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    row = [
        "",
        "the first row, what is learned in ⟦double brackets⟧:",
        *(f"  {line}" for line in plan.preview.splitlines()),
    ]
    warnings = [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join([*text, "", *_settings(plan), *row, *(["", *warnings] if warnings else [])])


def _what(plan: RunPlan) -> list[tuple[str, str]]:
    model, tuning = plan.model, plan.config.tuning.option
    share = plan.trainable / max(1, model.parameters)
    others = [(role, f"{_named(facts)}, only read") for role, facts in plan.frozen.items()]
    return [
        ("model", f"{model.name} ({model.architecture}, {_count(model.parameters)} parameters)"),
        *others,
        ("tuning", f"{tuning}: {_count(plan.trainable)} trainable, {share:.2%} of the base"),
        ("method", plan.config.method.option),
    ]


def _named(facts: ModelFacts) -> str:
    merged = f", its adapter merged into {facts.adapter.base_name}" if facts.adapter else ""
    return f"{facts.name} ({facts.architecture}, {_count(facts.parameters)} parameters{merged})"


def _rows(plan: RunPlan) -> list[tuple[str, str]]:
    train, held_out = plan.data.train, plan.data.held_out
    share = f" ({train.supervised_tokens / max(1, train.tokens):.0%} learned)" if plan.batch.answers == 1 else ""
    text = (
        f"{counted(train.rows, f'{plan.data.shape} row')}, {counted(train.tokens, 'token')}{share}, "
        f"longest {train.longest:,}"
    )
    if train.truncated or train.dropped:
        text += f"; {train.truncated:,} truncated, {train.dropped:,} dropped"
    if plan.data.is_partial:
        text = f"a stream, read as training goes; its first window: {text}"
    padding = ("padding", plan.padding)
    rows = [("rows", text), *_mixture(plan)]
    if held_out is None:
        return [*rows, ("held out", "none"), padding]
    origin = {
        "files": "from data.eval",
        "split": f"{plan.config.data.eval_share:.0%} split off by a seeded hash",
    }
    held = [("held out", f"{counted(held_out.rows, 'row')}, {origin[plan.data.held_out_from]}")]
    if plan.reach is not None:
        held.append(("evaluation", describe_reach(plan.reach, plan.data)))
    return [*rows, *held, padding]


def _mixture(plan: RunPlan) -> list[tuple[str, str]]:
    """What each source has in one epoch, where there are several."""
    given = plan.config.data.train
    if isinstance(given, str) or len(plan.data.mixture) < 2:
        return []
    whole = max(1, sum(tokens for _, tokens in plan.data.mixture))
    return [
        (
            "" if number else "mixture",
            f"{name}: {counted(rows, 'row')}, {counted(tokens, 'token')} ({tokens / whole:.0%})",
        )
        for number, (name, (rows, tokens)) in enumerate(zip(given, plan.data.mixture, strict=False))
    ]


def _steps(plan: RunPlan) -> list[tuple[str, str]]:
    batch, training = plan.batch, plan.config.training
    arithmetic = f"{batch.micro} × {batch.accumulation} × {batch.processes} = {counted_batch(batch)} a step"
    epochs = "" if batch.epochs is None else f", {counted(batch.epochs, 'epoch')}"
    length = f"{counted(batch.steps, 'step')}{epochs}"
    if batch.left_over:
        length += f"; {counted(batch.left_over, 'row')} at the end left out, too few for a batch"
    schedule = (
        f"{training.scheduler}, {counted(batch.warmup_steps, 'warm-up step')}, peak {plan.resolved.learning_rate:g}"
    )
    cadence = f"log every {batch.log_every}, save every {batch.save_every}"
    if batch.eval_every:
        cadence += f", evaluate every {batch.eval_every}"
    return [("batch", arithmetic), ("length", length), ("schedule", schedule), ("cadence", cadence)]


def counted_batch(batch: BatchPlan) -> str:
    """What a step sees: rows, or the model's own answers to rows."""
    if batch.answers == 1:
        return counted(batch.effective, "row")
    again = f", for {batch.window} steps" if batch.window > 1 else ""
    return f"{counted(batch.effective, 'answer')}, {batch.answers} to each of {counted(batch.rows, 'row')}{again},"


def _machine(plan: RunPlan) -> list[tuple[str, str]]:
    machine, memory = plan.machine, plan.memory
    named = {"weights": memory.weights, "optimizer": memory.optimizer, "activations": memory.activations}
    parts = ", ".join(f"{name} {shown_memory(size)}" for name, size in named.items())
    if memory.frozen:
        parts += f", models only read {shown_memory(memory.frozen)}"
    have = shown_memory(machine.device_memory)
    return [
        ("device", f"{machine.devices} × {machine.device_name}"),
        ("memory", f"about {shown_memory(memory.total)} of {have} a device ({parts})"),
    ]


def _settings(plan: RunPlan) -> list[str]:
    """Where each value that is not a plain default came from."""
    resolved = {
        "model.precision": plan.resolved.precision,
        "model.attention": plan.resolved.attention,
        "data.max_length": plan.resolved.max_length,
        "training.learning_rate": plan.resolved.learning_rate,
        "training.optimizer": plan.resolved.optimizer,
        "training.batching": plan.resolved.batching,
        "training.gradient_checkpointing": str(plan.resolved.gradient_checkpointing).lower(),
        "tuning.alpha": plan.resolved.alpha,
        "training.keep_best": plan.resolved.keep_best,
        "launch": plan.resolved.launcher,
        **{f"method.{name}": value for name, value in plan.resolved.method.items()},
    }
    rows = []
    for key, source in sorted(plan.sources.items()):
        if key not in resolved and (value := _setting(plan, key)):
            rows.append((key, value, source))
    for key in (*OPEN_SETTINGS, *(f"method.{name}" for name in plan.resolved.method)):
        if key in plan.sources or key in plan.reasons:
            rows.append((key, str(resolved[key]), plan.sources.get(key) or f"plan: {plan.reasons[key]}"))
    width = max(len(key) for key, _, _ in rows)
    value_width = min(40, max(len(value) for _, value, _ in rows))
    return [f"  {key:<{width}}  {value:<{value_width}}  {source}" for key, value, source in rows]


def _setting(plan: RunPlan, key: str) -> str:
    """A setting's value, or a group's option; nothing for a preset, whose keys stand by themselves."""
    value: object = plan.config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    if isinstance(value, TYPED_GROUPS):
        return value.option
    if dataclasses.is_dataclass(value):
        return ""
    return str(value)


def _count(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.0f}"


def describe_outcome(outcome: dict[str, Any]) -> str:
    """What a run came to, and what to type next."""
    said = {
        "finished": "trained",
        "resumed": "continued and finished",
        "already_finished": "has finished already; nothing was done",
    }
    run_dir, loss = outcome["run_dir"], outcome["train_loss"] or math.nan
    return "\n".join(
        [
            f"{said[outcome['status']]}: {counted(outcome['steps'], 'step')}, training loss {loss:.4f}",
            f"  result   {outcome['artefact']}",
            f"  report   {run_dir}/report.html",
            f"next: finetune evaluate {run_dir}",
        ]
    )
