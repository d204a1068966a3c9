"""`finetune pipeline` from the command to the artefact: it trains, goes on, stops at a gate, and is found again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import worded, write_rows

from finetune.cli import main

Finetune = Callable[..., tuple[int, str, str]]
PIPELINE = ("pipeline", "--recipe", "two.yaml", "name=p")
RECIPE = """
model: tiny
training: {max_steps: 4, eval_every: 2, save_every: 2, learning_rate: 0.01}
stages:
  first:
    data: {train: ./first.jsonl}
    gate: {at_most: {eval_loss: 50}}
  second:
    from: first
    data: {train: ./second.jsonl}
    tuning: {start: merge, rank: 4}
"""


def write_pipeline(folder: Path, recipe: str = RECIPE) -> None:
    (folder / "two.yaml").write_text(recipe, encoding="utf-8")
    write_rows(folder / "first.jsonl", [worded(number, "violet") for number in range(30)])
    write_rows(folder / "second.jsonl", [worded(number, "green") for number in range(100, 130)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_pipeline(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*PIPELINE, "--json"]) == 0
    return folder


@pytest.fixture
def again(trained: Path, tmp_path: Path, finetune: Finetune) -> Finetune:
    """Run a command beside a copy of the finished pipeline."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return finetune


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def weights(stage: str) -> bytes:
    return Path(f"runs/p.{stage}/adapter/adapter_model.safetensors").read_bytes()


def test_a_finished_pipeline_is_found_again_and_trains_nothing(again: Finetune) -> None:
    account = read("runs/p/pipeline.json")
    assert (account["status"], account["artefact"]) == ("finished", "runs/p.second/adapter")
    assert [(one["name"], one["from"], one["status"], one["steps"]) for one in account["stages"]] == [
        ("first", None, "finished", 4),
        ("second", "first", "finished", 4),
    ]
    (limit,) = account["stages"][0]["gate"]
    assert limit["holds"] and limit["metric"] == "eval_loss" and 0 < limit["value"] < 50
    before = {path: path.stat().st_mtime_ns for path in Path("runs").glob("p.*/**/*") if path.name != ".lock"}
    code, out, _ = again(*PIPELINE, "--json")
    told = json.loads(out)
    assert (code, told["status"]) == (0, "already_finished") and told == read("runs/p/pipeline.json")
    assert {one["status"] for one in told["stages"]} == {"already_finished"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    code, out, _ = again(*PIPELINE)
    assert "pipeline p has finished already; nothing was done" in out
    assert "next: finetune evaluate runs/p.second runs/p.first" in out


def test_the_runs_name_their_parents(again: Finetune) -> None:
    lineage = read("runs/p.second/lineage.json")
    assert (lineage["parent"]["run"], lineage["parent"]["artefact"]) == ("runs/p.first", "runs/p.first/adapter")
    (ancestor,) = lineage["ancestors"]
    first = read("runs/p.first/lineage.json")
    assert (ancestor["run"], ancestor["role"], first["parent"], first["ancestors"]) == (
        "runs/p.first",
        "start",
        None,
        [],
    )
    assert ancestor["data"] == first["data"] and ancestor["config"] == first["config"]
    _, out, _ = again("runs", "list", "--json")
    runs = {run["name"]: run for run in json.loads(out)["runs"]}
    assert {name: run["model"] for name, run in runs.items()} == {"p.first": "tiny", "p.second": "runs/p.first"}
    assert json.loads(out)["others"] == []  # the folder of the pipeline itself is no run
    code, _, said = again("runs", "show", "p")
    assert (code, said) == (2, "error: p: is a pipeline of several runs; name one of runs/p.first, runs/p.second\n")
    _, out, _ = again("runs", "show", "p.second")
    assert "runs/p.first (sft, lora)" in out and "finetune pipeline --recipe two.yaml name=p" in out


def test_two_stages_are_evaluated_side_by_side_but_not_on_rows_of_an_earlier_stage(
    again: Finetune, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ("evaluate.few_shot=1", "evaluate.rungs=[base]", "evaluate.max_new_tokens=4")
    code, out, said = again("evaluate", "runs/p.second", "runs/p.first", *asked, "--json")
    assert code == 0, said
    assert {rung["name"] for rung in json.loads(out)["rungs"]} >= {"tuned", "p.first"}
    write_rows(Path("seen.jsonl"), [worded(number, "violet") for number in range(30)])
    code, _, said = again("evaluate", "runs/p.second", "data.eval=seen.jsonl", *asked)
    assert code == 2 and "runs/p.first training row" in said and "runs/p.second training row" not in said
    shutil.rmtree("runs/p.first")
    code, _, said = again("evaluate", "runs/p.second", "data.eval=seen.jsonl", *asked)
    assert code == 0 and "runs/p.first: is gone, and the target goes back to it" in said


def test_own_held_out_rows_that_an_earlier_stage_was_trained_on_are_refused(tmp_path: Path, finetune: Finetune) -> None:
    write_pipeline(tmp_path, RECIPE.replace("./second.jsonl", "./second.jsonl, eval: ./leaky.jsonl"))
    write_rows(tmp_path / "leaky.jsonl", [worded(number, "violet") for number in range(30)])
    assert finetune(*PIPELINE, "second.data.allow_contamination=true")[0] == 0
    code, _, said = finetune("evaluate", "runs/p.second")
    assert code == 2 and "runs/p.first training row" in said


def test_a_result_that_is_not_good_enough_stops_the_pipeline_until_it_is_mended(
    tmp_path: Path, finetune: Finetune
) -> None:
    write_pipeline(tmp_path, RECIPE.replace("eval_loss: 50", "eval_loss: 0.0001"))
    code, out, said = finetune(*PIPELINE, "--json")
    assert code == 3
    assert "runs/p.first: the stage first is not good enough to go on from: eval_loss" in said
    assert "wanted at most 0.0001; give the stage other rows or settings" in said
    assert json.loads(out)["status"] == "refused" and json.loads(out)["artefact"] is None
    assert [one["status"] for one in json.loads(out)["stages"]] == ["refused", "waiting"]
    assert not Path("runs/p.second").exists()
    made = weights("first")
    assert finetune(*PIPELINE)[0] == 3  # also when the stage has finished already
    code, out, _ = finetune(*PIPELINE, "first.gate.at_most.eval_loss=50", "--json")
    assert code == 0 and [one["status"] for one in json.loads(out)["stages"]] == ["already_finished", "finished"]
    assert weights("first") == made


def test_a_limit_is_held_against_the_weights_that_became_the_result(tmp_path: Path, finetune: Finetune) -> None:
    write_pipeline(tmp_path)
    rate = ("training.learning_rate=0.1", "training.scheduler=constant", "training.max_steps=8")
    cadence = ("training.eval_every=1", "training.save_every=1")
    assert finetune(*PIPELINE, *rate, *cadence, "first.gate.at_most.eval_loss=0")[0] == 3
    rows = [json.loads(line) for line in Path("runs/p.first/metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] > min(losses), "the last step should not be the best"
    (limit,) = read("runs/p/pipeline.json")["stages"][0]["gate"]
    assert limit["value"] == min(losses)


def test_a_stage_that_changed_is_refused_under_its_name_with_what_changed(again: Finetune) -> None:
    made = weights("first")
    code, _, said = again(*PIPELINE, "first.training.weight_decay=0.5")
    assert code == 2
    assert "first.training.weight_decay: was 0.0 when runs/p.first began, is now 0.5" in said
    assert "first.resume=none" in said
    code, _, said = again(*PIPELINE, "first.training.max_steps=6")
    assert code == 2
    assert "second: runs/p.second: has begun from a result of first that is about to be replaced" in said
    assert weights("first") == made
    code, out, said = again(*PIPELINE, "first.training.max_steps=6", "second.resume=none", "--json")
    assert code == 0, said
    assert [one["steps"] for one in json.loads(out)["stages"]] == [6, 4] and weights("first") != made


def test_a_stage_whose_start_was_trained_anew_by_itself_is_refused(again: Finetune) -> None:
    alone = ("model=tiny", "data.train=first.jsonl", "name=p.first", "training.learning_rate=0.01")
    cadence = ("training.max_steps=4", "training.eval_every=2", "training.save_every=2", "training.batch_size=4")
    assert again("train", *alone, *cadence, "resume=none")[0] == 0
    code, _, said = again(*PIPELINE, "first.training.batch_size=4")
    assert code == 2, said
    assert "two.yaml:9 stages.second.from: runs/p.first has other weights than when runs/p.second began" in said
    assert "second.resume=none" in said


def test_a_stage_reads_the_result_of_another(tmp_path: Path, finetune: Finetune) -> None:
    recipe = """
model: tiny
data: {train: ./first.jsonl}
training: {max_steps: 4}
stages:
  teacher:
    defaults: [{tuning: full}]
  student:
    from: base
    method: distill
    method.teacher: stage:teacher
"""
    write_pipeline(tmp_path, recipe)
    code, _, said = finetune(*PIPELINE)
    assert code == 0, said
    lineage = read("runs/p.student/lineage.json")
    assert (lineage["teacher"]["name"], lineage["parent"]) == ("runs/p.teacher", None)
    assert [(one["run"], one["role"]) for one in lineage["ancestors"]] == [("runs/p.teacher", "teacher")]
    alone = ("model=tiny", "tuning=full", "data.train=first.jsonl", "name=p.teacher", "training.max_steps=4")
    assert finetune("train", *alone, "resume=none", "seed=7")[0] == 0
    code, _, said = finetune(*PIPELINE, "teacher.seed=7")
    assert code == 2 and "student.method.teacher: runs/p.teacher has other weights than when" in said


def test_train_refuses_stages_and_plan_lists_them(again: Finetune) -> None:
    code, _, said = again("train", "--recipe", "two.yaml")
    assert code == 2
    assert said == (
        "error: two.yaml:6 stages: the recipe is a pipeline of several runs; write finetune pipeline --recipe two.yaml\n"
    )
    code, _, said = again("pipeline", "model=tiny")
    assert code == 2 and said.startswith("error: --recipe: no recipe is given;")
    code, _, said = again("pipeline", "--recipe", "runs/p.first")
    assert code == 2 and "config.yaml: has no `stages:`; for one run write finetune train --recipe runs/p.first" in said
    code, out, _ = again("plan", "--recipe", "two.yaml", "name=p", "second.resume=none", "--json")
    told = json.loads(out)
    assert [one["finished"] for one in told["stages"]] == [True, False]
    assert (code, told["plan"]["run_dir"], told["plan"]["config"]["tuning"]["rank"]) == (0, "runs/p.second", 4)
    code, out, _ = again("plan", "--recipe", "two.yaml", "name=p")
    assert code == 0 and "next" not in out
    code, out, _ = again("pipeline", "--recipe", "two.yaml", "name=p", "--cfg", "job")
    assert code == 0 and "# stage second\n" in out and "start: merge" in out
