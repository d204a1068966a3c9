"""`finetune data clean`: every row is accounted for, the same input gives the same bytes, nothing is left half-written."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import WORDS, write_rows

Run = Callable[..., tuple[int, str, str]]

SECRET = "ghp_" + "a1B2" * 9


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = {"user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()], **more}


def prose(seed: int, count: int = 30) -> str:
    """Words that are like no other seed's."""
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS)}{rng.randrange(1000)}" for _ in range(count))


def changed(text: str) -> str:
    """Nearly the same text."""
    return f"{text} finis"


ROWS: list[dict[str, Any]] = [
    talk(prose(0), prose(1), id=1),
    talk(prose(0), prose(1), id=2),
    talk(prose(0), changed(prose(1)), id=3),
    talk("zero\u200bwidth", prose(4), id=4),
    {"messages": [{"role": "Human", "content": "hello"}, {"role": "AI", "content": prose(5)}], "id": 5},
    {"messages": [{"role": "robot", "content": "hello"}], "id": 6},
    talk("my key", SECRET, id=7),
    talk(prose(8), "short", id=8),
    talk(prose(9), "as short", id=9),
]


def read(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def ids(path: Path | str) -> list[int]:
    return [row["id"] for row in read(path)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows of which each step finds one, with a broken line and a blank one among them."""
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], '{"messages": [', "", *lines[3:]]) + "\n", encoding="utf-8")
    return path


def test_every_row_is_kept_or_stands_among_the_rejects_with_its_reason(finetune: Run, rows: Path) -> None:
    code, out, err = finetune("data", "clean", rows, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["rows"] == {"read": 10, "kept": 5, "changed": 2, "rejected": 5}
    assert ids("cleaned/clean.jsonl") == [1, 4, 5, 8, 9]
    rejects = {row["row"]: row for row in read("cleaned/rejects.jsonl")}
    assert {row: found["step"] for row, found in rejects.items()} == {
        2: "exact",
        3: "near",
        4: "invalid",
        8: "invalid",
        9: "secrets",
    }
    assert rejects[2]["reason"] == f"the same as {rows}:1"
    assert rejects[3]["reason"].endswith(f"of {rows}:1")
    assert rejects[4]["line"] == '{"messages": [' and "not valid JSON" in rejects[4]["reason"]
    assert [rejects[row]["record"] for row in (2, 3, 8, 9)] == [ROWS[1], ROWS[2], ROWS[5], ROWS[6]]
    assert SECRET not in rejects[9]["reason"]


def test_each_step_counts_what_it_kept_changed_and_dropped(finetune: Run, rows: Path) -> None:
    record = json.loads(finetune("data", "clean", rows, "--json")[1])
    found = {step["step"]: (step["kept"], step["changed"], step["dropped"]) for step in record["steps"]}
    assert found == {
        "normalise": (9, 1, 0),
        "roles": (9, 1, 0),
        "invalid": (8, 0, 2),
        "secrets": (7, 0, 1),
        "exact": (6, 0, 1),
        "near": (5, 0, 1),
    }
    assert json.loads(Path("cleaned/clean.json").read_text()) == {k: v for k, v in record.items() if k != "output"}


def test_a_row_that_no_step_changed_is_as_it_was(finetune: Run, rows: Path) -> None:
    finetune("data", "clean", rows)
    kept = read("cleaned/clean.jsonl")
    assert [kept[0], *kept[3:]] == [ROWS[0], *ROWS[7:]]
    assert kept[1] == talk("zerowidth", prose(4), id=4)
    assert kept[2] == talk("hello", prose(5), id=5)


def test_the_same_input_gives_the_same_bytes(finetune: Run, rows: Path) -> None:
    names = ("clean.jsonl", "rejects.jsonl", "clean.json")
    finetune("data", "clean", rows)
    first = [Path("cleaned", name).read_bytes() for name in names]
    finetune("data", "clean", rows)
    assert [Path("cleaned", name).read_bytes() for name in names] == first
    assert sorted(path.name for path in Path("cleaned").iterdir()) == sorted(names)


def test_clean_rows_stay_as_they_are(finetune: Run, rows: Path) -> None:
    finetune("data", "clean", rows)
    record = json.loads(finetune("data", "clean", "cleaned/clean.jsonl", "output=again", "--json")[1])
    assert record["rows"] == {"read": 5, "kept": 5, "changed": 0, "rejected": 0}
    assert Path("again/clean.jsonl").read_bytes() == Path("cleaned/clean.jsonl").read_bytes()


def test_what_is_kept_can_be_trained_on(finetune: Run, rows: Path) -> None:
    finetune("data", "clean", rows)
    code, _, err = finetune("plan", "model=tiny", "data.train=cleaned/clean.jsonl", "data.on_long=truncate")
    assert code == 0, err


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (["clean.keep=last"], [3, 4, 5, 8, 9]),
        (["clean.keep=longest"], [3, 4, 5, 8, 9]),
        (["clean.keep=highest", "clean.keep_by=id"], [3, 4, 5, 8, 9]),
        (["clean.steps=[roles,invalid,secrets,exact]"], [1, 3, 4, 5, 8, 9]),
        (["clean.steps=[roles,invalid,exact]", "clean.keep=last"], [2, 3, 4, 5, 7, 8, 9]),
        (
            ["clean.steps=[roles,invalid,secrets,length,near]", "clean.length.low=30", "clean.length.of=answers"],
            [1, 4, 5],
        ),
        (
            [
                "clean.steps=[roles,invalid,secrets,length,exact]",
                "model=tiny",
                "clean.length.unit=tokens",
                "clean.length.high=60",
                "clean.length.of=answers",
            ],
            [8, 9],
        ),
    ],
)
def test_steps_and_copies_are_chosen(finetune: Run, rows: Path, settings: list[str], kept: list[int]) -> None:
    code, _, err = finetune("data", "clean", rows, *settings)
    assert code == 0, err
    assert ids("cleaned/clean.jsonl") == kept


def test_the_newest_copy_is_kept_by_a_date(finetune: Run, tmp_path: Path) -> None:
    days = ["2026-01-09", "2026-02-01", None, "2025-12-31"]
    path = write_rows(tmp_path / "rows.jsonl", [talk(prose(0), prose(1), id=n, day=day) for n, day in enumerate(days)])
    finetune("data", "clean", path, "clean.keep=highest", "clean.keep_by=day")
    assert ids("cleaned/clean.jsonl") == [1]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([datetime.date(2025, 1, 9), datetime.date(2026, 1, 1), None], [1]),
        ([datetime.datetime(2026, 1, 1, 8), datetime.datetime(2026, 1, 1, 7), None], [0]),
        ([1.5, None, 2.5], [2]),
    ],
)
def test_the_copy_is_chosen_by_the_dates_and_numbers_of_a_table(
    finetune: Run, tmp_path: Path, values: list[Any], kept: list[int]
) -> None:
    pq.write_table(pa.table({"text": [prose(1)] * 3, "id": [0, 1, 2], "day": values}), tmp_path / "x.parquet")
    code, _, err = finetune("data", "clean", "x.parquet", "clean.keep=highest", "clean.keep_by=day")
    assert (code, err) == (0, "")
    assert ids("cleaned/clean.jsonl") == kept


def test_near_copies_with_other_answers_or_other_instructions_stay(finetune: Run, tmp_path: Path) -> None:
    question = prose(0, 60)
    system = [{"role": "system", "content": "Answer in French."}]
    rows = [
        talk(question, '{"order": 4411}', id=0),
        talk(changed(question), '{"order": 4412}', id=1),
        {"messages": [*system, *talk(question, '{"order": 4411}')["messages"]], "id": 2},
        talk(f"{question} !", '{"order": 4411}', id=3),
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    finetune("data", "clean", path)
    assert ids("cleaned/clean.jsonl") == [0, 1, 2]
    finetune("data", "clean", path, "clean.near.other_answers=true")
    assert ids("cleaned/clean.jsonl") == [0, 2]


def test_rows_that_make_other_calls_are_no_copies(finetune: Run, tmp_path: Path) -> None:
    def row(city: str, number: int) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        turns = [{"role": "user", "content": prose(0)}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": turns, "id": number}

    path = write_rows(tmp_path / "rows.jsonl", [row("Oslo", 0), row("Rome", 1), row("Oslo", 2)])
    for number, steps in enumerate(["[near]", "[meaning] clean.meaning.model=tiny"]):
        finetune("data", "clean", path, *f"clean.steps={steps} output={number}".split())
        assert ids(f"{number}/clean.jsonl") == [0, 1]


def test_rows_of_a_foreign_layout_are_written_in_one_layout(finetune: Run, tmp_path: Path) -> None:
    odd = {"instruction": "Say\u200b it", "input": "", "output": prose(1), "source": "x"}
    plain = {"instruction": "Say that", "input": "", "output": prose(2), "source": "y"}
    finetune("data", "clean", write_rows(tmp_path / "same.jsonl", [plain]), "output=same")
    assert read("same/clean.jsonl") == [plain]
    finetune("data", "clean", write_rows(tmp_path / "odd.jsonl", [odd, plain]), "output=odd")
    assert read("odd/clean.jsonl") == [talk("Say it", prose(1), source="x"), talk("Say that", prose(2), source="y")]


def test_without_the_step_invalid_rows_are_refused_as_training_refuses_them(finetune: Run, rows: Path) -> None:
    code, _, err = finetune("data", "clean", rows, "clean.steps=[roles,exact]")
    assert code == 2 and f"error: {rows}:4: not valid JSON" in err
    assert not Path("cleaned").exists()


def test_a_row_that_a_later_step_empties_is_dropped(finetune: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [talk("\u200b", "b", id=1), talk("a", "b", id=2)])
    record = json.loads(finetune("data", "clean", path, "clean.steps=[invalid,normalise]", "--json")[1])
    assert ids("cleaned/clean.jsonl") == [2]
    assert record["steps"][0] == {"step": "invalid", "kept": 1, "changed": 0, "dropped": 1}
    assert "is empty" in read("cleaned/rejects.jsonl")[0]["reason"]


def test_a_table_that_cannot_be_read_is_refused_whole(finetune: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,completion\na,b\nc,d,e\n"open,f\n')
    code, _, err = finetune("data", "clean", "rows.csv")
    assert code == 2 and "rows.csv:3: 3 cells where the header has 2" in err and "never closed" in err
    assert not Path("cleaned").exists()


def test_what_is_interrupted_leaves_the_files_of_before(
    finetune: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune("data", "clean", rows)
    before = {path.name: path.read_bytes() for path in Path("cleaned").iterdir()}
    from finetune.data.clean import copies

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copies, "earlier_pairs", stop)
    assert finetune("data", "clean", rows, "clean.keep=last")[0] == 130
    assert {path.name: path.read_bytes() for path in Path("cleaned").iterdir()} == before
    assert finetune("data", "clean", rows, "output=new/folder")[0] == 130
    assert not Path("new").exists()


def test_where_nothing_is_kept_the_command_says_so(finetune: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("<!DOCTYPE html>\n", encoding="utf-8")
    code, out, err = finetune("data", "clean", "x.jsonl")
    assert code == 3 and "0 of 1 row, " in out and "1 row, with step and reason" in out
    assert err == "error: no row is kept; cleaned/rejects.jsonl says why\n"
    assert finetune("data", "clean", "x.jsonl", "--json")[0] == 3


def test_a_link_to_itself_is_named(finetune: Run, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "a.jsonl", [talk("a", "b")])
    (tmp_path / "rows" / "b.jsonl").symlink_to("b.jsonl")
    code, _, err = finetune("data", "clean", "rows")
    assert code == 2 and err.startswith("error: rows/b.jsonl: cannot be read: too many levels of symbolic links; ")


def test_a_link_to_what_would_be_replaced_is_refused(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [talk("a", "b"), talk("c", "d")])
    assert finetune("data", "clean", "x.jsonl")[0] == 0
    (tmp_path / "y.jsonl").symlink_to("cleaned/clean.jsonl")
    code, _, err = finetune("data", "clean", "y.jsonl")
    assert (code, err) == (2, "error: output cleaned: y.jsonl is read and would be replaced; choose another output\n")


def test_several_files_in_one_word_are_told_apart(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [talk("a", "b")])
    code, _, err = finetune("data", "clean", "x.jsonl,x.jsonl")
    assert code == 2 and err.endswith("; for several files write finetune data clean x.jsonl x.jsonl\n")


PASTA = (
    "Boil the water first, then add the salt and the pasta, stir it twice, and drain it after nine minutes or when it "
    "is soft enough for you."
)
MEANINGS = [
    talk("How do I cook pasta so that it is not too soft?", PASTA, id=0),
    talk("How  do I cook pasta so\nthat it is not too soft?", PASTA.replace(", ", ",\n"), id=1),
    talk("How do I cook pasta so that it is not very soft?", PASTA.replace("twice", "once"), id=2),
    talk("How do I cook pasta so that it is not too soft?", "Ask your mother.", id=3),
    talk("Which river flows through Vienna, and how long is it there?", "The Danube.", id=4),
    talk("Which river flows through Vienna, and how long is it there?", "The Rhine.", id=5),
    talk("Which river flows through Vienna, and how long is it so there?", "the Danube", id=6),
    talk("Name the planets, from the one nearest to the sun outwards.", prose(7), id=7),
]
BY_MEANING = ("clean.steps=[meaning]", "clean.meaning.model=tiny")


def test_of_rows_that_mean_the_same_one_is_kept(finetune: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", MEANINGS)
    record = json.loads(finetune("data", "clean", path, *BY_MEANING, "--json")[1])
    assert record["rows"] == {"read": 8, "kept": 5, "changed": 0, "rejected": 3}
    assert record["steps"] == [{"step": "meaning", "kept": 5, "changed": 0, "dropped": 3}]
    assert record["embedder"]["model"] == "tiny" and len(record["embedder"]["fingerprint"]) == 64
    assert ids("cleaned/clean.jsonl") == [0, 3, 4, 5, 7]
    rejects = {row["record"]["id"]: row for row in read("cleaned/rejects.jsonl")}
    assert {number: row["reason"].rpartition(" of ")[2].rpartition(" as ")[2] for number, row in rejects.items()} == {
        1: f"{path}:1",
        2: f"{path}:1",
        6: f"{path}:5",
    }
    assert rejects[1]["reason"] == f"means the same (cosine 1.000) as {path}:1"
    assert 0.95 <= float(rejects[2]["reason"].split("cosine ")[1][:5]) < 1
    assert all(row["step"] == "meaning" and row["record"] == MEANINGS[number] for number, row in rejects.items())


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (["clean.meaning.threshold=0.999"], [0, 2, 3, 4, 5, 6, 7]),
        (["clean.meaning.other_answers=true"], [0, 4, 7]),
        (["clean.keep=last"], [2, 3, 5, 6, 7]),
        (["clean.keep=highest", "clean.keep_by=id"], [2, 3, 5, 6, 7]),
        (["clean.keep=longest"], [1, 3, 5, 6, 7]),
    ],
)
def test_which_rows_mean_the_same_and_which_is_kept_are_settings(
    finetune: Run, tmp_path: Path, settings: list[str], kept: list[int]
) -> None:
    code, _, err = finetune("data", "clean", write_rows(tmp_path / "rows.jsonl", MEANINGS), *BY_MEANING, *settings)
    assert code == 0, err
    assert ids("cleaned/clean.jsonl") == kept


def test_other_instructions_and_plain_texts_are_told_apart_by_meaning_too(finetune: Run, tmp_path: Path) -> None:
    system = [{"role": "system", "content": "Answer in French."}]
    rows = [MEANINGS[0], {"messages": [*system, *MEANINGS[0]["messages"]], "id": 1}]
    finetune("data", "clean", write_rows(tmp_path / "rows.jsonl", rows), *BY_MEANING)
    assert ids("cleaned/clean.jsonl") == [0, 1]
    texts = [
        {"text": text, "id": number} for number, text in enumerate([PASTA, PASTA.replace("twice", "once"), prose(1)])
    ]
    finetune("data", "clean", write_rows(tmp_path / "texts.jsonl", texts), *BY_MEANING)
    assert ids("cleaned/clean.jsonl") == [0, 2]


def test_meanings_are_told_alike_every_time_and_in_any_order(finetune: Run, tmp_path: Path) -> None:
    names, settings = ("clean.jsonl", "rejects.jsonl", "clean.json"), ("clean.keep=highest", "clean.keep_by=id")
    found, rng = list[list[int]](), random.Random(0)
    rows = [*MEANINGS, *(talk(prose(number), prose(number + 100), id=number) for number in range(8, 30))]
    for _ in range(2):
        path = write_rows(tmp_path / "rows.jsonl", rows)
        bytes_of = []
        for _ in range(2):
            assert finetune("data", "clean", path, *BY_MEANING, *settings)[0] == 0
            bytes_of.append([Path("cleaned", name).read_bytes() for name in names])
        assert bytes_of[0] == bytes_of[1]
        found.append(sorted(ids("cleaned/clean.jsonl")))
        rng.shuffle(rows)
    assert found[0] == found[1] and 2 in found[0] and 0 not in found[0]


def test_a_record_that_is_no_row_means_the_same_as_none(finetune: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [MEANINGS[0], {"messages": 1}, {"messages": 2}, MEANINGS[1]])
    steps = ("clean.steps=[meaning,invalid]", "clean.meaning.model=tiny")
    record = json.loads(finetune("data", "clean", path, *steps, "--json")[1])
    assert [(step["kept"], step["dropped"]) for step in record["steps"]] == [(3, 1), (1, 2)]


def test_an_embedding_model_that_cannot_be_used_is_refused_before_reading(finetune: Run, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1}
    (tmp_path / "pickled" / "config.json").write_text(json.dumps({**config, "vocab_size": 9}))
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "coded").mkdir()
    (tmp_path / "coded" / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "config.json").write_text(
        json.dumps({**config, "model_type": "t5", "is_encoder_decoder": True})
    )
    said = {
        "both": "is an encoder-decoder model; use an encoder or a decoder of texts",
        "pickled": "has only pickled weights (pytorch_model.bin), which can run code when loaded",
        "coded": "this model needs Python code from its own repository; name a model of a kind that transformers has",
    }
    write_rows(tmp_path / "x.jsonl", [talk("a", "b")])
    for name, what in said.items():
        code, _, err = finetune("data", "clean", "x.jsonl", "clean.steps=[meaning]", f"clean.meaning.model={name}")
        assert code == 2 and what in err, err
        assert not Path("cleaned").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "data clean: no rows are given"),
        ([""], "data clean: must hold paths, got ''; such as finetune data clean my.jsonl"),
        (["x.jsonl", "clean.steps=[]"], "clean.steps: names no step"),
        (["x.jsonl", "clean.steps=[exact,exact]"], "clean.steps: names exact twice"),
        (["x.jsonl", "clean.steps=[exakt]"], "clean.steps: 'exakt' is not one of normalise"),
        (["x.jsonl", "clean.length.low=3"], "clean.length.low: has no effect"),
        (["x.jsonl", "clean.steps=[length]"], "clean.steps: length has no bounds"),
        (["x.jsonl", "clean.steps=[language]"], "clean.steps: language keeps none"),
        (["x.jsonl", "clean.steps=[language]", "clean.language.keep=[english]"], "clean.language.keep: 'english' is no"),
        (["x.jsonl", "clean.keep=highest"], "clean.keep: highest needs a column"),
        (["x.jsonl", "clean.keep_by=day"], "clean.keep_by: has no effect"),
        (["x.jsonl", "clean.steps=[invalid]", "clean.keep=last"], "clean.keep: has no effect"),
        (["x.jsonl", "model=tiny"], "model: has no effect"),
        (["x.jsonl", "clean.steps=[length]", "clean.length.low=1", "clean.length.unit=tokens"], "clean.length.unit: tokens need a model"),
        (["x.jsonl", "clean.steps=[meaning]"], "clean.meaning.model: the step meaning compares embeddings, and no model is named; name one"),
        (["x.jsonl", "clean.meaning.model=tiny"], "clean.meaning.model: has no effect: meaning is not among clean.steps; add meaning: clean.steps=[normalise,roles,invalid,secrets,exact,near,meaning]"),
        (["x.jsonl", *BY_MEANING, "clean.meaning.revision=main"], "clean.meaning.revision: has no effect on a local model"),
        (["x.jsonl", *BY_MEANING, "clean.meaning.threshold=1"], "clean.meaning.threshold: must be"),
        (["x.jsonl", *BY_MEANING, "model=tiny"], "model: has no effect"),
        (["x.jsonl", "data.split=test"], "data.split: has no effect"),
        (["x.jsonl", "clean.keep=highest", "clean.keep_by=day"], "clean.keep_by: no row has a column 'day'"),
        (["y.jsonl"], "data clean y.jsonl: no such file"),
        (["cleaned/clean.jsonl"], "output cleaned: cleaned/clean.jsonl is read and would be replaced"),
        (["x.jsonl", "output=x.jsonl"], "output x.jsonl: is a file where a folder is wanted"),
        (["x.jsonl", "output=other"], "output other: holds a clean.jsonl that this command has not written"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(finetune: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    write_rows(tmp_path / "x.jsonl", [talk("a", "b")])
    for folder in ("cleaned", "other"):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "clean.jsonl", [talk("a", "b")])
    (tmp_path / "cleaned" / "clean.json").write_text("{}")
    code, out, err = finetune("data", "clean", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}"), err
