"""Targets of every kind, beside each other, and the rows that they are asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from finished import Runs, asked_row, finished_run, read_lines, text_row
from rows import write_rows

from finetune.errors import UserError
from finetune.evaluate.run import evaluate, plan_evaluation

Finetune = Callable[..., tuple[int, str, str]]
SMALL = ("evaluate.few_shot=2", "evaluate.prompt_rows=4", "evaluate.max_new_tokens=6")
OTHERS = range(40, 46)
SOME = ", … (8 rows in all)"


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_model_folder: Path) -> Runs:
    monkeypatch.chdir(tmp_path)
    return partial(finished_run, tmp_path, random_model_folder)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows for those who bring none."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "new.jsonl", [asked_row(number) for number in OTHERS])
    write_rows(tmp_path / "learn.jsonl", [asked_row(number) for number in range(60, 72)])
    return tmp_path


def talk(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]}


def refusal(*arguments: str) -> UserError:
    with pytest.raises(UserError) as caught:
        plan_evaluation(arguments)
    return caught.value


def test_runs_adapters_and_models_stand_beside_each_other(make_run: Runs, random_model_folder: Path) -> None:
    make_run("name=first")
    make_run("name=second", seed=1)
    shutil.copytree("runs/second/adapter", "lone")
    work = plan_evaluation(["first", "second", "lone", str(random_model_folder)])
    result = evaluate(work)
    assert [one["kind"] for one in result["targets"]] == ["run", "run", "adapter", "model"]
    made_by = ["runs/first", "runs/second", "runs/second", None]
    assert [one["made_by"] for one in result["targets"]] == made_by
    names = [rung["name"] for rung in result["rungs"]]
    assert names == ["base", "prompted", "few_shot", "tuned", "second", "lone", str(random_model_folder)]
    said = {
        name: [row["answers"][name]["text"] for row in read_lines(Path("runs/first/answers.jsonl"))] for name in names
    }
    assert said["second"] == said["lone"] != said["tuned"]
    assert said[str(random_model_folder)] == said["base"] != said["tuned"]
    assert result["best_baseline"] in ("base", "prompted", "few_shot")
    assert len({one["p_corrected"] for one in result["comparisons"]}) >= 1
    assert [one["against"] for one in result["comparisons"]] == [name for name in names if name != "tuned"]


def test_the_same_base_answers_once_for_all_runs(make_run: Runs) -> None:
    make_run("name=first")
    make_run("name=second", seed=1)
    evaluate(plan_evaluation(["first"]))
    before = {path: path.read_bytes() for path in Path("runs/.answers").glob("*.jsonl")}
    evaluate(plan_evaluation(["second"]))
    after = {path: path.read_bytes() for path in Path("runs/.answers").glob("*.jsonl")}
    assert len(after) == len(before) + 2  # the second run's own answers, and how it differs on neutral prompts
    assert {path: after[path] for path in before} == before


def test_an_adapter_is_set_against_its_base_on_rows_of_a_file(make_run: Runs, files: Path, finetune: Finetune) -> None:
    shutil.copytree(make_run() / "adapter", "lone")
    code, out, err = finetune("evaluate", "lone", "data.eval=new.jsonl", "data.train=learn.jsonl", "--json", *SMALL)
    assert code == 0, err
    result = json.loads(out)
    assert [rung["name"] for rung in result["rungs"]] == ["base", "prompted", "few_shot", "tuned"]
    assert result["held_out"]["given"] == "new.jsonl"
    folder = Path(result["run_dir"])
    assert folder.parent == Path("runs/evaluations")
    assert folder.name.startswith("lone-")
    assert json.loads((folder / "eval.json").read_text(encoding="utf-8")) == result
    assert len(read_lines(folder / "answers.jsonl")) == len(OTHERS)
    assert "Did it help?" in (folder / "report.html").read_text(encoding="utf-8")


def test_without_training_rows_the_rungs_that_need_them_are_left_out_and_said(
    files: Path, random_model_folder: Path, finetune: Finetune
) -> None:
    code, out, err = finetune("evaluate", random_model_folder, "data.eval=new.jsonl", *SMALL)
    assert code == 0, err
    for rung in ("few_shot", "prompted"):
        assert f"left out: {rung}, since there are no training rows" in out
    assert "no verdict" in out
    assert f"on {len(OTHERS)} held-out rows" in out


def test_prompts_of_the_user_are_tried(make_run: Runs) -> None:
    make_run()
    Path("one.txt").write_text("Answer in JSON.\n", encoding="utf-8")
    Path("two.txt").write_text("Answer with a box.\n", encoding="utf-8")
    result = evaluate(plan_evaluation(["mine", "evaluate.prompts=[one.txt,two.txt]"]))
    assert [(one["name"], one["text"]) for one in result["prompts"]["tried"]] == [
        ("one.txt", "Answer in JSON."),
        ("two.txt", "Answer with a box."),
    ]
    (rung,) = (rung for rung in result["rungs"] if rung["name"] == "prompted")
    assert rung["prompt"] == "Answer in JSON."  # of equals the first
    Path("two.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        evaluate(plan_evaluation(["mine", "evaluate.prompts=[none.txt,two.txt]"]))
    assert [fault.where for fault in caught.value.faults] == [
        "evaluate.prompts none.txt",
        "evaluate.prompts two.txt",
    ]


def test_a_run_is_evaluated_on_other_rows_read_as_its_own_were(make_run: Runs, files: Path) -> None:
    make_run()
    result = evaluate(plan_evaluation(["mine", "data.eval=new.jsonl"]))
    assert result["held_out"]["rows"] == len(OTHERS)
    asked = [row["prompt"] for row in read_lines(Path("runs/mine/answers.jsonl"))]
    assert "jugs 40" in asked[0]
    own = evaluate(plan_evaluation(["mine"]))
    assert own["held_out"]["fingerprint"] != result["held_out"]["fingerprint"]


def test_rows_that_are_repeated_are_no_more_evidence(make_run: Runs, files: Path) -> None:
    make_run()
    asked = [talk(f"jugs {number}?") for number in OTHERS]
    write_rows(files / "once.jsonl", asked)
    again = [talk(f"Jugs  {number}?") for number in OTHERS]  # but for layout the same
    write_rows(files / "often.jsonl", [*asked * 4, *again])
    once, often = (evaluate(plan_evaluation(["mine", f"data.eval={name}.jsonl"])) for name in ("once", "often"))
    assert (once["held_out"]["rows"], once["held_out"]["groups"]) == (6, 6)
    assert (often["held_out"]["rows"], often["held_out"]["groups"]) == (30, 6)
    assert "on 30 held-out rows in 6 groups" in Path("runs/mine/report.md").read_text(encoding="utf-8")
    groups = [row["group"] for row in read_lines(Path("runs/mine/answers.jsonl"))]
    assert groups == [1, 2, 3, 4, 5, 6] * 5


def test_equal_rows_join_the_groups_that_are_given(make_run: Runs, files: Path) -> None:
    make_run()
    users = ["ann", "ben", "ann", "cem", "dee"]
    rows = [{**talk(f"jugs {jug}?"), "user": user} for jug, user in zip((40, 41, 42, 41, 43), users, strict=True)]
    write_rows(files / "users.jsonl", rows)
    work = plan_evaluation(["mine", "data.eval=users.jsonl", "data.group_by=[user]"])
    assert work.measured.clusters == (0, 1, 0, 1, 4)


def test_equal_rows_that_a_run_held_out_are_one_group(make_run: Runs, files: Path) -> None:
    write_rows(files / "twice.jsonl", [asked_row(number) for number in (40, 41, 40, 42)])
    make_run("data.eval=twice.jsonl")
    result = evaluate(plan_evaluation(["mine"]))
    assert (result["held_out"]["rows"], result["held_out"]["groups"]) == (4, 3)


def test_rows_that_a_run_was_trained_on_are_refused_and_listed(make_run: Runs, files: Path) -> None:
    make_run()
    rows = [asked_row(number) for number in (50, 3, 51, 7)]
    write_rows(files / "leaky.jsonl", rows)
    (fault,) = refusal("mine", "data.eval=leaky.jsonl").faults
    assert fault.where == "leaky.jsonl:2"
    assert fault.what.endswith("trained on too, at runs/mine training row 4; so are leaky.jsonl:4")
    assert "data.allow_contamination=true" in fault.mend
    result = evaluate(plan_evaluation(["mine", "data.eval=leaky.jsonl", "data.allow_contamination=true"]))
    assert result["contamination"] == [{"key": "data.eval", "kind": "same", "rows": 2}]
    for name in ("report.md", "report.html"):
        assert "2 held-out rows stand in training rows too" in Path(f"runs/mine/{name}").read_text(encoding="utf-8")


def test_rows_that_another_target_was_trained_on_are_refused(make_run: Runs, files: Path) -> None:
    make_run()
    write_rows(files / "greedy.jsonl", [asked_row(number) for number in range(5, 28)])
    make_run("name=greedy", "data.train=greedy.jsonl", "data.eval=null", "data.eval_share=0", seed=1)
    (fault,) = refusal("mine", "greedy").faults
    assert fault.where == "runs/mine held-out row 1"
    assert "runs/greedy training row" in fault.what
    assert fault.what.endswith("; so are " + ", ".join(f"runs/mine held-out row {n}" for n in (2, 3, 4, 5)) + SOME)


def test_examples_that_hold_the_held_out_rows_are_refused(files: Path, random_model_folder: Path) -> None:
    (fault,) = refusal(str(random_model_folder), "data.eval=new.jsonl", "data.train=new.jsonl").faults
    assert "new.jsonl:1" in fault.what
    assert f"({len(OTHERS)} rows in all)" in fault.what


def test_each_way_of_standing_in_training_rows_is_one_line(files: Path, random_model_folder: Path) -> None:
    shared = " ".join(f"word{number}" for number in range(14))
    write_rows(files / "learn.jsonl", [{**asked_row(1)}, talk(f"{shared} and then"), asked_row(2)])
    write_rows(files / "mixed.jsonl", [asked_row(2), talk(f"{shared} but not"), asked_row(50), asked_row(1)])
    found = refusal(str(random_model_folder), "data.eval=mixed.jsonl", "data.train=learn.jsonl").faults
    assert [fault.where for fault in found] == ["mixed.jsonl:1", "mixed.jsonl:2"]
    assert "at learn.jsonl:3; so are mixed.jsonl:4" in found[0].what
    assert "at learn.jsonl:2: 'word0" in found[1].what and "so are" not in found[1].what


def test_rows_of_another_shape_are_refused(make_run: Runs, files: Path) -> None:
    make_run("name=talks")
    make_run("name=reads", text=True)
    write_rows(files / "texts.jsonl", [text_row(number) for number in range(60, 64)])
    (fault,) = refusal("talks", "data.eval=texts.jsonl").faults
    assert "holds plain text, and runs/talks was trained on conversations" in fault.what
    (fault,) = refusal("reads", "data.eval=new.jsonl").faults
    assert "holds conversations, and runs/reads was trained on plain text" in fault.what
    (fault,) = refusal("talks", "data.eval=[new.jsonl,texts.jsonl]").faults
    assert (fault.where, fault.what) == ("texts.jsonl:1", "is plain text among conversations (4 rows are)")


@pytest.mark.parametrize(
    ("content", "says"), [("", "no rows"), ("\n\n", "no rows"), (json.dumps(asked_row(1)) + "\n", "1 held-out rows")]
)
def test_too_few_rows_are_refused(files: Path, random_model_folder: Path, content: str, says: str) -> None:
    (files / "few.jsonl").write_text(content, encoding="utf-8")
    (fault,) = refusal(str(random_model_folder), "data.eval=few.jsonl").faults
    assert says in fault.what
    assert fault.where in ("few.jsonl", "data.eval")


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        (["nowhere"], "nowhere", "name a model's folder, a hub id"),
        (["runs/mien"], "runs/mien", "did you mean runs/mine?"),
        (["mine", "runs/mine"], "runs/mine", "is given twice"),
        (["held"], "held", "is a folder without a run, an adapter or a model"),
        (["http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1", "write http://127.0.0.1:9/v1#NAME"),
        (["http://10.1.2.3:9/v1#x"], "endpoint", "for everyone on the way to read"),
        (["tiny"], "data.eval", "write data.eval=FILE, or name a run first"),
        (["mine", "endpoint.retries=2"], "endpoint.retries", "no endpoint is evaluated"),
        (["mine", "data.layout=alpaca"], "data.layout", "no effect on a run's own rows"),
        (["mine", "data.eval=new.jsonl", "data.train=learn.jsonl"], "data.train", "brings its own"),
        (["mine", "evaluate.rungs=[base]", "evaluate.prompts=[a.txt]"], "evaluate.prompts", "without the rung"),
        (["mine", "evaluate.strengths=[0.5,1,0.50]"], "evaluate.strengths", "0.5 is given twice"),
        (["mine", "evaluate.rungs=[base,base]"], "evaluate.rungs", "base is given twice"),
        (["mine", "evaluate.prompts=[a.txt,a.txt]"], "evaluate.prompts", "a.txt is given twice"),
        (["mine", "data.eval=none.jsonl"], "data.eval none.jsonl", "no such file"),
        ([], "evaluate", "name a run"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(
    make_run: Runs, files: Path, given: list[str], where: str, says: str
) -> None:
    make_run()
    Path("held").mkdir()
    (fault,) = refusal(*given).faults
    assert fault.where == where
    assert says in f"{fault.what}; {fault.mend}"


def test_the_faults_of_all_targets_are_said_at_once(make_run: Runs) -> None:
    make_run("name=undone", finished=False)
    found = refusal("undone", "nowhere", "http://127.0.0.1:9/v1").faults
    assert [fault.where for fault in found] == ["runs/undone", "nowhere", "http://127.0.0.1:9/v1"]


def test_a_target_called_like_a_rung_is_told_apart(make_run: Runs) -> None:
    make_run()
    make_run("name=base", seed=1)
    names = [subject.name for subject in plan_evaluation(["mine", "base"]).subjects]
    assert names == ["mine", "run base"]


def test_presets_are_models(files: Path) -> None:
    (subject,) = plan_evaluation(["tiny", "data.eval=new.jsonl"]).subjects
    assert (subject.kind, subject.facts is not None and subject.facts.name) == ("model", "tiny")


def test_a_column_to_group_by_that_a_run_brings_is_said_to_be_the_runs(make_run: Runs, files: Path) -> None:
    write_rows(files / "mine.jsonl", [{**asked_row(number), "user": f"u{number}"} for number in range(20)])
    make_run("data.train=mine.jsonl", "data.eval=null", "data.eval_share=0.3", "data.group_by=[user]")
    (fault,) = refusal("mine", "data.eval=new.jsonl").faults
    assert (fault.where, "no row has a column 'user'" in fault.what) == ("data.group_by", True)
    assert fault.mend.startswith("the setting is that of runs/mine: write data.group_by=[]")
    plan_evaluation(["mine", "data.eval=new.jsonl", "data.group_by=[]"])
    (fault,) = refusal("mine", "data.eval=new.jsonl", "data.group_by=[team]").faults
    assert "'team'" in fault.what and fault.mend == "correct it, or leave it out"


def test_of_many_rows_that_are_wrong_the_total_is_said(files: Path, random_model_folder: Path) -> None:
    write_rows(files / "bad.jsonl", [talk("")] * 3 + [{"messages": [{"role": "user"}]}] * 27)
    error = refusal(str(random_model_folder), "data.eval=bad.jsonl")
    assert error.total >= 27 and error.lines()[-1].endswith(f"{error.total} in all")
