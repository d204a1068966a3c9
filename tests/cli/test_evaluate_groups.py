"""From `data.group_by` to the verdict: rows of one user are trained on together, and count as one in the comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import NAMES, THINGS, WORDS, write_rows

from finetune.evaluate import stats

Run = Callable[..., tuple[int, str, str]]
TRAIN = ("train", "model=tiny", "data.train=rows.jsonl", "data.eval_share=0.5", "training.max_steps=2", "name=x")
ASK = ("evaluate.max_new_tokens=6", "evaluate.few_shot=1", "evaluate.metric=f1")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Four rows of each of twelve users."""
    found = []
    for number in range(48):
        asked = " ".join(WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 5, 7))
        turns = [("user", f"{asked} {number}."), ("assistant", f"{THINGS[number % 8]} {NAMES[number % 10]}")]
        messages = [{"role": role, "content": content} for role, content in turns]
        found.append({"messages": messages, "user": f"user {number % 12}"})
    write_rows(tmp_path / "rows.jsonl", found)
    return found


def test_groups_reach_the_comparison(finetune: Run, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    code, out, err = finetune(*TRAIN, "data.group_by=[user]")
    assert code == 0, err
    assert "held-out rows in " in out
    plan = json.loads((tmp_path / "runs" / "x" / "plan.json").read_text())
    held_out = plan["data"]["held_out"]
    assert 1 < held_out["groups"] == plan["reach"]["groups"] <= held_out["rows"] / 4
    code, out, err = finetune("evaluate", "runs/x", *ASK, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["held_out"]["rows"], result["held_out"]["groups"]) == (held_out["rows"], held_out["groups"])
    kept = [json.loads(line) for line in (tmp_path / "runs" / "x" / "answers.jsonl").read_text().splitlines()]
    users = {row["messages"][0]["content"]: row["user"] for row in rows}
    of_user = [next(user for asked, user in users.items() if asked in row["prompt"]) for row in kept]
    assert len(set(zip(of_user, (row["group"] for row in kept), strict=True))) == len(set(of_user))
    scores = {
        name: [row["answers"][name]["scores"]["f1"] for row in kept] for name in ("tuned", result["best_baseline"])
    }
    first, second = scores["tuned"], scores[result["best_baseline"]]
    found = stats.paired_difference(first, second, seed=result["seed"], clusters=of_user)
    entry = next(one for one in result["comparisons"] if one["against"] == result["best_baseline"])
    assert entry["interval"] == list(found.interval)
    assert entry["interval"] != list(stats.paired_difference(first, second, seed=result["seed"]).interval)
    assert entry["detectable"] == found.detectable


def test_a_schema_that_is_not_there_is_refused_before_training(finetune: Run, rows: list[dict[str, Any]]) -> None:
    code, out, err = finetune(*TRAIN, "evaluate.schema=gone.json", "evaluate.metric=json_schema")
    assert (code, out) == (2, "")
    assert err == "error: evaluate.schema gone.json: no such file or directory; give the file of a JSON schema\n"


def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(
    finetune: Run, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    assert finetune(*TRAIN)[0] == 0
    code, out, err = finetune("evaluate", "runs/x", "evaluate.metric=numeric")
    assert (code, out) == (2, "")
    assert err.startswith("error: runs/x held-out row 1 answer: does not end in a number (as those of ")
    assert err.count("\n") == 1
    assert "exact, contains, f1, rouge_l, bleu say something" in err
    assert not (tmp_path / "runs" / "x" / "eval.json").exists()
