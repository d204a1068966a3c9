"""A pipeline that is killed or stopped anywhere goes on at the right stage and step, and ends in the same weights."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import child
import pytest
from child import Signalled
from rows import worded, write_rows

pytestmark = pytest.mark.slow

STAGES = ("first", "second", "third")
COMMAND = ["pipeline", "--recipe", "recipe.yaml", "name=p"]
RECIPE = """
model: tiny
tuning: {dropout: 0.1}
training: {max_steps: 6, batch_size: 4, save_every: 2, eval_every: 2, log_every: 1, learning_rate: 0.01}
stages:
  first:
    data: {train: ./first.jsonl}
  second:
    from: first
    data: {train: ./second.jsonl}
    tuning: {start: merge, rank: 4}
  third:
    from: second
    data: {train: ./first.jsonl}
    tuning: {start: continue}
    training: {max_steps: 4}
"""


def write_pipeline(folder: Path) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    write_rows(folder / "first.jsonl", [worded(number, "violet") for number in range(30)])
    write_rows(folder / "second.jsonl", [worded(number, "green") for number in range(100, 130)])
    return folder


def made(folder: Path) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """The hash of each stage's weights, and its figures without the times."""
    found = {}
    for stage in STAGES:
        run_dir = folder / "runs" / f"p.{stage}"
        (weights,) = run_dir.glob("adapter/*.safetensors")
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        figures = [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]
        found[stage] = (hashlib.sha256(weights.read_bytes()).hexdigest(), figures)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that nothing interrupted."""
    folder = write_pipeline(tmp_path_factory.mktemp("pipeline") / "whole")
    assert child.run(COMMAND, folder) == 0, (folder / "child.log").read_text()
    return folder


POINTS = {
    "in the save of the first checkpoint": ("p.first/checkpoints/checkpoint-2/trainer_state.json", 1),
    "between two checkpoints of the first stage": ("p.first/metrics.jsonl", 7),
    "between the result of the first stage and its outcome": ("p.first/.outcome.json", 1),
    "between the stages": ("runs/p/.pipeline.json", 2),
    "in the merge before the second stage": ("p.second/.base.unfinished/tokenizer_config.json", 1),
    "before the first step of the second stage": ("p.second/.plan.json", 1),
    "in the second stage": ("p.second/metrics.jsonl", 7),
    "in the save of the second stage's result": ("p.second/adapter/adapter_config.json", 1),
    "in the last stage": ("p.third/metrics.jsonl", 2),
    "when all that is left is to say so": ("runs/p/.pipeline.json", 4),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_in_the_same_weights(point: str, whole: Path, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "broken")
    code = child.run(COMMAND, folder, signalled=Signalled(signal.SIGKILL, *POINTS[point]))
    assert code == -signal.SIGKILL, (folder / "child.log").read_text()

    assert child.run(COMMAND, folder) == 0, (folder / "child.log").read_text()
    assert made(folder) == made(whole)
    account = json.loads((folder / "runs" / "p" / "pipeline.json").read_text())
    assert account["artefact"] == "runs/p.third/adapter"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_stage_saves_it_and_names_the_pipelines_command(
    number: int, code: int, whole: Path, tmp_path: Path
) -> None:
    folder = write_pipeline(tmp_path / "stopped")
    at = Signalled(number, "p.second/metrics.jsonl", 3)
    assert child.run(COMMAND, folder, signalled=at) == code, (folder / "child.log").read_text()
    said = (folder / "child.log").read_text()
    assert "saved; continue with:\n  finetune pipeline --recipe recipe.yaml name=p" in said
    assert json.loads((folder / "runs" / "p" / "pipeline.json").read_text())["status"] == "unfinished"
    assert child.run(COMMAND, folder) == 0, (folder / "child.log").read_text()
    assert made(folder)["third"][0] == made(whole)["third"][0]


def test_a_signal_that_comes_too_late_for_a_stage_keeps_the_next_from_beginning(whole: Path, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "late")
    last_row = sum(1 for _ in (whole / "runs" / "p.first" / "metrics.jsonl").open())
    at = Signalled(signal.SIGTERM, "p.first/metrics.jsonl", last_row)
    assert child.run(COMMAND, folder, signalled=at) == 143, (folder / "child.log").read_text()
    assert not (folder / "runs" / "p.second").exists()
    assert child.run(COMMAND, folder) == 0, (folder / "child.log").read_text()
    assert made(folder) == made(whole)
