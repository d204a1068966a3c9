"""`finetune data split`: whole clusters on either side, the same bytes again, and rows that are added move none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import WORDS, write_rows

from finetune.data.likeness.similar import near_between
from finetune.data.rows import Chat, compared

Run = Callable[..., tuple[int, str, str]]

FILES = ("train.jsonl", "heldout.jsonl", "left_out.jsonl", "split.json")


def prose(rng: random.Random, count: int) -> str:
    return " ".join(f"{rng.choice(WORDS)}{rng.randrange(300)}" for _ in range(count))


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = {"user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()], **more}


def tangled(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows with copies, near copies, shared questions, users, and many that follow one form."""
    rng = random.Random(seed)
    form = prose(rng, 40).split()
    found: list[dict[str, Any]] = []
    for number in range(count):
        earlier = rng.choice(found)["messages"] if found else None
        question, answer = prose(rng, 25), prose(rng, 25)
        kind = rng.choice(["new", "new", "copy", "near", "asked", "form"])
        if kind == "form":
            slots = [f"slot{rng.randrange(40)}" if place % 9 == 4 else word for place, word in enumerate(form)]
            answer = " ".join(slots)
        elif earlier and kind != "new":
            question = earlier[0]["content"]
            if kind in ("copy", "near"):
                answer = earlier[1]["content"] + (" finis" if kind == "near" else "")
            if kind == "near":
                question += " indeed"
        found.append(talk(question, answer, user=rng.choice([None, f"user {rng.randrange(count)}"]), number=number))
    return found


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def numbers(path: str) -> list[int]:
    return [row["number"] for row in read(path)]


def text(row: dict[str, Any]) -> str:
    return compared(Chat(tuple(row["messages"])))


@pytest.mark.parametrize("seed", range(3))
def test_no_row_shares_anything_with_the_other_side(finetune: Run, tmp_path: Path, seed: int) -> None:
    rows = tangled(seed, 400)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    code, out, err = finetune("data", "split", path, "data.group_by=[user]", "split.share=0.3", "--json")
    assert code == 0, err
    record = json.loads(out)
    train, held, left = read("split/train.jsonl"), read("split/heldout.jsonl"), read("split/left_out.jsonl")
    assert record["rows"] == {"read": 400, "train": len(train), "held_out": len(held), "left_out": len(left)}
    assert min(len(train), len(held), len(left)) > 3
    written = [*train, *held, *(row["record"] for row in left)]
    assert sorted(written, key=lambda row: row["number"]) == rows
    for shared in (
        lambda row: row["messages"][0]["content"],
        lambda row: row["user"],
        text,
    ):
        assert not {shared(row) for row in train} & {shared(row) for row in held} - {None}
    assert len(near_between(list(map(text, train)), list(map(text, held)))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_are_added_move_none(finetune: Run, tmp_path: Path, seed: int) -> None:
    rows = tangled(seed, 440)
    path = write_rows(tmp_path / "rows.jsonl", rows[:400])
    assert finetune("data", "split", path, "data.group_by=[user]")[0] == 0
    before = [numbers(f"split/{name}") for name in FILES[:2]]
    left = [row["row"] for row in read("split/left_out.jsonl")]
    write_rows(path, rows)
    code, _, err = finetune("data", "split", path, "data.group_by=[user]")
    assert code == 0, err
    assert [[number for number in numbers(f"split/{name}") if number < 400] for name in FILES[:2]] == before
    assert [row["row"] for row in read("split/left_out.jsonl") if row["row"] <= 400] == left
    assert sum(len(numbers(f"split/{name}")) for name in FILES[:2]) > sum(map(len, before))


def test_the_same_input_gives_the_same_bytes(finetune: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", tangled(7, 200))
    finetune("data", "split", path)
    first = [Path("split", name).read_bytes() for name in FILES]
    finetune("data", "split", path)
    assert [Path("split", name).read_bytes() for name in FILES] == first
    finetune("data", "split", path, "output=other")
    assert [Path("other", name).read_bytes() for name in FILES] == first
    assert sorted(path.name for path in Path("split").iterdir()) == sorted(FILES)


def test_training_on_one_file_and_holding_out_the_other_is_accepted(finetune: Run, tmp_path: Path) -> None:
    finetune("data", "split", write_rows(tmp_path / "rows.jsonl", tangled(8, 200)), "split.share=0.3")
    files = ("data.train=split/train.jsonl", "data.eval=split/heldout.jsonl")
    code, _, err = finetune("plan", "model=tiny", *files, "data.on_long=truncate")
    assert code == 0, err


def test_a_row_that_is_left_out_names_what_it_would_tie_together(finetune: Run, tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [talk(prose(rng, 25), prose(rng, 25), user="Ada"), talk(prose(rng, 25), prose(rng, 25), user="Ben")]
    rows.append(talk(rows[0]["messages"][0]["content"], prose(rng, 25), user="Ben"))
    path = write_rows(tmp_path / "rows.jsonl", rows)
    finetune("data", "split", path, "data.group_by=[user]")
    (left,) = read("split/left_out.jsonl")
    trained, held = f"{path}:1, which is trained on", f"{path}:2, which is held out"
    reason = f"has the same question as {trained}, and the same user as {held}"
    assert left == {"file": str(path), "row": 3, "reason": reason, "record": rows[2]}


def test_values_of_other_columns_stay_as_they_are(finetune: Run, tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(2)
    texts = [prose(rng, 20) for _ in range(8)]
    table = {
        "prompt": texts[:4],
        "completion": texts[4:],
        "score": [0.5, None, 1e-9, 3.0],
        "day": [datetime.date(2026, 1, day) for day in range(1, 5)],
        "tags": [["a"], [], None, ["b", "c"]],
        "of": [{"name": "x"}] * 4,
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    code, _, err = finetune("data", "split", "rows.parquet")
    assert code == 0, err
    written = {row["prompt"]: row for name in FILES[:2] for row in read(f"split/{name}")}
    days = [f"2026-01-0{day}" for day in range(1, 5)]
    assert [written[text] for text in texts[:4]] == [
        dict(zip(table, values, strict=True)) for values in zip(*{**table, "day": days}.values(), strict=True)
    ]


def test_files_of_several_layouts_are_written_in_one(finetune: Run, tmp_path: Path) -> None:
    rng = random.Random(3)
    alpaca = {"instruction": prose(rng, 20), "output": prose(rng, 20), "source": "x"}
    paths = [write_rows(tmp_path / "a.jsonl", [alpaca]), write_rows(tmp_path / "b.jsonl", [talk("Hello", "Hi")])]
    record = json.loads(finetune("data", "split", *paths, "--json")[1])
    assert record["written_as"] == "messages"
    assert read("split/train.jsonl") == [talk(alpaca["instruction"], alpaca["output"], source="x")]
    assert read("split/heldout.jsonl") == [talk("Hello", "Hi")]


@pytest.fixture
def split_before(finetune: Run, tmp_path: Path) -> Path:
    """Rows that were split already."""
    path = write_rows(tmp_path / "rows.jsonl", tangled(9, 60))
    assert finetune("data", "split", path)[0] == 0
    return path


def test_another_split_is_not_replaced_unasked(finetune: Run, split_before: Path) -> None:
    before = [Path("split", name).read_bytes() for name in FILES]
    code, _, err = finetune("data", "split", split_before, "split.share=0.4")
    assert code == 2
    assert err.startswith("error: output split: holds a split made with another share (0.1, now 0.4); choose")
    assert [Path("split", name).read_bytes() for name in FILES] == before
    assert finetune("data", "split", split_before, "split.share=0.4", "split.overwrite=true")[0] == 0
    assert Path("split/heldout.jsonl").read_bytes() != before[1]


@pytest.mark.parametrize("change", ["moved", "removed", "edited"])
def test_rows_that_are_no_longer_the_first_are_refused(finetune: Run, split_before: Path, change: str) -> None:
    before = [Path("split", name).read_bytes() for name in FILES]
    rows = tangled(9, 60)
    new = {
        "moved": [rows[1], rows[0], *rows[2:]],
        "removed": rows[:-1],
        "edited": [talk("x", "y", number=0), *rows[1:]],
    }
    write_rows(split_before, new[change])
    code, _, err = finetune("data", "split", split_before)
    assert code == 2 and "are no longer the first ones" in err and "split.overwrite=true" in err
    assert [Path("split", name).read_bytes() for name in FILES] == before
    assert finetune("data", "split", split_before, "split.overwrite=true")[0] == 0


def test_a_held_out_file_that_was_changed_is_not_replaced_unasked(finetune: Run, split_before: Path) -> None:
    with Path("split/heldout.jsonl").open("a") as file:
        file.write(json.dumps(talk("a", "b")) + "\n")
    code, _, err = finetune("data", "split", split_before)
    assert code == 2 and "heldout.jsonl was changed after it was written" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "data split: no rows are given"),
        (["x.jsonl", "split.share=0"], "split.share: must be"),
        (["x.jsonl", "split.share=1"], "split.share: must be"),
        (["x.jsonl", "data.group_by=[usr]"], "data.group_by: no row has a column 'usr'"),
        (["x.jsonl", "data.columns.prompt=q"], "x.jsonl:1 data.columns.prompt: the row has no column 'q'"),
        (
            ["same.jsonl"],
            "same.jsonl:1: all 2 rows belong together (the same text), so none can be held out; give more rows",
        ),
        (
            ["ada.jsonl", "data.group_by=[user]"],
            "ada.jsonl:1: all 2 rows belong together (the same user), so none can be held out; give more rows, or leave",
        ),
        (["text.jsonl"], "text.jsonl:1: is the only row, so none can be held out; give more rows"),
        (["x.jsonl", "text.jsonl"], "text.jsonl:1: the row is text, and those before it are chat"),
        (["bad.jsonl"], "bad.jsonl:1 messages: turn 1, the last, is from user"),
        (["split/train.jsonl"], "output split: split/train.jsonl is read and would be replaced"),
        (["x.jsonl", "data.eval=y.jsonl"], "data.eval: `finetune data split` has no such setting"),
    ],
)
def test_what_cannot_be_meant_is_refused(finetune: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    write_rows(tmp_path / "x.jsonl", [talk("a", "b", user="Ada"), talk("c", "d")])
    write_rows(tmp_path / "ada.jsonl", [talk("a", "b", user="Ada"), talk("c", "d", user="Ada")])
    write_rows(tmp_path / "same.jsonl", [talk("a", "b"), talk("a", "b")])
    write_rows(tmp_path / "text.jsonl", [{"text": "a"}])
    write_rows(tmp_path / "bad.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    if "split/train.jsonl" in arguments:
        finetune("data", "split", "x.jsonl")
    code, out, err = finetune("data", "split", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}"), err
