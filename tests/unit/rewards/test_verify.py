"""Rewards that can be cheated are found, those that cannot are let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from paid import Asks, Judge, asks, capitals, sums

from finetune.errors import UserError
from finetune.rewards.trial import trial
from finetune.rewards.verify import Verified, verify


def verified(judge: Judge, rewards: Sequence[str], rows: Sequence[Asks], source: str = "", **settings: Any) -> Verified:
    """The verdicts on rewards, with the right answers as good ones."""
    columns = [*rows[0].columns]
    return verify(judge(rewards, columns, source, **settings), rows, [str(row.columns["answer"]) for row in rows])


# Rewards that are worth nothing, and what must be said of them.
BAD = {
    "length": ("return [len(one) for one in completions]", "the question again"),
    "any answer": (
        "return [float(bool(one.strip())) for one in completions]",
        "as much as the 1 of good answers for: bad",
    ),
    "the question's words": (
        "return [len(set(p.split()) & set(c.split())) / len(set(p.split())) for p, c in zip(prompts, completions)]",
        "its words, stuffed",
    ),
    "the answer's words": (
        "return [len(set(a.split()) & set(c.replace(',', ' ').split())) / len(a.split()) for a, c in zip(answer, completions)]",
        "all options",
    ),
    "containment": ("return [a in c for a, c in zip(answer, completions)]", "all options"),
    "a constant": ("return [1] * len(completions)", "empty"),
    "a crash": ("return [float(c[0] == a[0]) for a, c in zip(answer, completions)]", "gives an exception on empty"),
    "its own score": (
        "import re\n    return [float((re.findall(r'score: ([0-9.]+)', c) or ['0'])[0]) for c in completions]",
        "score: 1.0",
    ),
    "an echo": ("return [float(p in c) for p, c in zip(prompts, completions)]", "the question again"),
    "no number": (
        "return [float('nan') if not c.strip() else float(a == c) for a, c in zip(answer, completions)]",
        "gives no number on empty",
    ),
    "the first letter": (
        "return [float(c[:1] == a[:1]) for a, c in zip(answer, completions)]",
        "first letter, then wrong",
    ),
    "praise": ("return [float(a == c) + 2 * ('highest score' in c) for a, c in zip(answer, completions)]", "praise"),
    "how often": ("return [c.count(a) for a, c in zip(answer, completions)]", "200 times"),
    "tags": ("return [float('<answer>' in c) for c in completions]", "tags only"),
    "other answers": ("return [float(a != c) for a, c in zip(answer, completions)]", "bad"),
    "nothing": ("return [None] * len(completions)", "says nothing of good answers"),
    "a list too short": ("return [1]", "gives an exception on good"),
    "now and then": (
        "return [float(a == c) + 3 * (p.endswith('4?') and c == p) for a, c, p in zip(answer, completions, prompts)]",
        "the question again",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rewards_are_found(judge: Judge, name: str) -> None:
    body, says = BAD[name]
    found = verified(judge, ["reward.py:bad"], capitals(), f"def bad(completions, prompts, answer):\n    {body}\n")
    assert found.failing[:1] == ("bad",)
    assert says in " ".join(found.verdicts[0].reasons)


@pytest.mark.parametrize(
    ("rewards", "rows", "settings"),
    [
        (["exact", "choice", "f1"], capitals(), {}),
        (["numeric", "math"], sums(), {}),
        (["regex"], sums(), {"pattern": r"is (\d+)"}),
        (["exact", "format", "length"], capitals(), {"tags": ["think", "answer"], "most_words": 30}),
        (["exact", "repetition"], capitals(), {"reward_weights": [1.0, 0.2]}),
        (
            ["json_fields", "json_valid"],
            [asks(f"Who is {at}?", answer={"id": at, "name": f"n{at}"}) for at in range(9)],
            {},
        ),
    ],
)
def test_fair_rewards_hold(judge: Judge, rewards: list[str], rows: list[Asks], settings: dict[str, Any]) -> None:
    if "json_fields" in rewards:
        from finetune.rewards.batch import as_text

        found = verify(judge(rewards), rows, [as_text(row.columns["answer"]) for row in rows])
    else:
        found = verified(judge, rewards, rows, **settings)
    assert found.failing == ()


def test_containment_of_ours_fails_too(judge: Judge) -> None:
    assert verified(judge, ["contains"], capitals()).failing == ("contains",)


def test_code_is_verified_by_its_tests(judge: Judge) -> None:
    rows = [
        asks(f"Write f that adds {at}.", answer=f"def f(x): return x + {at}", tests=[f"assert f(1) == {at + 1}"])
        for at in range(3)
    ]
    found = verified(judge, ["code"], rows)
    assert found.failing == ()
    assert found.verdicts[0].tried["good"].mean == 1 and found.verdicts[0].tried["fenced"].mean == 1


def test_what_pays_for_form_is_judged_in_the_sum(judge: Judge) -> None:
    source = "def brief(completions):\n    return [1 - min(len(one), 100) / 100 for one in completions]\n"
    together = verified(judge, ["exact", "reward.py:brief"], capitals(), source, reward_weights=[1.0, 0.2])
    assert together.failing == () and [one.judged for one in together.verdicts] == [True, False, True]
    assert verified(judge, ["reward.py:brief"], capitals(), source).failing == ("sum",)
    heavy = verified(judge, ["exact", "reward.py:brief"], capitals(), source, reward_weights=[1.0, 40.0])
    assert heavy.failing == ("sum",)


def test_answers_stand_in_the_tags(judge: Judge) -> None:
    rewards = judge(["contains", "format"], tags=["think", "answer"])
    found = verify(rewards, capitals(), [row.columns["answer"] for row in capitals()])
    assert found.verdicts[1].tried["good"].median == 1 and found.verdicts[1].tried["empty"].mean == 0
    assert found.failing == ("contains", "sum")


def test_rows_with_one_answer_need_bad_ones(judge: Judge) -> None:
    rows = [asks("Is it?", answer="yes")] * 4
    with pytest.raises(UserError, match="same right answer"):
        verify(judge(["exact"]), rows, ["yes"] * 4)
    assert verify(judge(["exact"]), rows, ["yes"] * 4, ["no"] * 4).failing == ()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return ['good'] * len(completions)", "holds a str, not numbers"),
        ("return 'good'", "gives a str, not a list of numbers"),
        ("return None", "gives a NoneType, not a list"),
        ("return [1.0]", "gives 1 numbers for 16 answers"),
        ("return [0.5 for _ in completions]", "pays everything the same, 0.5"),
        ("raise KeyError('colour')", "fails on every answer: KeyError: 'colour'"),
        ("return [float('inf')] * len(completions)", "fails on every answer"),
        ("return [None] * len(completions)", "says nothing of any answer"),
    ],
)
def test_a_trial_refuses_what_could_never_work(judge: Judge, body: str, says: str) -> None:
    rewards = judge(["exact", "reward.py:mine"], source=f"def mine(completions, answer):\n    {body}\n")
    with pytest.raises(UserError, match=says) as raised:
        trial(rewards, capitals())
    assert [fault.where for fault in raised.value.faults] == ["rewards mine"]


def test_a_trial_refuses_references_and_tests_that_fit_nothing(judge: Judge) -> None:
    with pytest.raises(UserError, match=r"16 of 16 right answers are none to it: 'Paris' does not end in a number"):
        trial(judge(["numeric"]), capitals())
    rows = [asks("f?", tests=["assert f(1) == 2"]), asks("g?", tests=["print(1)"])]
    with pytest.raises(UserError, match=r"row 2 tests: holds other lines than asserts"):
        trial(judge(["code"], columns=["tests"]), rows)


def test_a_trial_lets_what_works_through(judge: Judge) -> None:
    source = "def mine(completions, answer):\n    return [c == a for c, a in zip(completions, answer)]\n"
    trial(judge(["exact", "reward.py:mine", "repetition", "length"], source=source, most_words=9), capitals())
    trial(judge(["numeric", "math"]), sums())
    trial(judge(["code"], columns=["tests"]), [asks("f?", tests=["assert f(1) == 2"])])
