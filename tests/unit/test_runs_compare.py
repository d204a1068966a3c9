"""`finetune runs compare`: what differs, and which run answers better, from stored answers alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def place(evaluated_runs: Path, finetune: Run) -> Path:
    """A copy of the evaluated runs, in the folder that commands run in."""
    shutil.copytree(evaluated_runs, Path.cwd(), dirs_exist_ok=True)
    return Path("runs")


def compared(finetune: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = finetune("runs", "compare", *arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def refused(finetune: Run, *arguments: str) -> list[str]:
    code, out, err = finetune("runs", "compare", *arguments)
    assert (code, out) == (2, "")
    return [line.removeprefix("error: ") for line in err.splitlines()]


def change_answers(run: Path, change: Change) -> None:
    """Change each stored row in place."""
    rows = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def copy_with_answers(place: Path, name: str, right: int) -> None:
    """A copy of `good` that gave the right answer to so many of the held-out rows."""
    run = place / name
    shutil.copytree(place / "good", run)

    def change(row: dict[str, Any]) -> None:
        tuned = row["answers"]["tuned"]
        tuned["text"] = row["reference"] if row["row"] <= right else "mauve"
        tuned["scores"] = {"exact": float(row["row"] <= right)}

    change_answers(run, change)
    evaluation = json.loads((run / "eval.json").read_text())
    next(rung for rung in evaluation["rungs"] if rung["name"] == "tuned")["score"] = right / 12
    (run / "eval.json").write_text(json.dumps(evaluation))


def test_runs_are_compared_row_by_row(finetune: Run, place: Path) -> None:
    found = compared(finetune, "poor", "good")
    assert found["metric"] == "exact" and found["held_out"]["rows"] == 12
    assert [(one["run"], one["score"]) for one in found["scores"]] == [("runs/poor", 0.0), ("runs/good", 1.0)]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("runs/poor", "runs/good", "better")
    assert pair["difference"] == 1.0
    assert pair["p"] == pair["p_corrected"] == pytest.approx(2 / 2**12)  # all twelve rows differ in one direction
    assert found["not_evaluated"] == []


def test_the_order_of_the_runs_turns_the_verdict(finetune: Run, place: Path) -> None:
    (pair,) = compared(finetune, "good", "poor")["pairs"]
    assert (pair["second"], pair["verdict"], pair["difference"]) == ("runs/poor", "worse", -1.0)


def test_scores_and_intervals_are_those_of_the_evaluations(finetune: Run, place: Path) -> None:
    for one in compared(finetune, "poor", "good")["scores"]:
        stored = json.loads((Path(one["run"]) / "eval.json").read_text())
        tuned = next(rung for rung in stored["rungs"] if rung["name"] == "tuned")
        assert (one["score"], one["interval"], one["n"]) == (tuned["score"], tuned["interval"], tuned["n"])


def test_the_settings_that_differ_are_all_that_differ_and_what_was_in_effect(finetune: Run, place: Path) -> None:
    found = {one["key"]: one["values"] for one in compared(finetune, "poor", "good")["differing"]}
    assert found == {
        "training.learning_rate": [0.003, 0.01],  # the first is the plan's
        "training.max_steps": [1, 30],
        "training.save_every": [1, 15],
        "training.eval_every": [1, 15],
    }


def test_a_key_that_an_option_lacks_is_no_difference_by_itself(finetune: Run, place: Path) -> None:
    shutil.copytree(place / "good", place / "whole")
    plan = json.loads((place / "whole" / "plan.json").read_text())
    plan["config"]["tuning"] = {"option": "full", "start": None, "new_tokens": []}
    plan["machine"]["versions"]["torch"] = "9.9"
    del plan["reasons"]["tuning.alpha"]
    (place / "whole" / "plan.json").write_text(json.dumps(plan))
    found = {one["key"]: one["values"] for one in compared(finetune, "good", "whole")["differing"]}
    torch = json.loads((place / "good" / "plan.json").read_text())["machine"]["versions"]["torch"]
    assert found == {"tuning.option": ["lora", "full"], "machine.versions.torch": [torch, "9.9"]}


def test_settings_of_the_evaluation_are_those_that_it_was_made_with(finetune: Run, place: Path) -> None:
    evaluation = json.loads((place / "good" / "eval.json").read_text())
    evaluation["settings"]["few_shot"] = 7
    (place / "good" / "eval.json").write_text(json.dumps({**evaluation, "max_new_tokens": 99}))
    found = {one["key"]: one["values"] for one in compared(finetune, "poor", "good")["differing"]}
    assert found["evaluate.few_shot"] == [1, 7]
    assert found["evaluate.max_new_tokens"] == [evaluation["max_new_tokens"], 99]


def test_settings_of_an_evaluation_are_no_difference_to_a_run_that_has_none(finetune: Run, place: Path) -> None:
    plan = json.loads((place / "good" / "plan.json").read_text())
    plan["config"]["evaluate"]["few_shot"] = 7
    (place / "good" / "plan.json").write_text(json.dumps(plan))
    trained = {"training.learning_rate", "training.max_steps", "training.save_every", "training.eval_every"}
    for evaluated in (("poor", "good"), ("poor",), ()):
        for name in {"poor", "good"} - set(evaluated):
            (place / name / "eval.json").unlink(missing_ok=True)
        assert {one["key"] for one in compared(finetune, "poor", "good")["differing"]} == trained


def test_answers_are_paired_by_their_rows_whatever_their_order(finetune: Run, place: Path) -> None:
    copy_with_answers(place, "half", 6)
    copy_with_answers(place, "most", 9)
    before = compared(finetune, "most", "half")
    assert before["pairs"][0]["p"] == pytest.approx(2 / 2**3)
    lines = (place / "half" / "answers.jsonl").read_text().splitlines()
    (place / "half" / "answers.jsonl").write_text("".join(f"{line}\n" for line in reversed(lines)))
    assert compared(finetune, "most", "half") == before


def test_rows_of_one_group_count_as_one(finetune: Run, place: Path) -> None:
    for name in ("poor", "good"):
        change_answers(place / name, lambda row: row.update(group=row["row"] % 3))
    (pair,) = compared(finetune, "poor", "good")["pairs"]
    assert pair["p"] == pytest.approx(2 / 2**3) and pair["verdict"] == "inconclusive"
    for name in ("poor", "good"):
        change_answers(place / name, lambda row: row.update(group=None if row["row"] > 2 else "one book"))
    (pair,) = compared(finetune, "poor", "good")["pairs"]
    assert pair["p"] == pytest.approx(2 / 2**11)


def test_rows_that_either_evaluation_grouped_count_as_one_both_ways(finetune: Run, place: Path) -> None:
    copy_with_answers(place, "half", 6)
    change_answers(place / "half", lambda row: row.update(group=(row["row"] + 1) // 2))  # 1 and 2, 3 and 4, …
    change_answers(place / "good", lambda row: row.update(group="a book" if row["row"] in (8, 9) else None))
    evaluation = json.loads((place / "good" / "eval.json").read_text())
    (place / "good" / "eval.json").write_text(json.dumps({**evaluation, "seed": evaluation["seed"] + 1}))
    (there,), (back,) = (compared(finetune, *pair)["pairs"] for pair in (("half", "good"), ("good", "half")))
    assert there["p"] == back["p"] == pytest.approx(2 / 2**2)  # of rows 7 to 10, and 11 and 12
    assert there["interval"] == pytest.approx([-bound for bound in reversed(back["interval"])])
    assert there["detectable"] == back["detectable"]


def test_three_runs_are_tested_pair_by_pair_and_corrected(finetune: Run, place: Path) -> None:
    copy_with_answers(place, "half", 6)
    found = compared(finetune, "poor", "half", "good")
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("runs/poor", "runs/half"),
        ("runs/poor", "runs/good"),
        ("runs/half", "runs/good"),
    ]
    ps = [pair["p"] for pair in found["pairs"]]
    assert ps == pytest.approx([2 / 2**6, 2 / 2**12, 2 / 2**6])
    # Holm: the smallest times three, the next times two, none below one before it
    corrected = [pair["p_corrected"] for pair in found["pairs"]]
    assert corrected == pytest.approx([2 * 2 / 2**6, 3 * 2 / 2**12, 2 * 2 / 2**6])
    assert [pair["verdict"] for pair in found["pairs"]] == ["inconclusive", "better", "inconclusive"]
    code, out, _ = finetune("runs", "compare", "poor", "half", "good")
    assert code == 0 and "row by row, p corrected for 3 pairs" in out
    assert "runs/good against runs/poor: better, +100.0 points (95 % interval " in out
    assert "underpowered: 12 rows are too few" in out


def test_another_metric_is_taken_from_what_is_stored_or_scored_anew(finetune: Run, place: Path) -> None:
    stored = compared(finetune, "poor", "good", "evaluate.metric=f1")
    answers = [
        json.loads(line)["answers"]["tuned"] for line in (place / "poor" / "answers.jsonl").read_text().splitlines()
    ]
    assert stored["metric"] == "f1"
    assert stored["scores"][0]["score"] == pytest.approx(sum(one["scores"]["f1"] for one in answers) / 12)

    def forget(row: dict[str, Any]) -> None:
        row["answers"]["tuned"].pop("scores")

    change_answers(place / "poor", forget)  # where one has none, all are scored anew
    change_answers(place / "good", lambda row: row["answers"]["tuned"]["scores"].update(f1=0.25))
    anew = compared(finetune, "poor", "good", "evaluate.metric=f1")
    assert (anew["scores"], anew["pairs"]) == (stored["scores"], stored["pairs"])


def test_what_was_stored_is_believed_before_it_is_scored_anew(finetune: Run, place: Path) -> None:
    """A metric whose scorer has changed since must not mix old scores with new ones."""
    change_answers(place / "good", lambda row: row["answers"]["tuned"].update(text="mauve"))
    assert compared(finetune, "poor", "good")["scores"][1]["score"] == 1.0


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            "json_fields",
            "evaluate.metric=json_fields: cannot be had of the rows that all answered; take exact, contains, f1",
        ),
        ("nll", "evaluate.metric=nll: cannot be had of the rows that all answered; take exact, contains, f1"),
        ("exakt", "evaluate.metric=exakt: cannot be had of the rows that all answered; did you mean exact?"),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused(metric: str, said: str, finetune: Run, place: Path) -> None:
    (line,) = refused(finetune, "poor", "good", f"evaluate.metric={metric}")
    assert line.startswith(said)


def test_runs_that_were_decided_by_different_metrics_need_one_to_be_named(finetune: Run, place: Path) -> None:
    evaluation = json.loads((place / "good" / "eval.json").read_text())
    (place / "good" / "eval.json").write_text(json.dumps({**evaluation, "metric": "f1"}))
    (line,) = refused(finetune, "poor", "good")
    assert line == (
        "evaluate.metric: the evaluations were decided by different metrics: exact, f1; "
        "choose one, such as evaluate.metric=exact"
    )
    assert compared(finetune, "poor", "good", "evaluate.metric=exact")["pairs"][0]["verdict"] == "better"


def test_runs_on_different_held_out_rows_are_refused_with_both_named(finetune: Run, place: Path) -> None:
    prints = [
        json.loads((place / name / "eval.json").read_text())["held_out"]["fingerprint"] for name in ("good", "other")
    ]
    (line,) = refused(finetune, "poor", "good", "other")
    assert line.startswith(
        f"runs/other: was evaluated on other held-out rows (10 rows, fingerprint {prints[1]}) than runs/poor "
        f"(12 rows, fingerprint {prints[0]}); "
    )


def test_a_run_that_was_not_evaluated_is_named_with_its_command(finetune: Run, place: Path) -> None:
    (place / "good" / "eval.json").unlink()
    found = compared(finetune, "poor", "good")
    assert found["not_evaluated"] == [{"run": "runs/good", "command": "finetune evaluate runs/good"}]
    assert (found["metric"], found["pairs"], found["scores"]) == (None, [], [])
    assert "training.max_steps" in {one["key"] for one in found["differing"]}
    code, out, _ = finetune("runs", "compare", "poor", "good")
    assert code == 0 and "not evaluated: runs/good; run finetune evaluate runs/good" in out.splitlines()
    (place / "good" / "outcome.json").unlink()
    (waiting,) = compared(finetune, "poor", "good")["not_evaluated"]
    assert waiting["command"].startswith("finetune train model=tiny data.train=my.jsonl name=good ")


def test_two_evaluated_runs_are_still_tested_beside_one_that_was_not(finetune: Run, place: Path) -> None:
    shutil.copytree(place / "poor", place / "third")
    (place / "third" / "eval.json").unlink()
    found = compared(finetune, "poor", "third", "good")
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("runs/poor", "runs/good")]
    assert [one["run"] for one in found["not_evaluated"]] == ["runs/third"]


def test_a_run_that_was_not_evaluated_and_holds_out_other_rows_is_refused(finetune: Run, place: Path) -> None:
    (place / "other" / "eval.json").unlink()
    (line,) = refused(finetune, "poor", "other")
    assert line.startswith("runs/other: holds out other rows (10 rows, fingerprint ")
    assert " than runs/poor (12 rows, fingerprint " in line


def drop_rows(run: Path) -> None:
    lines = (run / "answers.jsonl").read_text().splitlines(keepends=True)
    (run / "answers.jsonl").write_text("".join(lines[:7]))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (drop_rows, "holds 7 rows, but 12 were answered"),
    (lambda run: change_answers(run, lambda row: row["answers"].pop("tuned")), "a row lacks 'tuned'"),
    (lambda run: change_answers(run, lambda row: row.update(answers=[3])), "is damaged"),
    (lambda run: (run / "answers.jsonl").write_text("[]\n" * 12), "is damaged"),
    (lambda run: change_answers(run, lambda row: row["answers"]["tuned"]["scores"].update(exact=0.0)), "is of another evaluation than eval.json"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=[said for _, said in DAMAGE])
def test_answers_that_are_not_of_the_evaluation_are_refused(
    damage: Callable[[Path], object], said: str, finetune: Run, place: Path
) -> None:
    damage(place / "good")
    (line,) = refused(finetune, "poor", "good")
    assert line == f"runs/good/answers.jsonl: {said}; run finetune evaluate runs/good"


def test_an_answer_may_hold_any_character(finetune: Run, place: Path) -> None:
    """Some characters end a line for Python, but not in a file of JSON lines."""
    lines = (place / "good" / "answers.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "prompt": "a\u2028b\x85c\x0bd"} for line in lines]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (place / "good" / "answers.jsonl").write_text(text, encoding="utf-8")
    assert compared(finetune, "poor", "good")["pairs"][0]["verdict"] == "better"


def test_rows_of_plain_text_are_set_side_by_side_without_a_test(finetune: Run, place: Path) -> None:
    for name in ("poor", "good"):
        evaluation = json.loads((place / name / "eval.json").read_text())
        (place / name / "eval.json").write_text(json.dumps({**evaluation, "metric": "nll", "lower_is_better": True}))
        (place / name / "answers.jsonl").write_text("")
    found = compared(finetune, "poor", "good")
    assert found["metric"] == "nll" and found["pairs"] == []
    assert [one["score"] for one in found["scores"]] == [0.0, 1.0]
    code, out, _ = finetune("runs", "compare", "poor", "good")
    assert code == 0 and "no paired test: NLL per token was not stored for each row" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "runs compare: 0 runs given, and a comparison needs two; write finetune runs compare RUN RUN"),
        (("good",), "runs compare: 1 run given"),
        (("good", "runs/good"), "/runs/good: is named twice; keep one"),
        (("good", "pore"), "pore: no run directory of that path, or of that name under runs; did you mean runs/poor?"),
        (("good", "poor", "evaluate.metrik=f1"), "evaluate.metrik: `finetune runs compare` has no such setting; did you mean"),
        (("good", "my.jsonl"), "my.jsonl: no run directory of that path"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], said: str, finetune: Run, place: Path) -> None:
    (line,) = refused(finetune, *arguments)
    assert said in line


def test_every_fault_of_the_runs_is_raised_at_once(finetune: Run, place: Path) -> None:
    (place / "good" / "plan.json").write_text("{")
    lines = refused(finetune, "good", "nix", "poor")
    assert len(lines) == 2 and lines[0].startswith("runs/good/plan.json: is damaged")


def test_nothing_heavy_is_imported(place: Path) -> None:
    code = (
        "import sys\n"
        "from finetune.cli import main\n"
        "codes = [main(['runs', *words]) for words in (['compare', 'poor', 'good'], ['show', 'good'], ['verify', 'good'])]\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy or codes) if heavy or any(codes) else 0)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
