"""Rungs with known scores → eval.json: groups of rows, and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from finetune.data.rows import Text
from finetune.evaluate import stats
from finetune.evaluate.engines import Said
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.ladder import NLL, Evaluation, Rung, answer_rows, as_json, judge
from finetune.evaluate.majority import commonest
from finetune.evaluate.page import _classes
from finetune.evaluate.score import SCORERS
from finetune.evaluate.table import answer_table, class_cells, other_lines, verdict_line

LABELS = ["spam", "ham", "news"] * 20


def rung(name: str, answers: Sequence[str], references: Sequence[str], metric: str) -> Rung:
    said = tuple(Said(text, True, 0.1, 2, 5) for text in answers)
    scores = tuple(SCORERS[metric](text, right) for text, right in zip(answers, references, strict=True))
    likelihoods = (Likelihood(1.0, 2),) * len(answers)
    return Rung(name, likelihoods, said, ((metric, scores),), of=name)


def judged(
    base: Sequence[str], tuned: Sequence[str], references: Sequence[str], clusters: Sequence[object] | None = None
) -> Evaluation:
    rungs = [rung("base", base, references, "choice"), rung("tuned", tuned, references, "choice")]
    rows = [Text(str(number)) for number in range(len(references))]
    found = judge("choice", rows, rungs, 1, clusters)
    return replace(found, prompts=("?",) * len(references), references=tuple(references))


BASE = ["spam" if number % 2 else "Ham!" for number in range(60)]
# right in whole documents of six rows, wrong in others
TUNED = [label if number // 6 % 3 else "no idea" for number, label in enumerate(LABELS)]
DOCUMENTS = [f"document {number // 6}" for number in range(60)]


def test_rows_of_one_document_widen_every_interval() -> None:
    alone, together = (as_json(judged(BASE, TUNED, LABELS, clusters)) for clusters in (None, DOCUMENTS))
    assert (alone["held_out"]["groups"], together["held_out"]["groups"]) == (60, 10)
    assert alone["comparisons"][0]["difference"] == together["comparisons"][0]["difference"]
    for one, other in (
        (alone["comparisons"][0], together["comparisons"][0]),
        (alone["rungs"][1], together["rungs"][1]),
    ):
        assert width(other) > 1.5 * width(one)
    assert together["comparisons"][0]["p"] > alone["comparisons"][0]["p"]
    assert together["comparisons"][0]["detectable"] > alone["comparisons"][0]["detectable"]


def width(entry: dict[str, Any]) -> float:
    low, high = entry["interval"]
    return float(high - low)


def test_the_verdict_can_be_recomputed_from_the_answers_that_are_kept() -> None:
    evaluation = judged(BASE, TUNED, LABELS, DOCUMENTS)
    kept, result = answer_rows(evaluation), as_json(evaluation)
    scores = {
        name: [SCORERS["choice"](row["answers"][name]["text"], row["reference"]) for row in kept]
        for name in ("tuned", "base")
    }
    found = stats.paired_difference(scores["tuned"], scores["base"], seed=1, clusters=[row["group"] for row in kept])
    assert list(found.interval) == result["comparisons"][0]["interval"]
    assert stats.verdict(found, found.p) == result["verdict"]


def test_the_same_model_named_twice_is_one_comparison() -> None:
    names = ("tuned", "base", "again", "other")
    answers = (TUNED, BASE, BASE, ["none"] * len(LABELS))
    one, two = (
        judge("choice", [Text(label) for label in LABELS], [rung(*pair, LABELS, "choice") for pair in some], 1)
        for some in (list(zip(names, answers, strict=True)), list(zip(names, answers, strict=True))[:2])
    )
    p = dict(two.comparisons)["base"].p
    assert two.corrected == (p,)
    assert dict(zip(dict(one.comparisons), one.corrected, strict=True))["again"] == p  # 2 * p for three


def test_the_table_says_that_rows_come_in_groups() -> None:
    assert "on 60 held-out rows in 10 groups" in answer_table(as_json(judged(BASE, TUNED, LABELS, DOCUMENTS)))
    assert "groups" not in answer_table(as_json(judged(BASE, TUNED, LABELS)))


def test_every_rung_has_its_classes() -> None:
    base, tuned = as_json(judged(BASE, TUNED, LABELS))["rungs"]
    assert [one["label"] for one in base["classes"]] == ["spam", "ham", "news"]
    ham = base["classes"][1]
    assert ham == {
        "label": "ham",
        "rows": 20,
        "precision": 10 / 30,
        "recall": 10 / 20,
        "f1": pytest.approx(2 * 10 / (30 + 20)),
        "answers": [{"label": "spam", "rows": 10}, {"label": "ham", "rows": 10}],
    }
    assert base["classes"][2]["precision"] is None
    assert base["no_class"] == 0
    assert tuned["no_class"] == 24
    assert tuned["macro_f1"] == pytest.approx(sum(one["f1"] for one in tuned["classes"]) / 3)


def test_the_table_and_the_page_show_the_classes() -> None:
    result = as_json(judged(BASE, TUNED, LABELS))
    assert "tuned: mean F1 of 3 classes 75.0 %; 24 answers of 60 name no class" in answer_table(result)
    heads, spam, *_ = class_cells(result["rungs"][1])
    assert heads == ["class", "rows", "precision", "recall", "F1", "taken for"]
    assert spam == ["spam", "20", "100.0 %", "60.0 %", "75.0 %", "no class 8"]
    assert ["<td>no class 8</td>" in part for part in _classes(result)] == [False, True]


def with_majority(tuned: Sequence[str], training: Sequence[str]) -> dict[str, Any]:
    found = judged(["?"] * 60, tuned, LABELS)
    return as_json(replace(found, majority=commonest(training, LABELS, SCORERS["choice"])))


def test_always_giving_the_commonest_training_answer_is_scored_beside_the_ladder() -> None:
    result = with_majority(TUNED, ["ham", "Spam ", "Spam", "spam", "news", "ham"])
    most = result["majority"]
    assert (most["answer"], most["share"], most["score"]) == ("Spam", 3 / 6, 20 / 60)
    scores = [
        [float(said == label) for said, label in zip(side, LABELS, strict=True)] for side in (TUNED, ["spam"] * 60)
    ]
    expected = stats.paired_difference(*scores, seed=1)
    assert (most["difference"], most["interval"], most["p"]) == (36 / 60 - 20 / 60, list(expected.interval), expected.p)
    assert most["verdict"] == result["verdict"] == "better"
    assert [one["against"] for one in result["comparisons"]] == ["base"]  # it is no rung, and corrects no p
    assert "always answering “Spam”, the commonest training answer, scores 33.3 %: tuned +26.7 points" in (
        answer_table(result)
    )
    assert "beat" not in verdict_line(result)


def test_a_verdict_says_so_when_one_answer_to_all_rows_would_do_as_well() -> None:
    result = with_majority(["ham"] * 60, ["ham", "ham", "spam"])
    assert (result["verdict"], result["majority"]["verdict"]) == ("better", "inconclusive")
    assert verdict_line(result).endswith("; not shown to beat always answering “ham”")


def test_a_verdict_says_so_when_one_answer_to_all_rows_would_do_better() -> None:
    tuned = [label if number < 8 else "?" for number, label in enumerate(LABELS)]
    result = with_majority(tuned, ["ham", "ham", "spam"])
    assert (result["verdict"], result["majority"]["verdict"]) == ("better", "worse")
    assert verdict_line(result).endswith("; worse than always answering “ham”")


def test_another_target_is_shown_with_its_interval_and_what_its_p_is() -> None:
    answers = {"base": BASE, "tuned": TUNED, "rival": ["none"] * 60}
    rungs = [rung(name, said, LABELS, "choice") for name, said in answers.items()]
    rows = [Text(str(number)) for number in range(60)]
    found = replace(judge("choice", rows, rungs, 1), references=tuple(LABELS), prompts=("?",) * 60)
    result = as_json(found)
    rival = next(one for one in result["comparisons"] if one["against"] == "rival")
    low, high = (f"{100 * bound:+.1f}" for bound in rival["interval"])
    line = f"class right +60.0 points (95 % interval {low} to {high}, corrected p < 0.001)"
    assert f"better: tuned against rival, {line}" in other_lines(result)


def test_no_difference_of_shares_that_can_be_seen_is_over_one() -> None:
    result = as_json(judged(["ham"] * 4, ["news"] * 4, ["news", "spam", "ham", "ham"], ["one", "one", "one", "two"]))
    assert result["comparisons"][0]["detectable"] == 1.0
    assert "underpowered: so few rows can show no difference at all" in answer_table(result)
    rows = [Text(str(number)) for number in range(4)]
    read = [
        Rung(name, tuple(Likelihood(nll * row, 1) for row in range(4)), of=name)
        for name, nll in (("base", 9.0), ("tuned", 1.0))
    ]
    assert as_json(judge(NLL, rows, read, 1))["comparisons"][0]["detectable"] > 1


@pytest.mark.parametrize(
    ("training", "references", "expected"),
    [
        ([], ["a"] * 4, None),
        (["a"], ["a", "b", "c", "a"], None),  # references that hardly come again
        (["b", "a"], ["a"] * 4, "b"),  # of equals the first
        (["{}", "{}"], ["{}", "[]"] * 2, "{}"),
    ],
)
def test_one_answer_is_scored_where_references_come_again(
    training: list[str], references: list[str], expected: str | None
) -> None:
    found = commonest(training, references, SCORERS["exact"])
    assert (found.answer if found else None) == expected


def test_references_that_are_no_classes_have_no_table() -> None:
    result = as_json(judged(["a"] * 4, ["b"] * 4, ["a", "b", "c", "d"]))
    assert "classes" not in result["rungs"][0]
    assert "classes" not in answer_table(result)
