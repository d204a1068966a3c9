"""Killed between saves, the same command continues and ends in the same weights, with the same figures."""

from __future__ import annotations

import hashlib
import json
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
