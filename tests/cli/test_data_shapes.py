"""The verbs of data on pairs, votes and tasks: check, clean and split work on them as on conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import WORDS, write_rows

from finetune.data.formats import convert, detect
from finetune.data.rows import SHAPES, Row

Run = Callable[..., tuple[int, str, str]]


def asked(number: int) -> str:
    """A question that is no near copy of another number's."""
    return " ".join(f"{WORDS[number * step % len(WORDS)]}{number}" for step in (1, 3, 5, 7))


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def pair(number: int, **more: Any) -> dict[str, Any]:
    said = {"prompt": asked(number), "chosen": f"yes {number}", "rejected": f"no no {number}"}
    return {**said, "chosen": said["chosen"] + " indeed" * (number % 2 * 2), "number": number, **more}


KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "pairs": pair,
    "whole pairs": lambda n: {
        "chosen": turns(asked(n), f"yes {n}"),
        "rejected": turns(asked(n), f"nay {n}"),
        "number": n,
    },
    "votes": lambda n: {"messages": turns(asked(n), f"yes {n}"), "rating": "up" if n % 3 else "down", "number": n},
    "tasks": lambda n: {"prompt": asked(n), "answer": f"yes {n}", "number": n, "cases": [{"in": n}]},
}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row_of(values: dict[str, Any]) -> Row:
    return convert(detect(values, SHAPES) or "", values)


def checked(finetune: Run, *arguments: str) -> dict[str, Any]:
    _, out, err = finetune("data", "check", *arguments, "--json")
    assert out, err
    return dict(json.loads(out))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [(), ("model=tiny",)])
def test_nothing_is_found_in_sound_rows(kind: str, more: tuple[str, ...], finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", [KINDS[kind](number) for number in range(30)])
    found = checked(finetune, "t.jsonl", "check.near=false", *more)
    assert [(one["code"], one["samples"]) for one in found["problems"]] == []
    (shape,) = found["statistics"]["shapes"].items()
    assert shape == (kind.split()[-1][:-1], 30)
    assert found["statistics"]["votes"] == ({"up": 20, "down": 10} if kind == "votes" else None)


def test_the_tokens_of_both_sides_are_those_that_train_has(finetune: Run, tmp_path: Path) -> None:
    from finetune.config import DataConfig
    from finetune.data.prepare import prepare
    from finetune.model_files import inspect_model
    from finetune.tokenizer import load_tokenizer

    path = write_rows(tmp_path / "t.jsonl", [pair(number) for number in range(12)])
    found = checked(finetune, "t.jsonl", "model=tiny", "training.epochs=1")["statistics"]
    tokenizer = load_tokenizer(inspect_model("tiny"), None)
    facts = prepare(
        DataConfig(train=str(path), eval_share=0),
        learn="last",
        shapes=("pair",),
        tokenizer=tokenizer,
        max_length=512,
        seed=1,
        cache=str(tmp_path / "cache"),
    ).train
    assert (found["training"]["tokens"], found["learned_tokens"]) == (facts.tokens, facts.supervised_tokens)


def test_only_answers_that_are_to_be_given_are_judged(finetune: Run, tmp_path: Path) -> None:
    refusal = "I'm sorry, but I can't help with that."
    rows = [pair(number, rejected=refusal) for number in range(12)]
    votes = [{"prompt": asked(n), "completion": refusal, "label": n == 3} for n in range(12)]
    write_rows(tmp_path / "pairs.jsonl", [*rows, pair(12, chosen=refusal)])
    write_rows(tmp_path / "votes.jsonl", votes)
    for name, row in (("pairs.jsonl", 13), ("votes.jsonl", 4)):
        problems = {one["code"]: one for one in checked(finetune, name, "check.near=false")["problems"]}
        assert [sample["where"] for sample in problems["refusal"]["samples"]] == [f"{name}:{row}"]


def test_a_secret_in_a_rejected_answer_is_found_in_its_column(finetune: Run, tmp_path: Path) -> None:
    rows = [pair(number) for number in range(12)]
    write_rows(tmp_path / "t.jsonl", [*rows, pair(12, rejected="AKIAIOSFODNN7ABCDEFG")])
    (problem,) = (one for one in checked(finetune, "t.jsonl")["problems"] if one["code"] == "secret-key")
    (sample,) = problem["samples"]
    assert (sample["where"], sample["field"]) == ("t.jsonl:13", "rejected")
    assert sample["text"].startswith("turn 2 (rejected)")


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_keeps_the_records_of_one_question_on_one_side(kind: str, finetune: Run, tmp_path: Path) -> None:
    rows = [{**KINDS[kind](number % 20), "copy": number} for number in range(40)]
    write_rows(tmp_path / "t.jsonl", rows)
    code, _, err = finetune("data", "split", "t.jsonl", "output=out", "split.share=0.3")
    assert code == 0, err
    train, held = read(tmp_path / "out/train.jsonl"), read(tmp_path / "out/heldout.jsonl")
    assert sorted((*train, *held), key=lambda row: row["copy"]) == rows
    assert held and not {row["number"] for row in train} & {row["number"] for row in held}


def test_ties_are_left_out_of_a_split_and_told(finetune: Run, tmp_path: Path) -> None:
    rows = [{"prompt": asked(n), "completions": [f"a {n}", f"b {n}"], "scores": [n % 2, 1]} for n in range(20)]
    write_rows(tmp_path / "t.jsonl", rows)
    code, out, err = finetune("data", "split", "t.jsonl", "output=out", "--json")
    assert code == 0 and json.loads(out)["rows"]["read"] == 10
    assert "10 rows in which no answer is better than another: left out of both sides" in err


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cleaned_is_the_same_row_but_for_what_was_mended(kind: str, finetune: Run, tmp_path: Path) -> None:
    rows = [KINDS[kind](number) for number in range(20)]
    dirty = json.dumps(rows[7]).replace(asked(7), f"{asked(7)}\\u200b")
    lines = [*map(json.dumps, rows[:7]), dirty, *map(json.dumps, rows[8:]), json.dumps(rows[3])]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    steps = "clean.steps=[normalise,roles,invalid,secrets,exact,near,personal]"
    code, _, err = finetune("data", "clean", "t.jsonl", "output=out", steps)
    assert code == 0, err
    cleaned = read(tmp_path / "out/clean.jsonl")
    assert [row_of(values) for values in cleaned] == [row_of(values) for values in rows]
    assert [values["number"] for values in cleaned] == list(range(20))
    (reject,) = read(tmp_path / "out/rejects.jsonl")
    assert (reject["row"], reject["step"]) == (21, "exact")


def test_what_is_masked_has_one_name_on_both_sides(finetune: Run, tmp_path: Path) -> None:
    mail = "write to ann@corp-mail.com"
    pairs = [pair(0, prompt=mail, chosen="bob@corp-mail.com", rejected="ann@corp-mail.com"), pair(1)]
    tasks = [{"prompt": mail, "answer": "ann@corp-mail.com", "by": "ann@corp-mail.com"}, {"prompt": "b", "answer": "c"}]
    found = []
    for name, rows in (("pairs", pairs), ("tasks", tasks)):
        write_rows(tmp_path / f"{name}.jsonl", rows)
        assert finetune("data", "clean", f"{name}.jsonl", f"output={name}", "clean.steps=[personal]")[0] == 0
        found.append(read(tmp_path / name / "clean.jsonl")[0])
    assert found[0] == {**pairs[0], "prompt": "write to [EMAIL_1]", "chosen": "[EMAIL_2]", "rejected": "[EMAIL_1]"}
    assert found[1] == {"prompt": "write to [EMAIL_1]", "answer": "[EMAIL_1]", "by": "[EMAIL_1]"}


def test_votes_apart_are_no_copies(finetune: Run, tmp_path: Path) -> None:
    both = [{"prompt": asked(1), "completion": "yes " * 30, "label": vote} for vote in (True, False)]
    write_rows(tmp_path / "t.jsonl", [*both, both[0]])
    assert finetune("data", "clean", "t.jsonl", "output=out", "clean.steps=[exact,near]")[0] == 0
    assert [row["label"] for row in read(tmp_path / "out/clean.jsonl")] == [True, False]


def test_rows_of_two_shapes_are_cleaned_and_split_by_two_commands(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [pair(1)])
    write_rows(tmp_path / "b.jsonl", [{"messages": turns("c", "d")}])
    for verb in ("clean", "split"):
        code, _, err = finetune("data", verb, "a.jsonl", "b.jsonl", "output=out")
        assert code == 2 and "b.jsonl:1: the row is chat, and those before it are pair" in err


def test_a_run_names_the_methods_that_learn_from_its_rows(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", [pair(1)])
    code, _, err = finetune("plan", "model=tiny", "data.train=t.jsonl")
    assert code == 2 and err.startswith("error: t.jsonl:1: the rows are preference pairs (chosen, rejected)")
