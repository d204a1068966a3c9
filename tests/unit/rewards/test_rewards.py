"""Rewards by name and of one's own: what they pay, and what is refused before anything is paid."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paid import Judge

from finetune.errors import UserError
from finetune.rewards.judge import build
from finetune.rewards.known import REWARDS
from finetune.rewards.settings import Rewarded, faults_of


def pays(judge: Judge, name: str, answer: str, reference: Any = "42", **settings: Any) -> float | None:
    """What one reward pays for one answer."""
    return judge([name], **settings).score(["What?"], [answer], {"answer": [reference]}).totals[0]


@pytest.mark.parametrize(
    ("name", "settings", "answer", "reference", "value"),
    [
        ("exact", {}, " 42\n", "42", 1),
        ("exact", {}, "42.", "42", 0),
        ("choice", {}, "**YES**.", "yes", 1),
        ("contains", {}, "I think 42 it is", "42", 1),
        ("numeric", {}, "so it is 1,042", "1042 apples", 1),
        ("numeric", {}, "43", "42", 0),
        ("numeric", {"tolerance": 0.05}, "43", "42", 1),
        ("numeric", {}, "42", 42, 1),
        ("math", {}, "so we get $\\frac{2}{4}$", "0.5", 1),
        ("math", {}, "\\boxed{x^2 + 2x + 1}", "(x+1)^2", 1),
        ("math", {}, "\\boxed{x^2 + 2x}", "(x+1)^2", 0),
        ("math", {}, "no idea", "7", 0),
        ("regex", {"pattern": r"#### (\d+)"}, "thus #### 7", "hence #### 7", 1),
        ("regex", {"pattern": r"#### (\d+)"}, "thus 7", "hence #### 7", 0),
        ("json_valid", {}, '{"a": 1}', "42", 1),
        ("json_valid", {}, "{a: 1}", "42", 0),
        ("json_fields", {}, '{"a": 1, "b": 3}', {"a": 1, "b": 2}, 0.5),
        ("f1", {}, "a b", "a c", 0.5),
        ("rouge_l", {}, "a b", "a c", 0.5),
        ("bleu", {}, "a b c d e", "a b c d e", 1),
        ("format", {"tags": ["think", "answer"]}, "<think>hm</think>\n<answer>42</answer>", "42", 1),
        ("format", {"tags": ["think", "answer"]}, "<answer>42</answer><think>hm</think>", "42", 0),
        ("format", {"tags": ["think", "answer"]}, "<think>hm</think><answer>42</answer> and", "42", 0),
        ("format", {"tags": ["think", "answer"]}, "<think> </think><answer>42</answer>", "42", 0),
        ("format", {"tags": ["a"]}, "<a>42</a><a>42</a>", "42", 0),
        ("length", {"least_words": 2, "most_words": 4}, "one two three", "42", 1),
        ("length", {"least_words": 2, "most_words": 4}, "one", "42", 0.5),
        ("length", {"least_words": 2, "most_words": 4}, "1 2 3 4 5 6", "42", 0.5),
        ("length", {"least_words": 2, "most_words": 4}, "1 2 3 4 5 6 7 8 9", "42", 0),
        ("repetition", {}, "a b c a b c", "42", 0.75),
        ("repetition", {}, "a b", "42", 1),
        ("repetition", {}, "", "42", 0),
    ],
)
def test_rewards_by_name(
    judge: Judge, name: str, settings: dict[str, Any], answer: str, reference: Any, value: float
) -> None:
    assert pays(judge, name, answer, reference, **settings) == value


def test_json_is_held_against_a_schema(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["a"]}')
    assert pays(judge, "json_schema", '{"a": 1}', schema="schema.json") == 1
    assert pays(judge, "json_schema", '{"b": 1}', schema="schema.json") == 0
    with pytest.raises(UserError, match=r"schema nowhere\.json: no such file"):
        judge(["json_schema"], schema="nowhere.json")


def test_reasoning_is_judged_by_form_only(judge: Judge) -> None:
    answer = "<think>one two three</think>\n42"
    assert pays(judge, "exact", answer) == 1
    assert pays(judge, "length", answer, most_words=2) == 0
    rewards = judge(["exact", "format"], tags=["think", "answer"])
    given = ["<think>41?</think><answer> 42 </answer>", "42", "<think>42</think><answer>41</answer>"]
    scored = rewards.score(["What?"] * 3, given, {"answer": ["42"] * 3})
    assert scored.parts["exact"].values == (1, 1, 0)
    assert scored.totals == (2, 1, 1)


def test_the_sum_is_weighted_and_leaves_out_what_says_nothing(judge: Judge) -> None:
    source = "def half(completions, prompts):\n    return [None, 0.5, None]\n"
    rewards = judge(["exact", "reward.py:half"], source=source, reward_weights=[2.0, -1.0])
    scored = rewards.score(["?"] * 3, ["a", "a", "a"], {"answer": ["a", "a", None]})
    assert scored.totals == (2, 1.5, None)
    assert scored.parts["half"].values == (None, 0.5, None)
    assert scored.parts["exact"].values == (1, 1, None)


def test_a_function_gets_what_it_names_as_text(judge: Judge) -> None:
    source = (
        "def seen(completions, prompts, messages, level, full_completions, missing=3, *, answer):\n"
        "    ok = completions == ['42'] and prompts == ['What?'] and level == [7] and answer == ['42'] and missing == 3\n"
        "    ok = ok and full_completions == ['<think>x</think>42']\n"
        "    return [ok and [one['role'] for one in messages[0]] == ['system', 'user']]\n"
        "def every(completions, **columns):\n"
        "    return [sorted(columns) == ['answer', 'level', 'other']]\n"
    )
    rewards = judge(["reward.py:seen", "reward.py:every"], columns=["answer", "level", "other"], source=source)
    prompt = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
    ]
    answer = [{"role": "assistant", "content": "<think>x</think>42"}]
    scored = rewards.score([prompt], [answer], {"answer": ["42"], "level": [7], "other": [1]})
    assert scored.totals == (2,)


def test_a_function_that_fails_pays_nothing_and_is_counted(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    source = "def shaky(completions):\n    if 'bad' in completions:\n        raise KeyError('boom')\n    return [1] * len(completions)\n"
    rewards = judge(["reward.py:shaky", "exact"], source=source)
    caplog.set_level("WARNING")
    for _ in range(2):
        scored = rewards.score(["?"] * 2, ["bad", "a"], {"answer": ["a", "a"]})
        assert scored.parts["shaky"].values == (None, None) and scored.parts["shaky"].exceptions == 2
        assert scored.totals == (0, 1)
    assert caplog.text.count("KeyError: 'boom'") == 1
    assert rewards.score(["?"], ["a"], {"answer": ["a"]}).totals == (2,)


@pytest.mark.parametrize(
    "body", ["while True:\n        pass", "import re\n    re.match('(a+)+$', 'a' * 60 + 'b')\n    return [1, 1]"]
)
def test_a_function_that_takes_too_long_is_stopped(judge: Judge, body: str) -> None:
    source = f"def slow(completions):\n    if completions[0] == 'a':\n        return [1, 1]\n    {body}\n"
    rewards = judge(["reward.py:slow"], source=source, reward_timeout=0.2)
    for _ in range(2):
        scored = rewards.score(["?"] * 2, ["x", "y"], {})
        assert scored.parts["slow"].timeouts == 2 and scored.totals == (None, None)
    assert rewards.score(["?"] * 2, ["a", "b"], {}).totals == (1, 1)


def test_one_answer_that_takes_too_long_costs_the_others_nothing(judge: Judge) -> None:
    rewards = judge(["regex"], pattern="(?:a+)+$", reward_timeout=0.3)
    scored = rewards.score(["?"] * 3, ["aa", "a" * 60 + "b", "aa"], {"answer": ["aa"] * 3})
    assert scored.parts["regex"].values == (1, None, 1) and scored.parts["regex"].timeouts == 1


def test_what_is_no_number_is_counted(judge: Judge) -> None:
    source = "def odd(completions):\n    return [float('nan'), float('-inf'), 1]\n"
    paid = judge(["reward.py:odd"], source=source).score(["?"] * 3, ["a"] * 3, {}).parts["odd"]
    assert paid.values == (None, None, 1) and paid.not_finite == 2


def test_a_files_hash_is_kept_and_its_process_ends(judge: Judge, tmp_path: Path) -> None:
    source = "import os\ndef pid(completions):\n    return [os.getpid()]\n"
    rewards = judge(["reward.py:pid"], source=source)
    assert rewards.files == {str(tmp_path / "reward.py"): hashlib.sha256(source.encode()).hexdigest()}
    (process,) = rewards.score(["?"], ["a"], {}).totals
    assert process and int(process) != os.getpid()
    rewards.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("rewrd.py:f", "def f(completions): pass", "no such file in .*did you mean reward.py?"),
        ("reward.py:scor", "def score(completions): pass", "no function 'scor'; did you mean score?"),
        ("reward.py:f", "", "no function 'f'; it has none at all"),
        ("reward.py:weight", "weight = 3", "'weight' is not a function"),
        ("reward.py:f", "x = 1\ndef f(:\n", r"reward.py:2: is no Python: "),
        (
            "reward.py:f",
            "import nothing_of_the_kind\ndef f(): pass",
            r"reward.py:1: raises ModuleNotFoundError: No module",
        ),
        ("reward.py:f", "x = 1\n1 / 0", r"reward.py:2: raises ZeroDivisionError"),
        ("reward.py:f g", "def f(): pass", "names no function"),
        (
            "reward.py:f",
            "def f(completions, solutoin): pass",
            "wants solutoin, which is no column of the rows; rows have answer",
        ),
        ("reward.py:exact", "def exact(completions): return [1]", "two rewards are called exact"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(judge: Judge, name: str, source: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        judge(["exact", name] if name.endswith(":exact") else [name], source=source)


@pytest.mark.parametrize(
    ("settings", "where", "says"),
    [
        ({"rewards": []}, "method.rewards", "no reward is named"),
        ({"rewards": ["exacct"]}, "method.rewards", "did you mean exact?"),
        ({"rewards": ["exact", "exact"]}, "method.rewards", "named twice"),
        ({"rewards": ["exact"], "reward_weights": [1.0, 2.0]}, "method.reward_weights", "2 weights for 1 rewards"),
        ({"rewards": ["regex"]}, "method.rewards regex", "give pattern too"),
        ({"rewards": ["regex"], "pattern": "("}, "method.pattern", "no regular expression"),
        ({"rewards": ["json_schema"]}, "method.rewards json_schema", "give schema too"),
        ({"rewards": ["format"]}, "method.rewards format", "give tags too"),
        ({"rewards": ["format"], "tags": ["a b"]}, "method.tags", "no name of a tag"),
        ({"rewards": ["length"]}, "method.rewards length", "give least_words or most_words too"),
        ({"rewards": ["length"], "least_words": 3, "most_words": 2}, "method.least_words", "more than"),
        ({"rewards": ["exact"], "pattern": "a"}, "method.pattern", "as regex would"),
        ({"rewards": ["exact"], "tolerance": 0.1}, "method.tolerance", "as numeric would"),
        ({"rewards": ["exact"], "code_seconds": 3.0}, "method.code_seconds", "as code would"),
        ({"rewards": ["exact"], "reward_timeout": 3.0}, "method.reward_timeout", "as math, regex, json_schema would"),
    ],
)
def test_settings_without_sense_or_effect_are_refused(settings: dict[str, Any], where: str, says: str) -> None:
    faults = faults_of(Rewarded(**settings), settings, "method.")
    assert [fault.where for fault in faults] == [where, *[where] * (len(faults) - 1)]
    assert says in str(faults[0])


def test_every_setting_is_read_by_some_reward() -> None:
    from dataclasses import fields

    from finetune.rewards.known import readers
    from finetune.rewards.settings import ALWAYS

    assert {*readers(), *ALWAYS} == {one.name for one in fields(Rewarded)}


@pytest.mark.parametrize(
    ("settings", "columns", "says"),
    [
        ({"rewards": ["exact"]}, ["gold"], "exact compare with the right answer, and no row has a column answer"),
        ({"rewards": ["exact"], "reference": "god"}, ["gold"], "no row has a column god; there are gold"),
        ({"rewards": ["code"]}, ["answer"], "no row has the column tests, whose tests `code` runs"),
    ],
)
def test_a_column_that_is_missing_is_named(settings: dict[str, Any], columns: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build(Rewarded(**settings), columns, settings)


def test_the_right_answers_are_found(judge: Judge) -> None:
    assert judge(["exact"], columns=["target", "reference_answer"]).reference == "reference_answer"
    assert judge(["exact"], columns=["target", "reference_answer"], reference="target").reference == "target"


def test_without_the_package_mathematics_is_refused_by_name() -> None:
    program = (
        "import sys\nsys.modules['math_verify'] = None\nfrom finetune.rewards.judge import build\nfrom finetune.rewards.settings import Rewarded\n"
        "from finetune.errors import UserError\n"
        "try:\n    build(Rewarded(rewards=['math']), ['answer'])\nexcept (UserError, ValueError) as error:\n    print(error)\n"
    )
    root = str(Path(__file__).parents[3])
    hidden = "import importlib.util as u\nreal = u.find_spec\nu.find_spec = lambda name, *a: None if name == 'math_verify' else real(name, *a)\n"
    said = subprocess.run(
        [sys.executable, "-c", hidden + program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert "needs the package math-verify; install it: pip install 'finetune[math]'" in said.stdout


def test_rewards_are_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
    rows = {line.split("|")[1].strip().strip("`"): line for line in page.splitlines() if line.startswith("| `")}
    for name, reward in REWARDS.items():
        assert reward.pays_for in rows[name], name
        for setting in reward.reads:
            assert f"`{setting}`" in rows[name], f"{name}: {setting}"


def test_a_function_that_ends_its_process_is_counted(judge: Judge) -> None:
    source = "import os\ndef gone(completions):\n    return os._exit(3) if completions == ['x'] else [1]\n"
    rewards = judge(["reward.py:gone"], source=source)
    assert rewards.score(["?"], ["x"], {}).parts["gone"].exceptions == 1
    assert rewards.score(["?"], ["a"], {}).totals == (1,)
    assert rewards.score([], [], {}).totals == ()


def test_a_methods_settings_take_those_of_rewards_in() -> None:
    from dataclasses import dataclass

    from finetune.config import MethodConfig
    from finetune.settings.catalogue import settings_of_kind
    from finetune.settings.reference import _base

    @dataclass
    class Config(MethodConfig, Rewarded):
        """A method that pays."""

    @dataclass
    class Other(MethodConfig):
        """A method that does not."""

    keys = {one.key for one in settings_of_kind(Config, "method.")}
    assert {"method.rewards", "method.reward_weights", "method.trl"} <= keys
    assert _base({"pays": Config, "other": Other}, MethodConfig) is MethodConfig
