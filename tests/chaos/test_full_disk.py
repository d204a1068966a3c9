"""A disk that fills up: the run fails with what to do, keeps its checkpoints, and goes on where there is room."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from refusals import Run
from rows import chat_row, write_rows

from finetune.checkpoint import verify

COMMAND = ("train", "model=tiny", "training.max_steps=6", "training.save_every=1", "training.eval_every=1", "name=x",
           "training.keep_checkpoints=6", "output_dir=small/runs")  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def test_row_84_a_disk_that_cannot_take_two_checkpoints_is_said_before_training(small: Path, finetune: Run) -> None:
    rows = write_rows(small.parent / "rows.jsonl", [chat_row(number) for number in range(100)])
    resize(small, "6500k")
    code, out, err = finetune(*COMMAND, f"data.train={rows}")
    assert (code, out) == (2, "")
    assert "error: output_dir small/runs: two checkpoints and the result need about " in err
    assert err.endswith(" MB are free; free space there, or choose another output_dir\n")
    assert not (small / "runs" / "x").exists()


@pytest.mark.parametrize("size", ["24k", "8m", "9m", "10m"])
def test_a_full_disk_is_said_and_the_run_goes_on_with_more_room(size: str, small: Path, finetune: Run) -> None:
    rows = write_rows(small.parent / "rows.jsonl", [chat_row(number) for number in range(100)])
    resize(small, size)
    code, _, err = finetune(*COMMAND, f"data.train={rows}")
    assert code == 1
    assert "bug of ours" not in err and "Traceback" not in err
    assert "disk full while writing" in err and "free space there, or choose another output_dir" in err
    sealed = [path.parent for path in small.glob("runs/x/checkpoints/*/MANIFEST.json")]
    assert size == "24k" or any(verify(folder) is None for folder in sealed)
    resize(small, "100m")
    code, out, err = finetune(*COMMAND, f"data.train={rows}", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == ("resumed" if any(verify(folder) is None for folder in sealed) else "finished")
