"""Rows that depend on each other: one group for a conversation, a user or a document, in every prepared row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rows import question

from finetune.data import shards
from finetune.data.groups import groups_of_rows
from finetune.data.prepare import PreparedData, read_groups, read_rows
from finetune.errors import UserError

Run = Callable[..., PreparedData]
Write = Callable[..., str]


def test_rows_with_a_value_in_common_are_one_group_by_whatever_chain() -> None:
    held = [("ada", "x"), ("ben", "y"), ("ben", "z"), ("", "x"), ("cleo", "z"), ("", "")]
    assert groups_of_rows(held).tolist() == [0, 1, 1, 0, 1, 5]
    tied_late = [("a", ""), ("b", ""), ("c", ""), ("b", "1"), ("c", "2"), ("", "2"), ("a", "2"), ("b", "2")]
    assert groups_of_rows(tied_late).tolist() == [0] * 8


def test_the_same_value_in_another_column_is_another_value() -> None:
    assert groups_of_rows([("a", ""), ("", "a"), ("", "")]).tolist() == [0, 1, 2]


def test_rows_without_a_group_are_each_their_own(write_rows: Write, run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(30)]), eval_share=0.3)
    for split in (prepared.train, prepared.held_out):
        assert split is not None
        assert split.groups == split.rows == len(set(read_groups(split)))


def users(count: int, each: int) -> list[dict[str, Any]]:
    return [{**question(number), "user": f"user {number % count}"} for number in range(count * each)]


def test_rows_of_one_user_are_one_group_on_both_sides(write_rows: Write, run_prepare: Run) -> None:
    prepared = run_prepare(write_rows(users(20, 3)), eval_share=0.3, group_by=["user"])
    for split in (prepared.train, prepared.held_out):
        assert split is not None
        named: dict[int, set[int]] = {}
        for group, row in zip(read_groups(split), read_rows(split), strict=True):
            number = int(row.messages[0]["content"].split()[1].rstrip("?"))  # type: ignore[union-attr]
            named.setdefault(group, set()).add(number % 20)
        assert split.rows == 3 * split.groups == 3 * len(named)
        assert all(len(of_group) == 1 for of_group in named.values())


def test_parts_of_a_conversation_that_is_unrolled_are_one_group(
    write_rows: Write, run_prepare: Run, family: Callable[[str], Any]
) -> None:
    turns = [
        {"role": "user", "content": "Capital?"},
        {"role": "assistant", "content": "<think>easy</think>Oslo"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes"},
    ]
    rows = [question(1), {"messages": turns}, question(2)]
    prepared = run_prepare(write_rows(rows), tokenizer=family("qwen3"), eval_share=0)
    assert read_groups(prepared.train) == [0, 1, 1, 2]
    assert (prepared.train.rows, prepared.train.groups) == (4, 3)


def test_a_row_that_is_seen_twice_is_one_group(write_rows: Write, run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(4)]), eval_share=0, weights=[2.0])
    assert Counter(read_groups(prepared.train)) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_several_processes_note_the_same_groups(
    write_rows: Write, run_prepare: Run, processes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(shards, "MANY_ROWS", 20)
    prepared = run_prepare(write_rows(users(16, 3)), eval_share=0, group_by=["user"])
    assert processes == [2]
    assert read_groups(prepared.train) == [number % 16 for number in range(48)]


def test_held_out_rows_of_their_own_file_have_groups_too(write_rows: Write, run_prepare: Run) -> None:
    train = write_rows([{**row, "user": f"old {row['user']}"} for row in users(10, 2)])
    held = [{**question(number), "user": f"user {number % 4}"} for number in range(50, 58)]
    prepared = run_prepare(train, eval=write_rows(held, "held.jsonl"), group_by=["user"])
    assert prepared.held_out is not None
    assert read_groups(prepared.held_out) == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.fixture
def shared(write_rows: Write) -> dict[str, Any]:
    """A held-out file of which two rows are of users that are trained on."""
    held = [{**question(number), "user": f"user {number}"} for number in (50, 3, 51, 7)]
    held = [{**row, **question(60 + place)} for place, row in enumerate(held)]
    return {"train": write_rows(users(10, 2)), "eval": write_rows(held, "held.jsonl"), "group_by": ["user"]}


def test_a_group_on_both_sides_is_refused_with_both_places(shared: dict[str, Any], run_prepare: Run) -> None:
    with pytest.raises(UserError) as caught:
        run_prepare(**shared)
    assert [fault.where for fault in caught.value.faults] == [f"{shared['eval']}:2", f"{shared['eval']}:4"]
    assert f"its user is that of a row that is trained on, at {shared['train']}:4" in caught.value.faults[0].what


def test_a_group_on_both_sides_that_is_allowed_is_said(shared: dict[str, Any], run_prepare: Run) -> None:
    prepared = run_prepare(**shared, allow_contamination=True)
    assert [(one.key, one.kind, one.rows) for one in prepared.contamination] == [("data.eval", "group", 2)]
    assert any("2 rows of data.eval are of a group that is trained on, which" in said for said in prepared.warnings)


def test_a_column_that_no_held_out_row_has_is_refused(write_rows: Write, run_prepare: Run) -> None:
    held = write_rows([question(number) for number in range(50, 54)], "held.jsonl")
    with pytest.raises(UserError, match=r"no row of data\.eval has a column 'user'"):
        run_prepare(write_rows(users(10, 2)), eval=held, group_by=["user"])


def test_rows_prepared_without_groups_are_not_taken_for_independent(
    write_rows: Write, run_prepare: Run, tmp_path: Path
) -> None:
    split = run_prepare(write_rows([question(number) for number in range(5)]), eval_share=0).train
    (file,) = Path(split.path).glob("*.arrow")
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all().drop_columns(["group"])
    (tmp_path / "old").mkdir()
    with pa.OSFile(str(tmp_path / "old" / file.name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="earlier version"):
        read_groups(replace(split, path=str(tmp_path / "old")))
