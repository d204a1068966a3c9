"""The settings in which runs differ: by what was in effect, whether a person or the plan chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.evaluate.contents import EVALUATION
from finetune.runs.record import PLAN, Run
from finetune.runs.values import Values, read_values

CADENCE = ("log_every", "save_every", "eval_every")  # of the training, decided with the batches
# What every run has for itself; and what had no effect on it unless it was evaluated, and then its evaluation says it.
LEFT_OUT = ("config.name", "config.output_dir", "config.resume", "config.allow_change", "config.evaluate.")


@dataclass(frozen=True)
class Difference:
    """A key and its value in each run, in their order; None also for an option that has no such key."""

    key: str
    values: tuple[Any, ...]


def differing(runs: Sequence[Run]) -> list[Difference]:
    """Only the keys whose values differ; that an option lacks a key is no difference by itself."""
    told = [
        {**in_effect(plan), **(_of_evaluation(run.path) if run.score else {})}
        for run in runs
        if (plan := read_values(run.path / PLAN))
    ]
    keys = sorted(set().union(*told))
    return [
        Difference(key, tuple(values.get(key) for values in told))
        for key in keys
        if len({repr(values[key]) for values in told if key in values}) > 1
    ]


def in_effect(plan: Values) -> dict[str, Any]:
    """Every setting of a run by its dotted key, with what the plan put in place of the open ones; and its machine."""
    values = {
        key.removeprefix("config."): value for key, value in _flat(plan, "config") if not key.startswith(LEFT_OUT)
    }
    resolved = plan.at("resolved", dict)
    for key in plan.at("reasons", dict):
        group, _, name = key.rpartition(".")
        chosen = resolved.get("method", {}) if group == "method" else resolved
        if name in chosen:
            values[key] = chosen[name]
    batch = plan.at("batch", dict)
    values |= {f"training.{name}": batch[name] for name in CADENCE if name in batch}
    machine = {key: value for key, value in _flat(plan, "machine.versions")}
    return {**values, **machine, "machine.device_name": plan.at("machine.device_name", str)}


def _of_evaluation(run_dir: Path) -> dict[str, Any]:
    """The settings that a run was evaluated with, which may be others than it was trained with."""
    found = read_values(run_dir / EVALUATION)
    if found is None:
        return {}
    given = {f"evaluate.{key}": value for key, value in found.at("settings", dict).items()}
    return {**given, "evaluate.max_new_tokens": found.maybe("max_new_tokens", int)}


def _flat(plan: Values, key: str) -> list[tuple[str, Any]]:
    value = plan.at(key, dict)
    pairs: list[tuple[str, Any]] = []
    for name, inner in value.items():
        # an open mapping without entries says nothing
        pairs += _flat(plan, f"{key}.{name}") if isinstance(inner, Mapping) else [(f"{key}.{name}", inner)]
    return pairs
