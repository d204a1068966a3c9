"""Which rows are held out, and how often rows are seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import WORDS, question

from finetune.data.clusters import HELD_OUT, LEFT_OUT, TRAIN
from finetune.data.load import Loaded
from finetune.data.prepare import PreparedData, read_rows
from finetune.data.rows import Chat, Row, Text, to_json
from finetune.data.split import MOST_ASKED, Splitter, repeat
from finetune.data.spool import Spool, SpoolWriter
from finetune.errors import UserError

Run = Callable[..., PreparedData]


def chat(number: int, question: str = "", answer: str = "") -> Chat:
    """A conversation that is like no other number's."""
    rng = random.Random(number)
    asked, given = (" ".join(f"{rng.choice(WORDS[:16])}{rng.randrange(10**6)}" for _ in range(12)) for _ in range(2))
    turns = {"user": question or asked, "assistant": answer or given}
    return Chat(tuple({"role": role, "content": content} for role, content in turns.items()))


def sides(rows: Sequence[Row], share: float = 0.1, seed: int = 42, groups: Sequence[str] = ()) -> list[int]:
    splitter = Splitter(share, seed, 13, ["user"] if groups else [])
    for number, row in enumerate(rows):
        splitter.add(row, [groups[number]] if groups else [])
    return [int(side) for side in splitter.split().sides]


ROWS = [chat(number) for number in range(200)]


def test_about_the_share_is_held_out() -> None:
    assert 10 < sides(ROWS).count(HELD_OUT) < 35


def test_other_seed_holds_out_other_rows() -> None:
    assert sides(ROWS, seed=1) != sides(ROWS, seed=2)


def test_equal_rows_stay_together_whatever_their_case_and_space() -> None:
    texts = [Text(" ".join(message["content"] for message in row.messages)) for row in ROWS]
    loud = [Text(row.text.upper().replace(" ", "  ")) for row in texts]
    marks = sides([*texts, *loud])
    assert marks[:200] == marks[200:] and set(marks) == {TRAIN, HELD_OUT}


def test_rows_that_ask_the_same_stay_together() -> None:
    again = [chat(number + 1000, question=row.messages[0]["content"]) for number, row in enumerate(ROWS)]
    marks = sides([*ROWS, *again])
    assert marks[:200] == marks[200:]


def test_system_words_are_no_question() -> None:
    rows = [replace(row, messages=({"role": "system", "content": "Be terse."}, *row.messages)) for row in ROWS]
    assert HELD_OUT in sides(rows)


def test_a_question_that_very_many_rows_ask_is_a_form() -> None:
    rows = [chat(number, question="What is this text about?") for number in range(MOST_ASKED + 100)]
    marks = sides(rows, 0.3)
    assert set(marks[:MOST_ASKED]) == {TRAIN}
    assert set(marks[MOST_ASKED:]) == {TRAIN, HELD_OUT}


def test_near_copies_stay_together() -> None:
    def varied(row: Chat) -> Chat:
        words = row.messages[1]["content"].split()
        return replace(row, messages=(row.messages[0], {**row.messages[1], "content": " ".join([*words, "again"])}))

    plain = [
        replace(row, messages=({"role": "user", "content": f"{number}?"}, row.messages[1]))
        for number, row in enumerate(ROWS)
    ]
    others = [
        replace(varied(row), messages=({"role": "user", "content": f"{number + 500}?"}, varied(row).messages[1]))
        for number, row in enumerate(plain)
    ]
    marks = sides([*plain, *others])
    assert marks[:200] == marks[200:] and set(marks) == {TRAIN, HELD_OUT}


def test_rows_of_one_group_stay_together_and_rows_of_none_stand_alone() -> None:
    users = [json.dumps(f"user {number % 40}") for number in range(160)] + [""] * 40
    marks = sides(ROWS, 0.2, groups=users)
    assert all(marks[number] == marks[number % 40] for number in range(160))
    assert set(marks[160:]) == {TRAIN, HELD_OUT}


def test_a_row_that_ties_both_sides_together_is_left_out_of_both() -> None:
    marks = sides(ROWS)
    train, held = ROWS[marks.index(TRAIN)], ROWS[marks.index(HELD_OUT)]
    tie = chat(999, question=train.messages[0]["content"])
    grouped = Splitter(0.1, 42, 13, ["user"])
    for row in ROWS:
        grouped.add(row, [json.dumps("Ada") if row is held else ""])
    grouped.add(tie, [json.dumps("Ada")])
    split = grouped.split()
    assert split.sides[200] == LEFT_OUT
    assert [(tie.kind, tie.side) for tie in split.ties[200]] == [
        ("the same question", TRAIN),
        ("the same user", HELD_OUT),
    ]


def spooled(path: Path, *counts: int) -> Spool:
    """So many rows of each source."""
    writer = SpoolWriter(path)
    for source, count in enumerate(counts):
        writer.extend(Loaded(f"{source}-{number}", "text", "a.jsonl", number + 1, source) for number in range(count))
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
    assert any("there is only one row, so none is held out" in warning for warning in prepared.warnings)


@pytest.mark.parametrize(
    ("rows", "settings", "joined"),
    [
        ([question(1)] * 3, {}, "the same text"),
        ([question(1, f"{word} {word}s") for word in WORDS[:3]], {}, "the same question"),
        ([{**question(number), "user": "Ada"} for number in range(3)], {"group_by": ["user"]}, "the same user"),
        ([question(1), question(1), {**question(1), "user": "Ada"}], {"group_by": ["user"]}, "the same text"),
    ],
)
def test_what_joined_all_rows_is_said(
    write_rows: Callable[..., str], run_prepare: Run, rows: list[Any], settings: dict[str, Any], joined: str
) -> None:
    prepared = run_prepare(write_rows(rows), **settings)
    assert prepared.held_out is None
    said = f"data.train: all rows belong together ({joined}), so none is held out; give data.eval, or say"
    assert any(warning.startswith(said) for warning in prepared.warnings), prepared.warnings


def test_share_that_is_asked_for_is_not_needed(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows([question(number) for number in range(20)]), eval_share=0)
    assert prepared.held_out is None and not prepared.warnings
    assert np.isclose(prepared.train.rows, 20)
