"""`finetune evaluate` on run directories as training leaves them."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from finished import Runs, finished_run

from finetune import evaluate
from finetune.config import EvaluateConfig
from finetune.errors import UserError
from finetune.evaluate.run import evaluate_run, plan_evaluation
from finetune.evaluate.settings import read
from finetune.evaluate.subjects import find_run


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_run(workplace: Path, random_model_folder: Path) -> Runs:
    """A finished run of a random model: everything of it but the training is real."""
    return partial(finished_run, workplace, random_model_folder)


@pytest.mark.parametrize("tuning", ["lora", "qlora", "full"])
def test_a_finished_run_is_compared_with_its_base(make_run: Runs, tuning: str) -> None:
    run_dir = make_run(tuning=tuning)
    result = evaluate_run(run_dir, EvaluateConfig(few_shot=2, prompt_rows=4, max_new_tokens=12))
    assert [rung["name"] for rung in result["rungs"]] == ["base", "prompted", "few_shot", "tuned"]
    assert result["held_out"]["rows"] == 10
    assert result["rungs"][3]["nll_per_token"] != result["rungs"][0]["nll_per_token"]
    assert result["verdict"] == "inconclusive"
    assert json.loads((run_dir / "eval.json").read_text(encoding="utf-8")) == result
    answers = [json.loads(line) for line in (run_dir / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 10
    said = {name: [row["answers"][name]["text"] for row in answers] for name in ("base", "tuned")}
    assert said["base"] != said["tuned"]
    assert "Did it help?" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_the_command_prints_the_table_for_a_person(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    assert evaluate.command(["mine", "evaluate.rows=4"], json_output=False) == 0
    shown = capsys.readouterr().out
    assert "base + 2 examples" in shown
    assert "on 4 held-out rows" in shown


def test_the_command_prints_one_object_for_a_program(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run()
    assert evaluate.command([str(run_dir)], json_output=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))
    assert result["settings"]["few_shot"] == 2


def test_rows_of_plain_text_are_compared_by_likelihood(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(text=True)
    assert evaluate.command([str(run_dir)], json_output=False) == 0
    assert "NLL per token" in capsys.readouterr().out
    assert json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))["lower_is_better"] is True


def test_a_run_without_held_out_rows_is_refused(make_run: Runs) -> None:
    run_dir = make_run("data.eval=null", "data.eval_share=0")
    with pytest.raises(UserError) as caught:
        evaluate_run(run_dir, EvaluateConfig())
    (fault,) = caught.value.faults
    assert fault.where.endswith("data.eval")
    assert "no rows" in fault.what
    assert "data.eval_share" in fault.mend


def test_a_run_whose_rows_are_gone_is_refused(make_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run().resolve()
    (run_dir.parent.parent / "elsewhere").mkdir()
    monkeypatch.chdir(run_dir.parent.parent / "elsewhere")
    with pytest.raises(UserError) as caught:
        evaluate_run(run_dir, EvaluateConfig())
    (fault,) = caught.value.faults
    assert ".prepared" in fault.where
    assert "the folder that it was trained in" in fault.mend


def test_a_run_that_has_not_finished_is_refused(make_run: Runs) -> None:
    run_dir = make_run(finished=False)
    with pytest.raises(UserError) as caught:
        evaluate.command([str(run_dir)], json_output=False)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == (str(run_dir), "the run has not finished")
    assert "finetune train" in fault.mend


def test_a_run_is_found_by_path_and_by_name(make_run: Runs) -> None:
    run_dir = make_run()
    runs = Path("runs")
    assert find_run("mine", runs) == find_run("runs/mine", runs) == Path("runs/mine")
    assert find_run(str(run_dir.resolve()), runs) == run_dir.resolve()
    assert find_run("mine", Path("elsewhere")) is None


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        ("evaluate.metrik=f1", "evaluate.metrik", "did you mean evaluate.metric?"),
        ("evaluate.metric=f2", "evaluate.metric", "exact, contains, f1"),
        ("evaluate.rows=abc", "evaluate.rows", "not a whole number"),
        ("evaluate.rows=1", "evaluate.rows", ">= 2"),
        ("evaluate.few_shot=33", "evaluate.few_shot", "1..32"),
        ("training.epochs=2", "training.epochs", "has no such setting"),
        ("endpoint.retrys=2", "endpoint.retrys", "did you mean endpoint.retries?"),
        ("evaluate.rungs=[base,tuned]", "evaluate.rungs", "'tuned' is not one of"),
    ],
)
def test_wrong_overrides_are_refused_by_name(given: str, where: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read([given])
    (fault,) = caught.value.faults
    assert fault.where == where
    assert says in f"{fault.what} {fault.mend}"


def test_every_wrong_override_is_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read(["mine", "evaluate.rows=1", "evaluate.metrik=f1"])
    assert len(caught.value.faults) == 2


def test_overrides_change_what_they_name_and_a_run_brings_the_rest(make_run: Runs) -> None:
    make_run("seed=7", "evaluate.rows=9")
    plain = plan_evaluation(["mine"]).settings
    assert (plain.seed, plain.evaluate.rows, plain.evaluate.metric) == (7, 9, "exact")
    given = plan_evaluation(["evaluate.metric=f1", "mine", "seed=8", "evaluate.max_new_tokens=null"]).settings
    assert (given.seed, given.evaluate.rows, given.evaluate.metric) == (8, 9, "f1")
    assert given.evaluate.max_new_tokens is None


def test_reports_and_refusals_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from finetune import demo, evaluate\n"
        "from finetune.errors import UserError\n"
        "from finetune.evaluate.report import write_report\n"
        "write_report(Path('.'))\n"
        "try:\n"
        "    evaluate.command(['nothing'], json_output=False)\n"
        "except UserError:\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)\n"
        "    sys.exit(str(heavy) if heavy else 0)\n"
        "sys.exit('not refused')\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
