"""More rows than are ever prepared at once: the same training, a bounded folder, and faults by their file and row."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child
import pytest
from rows import chat_row, write_rows

Run = Callable[..., tuple[int, str, str]]

STREAM = ("model=tiny", "data.streaming=true", "data.eval_share=0", "training.batch_size=4", "training.log_every=1",
          "training.learning_rate=1e-3", "name=x")  # fmt: skip


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "runs" / "x" / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(50)])


class Watched(threading.Thread):
    """Counts the windows in a folder until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.seen, self.over = folder, 0, set[str](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            found = [path.parent.name for path in self.folder.glob("*/prepared.json")]
            self.most, self.seen = max(self.most, len(found)), self.seen | set(found)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def __enter__(self) -> Watched:
        self.start()
        return self


def test_several_passes_in_windows_of_which_few_are_ever_there(finetune: Run, tmp_path: Path, rows: Path) -> None:
    with Watched(tmp_path / "runs" / "x" / "windows") as watched:
        code, out, err = finetune("train", *STREAM, f"data.train={rows}", "data.window=8", "training.max_steps=30")
    assert code == 0, err
    assert "a stream, read as training goes; its first window: 8 chat rows" in out and " 30 steps\n" in out
    # The rows of a step and of the step that is read ahead lie in two or three windows; one more is prepared.
    assert {"1", "2", "3", "4", "5"} <= watched.seen and 1 < watched.most <= 5
    kept = tmp_path / "runs" / "x" / "windows"
    assert [path.name for path in kept.iterdir()] == ["windows.json"]
    windows = json.loads((kept / "windows.json").read_text())["windows"]
    assert [window["rows"] for window in windows] == [8] * 6 + [2]
    assert [row["step"] for row in metrics(tmp_path)] == list(range(1, 31)) and "epoch" not in metrics(tmp_path)[0]
    whole = sum(window["tokens"] for window in windows)
    # Two passes are 100 rows; the last 20 are two windows and half of the third, which are known by their tokens.
    assert 2 * whole + sum(window["tokens"] for window in windows[:2]) < metrics(tmp_path)[-1]["tokens"]
    assert metrics(tmp_path)[-1]["tokens"] < 2 * whole + sum(window["tokens"] for window in windows[:3])
    assert metrics(tmp_path)[24]["tokens"] == 2 * whole


@pytest.mark.parametrize("batching", ["grouped", "flat"])
def test_a_stream_of_one_window_trains_as_without_it(finetune: Run, tmp_path: Path, rows: Path, batching: str) -> None:
    command = ("train", *STREAM, f"data.train={rows}", "training.max_steps=26", f"training.batching={batching}")
    code, _, err = finetune(*command, "data.window=50")
    assert code == 0, err
    streamed = metrics(tmp_path), weights_hash(tmp_path)
    plain = [word for word in command if word != "data.streaming=true"]
    assert finetune(*plain, "resume=none")[0] == 0
    assert (metrics(tmp_path), weights_hash(tmp_path)) == streamed


def test_another_method_takes_a_stream_too(finetune: Run, tmp_path: Path, rows: Path, llama: Path) -> None:
    from models import save_llama, save_tokenizer

    save_llama(tmp_path / "student", hidden=32)
    save_tokenizer(tmp_path / "student")
    command = ("train", *STREAM[1:], f"model.name={tmp_path / 'student'}", "method=distill", f"method.teacher={llama}",
               f"data.train={rows}", "training.max_steps=14")  # fmt: skip
    code, _, err = finetune(*command, "data.window=20")
    assert code == 0, err
    assert "window 3: 10 rows" in err and len(metrics(tmp_path)) == 14
    # Nobody has read the longest prompt yet.
    own = ("data.window=20", "method.own_samples=0.5", "method.max_new_tokens=4")
    assert "method.max_new_tokens: 4 on top of the longest prompt's " in finetune("plan", *command[1:], *own)[2]
    planned = finetune("plan", *command[1:], *own, "data.max_length=120", "resume=none")
    assert planned[0] == 0, planned[2]
    assert finetune(*command, "data.window=50", "resume=none")[0] == 0
    streamed = metrics(tmp_path)
    plain = [word for word in command if word != "data.streaming=true"]
    assert finetune(*plain, "resume=none")[0] == 0
    assert metrics(tmp_path) == streamed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("data.streaming=true", "data.eval_share=0"), "training.max_steps: is needed with data.streaming: "),
        (("data.streaming=true", "training.max_steps=2"), "data.eval_share: needs all rows, which data.streaming "),
        (("data.window=9",), "data.window: has no effect without data.streaming; leave it out"),
        *(
            (("data.streaming=true", "data.eval_share=0", "training.max_steps=2", given), f"{given.split('=')[0]}: is ")
            for given in ("data.weights=[2]", "data.counts=[9]", "data.group_by=[messages]", "data.limit=9")
        ),
        (
            ("data.streaming=true", "data.eval=rows.jsonl", "training.max_steps=2", "data.allow_contamination=true"),
            "data.allow_contamination: is about all rows, and data.streaming knows only those of a window; delete ",
        ),
        (
            ("data.streaming=true", "data.eval_share=0", "training.max_steps=2", "data.window=5"),
            "data.window: the first window has 5 rows, fewer than the 8 of a step; raise it",
        ),
    ],
)
def test_what_a_stream_cannot_do_is_refused_with_its_mend(
    finetune: Run, rows: Path, more: tuple[str, ...], said: str
) -> None:
    code, _, err = finetune("plan", "model=tiny", "data.train=rows.jsonl", *more)
    assert (code, err.count("error: ")) == (2, 1) and err.startswith(f"error: {said}"), err


def test_a_bad_row_in_a_later_window_ends_the_run_which_can_go_on(finetune: Run, tmp_path: Path, rows: Path) -> None:
    good = rows.read_text()
    bad = good.splitlines(keepends=True)
    bad[33] = '{"messages": [{"role": "user", "content": "and?"}]}\n'
    rows.write_text("".join(bad))
    command = ("train", *STREAM, f"data.train={rows}", "data.window=10", "training.max_steps=14")
    code, _, err = finetune(*command, "training.save_every=2")
    assert code == 2, err
    assert err.splitlines()[-1].startswith(f"error: {rows}:34 messages: "), err
    assert "Traceback" not in err
    last = metrics(tmp_path)[-1]["step"]
    assert 2 <= last <= 7  # windows 1 and 2 are trained, or less
    rows.write_text(good)
    assert "the rows differ" in finetune(*command)[2]
    code, _, err = finetune(*command, "allow_change=[data]")
    assert code == 0, err
    assert "continuing from step" in err and [row["step"] for row in metrics(tmp_path)] == list(range(1, 15))


def test_a_later_window_that_holds_a_held_out_row_is_refused(finetune: Run, tmp_path: Path, rows: Path) -> None:
    words = " ".join(f"word{number}" for number in range(30))
    held = chat_row(1000)
    held["messages"][0]["content"] = words
    every = [json.loads(line) for line in rows.read_text().splitlines()]
    write_rows(rows, [*every[:40], held, *every[40:]])
    eval_rows = write_rows(tmp_path / "eval.jsonl", [held])
    command = [word for word in STREAM if word != "data.eval_share=0"]
    code, _, err = finetune(
        "train", *command, f"data.train={rows}", f"data.eval={eval_rows}", "data.window=10", "training.max_steps=14"
    )
    assert code == 2, err
    assert f"error: {eval_rows}:1: this held-out row is trained on too, at {rows}:41; " in err
    assert not any("eval_loss" in row for row in metrics(tmp_path)[:2])


def test_other_rows_under_the_same_name_are_refused(finetune: Run, rows: Path) -> None:
    command = ("train", *STREAM, f"data.train={rows}", "data.window=20")
    assert finetune(*command, "training.max_steps=2")[0] == 0
    times = rows.stat()
    os.utime(rows, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    code, _, err = finetune(*command, "training.max_steps=4")
    assert code == 2 and "the rows differ" in err
    os.utime(rows, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert finetune(*command, "training.max_steps=4")[0] == 0


def test_a_window_that_is_made_again_must_be_what_it_was(finetune: Run, tmp_path: Path, rows: Path) -> None:
    command = ("train", *STREAM, f"data.train={rows}", "data.window=8")
    assert finetune(*command, "training.max_steps=14")[0] == 0
    path = tmp_path / "runs" / "x" / "windows" / "windows.json"
    kept = json.loads(path.read_text())
    kept["windows"][2]["digest"] = "0" * 64
    path.write_text(json.dumps(kept))
    code, _, err = finetune(*command, "training.max_steps=30")
    assert code == 2 and f"error: {rows}:17: this row, or one after it, is not what it was; " in err, err
    assert metrics(tmp_path)[-1]["step"] <= 16  # the rows of the third window begin in the next step


def test_killed_in_a_later_window_it_ends_in_the_same_weights(tmp_path: Path, rows: Path) -> None:
    command = ["train", *STREAM, f"data.train={rows}", "data.window=9", "training.max_steps=40",
               "training.save_every=5", "tuning.dropout=0.1"]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert child.run(command, whole) == 0, (whole / "child.log").read_text()
    for step in (8, 28):  # in the first pass over the rows, and in the third
        killed = child.start(command, broken)
        child.wait_for_step(broken / "runs" / "x" / "metrics.jsonl", step, killed)
        killed.kill()
        killed.join()
        for file in (broken / "runs" / "x" / "windows").glob("*/train/data-*.arrow"):
            os.truncate(file, file.stat().st_size // 2)  # as a machine may leave them that loses its power
    assert child.run(command, broken) == 0, (broken / "child.log").read_text()
    assert json.loads((broken / "runs" / "x" / "outcome.json").read_text())["status"] == "resumed"
    assert metrics(broken) == metrics(whole) and len(metrics(whole)) == 40
    assert weights_hash(broken) == weights_hash(whole)
    assert [path.name for path in (broken / "runs" / "x" / "windows").iterdir()] == ["windows.json"]


def test_two_ranks_and_workers_see_the_same_rows_in_the_same_steps(finetune: Run, tmp_path: Path, rows: Path) -> None:
    common = [*(word for word in STREAM if word != "training.batch_size=4"), f"data.train={rows}", "data.window=11",
              "training.max_steps=15"]  # fmt: skip
    assert finetune("train", *common, "training.batch_size=4", "training.accumulation=2")[0] == 0
    alone = metrics(tmp_path)
    both = [
        *common,
        "training.batch_size=4",
        "launch.processes=2",
        "method.trl.dataloader_num_workers=1",
        "resume=none",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "train", *both],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(alone) == 15 and len(metrics(tmp_path)) == 15
    for one, two in zip(alone, metrics(tmp_path), strict=True):
        assert abs(one["loss"] - two["loss"]) <= 1e-5 and one["tokens"] == two["tokens"]


def test_a_bad_row_that_ranks_come_to_is_told_as_in_one_process(tmp_path: Path, rows: Path) -> None:
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([*lines[:40], "{\n", *lines[40:]]))
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "train", *STREAM, f"data.train={rows}", "data.window=12",
         "training.max_steps=30", "launch.processes=2"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {rows}:41: not valid JSON"), done.stderr


def processes_under(pid: int) -> set[int]:
    """A process and all that came from it."""
    found = {pid}
    while True:
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(entry.parent.name)] = int(fields[1])
        more = {child for child, parent in parents.items() if parent in found} | found
        if more == found:
            return found
        found = more


def test_ctrl_c_leaves_no_process_and_no_half_window(tmp_path: Path) -> None:
    """With windows so large that other processes prepare them, and a signal while they do."""
    rows = write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(90_000)])
    run = child.start(
        ["train", *STREAM, f"data.train={rows}", "data.window=30000", "training.max_steps=9000"], tmp_path
    )
    child.wait_for_step(tmp_path / "runs" / "x" / "metrics.jsonl", 1, run)
    deadline = time.monotonic() + 60
    while len(all_of := processes_under(run.pid or 0)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)  # until those that prepare windows are there
    assert len(all_of) >= 3 or (os.cpu_count() or 1) == 1
    os.kill(run.pid or 0, signal.SIGINT)
    started = time.monotonic()
    run.join(60)
    assert run.exitcode == 130 and time.monotonic() - started < 30, (tmp_path / "child.log").read_text()
    assert re.search(r"stopped at step \d+, saved; continue with:", (tmp_path / "child.log").read_text())
    gone = time.monotonic() + 10
    while (left := [pid for pid in all_of if Path(f"/proc/{pid}").exists()]) and time.monotonic() < gone:
        time.sleep(0.05)
    assert left == []
    kept = {path.name for path in (tmp_path / "runs" / "x" / "windows").iterdir()}
    assert kept <= {"windows.json", "1", "2"}
