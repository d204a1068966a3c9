"""Training rows that are measured on too: refused with both places, unless that is allowed, which is then said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import error_lines
from rows import WORDS, write_rows

Run = Callable[..., tuple[int, str, str]]


def prose(seed: int, count: int = 10) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS[:16])}{rng.randrange(100)}" for _ in range(count))


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = {"user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()], **more}


TRAIN = [talk(prose(number), prose(number + 100)) for number in range(8)]
PASSAGE = prose(1000, 14)
LONG = prose(1001, 30)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Training rows and held-out rows, of which four stand among the former: whole, louder, in part, nearly."""
    train = [*TRAIN, talk(prose(50), f"{prose(51)} {PASSAGE}"), talk(LONG, "so")]
    held = [
        talk(prose(60), prose(61)),
        TRAIN[3],
        talk(prose(4).upper(), prose(104)),
        talk(prose(62), f"{PASSAGE} {prose(63)}"),
        talk(f"{LONG} indeed", "so"),
    ]
    return str(write_rows(tmp_path / "train.jsonl", train)), str(write_rows(tmp_path / "held.jsonl", held))


def test_every_overlap_is_refused_with_both_places(finetune: Run, files: tuple[str, str]) -> None:
    train, held = files
    code, out, err = finetune("train", "model=tiny", f"data.train={train}", f"data.eval={held}")
    assert (code, out) == (2, "")
    said = err.splitlines()
    assert len(said) == 4
    assert said[0].startswith(f"error: {held}:2: this held-out row is trained on too, at {train}:4; delete it")
    assert said[1].startswith(f"error: {held}:3: this held-out row is trained on too, at {train}:5; ")
    assert said[2].startswith(
        f"error: {held}:4: this held-out row is in part trained on too (9% of its runs of 13 words"
    )
    assert f"at {train}:9" in said[2] and PASSAGE.split()[0] in said[2]
    assert said[3].startswith(f"error: {held}:5: this held-out row is ") and f"at {train}:10" in said[3]
    assert all("data.allow_contamination=true" in line for line in said)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("words", "faults"), [(13, 4), (14, 4), (15, 3)])
def test_how_long_a_shared_run_may_be_is_a_setting(
    finetune: Run, files: tuple[str, str], words: int, faults: int
) -> None:
    train, held = files
    settings = ("model=tiny", f"data.train={train}", f"data.eval={held}", f"data.contamination_words={words}")
    code, _, err = finetune("plan", *settings)
    assert code == 2 and len(err.splitlines()) == faults


def test_rows_that_have_nothing_in_common_are_accepted(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", TRAIN)
    write_rows(tmp_path / "held.jsonl", [talk(prose(60), prose(61))])
    code, out, err = finetune("plan", "model=tiny", "data.train=train.jsonl", "data.eval=held.jsonl")
    assert code == 0 and "trained on too" not in out, err


def test_what_is_allowed_stands_in_the_plan_the_lineage_the_report_and_the_card(
    finetune: Run, files: tuple[str, str]
) -> None:
    train, held = files
    settings = (f"data.train={train}", f"data.eval={held}", "data.allow_contamination=true", "training.max_steps=1")
    code, out, err = finetune("train", "model=tiny", *settings, "name=x")
    assert code == 0, err
    said = "rows of data.eval are trained on too, which data.allow_contamination allows"
    assert said in out
    run = Path("runs/x")
    assert any(said in warning for warning in json.loads((run / "plan.json").read_text())["warnings"])
    data = json.loads((run / "lineage.json").read_text())["data"]
    assert data["allow_contamination"] is True
    counts = {entry["kind"]: entry["rows"] for entry in data["contamination"]}
    assert counts["same"] == 2 and sum(counts.values()) == 4
    assert {entry["key"] for entry in data["contamination"]} == {"data.eval"}
    card = (run / "adapter" / "README.md").read_text()
    assert f"## Evaluation\n\n4 {said}" in card
    assert finetune("evaluate", run, "evaluate.rows=2", "evaluate.max_new_tokens=2")[0] == 0
    assert said in (run / "report.md").read_text() and said in (run / "report.html").read_text()
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["held_out"]["split_fingerprint"] == data["held_out_fingerprint"]


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("exam.txt", f"\nfirst line\n{TRAIN[2]['messages'][0]['content']} {TRAIN[2]['messages'][1]['content']}\n", 3),
        ("exam.jsonl", json.dumps({"id": 1, "question": PASSAGE, "choices": ["a", "b"]}) + "\n", 1),
        ("exam.csv", f"prompt,completion\nx,y\n{PASSAGE},z\n", 3),
        ("exam.json", json.dumps([{"messages": []}, {"messages": [{"role": "user", "content": PASSAGE}]}]), 2),
    ],
)
def test_training_rows_of_a_benchmark_are_refused(
    finetune: Run, tmp_path: Path, files: tuple[str, str], name: str, content: str, row: int
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    settings = ("model=tiny", f"data.train={files[0]}", f"data.benchmarks={name}")
    code, _, err = finetune("plan", *settings)
    assert code == 2
    assert err.startswith(f"error: {name}:{row}: this row of a benchmark is "), err
    assert f"at {files[0]}:" in err
    said = err.splitlines()
    checking = ("data", "check", *settings[1:], "--json")
    code, out, err = finetune(*checking)
    assert code == 2 and error_lines(json.loads(out)) == [line.removeprefix("error: ") for line in said], err
    assert json.loads(out)["benchmark_rows"] and name in json.loads(out)["files"]
    code, out, err = finetune(*checking, "data.allow_contamination=true")
    assert code == 0 and json.loads(out)["remarks"][0].startswith("1 row of data.benchmarks is trained on too"), out
    code, out, err = finetune("plan", *settings, "data.allow_contamination=true", "--json")
    assert code == 0, err
    (entry,) = json.loads(out)["data"]["contamination"]
    assert (entry["key"], entry["rows"]) == ("data.benchmarks", 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"question": "a"}\n{"question": \n', "exam.jsonl:2: not valid JSON"),
        (b"", "exam.jsonl: no rows; the file is empty"),
    ],
)
def test_a_benchmark_that_cannot_be_read_is_named_alike(
    finetune: Run, tmp_path: Path, files: tuple[str, str], content: bytes, said: str
) -> None:
    (tmp_path / "exam.jsonl").write_bytes(content)
    settings = (f"data.train={files[0]}", "data.benchmarks=exam.jsonl")
    code, _, err = finetune("plan", "model=tiny", *settings)
    assert code == 2 and err.startswith(f"error: {said}"), err
    code, out, _ = finetune("data", "check", *settings, "--json")
    assert code == 2 and error_lines(json.loads(out)) == [err.splitlines()[0].removeprefix("error: ")]


def test_a_benchmark_that_changes_is_looked_at_again(finetune: Run, tmp_path: Path, files: tuple[str, str]) -> None:
    settings = ("model=tiny", f"data.train={files[0]}", "data.benchmarks=[exam.txt]")
    (tmp_path / "exam.txt").write_text("nothing of it\n")
    assert finetune("plan", *settings)[0] == 0
    (tmp_path / "exam.txt").write_text(f"nothing of it\n{PASSAGE}\n")
    assert finetune("plan", *settings)[0] == 2


def test_the_split_that_train_makes_itself_holds_whole_groups(finetune: Run, tmp_path: Path) -> None:
    rows = [talk(prose(number), prose(number + 100), user=f"user {number % 12}") for number in range(60)]
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = ("model=tiny", "data.train=rows.jsonl", "data.group_by=[user]", "data.eval_share=0.2")
    code, out, err = finetune("plan", *settings, "--json")
    assert code == 0, err
    data = json.loads(out)["data"]
    assert data["train"]["rows"] % 5 == 0 and data["held_out"]["rows"] % 5 == 0
    assert data["train"]["rows"] + data["held_out"]["rows"] == 60
    code, out, _ = finetune("data", "split", "rows.jsonl", "data.group_by=[user]", "split.share=0.2", "--json")
    assert json.loads(out)["rows"]["held_out"] == data["held_out"]["rows"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.eval=held.jsonl", "data.group_by=[user]"], "data.group_by: no row has a column 'user'"),
        (["data.eval_share=0", "data.group_by=[user]"], "data.group_by: has no effect"),
        (["data.group_by=[user]"], "data.group_by: no row has a column 'user'"),
        (["data.allow_contamination=true"], "data.allow_contamination: has no effect without data.eval or"),
        (["data.eval_share=0", "data.contamination_words=8"], "data.contamination_words: has no effect without"),
        (["data.eval=held.jsonl", "data.contamination_words=4"], "data.contamination_words: must be"),
        (["data.benchmarks=exam.jsonl"], "data.benchmarks exam.jsonl: no such file"),
    ],
)
def test_settings_without_effect_are_refused(finetune: Run, tmp_path: Path, settings: list[str], said: str) -> None:
    write_rows(tmp_path / "train.jsonl", TRAIN)
    write_rows(tmp_path / "held.jsonl", [talk(prose(60), prose(61))])
    code, out, err = finetune("plan", "model=tiny", "data.train=train.jsonl", *settings)
    assert (code, out) == (2, "")
    assert any(line.startswith(f"error: {said}") for line in err.splitlines()), err
