"""The files of a split: the same bytes and faults for any number of processes, one dataset for whoever reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from rows import question

from finetune.data import prepare as prepare_module
from finetune.data import shards
from finetune.data.prepare import PreparedData, lengths, open_rows, read_rows
from finetune.errors import UserError

Run = Callable[..., PreparedData]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ten rows, and processes from twenty rows on."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(shards, "MANY_ROWS", 20)


def contents(prepared: PreparedData) -> dict[str, bytes]:
    """Every file of a prepared folder, by its name."""
    folder = Path(prepared.folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.arrow")}


@pytest.mark.usefixtures("small_shards")
def test_two_processes_write_the_same_bytes_as_one(
    write_rows: Callable[..., str], run_prepare: Run, monkeypatch: pytest.MonkeyPatch, processes: list[int]
) -> None:
    path = write_rows([question(number, f"Answer {number}" * (number % 5 + 1)) for number in range(64)])
    together = run_prepare(path, eval_share=0.3)
    two = contents(together)
    shutil.rmtree(Path(together.folder).parent)
    monkeypatch.setattr(prepare_module, "cores", lambda: 1)
    assert run_prepare(path, eval_share=0.3) == together
    assert processes == [2, 0]
    assert contents(together) == two and len(two) > 6


@pytest.mark.usefixtures("small_shards")
def test_faults_that_processes_find_come_in_order_and_are_all_counted(
    write_rows: Callable[..., str], run_prepare: Run, tmp_path: Path, processes: list[int]
) -> None:
    path = write_rows([question(number, "Oslo " * 100) for number in range(41)])
    with pytest.raises(UserError) as caught:
        run_prepare(path, max_length=80, eval_share=0)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:{number}" for number in range(1, 21)]
    assert caught.value.total == 41 and processes == [2]
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("small_shards")
def test_many_files_are_one_dataset(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(25)]), eval_share=0)
    rows = datasets.load_from_disk(prepared.train.path)
    assert len(rows) == 25 == len(lengths(prepared.train)) == len(open_rows(prepared.train))
    asked = [row.messages[0]["content"] for row in read_rows(prepared.train)]  # type: ignore[union-attr]
    assert asked == [f"Question {number}?" for number in range(25)]
