"""`finetune reward verify`, from files to exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from paid import CITIES
from rows import write_rows

from finetune.errors import UserError
from finetune.settings.recipe import read_recipe

Finetune = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Questions with right answers, and some others."""
    found = [{"prompt": f"Capital of {at}?", "gold": CITIES[at % 8], "poor": "Atlantis", "n": at} for at in range(16)]
    return write_rows(tmp_path / "my.jsonl", found)


def test_fair_rewards_pass(finetune: Finetune, rows: Path) -> None:
    code, out, said = finetune("reward", "verify", "rewards=[exact,f1]", "reference=gold", "data=my.jsonl", "bad=poor")
    assert code == 0, said
    assert "exact holds" in out and "Tried on 16 rows" in out


def test_a_reward_that_can_be_cheated_is_a_closed_gate(finetune: Finetune, rows: Path) -> None:
    Path("reward.py").write_text(
        "def long(completions, gold):\n    print('said')\n    return [len(one) for one in completions]\n"
    )
    command = ("reward", "verify", "rewards=[exact,./reward.py:long]", "reference=gold", "my.jsonl", "rows=8")
    code, out, said = finetune(*command, "--json")
    found = json.loads(out)
    assert code == 3 and "error: rewards that fail: long, sum" in said
    assert (found["verdict"], found["rows"]) == ("fails", 8)
    assert [(one["name"], one["holds"]) for one in found["rewards"]] == [
        ("exact", True),
        ("long", False),
        ("sum", False),
    ]
    assert [*found["files"]] == [str(rows.parent / "reward.py")]
    assert set(found["rewards"][0]["tried"]["good"]) == {"median", "mean", "above", "troubles"}
    code, out, _ = finetune(*command)
    assert code == 3 and "long fails: it pays more than" in out


def test_good_and_bad_answers_come_from_files_too(finetune: Finetune, rows: Path) -> None:
    write_rows(rows.parent / "good.jsonl", [{"completion": f"It is {CITIES[at % 8]}"} for at in range(16)])
    code, out, said = finetune("reward", "verify", "rewards=[f1]", "reference=gold", "data=my.jsonl", "good=good.jsonl")
    assert code == 0 and re.search(r"^good +0\.5$", out, re.M), said
    code, out, _ = finetune("reward", "verify", "rewards=[f1]", "reference=gold", "data=my.jsonl", "bad=good.jsonl")
    assert code == 0 and re.search(r"^bad +0\.5", out, re.M)
    code, _, said = finetune("reward", "verify", "rewards=[f1]", "reference=gold", "data=my.jsonl", "good=god.jsonl")
    assert code == 2 and "error: good: 'god.jsonl' is neither a column of the rows nor a file" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rewards=[exact]"], "error: data: no file is given"),
        (["rewards=[exact]", "my.jsonl", "data=my.jsonl"], "error: data: 2 files are given"),
        (["rewards=[exact]", "data=mi.jsonl"], "did you mean my.jsonl?"),
        (["rewards=[exact]", "data=my.jsonl"], "error: reference: exact compare with the right answer"),
        (["rewards=[exat]", "data=my.jsonl"], "error: rewards: no reward 'exat'; did you mean exact?"),
        (["rewards=exact", "data=my.jsonl"], "write rewards=[exact]"),
        (["rewards=[exact]", "data=my.jsonl", "reference=gold", "pattern=a"], "error: pattern: has no effect"),
        (["rewards=[exact]", "data=odd.jsonl", "reference=gold"], "odd.jsonl:1: has neither messages"),
        (
            ["rewards=[exact]", "data=my.jsonl", "reward=x"],
            "error: reward: `finetune reward verify` has no such setting",
        ),
    ],
)
def test_wrong_usage_is_named(finetune: Finetune, rows: Path, words: list[str], says: str) -> None:
    write_rows(rows.parent / "odd.jsonl", [{"gold": "a"}])
    code, out, said = finetune("reward", "verify", *words)
    assert (code, out) == (2, "") and says in said


def test_a_recipe_runs_no_code_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, elsewhere = tmp_path / "recipe", tmp_path / "other.py"
    own.mkdir()
    elsewhere.write_text("def f(completions): pass\n")
    (own / "reward.py").write_text("def f(completions): pass\n")
    (own / "linked.py").symlink_to(elsewhere)
    monkeypatch.chdir(tmp_path)

    def read(path: str) -> object:
        (own / "recipe.yaml").write_text(f"method:\n  rewards: [exact, '{path}']\n")
        return next(one.value for one in read_recipe("recipe").settings if one.key == "method.rewards")

    assert read("./reward.py:f") == ["exact", "recipe/reward.py:f"]
    for path in ("./../other.py:f", "other.py:f", str(elsewhere) + ":f", "./linked.py:f"):
        with pytest.raises(UserError, match=r"recipe.yaml:2 method.rewards: .* lies outside the recipe's folder"):
            read(path)
