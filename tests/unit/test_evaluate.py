"""`finetune evaluate` on run directories as training leaves them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import evaluate
from finetune.compose import compose
from finetune.config import EvaluateConfig
from finetune.errors import UserError
from finetune.evaluate.run import evaluate_run, find_run, override, stored_evaluation
from finetune.plan import PLAN_FILE, as_json, plan_run
from finetune.rundir import OUTCOME, write_json

ANSWER = '{"box": 5}'


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Runs = Callable[..., Path]


@pytest.fixture
def make_run(workplace: Path, random_model_folder: Path) -> Runs:
    """A finished run of a random model: everything of it but the training is real."""

    def make(*overrides: str, text: bool = False, tuning: str = "lora", finished: bool = True) -> Path:
        rows = [_text(n) if text else _chat(n) for n in range(30)]
        for name, part in (("train.jsonl", rows[:20]), ("held.jsonl", rows[20:])):
            (workplace / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        given = [
            f"model.name={random_model_folder}",
            "data.train=train.jsonl",
            f"tuning={tuning}",
            "name=mine",
        ]
        held = [] if any(key.startswith("data.eval") for key in overrides) else ["data.eval=held.jsonl"]
        composed = compose([*given, *held, "evaluate.few_shot=2", "evaluate.max_new_tokens=12", *overrides])
        plan = plan_run(composed)
        run_dir = Path(plan.run_dir)
        run_dir.mkdir(parents=True)
        write_json(run_dir / PLAN_FILE, as_json(plan))
        if finished:
            write_json(run_dir / OUTCOME, {"steps": plan.batch.steps, "planned_steps": plan.batch.steps})
        _save_tuned(random_model_folder, run_dir, tuning)
        return run_dir

    return make


ANIMALS = ("fox", "dog", "heron", "badger", "otter", "lynx", "raven", "mole", "stoat", "wren", "newt")


def _chat(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"jugs {number}"}, {"role": "assistant", "content": ANSWER}]
    return {"messages": turns}


def _text(number: int) -> dict[str, Any]:
    """A sentence that is no near copy of another number's."""
    animals = [f"{ANIMALS[number * step % len(ANIMALS)]} {number * step}" for step in (1, 3, 7)]
    return {"text": f"The {animals[0]}, a {animals[1]} and the {animals[2]}."}


def _save_tuned(base: Path, run_dir: Path, tuning: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tuning != "full":
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).save_pretrained(
            str(run_dir / "adapter")
        )
        return
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.save_pretrained(str(run_dir / "model"))
    AutoTokenizer.from_pretrained(base).save_pretrained(str(run_dir / "model"))


@pytest.mark.parametrize("tuning", ["lora", "qlora", "full"])
def test_a_finished_run_is_compared_with_its_base(make_run: Runs, tuning: str) -> None:
    run_dir = make_run(tuning=tuning)
    result = evaluate_run(run_dir, EvaluateConfig(few_shot=2, max_new_tokens=12))
    assert [rung["name"] for rung in result["rungs"]] == ["base", "few_shot", "tuned"]
    assert result["held_out"]["rows"] == 10
    assert result["rungs"][2]["nll_per_token"] != result["rungs"][0]["nll_per_token"]
    assert result["verdict"] == "inconclusive"
    assert json.loads((run_dir / "eval.json").read_text(encoding="utf-8")) == result
    answers = [json.loads(line) for line in (run_dir / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 10
    said = {name: [row["answers"][name]["text"] for row in answers] for name in ("base", "tuned")}
    assert said["base"] != said["tuned"]
    assert "Did it help?" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_the_command_prints_the_table_for_a_person(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    assert evaluate.command("mine", ["evaluate.rows=4"], json_output=False) == 0
    shown = capsys.readouterr().out
    assert "base + 2 examples" in shown
    assert "on 4 held-out rows" in shown


def test_the_command_prints_one_object_for_a_program(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run()
    assert evaluate.command(str(run_dir), [], json_output=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))
    assert result["settings"]["few_shot"] == 2


def test_rows_of_plain_text_are_compared_by_likelihood(make_run: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(text=True)
    assert evaluate.command(str(run_dir), [], json_output=False) == 0
    assert "NLL per token" in capsys.readouterr().out
    assert json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))["lower_is_better"] is True


def test_an_evaluation_is_found_again_only_for_the_same_settings_and_result(make_run: Runs) -> None:
    run_dir = make_run()
    settings = EvaluateConfig(few_shot=2, max_new_tokens=12, rows=4)
    assert stored_evaluation(run_dir, settings) is None
    result = evaluate_run(run_dir, settings)
    assert stored_evaluation(run_dir, settings) == result
    assert stored_evaluation(run_dir, replace(settings, rows=5)) is None
    (weights,) = (run_dir / "adapter").glob("*.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert stored_evaluation(run_dir, settings) is None


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
        evaluate.command(str(run_dir), [], json_output=False)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == (str(run_dir), "the run has not finished")
    assert "finetune train" in fault.mend


def test_a_run_is_found_by_path_and_by_name(make_run: Runs) -> None:
    run_dir = make_run()
    assert find_run("mine") == find_run("runs/mine") == Path("runs/mine")
    assert find_run(str(run_dir.resolve())) == run_dir.resolve()


def test_a_run_that_is_not_there_is_refused_with_those_that_are(make_run: Runs) -> None:
    make_run()
    with pytest.raises(UserError) as caught:
        find_run("nine")
    assert caught.value.faults[0].where == "nine"
    assert "mine" in caught.value.faults[0].mend


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        ("evaluate.metrik=f1", "evaluate.metrik", "did you mean evaluate.metric?"),
        ("evaluate.metric=f2", "evaluate.metric", "exact, contains, f1"),
        ("evaluate.rows=abc", "evaluate.rows", "not a whole number"),
        ("evaluate.rows=1", "evaluate.rows", ">= 2"),
        ("evaluate.few_shot=33", "evaluate.few_shot", "1..32"),
        ("training.epochs=2", "training.epochs", "has no such setting"),
        ("rows", "rows", "key=value"),
    ],
)
def test_wrong_overrides_are_refused_by_name(given: str, where: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        override(EvaluateConfig(), [given])
    (fault,) = caught.value.faults
    assert fault.where == where
    assert says in f"{fault.what} {fault.mend}"


def test_every_wrong_override_is_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        override(EvaluateConfig(), ["evaluate.rows=1", "evaluate.metrik=f1"])
    assert len(caught.value.faults) == 2


def test_overrides_change_what_they_name() -> None:
    settings = override(EvaluateConfig(rows=50), ["evaluate.metric=f1", "evaluate.max_new_tokens=64"])
    assert settings == EvaluateConfig(rows=50, metric="f1", max_new_tokens=64)
    assert override(settings, ["evaluate.max_new_tokens=null"]).max_new_tokens is None


def test_reports_and_refusals_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from finetune import demo, evaluate\n"
        "from finetune.errors import UserError\n"
        "from finetune.evaluate.report import write_report\n"
        "write_report(Path('.'))\n"
        "try:\n"
        "    evaluate.command('nothing', [], json_output=False)\n"
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
