"""Killed between saves, the same command continues and ends in the same weights, with the same figures."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import child
import pytest
from rows import chat_row, write_rows


def command(rows: Path, tuning: str) -> list[str]:
    return ["train", "model=tiny", f"tuning={tuning}", f"data.train={rows}", "training.max_steps=40", "name=x",
            "training.batch_size=4", "training.save_every=10", "training.eval_every=10", "training.log_every=1",
            "training.learning_rate=1e-3", *(["tuning.dropout=0.1"] if tuning != "full" else [])]  # fmt: skip


def weights_hash(folder: Path) -> str:
    (file,) = (folder / "runs" / "x").glob("*/*model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def figures(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_killed_between_saves_it_ends_in_the_same_weights(tmp_path: Path, tuning: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(60)])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert child.run(command(rows, tuning), whole) == 0, (whole / "child.log").read_text()

    killed = child.start(command(rows, tuning), broken)
    child.wait_for_step(broken / "runs" / "x" / "metrics.jsonl", 13, killed)
    killed.kill()
    killed.join()
    assert not (broken / "runs" / "x" / "outcome.json").exists()
    assert child.run(command(rows, tuning), broken) == 0, (broken / "child.log").read_text()

    assert json.loads((broken / "runs" / "x" / "outcome.json").read_text())["status"] == "resumed"
    assert figures(broken) == figures(whole)
    assert [row["step"] for row in figures(whole) if "loss" in row] == list(range(1, 41))
    assert weights_hash(broken) == weights_hash(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_step_finish_and_save_and_the_same_command_continues(
    tmp_path: Path, number: int, code: int
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(60)])
    stopped = child.start(command(rows, "lora"), tmp_path)
    child.wait_for_step(tmp_path / "runs" / "x" / "metrics.jsonl", 13, stopped)
    os.kill(stopped.pid or 0, number)
    stopped.join()
    assert stopped.exitcode == code, (tmp_path / "child.log").read_text()
    last = max(row["step"] for row in figures(tmp_path))
    assert last < 40 and f"stopped at step {last}, saved; continue with:" in (tmp_path / "child.log").read_text()
    assert (tmp_path / "runs" / "x" / "checkpoints" / f"checkpoint-{last}" / "MANIFEST.json").exists()

    assert child.run(command(rows, "lora"), tmp_path) == 0, (tmp_path / "child.log").read_text()
    assert f"continuing from step {last} of 40" in (tmp_path / "child.log").read_text()
    assert [row["step"] for row in figures(tmp_path) if "loss" in row] == list(range(1, 41))
