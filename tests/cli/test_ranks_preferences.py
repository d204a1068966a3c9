"""What is learned from preferences does not depend on the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import pair_row, vote_row, write_rows

COMMON = (
    "model=tiny", "training.max_steps=4", "training.log_every=1", "training.learning_rate=1e-3", "name=x",
    "training.scheduler=constant",
)  # fmt: skip


def logged(folder: Path, *settings: str) -> list[dict[str, Any]]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "train", *COMMON, *settings],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tuning", "row"),
    [("kto", "lora", vote_row), pytest.param("dpo", "full", pair_row, marks=pytest.mark.slow)],
)
def test_two_processes_learn_what_one_does(
    tmp_path: Path, method: str, tuning: str, row: Callable[[int], dict[str, Any]]
) -> None:
    train, held = (
        write_rows(tmp_path / f"{name}.jsonl", [row(number) for number in numbers])
        for name, numbers in (("train", range(32)), ("held", range(40, 48)))
    )
    given = (f"method={method}", f"tuning={tuning}", f"data.train={train}", f"data.eval={held}")
    alone = logged(tmp_path / "alone", *given, "training.batch_size=8")
    two = logged(tmp_path / "two", *given, "training.batch_size=4", "launch.processes=2")
    assert [row["step"] for row in alone] == [row["step"] for row in two] and len(alone) > 4
    for one, other in zip(alone, two, strict=True):
        for name in ("loss", "eval_loss", "rewards/margins", "kl"):
            assert one.get(name) == pytest.approx(other.get(name), abs=1e-4), (name, one["step"])
