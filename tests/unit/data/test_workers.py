"""Rows encoded by several processes: the same bytes and faults as by one, and nobody left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from rows import question

from finetune.data import prepare as prepare_module
from finetune.data import shards, workers
from finetune.data.prepare import PreparedData, lengths, open_rows, read_rows
from finetune.errors import UserError

Run = Callable[..., PreparedData]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ten rows, and processes from twenty rows on."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(prepare_module, "MANY_ROWS", 20)


def contents(prepared: PreparedData) -> dict[str, bytes]:
    """Every file of a prepared folder, by its name."""
    folder = Path(prepared.folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.arrow")}


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two processes encode; gives how many there were whenever some were started."""
    started: list[int] = []
    start = workers.Workers.start

    def counted(self: workers.Workers) -> None:
        start(self)
        started.append(len(self._processes))

    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers.Workers, "start", counted)
    return started


@pytest.mark.usefixtures("small_shards")
def test_two_processes_write_the_same_bytes_as_one(
    write_rows: Callable[..., str], run_prepare: Run, monkeypatch: pytest.MonkeyPatch, two_cores: list[int]
) -> None:
    path = write_rows([question(number, f"Answer {number}" * (number % 5 + 1)) for number in range(64)])
    together = run_prepare(path, eval_share=0.3)
    assert two_cores == [2]
    two = contents(together)
    shutil.rmtree(Path(together.folder).parent)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    assert run_prepare(path, eval_share=0.3) == together
    assert two_cores == [2, 0]
    assert contents(together) == two and len(two) > 6


@pytest.mark.usefixtures("small_shards")
def test_faults_that_processes_find_come_in_order_and_are_all_counted(
    write_rows: Callable[..., str], run_prepare: Run, tmp_path: Path, two_cores: list[int]
) -> None:
    path = write_rows([question(number, "Oslo " * 100) for number in range(41)])
    with pytest.raises(UserError) as caught:
        run_prepare(path, max_length=80, eval_share=0)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:{number}" for number in range(1, 21)]
    assert caught.value.total == 41 and two_cores == [2]
    assert not (tmp_path / "cache").exists()


HOLDS_WORKERS = """
import sys, time
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from finetune.data import workers
from finetune.tiny import PATH
workers.cores = lambda: 2
job = workers.Job("assistant", 100, (), "fail", "")
with workers.Workers(Path(sys.argv[1]), job, PreTrainedTokenizerFast.from_pretrained(PATH)) as held:
    held.start()
    print(*(process.pid for process in held._processes), flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_no_process_outlives_the_one_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_WORKERS, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 2 and all(Path(f"/proc/{child}").exists() for child in children)
    parent.send_signal(number)
    parent.wait(20)
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether a process is there, and not only waited for by whoever adopted it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("small_shards")
def test_many_files_are_one_dataset(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(25)]), eval_share=0)
    rows = datasets.load_from_disk(prepared.train.path)
    assert len(rows) == 25 == len(lengths(prepared.train)) == len(open_rows(prepared.train))
    asked = [row.messages[0]["content"] for row in read_rows(prepared.train)]  # type: ignore[union-attr]
    assert asked == [f"Question {number}?" for number in range(25)]
