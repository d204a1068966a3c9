"""Runs that learn from a model's own answers, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = ("adapter/adapter_model.safetensors", "model/model.safetensors")


def but(settings: tuple[str, ...], *changes: str) -> tuple[str, ...]:
    """The settings with some changed or added."""
    given = {one.partition("=")[0]: one for one in (*settings, *changes)}
    return tuple(given.values())


def metrics(run_dir: Path, kind: str = "reward") -> list[float]:
    """What was logged under a name."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[kind] for row in found if kind in row]


def samples(run_dir: Path) -> list[dict[str, Any]]:
    """The groups of answers that were kept."""
    return [json.loads(line) for line in (run_dir / "completions.jsonl").read_text().splitlines()]


def weights_of(run_dir: Path) -> dict[str, Any]:
    """The result of a run."""
    from safetensors.torch import load_file

    return dict(load_file(next(run_dir / name for name in RESULTS if (run_dir / name).exists())))


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same weights, bit for bit."""
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
