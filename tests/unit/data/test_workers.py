"""Rows encoded by several processes: the same bytes and faults as by one, and nobody left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from rows import question

from finetune.data import prepare as prepare_module
from finetune.data import shards, workers
from finetune.data.prepare import PreparedData, lengths, open_rows, read_rows

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


@pytest.mark.usefixtures("small_shards")
def test_two_processes_write_the_same_bytes_as_one(
    write_rows: Callable[..., str], run_prepare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows([question(number, f"Answer {number}" * (number % 5 + 1)) for number in range(64)])
    started = []

    def start(self: workers.Workers) -> None:
        monkeypatch.setattr(workers, "cores", lambda: 2)
        original(self)
        started.append(len(self._processes))

    original = workers.Workers.start
    alone = run_prepare(path, eval_share=0.3)
    one = contents(alone)
    for file in Path(alone.folder).parent.glob("*.key"):
        file.unlink()
    Path(alone.folder, "prepared.json").unlink()
    monkeypatch.setattr(workers.Workers, "start", start)
    together = run_prepare(path, eval_share=0.3)
    assert started == [2] and together == alone
    assert contents(together) == one
    assert len(one) > 6


@pytest.mark.usefixtures("small_shards")
def test_many_files_are_one_dataset(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(25)]), eval_share=0)
    rows = datasets.load_from_disk(prepared.train.path)
    assert len(rows) == 25 == len(lengths(prepared.train)) == len(open_rows(prepared.train))
    asked = [row.messages[0]["content"] for row in read_rows(prepared.train)]  # type: ignore[union-attr]
    assert asked == [f"Question {number}?" for number in range(25)]
