"""Which rows are held out, and how often rows are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import question

from finetune.data.load import Loaded
from finetune.data.prepare import PreparedData, read_rows
from finetune.data.rows import to_json
from finetune.data.split import hold_out, repeat
from finetune.data.spool import Spool, SpoolWriter
from finetune.errors import UserError

Run = Callable[..., PreparedData]

ROWS = [f"row {number}" for number in range(2000)]


def test_about_the_share_is_held_out() -> None:
    assert 150 < hold_out(ROWS, 0.1, 42).sum() < 250


def test_side_of_a_row_does_not_depend_on_the_others() -> None:
    marks = dict(zip(ROWS, hold_out(ROWS, 0.1, 42), strict=True))
    some = ROWS[700:50:-3]
    assert list(hold_out(some, 0.1, 42)) == [marks[row] for row in some]


def test_other_seed_holds_out_other_rows() -> None:
    assert (hold_out(ROWS, 0.1, 1) != hold_out(ROWS, 0.1, 2)).any()


def test_larger_share_holds_out_the_same_rows_and_more() -> None:
    small, large = hold_out(ROWS, 0.1, 42), hold_out(ROWS, 0.3, 42)
    assert (large[small]).all() and large.sum() > small.sum()


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.999999999])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_at_least_one_and_never_all(share: float, count: int) -> None:
    for seed in range(20):
        assert 1 <= hold_out(ROWS[:count], share, seed).sum() < count


def test_equal_rows_stay_together() -> None:
    marks = hold_out(ROWS + ROWS, 0.1, 42)
    assert (marks[: len(ROWS)] == marks[len(ROWS) :]).all()


@pytest.mark.parametrize(("rows", "share"), [(ROWS, 0.0), (["a"], 0.5), (["a", "a"], 0.5), ([], 0.5)])
def test_nothing_is_held_out(rows: list[str], share: float) -> None:
    assert not hold_out(rows, share, 42).any()


def spooled(path: Path, *counts: int) -> Spool:
    """So many rows of each source."""
    writer = SpoolWriter(path)
    for source, count in enumerate(counts):
        for number in range(count):
            writer.add(Loaded(f"{source}-{number}", "text", "a.jsonl", number + 1, source))
    return writer.close()


def test_a_source_is_repeated_or_a_seeded_part_of_it_taken(tmp_path: Path) -> None:
    rows = spooled(tmp_path / "rows", 100, 100, 100)
    all_rows = np.arange(300)
    seen = [rows[index].json for index in repeat(rows, all_rows, [200, 50, 125], 42).tolist()]
    counts = [sum(row.startswith(f"{source}-") for row in seen) for source in range(3)]
    assert counts == [200, 50, 125]
    assert len({row for row in seen if row.startswith("1-")}) == 50
    assert (repeat(rows, all_rows, [200, 50, 125], 42) == repeat(rows, all_rows, [200, 50, 125], 42)).all()
    assert (repeat(rows, all_rows, [200, 50, 125], 42) != repeat(rows, all_rows, [200, 50, 125], 43)).any()


def test_weights_apply_to_the_rows_that_are_trained_on(write_rows: Callable[..., str], run_prepare: Run) -> None:
    paths = [write_rows([{"text": f"{n}{i}"} for i in range(20)], f"{n}.jsonl") for n in "ab"]
    prepared = run_prepare(paths, weights=[2.0, 0.5], eval_share=0)
    texts = [row.text[0] for row in read_rows(prepared.train)]  # type: ignore[union-attr]  # all are texts
    assert (texts.count("a"), texts.count("b")) == (40, 10)


def test_counts_take_so_many_rows_and_repeat_where_there_are_fewer(
    write_rows: Callable[..., str], run_prepare: Run
) -> None:
    paths = [write_rows([{"text": f"{n}{i}"} for i in range(20)], f"{n}.jsonl") for n in "ab"]
    prepared = run_prepare(paths, counts=[50, 7], eval_share=0)
    texts = [row.text for row in read_rows(prepared.train)]  # type: ignore[union-attr]  # all are texts
    of_a = [text for text in texts if text[0] == "a"]
    assert (len(of_a), len(texts) - len(of_a)) == (50, 7)
    assert {of_a.count(text) for text in set(of_a)} == {2, 3} and len(set(of_a)) == 20
    assert len(set(texts)) == 27
    assert [rows for rows, _ in prepared.mixture] == [50, 7]
    assert sum(tokens for _, tokens in prepared.mixture) == prepared.train.tokens
    assert run_prepare(paths, counts=[50, 7], eval_share=0) == prepared


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"counts": [1]}, "1 counts for 2 sources"),
        ({"counts": [1, 0]}, "must be above 0"),
        ({"counts": [1, 1], "weights": [1.0, 1.0]}, "is set together with data.weights"),
        ({"counts": [1, 1], "eval_share": 0.999999}, "has no rows left to take 1 of"),
    ],
    ids=["too few", "nothing", "both", "none left"],
)
def test_wrong_counts_are_refused(
    settings: dict[str, Any], said: str, write_rows: Callable[..., str], run_prepare: Run
) -> None:
    paths = [write_rows([question(number)], f"{number}.jsonl") for number in (1, 2)]
    with pytest.raises(UserError) as caught:
        run_prepare(paths, **settings)
    (fault,) = caught.value.faults
    assert fault.where == "data.counts" and said in fault.what


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_wrong_weights_are_refused(weights: list[float], write_rows: Callable[..., str], run_prepare: Run) -> None:
    paths = [write_rows([question(1)], "a.jsonl"), write_rows([question(2)], "b.jsonl")]
    with pytest.raises(UserError) as caught:
        run_prepare(paths, weights=weights)
    assert caught.value.faults[0].where == "data.weights"


def test_held_out_rows_share_nothing_with_those_trained_on(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number % 60) for number in range(120)]))
    assert prepared.held_out is not None and prepared.held_out_from == "split"
    train, held = ({to_json(row) for row in read_rows(split)} for split in (prepared.train, prepared.held_out))
    assert train and held and not train & held
    assert prepared.train.rows + prepared.held_out.rows == 120
    assert any("60 of 120 rows repeat an earlier one" in warning for warning in prepared.warnings)


def test_row_that_is_in_both_files_is_refused(write_rows: Callable[..., str], run_prepare: Run) -> None:
    train = write_rows([question(number) for number in range(5)])
    held = write_rows([question(9), question(3)], "eval.jsonl")
    with pytest.raises(UserError) as caught:
        run_prepare(train, eval=held)
    (fault,) = caught.value.faults
    assert fault.where == f"{held}:2" and f"{train}:4" in fault.what


def test_rows_held_out_in_a_file_of_their_own(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(1)]), eval=write_rows([question(2)], "eval.jsonl"))
    assert prepared.held_out is not None
    assert (prepared.train.rows, prepared.held_out.rows, prepared.held_out_from) == (1, 1, "files")


def test_single_row_is_trained_on_and_said(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(1)]))
    assert (prepared.train.rows, prepared.held_out, prepared.held_out_from) == (1, None, "none")
    assert any("only one distinct row" in warning for warning in prepared.warnings)


def test_share_that_is_asked_for_is_not_needed(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(20)]), eval_share=0)
    assert prepared.held_out is None and not prepared.warnings
    assert np.isclose(prepared.train.rows, 20)
