"""What is learned does not depend on the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rows import chat_row, counted_row, write_rows

COMMON = ("model=tiny", "training.max_steps=12", "training.log_every=1", "training.learning_rate=1e-3", "name=x",
          "data.eval_share=0")  # fmt: skip


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=280,
    )


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def tokens(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    return [row["tokens"] for row in rows]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", [chat_row(number) for number in range(50)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = run(folder, "finetune", "train", *COMMON, f"data.train={rows}", "training.batch_size=8")
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(folder: Path, alone: Path) -> None:
    ours, reference = losses(folder), losses(alone)
    assert ours.keys() == reference.keys() and len(ours) == 12
    assert max(abs(ours[step] - reference[step]) for step in ours) <= 1e-4
    assert tokens(folder) == tokens(alone)
    assert [path.name for path in (folder / "runs").iterdir() if not path.name.startswith(".")] == ["x"]


def test_two_ranks_see_the_same_rows_in_the_same_steps(tmp_path: Path, rows: Path, alone: Path) -> None:
    done = run(
        tmp_path, "finetune", "train", *COMMON, f"data.train={rows}", "training.batch_size=4", "launch.processes=2",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert_same(tmp_path, alone)


def test_accelerate_launch_by_hand_does_the_same(tmp_path: Path, rows: Path, alone: Path) -> None:
    done = run(
        tmp_path, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "finetune.train",
        *COMMON, f"data.train={rows}", "training.batch_size=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_accumulation_does_not_change_what_is_learned(tmp_path: Path, rows: Path, alone: Path) -> None:
    done = run(
        tmp_path,
        "finetune",
        "train",
        *COMMON,
        f"data.train={rows}",
        "training.batch_size=4",
        "training.accumulation=2",
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)


def test_a_failing_rank_ends_all_with_its_own_error(tmp_path: Path, rows: Path) -> None:
    started = time.monotonic()
    done = run(
        tmp_path, "finetune", "train", "model=tiny", f"data.train={rows}", "training.batch_size=4",
        "launch.processes=2", "tuning=full", "training.learning_rate=1e30", "training.max_grad_norm=1e30",
        "training.warmup=0", "training.log_every=1", "name=x",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: rank ") and ("nan" in last or "inf" in last or "finite" in last), done.stderr
    assert time.monotonic() - started < 120
    assert _processes_of(tmp_path) == []


def test_ranks_whose_time_is_over_stop_together_and_can_go_on(tmp_path: Path, rows: Path) -> None:
    settings = [word for word in COMMON if not word.startswith("training.max_steps")]
    command = ["finetune", "train", *settings, f"data.train={rows}", "training.batch_size=4", "launch.processes=2"]
    done = run(tmp_path, *command, "training.max_time=1s", "training.max_steps=2000")
    assert done.returncode == 75, done.stderr
    assert "training.max_time is over at step" in done.stderr
    assert list((tmp_path / "runs" / "x" / "checkpoints").glob("checkpoint-*/MANIFEST.json"))


def _processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.resolve().is_relative_to(folder):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def test_processes_that_differ_from_the_world_are_refused(tmp_path: Path, rows: Path) -> None:
    done = run(
        tmp_path, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "finetune.train",
        *COMMON, f"data.train={rows}", "launch.processes=4",
    )  # fmt: skip
    assert done.returncode != 0
    assert "launch.processes: 4 differs from the 2 processes that were started" in done.stderr
    assert not (tmp_path / "runs" / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["chat", "text"])
def test_ranks_start_from_one_preparation(shape: str, tmp_path: Path) -> None:
    many = range(10_000)  # so many that tokenising them is told
    made = [chat_row(number) if shape == "chat" else {"text": f"{number} lamps are here."} for number in many]
    settings = [word for word in COMMON if not word.startswith("training.max_steps")]
    done = run(
        tmp_path, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "finetune.train",
        *settings, "training.max_steps=2", f"data.train={write_rows(tmp_path / 'rows.jsonl', made)}",
        "training.batch_size=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "tokenising" in line]
    assert said == ["tokenising 10,000 rows"], done.stderr
    prepared = tmp_path / "runs" / ".prepared"
    assert len(list(prepared.glob("*/prepared.json"))) == 1 and not list(prepared.glob(".scratch-*"))
    assert len(losses(tmp_path)) == 2


@pytest.mark.slow
def test_groups_of_answers_span_ranks(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "counts.jsonl", [counted_row(number) for number in range(40)])
    settings = (
        "model=tiny", "method=grpo", "method.rewards=[exact]", "method.max_new_tokens=4", f"data.train={rows}", "name=x",
        "training.learning_rate=1e-3", "training.log_every=1", "training.save_every=2", "training.batch_size=4",
        "training.accumulation=2", "launch.processes=2",
    )  # fmt: skip
    command = ("finetune", "train", *settings)
    # two groups of eight a step, each over both ranks
    done = run(tmp_path, *command, "method.most_dead=1", "training.max_steps=4", "training.keep_best=none")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "x"
    logged = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    kept = [json.loads(line) for line in (run_dir / "completions.jsonl").read_text().splitlines()]
    paid = {row["step"]: row["reward"] for row in logged if "reward" in row}
    assert {*paid} == {1, 2, 3, 4} and all(0 <= value <= 1 for value in paid.values())
    assert sum("eval_reward" in row for row in logged) == 5
    assert {len(row["answers"]) for row in kept if row["step"]} == {8}
    # what one rank finds hopeless comes back as what it is
    other = ("name=y" if one == "name=x" else one for one in command)
    done = run(tmp_path, *other, "method.most_dead=0", "training.max_steps=4")
    assert done.returncode == 2 and "error: method.rewards: " in done.stderr and "teach nothing" in done.stderr
