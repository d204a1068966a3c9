"""One command trains: every tuning ends in a saved artefact that plain peft and transformers load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]

QUESTION = [{"role": "user", "content": "Ada wants 3 of the lamp."}]
FAST = ("model=tiny", "training.epochs=4", "training.batch_size=4", "evaluate.rows=4")


def answer(model: Any, tokenizer: Any) -> str:
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**ids, max_new_tokens=16, do_sample=False)
    return str(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def base_answer() -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune.tiny import PATH

    return answer(AutoModelForCausalLM.from_pretrained(PATH, dtype="float32"), AutoTokenizer.from_pretrained(PATH))


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_an_adapter_reloads_with_plain_peft_and_answers_anew(
    finetune: Run, tmp_path: Path, chat_file: Path, tuning: str
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    code, out, err = finetune("train", *FAST, f"tuning={tuning}", f"data.train={chat_file}", "name=x", "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["status"] == "finished" and outcome["steps"] == 36
    folder = tmp_path / outcome["artefact"]
    model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert answer(model, AutoTokenizer.from_pretrained(folder)) != base_answer()
    assert (folder / "adapter_model.safetensors").stat().st_size < 4e6
    losses = [row["loss"] for row in metrics(tmp_path / "runs" / "x") if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]


def test_a_full_model_reloads_with_plain_transformers_and_answers_anew(
    finetune: Run, tmp_path: Path, chat_file: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, out, err = finetune("train", *FAST, "tuning=full", f"data.train={chat_file}", "name=x", "--json")
    assert code == 0, err
    folder = tmp_path / json.loads(out)["artefact"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert answer(model, AutoTokenizer.from_pretrained(folder)) != base_answer()


def test_a_run_directory_holds_what_its_page_promises(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    code, out, err = finetune("train", *FAST, f"data.train={chat_file}", "name=x")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "x"
    names = ("config.yaml", "plan.json", "lineage.json", "preview.html", "preview.txt", "metrics.jsonl", "report.html",
             "report.md", "outcome.json", "adapter", "checkpoints")  # fmt: skip
    assert {name for name in names if not (run_dir / name).exists()} == set()
    rows = [row for row in metrics(run_dir) if "loss" in row]
    assert set(rows[0]) >= {"step", "loss", "learning_rate", "tokens", "tokens_per_second", "grad_norm"}
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert any("eval_loss" in row for row in metrics(run_dir))
    assert "next: finetune evaluate runs/x" in out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".prepared", "x"]


def test_the_same_command_again_says_that_it_is_done(finetune: Run, chat_file: Path) -> None:
    command = ("train", *FAST, f"data.train={chat_file}", "--json")
    first = json.loads(finetune(*command)[1])
    code, out, _ = finetune(*command)
    again = json.loads(out)
    assert code == 0 and again["status"] == "already_finished"
    assert again["run_dir"] == first["run_dir"]


def test_more_epochs_go_on_from_the_end(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.batch_size=4", "name=x", "--json")
    assert finetune(*command, "training.epochs=1")[0] == 0
    code, out, err = finetune(*command, "training.epochs=2")
    assert code == 0, err
    assert json.loads(out)["status"] == "resumed"
    steps = [row["step"] for row in metrics(tmp_path / "runs" / "x") if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == json.loads(out)["steps"] == 18


def test_a_resumed_run_takes_the_cadence_that_it_is_given(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.batch_size=4", "name=x")
    assert finetune(*command, "training.epochs=1", "training.eval_every=4", "training.log_every=4")[0] == 0
    assert finetune(*command, "training.epochs=3", "training.eval_every=3", "training.log_every=1")[0] == 0
    rows = [row for row in metrics(tmp_path / "runs" / "x") if row["step"] > 8]
    assert [row["step"] for row in rows if "loss" in row] == list(range(9, 28))
    assert [row["step"] for row in rows if "eval_loss" in row] == [9, 12, 15, 18, 21, 24, 27]


def test_changed_rows_under_the_same_name_are_refused(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.epochs=1", "name=x")
    assert finetune(*command)[0] == 0
    chat_file.write_text("".join(chat_file.read_text().splitlines(keepends=True)[:-1]))
    code, _, err = finetune(*command)
    assert code == 2 and "the rows differ" in err


def test_the_best_checkpoint_becomes_the_result(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    from safetensors.torch import load_file

    code, _, err = finetune(
        "train", "model=tiny", f"data.train={chat_file}", "training.epochs=6", "training.learning_rate=0.05",
        "training.batch_size=4", "training.eval_every=6", "training.keep_checkpoints=1", "name=x",
    )  # fmt: skip
    assert code == 0, err
    run_dir = tmp_path / "runs" / "x"
    measured = {row["step"]: row["eval_loss"] for row in metrics(run_dir) if "eval_loss" in row}
    best = min(measured, key=lambda step: measured[step])
    kept = load_file(run_dir / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    saved = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert all((kept[name] == saved[name]).all() for name in saved)


def test_early_stopping_ends_a_run_that_gets_worse(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    code, out, err = finetune(
        "train", "model=tiny", f"data.train={chat_file}", "training.epochs=40", "training.learning_rate=0.3",
        "training.batch_size=4", "training.eval_every=3", "training.early_stopping=1", "name=x", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["steps"] < 360


def test_a_run_that_becomes_nan_fails_and_says_where(finetune: Run, chat_file: Path) -> None:
    code, _, err = finetune(
        "train", "model=tiny", "tuning=full", f"data.train={chat_file}", "training.learning_rate=1e30",
        "training.max_grad_norm=1e30", "training.log_every=1", "training.warmup=0",
    )  # fmt: skip
    assert code == 1
    assert "Traceback" not in err
    assert "nan" in err or "inf" in err or "finite" in err


def test_time_that_is_over_stops_resumably(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.epochs=200", "name=x", "--json")
    code, _, err = finetune(*command, "training.max_time=1s")
    assert code == 75 and "finetune train" in err
    last = metrics(tmp_path / "runs" / "x")[-1]["step"]
    code, _, err = finetune(*command, "training.max_time=1s")
    assert code == 75
    assert metrics(tmp_path / "runs" / "x")[-1]["step"] > last


def test_plan_changes_nothing_and_loads_no_weights(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    code, out, _ = finetune("plan", "model=tiny", f"data.train={chat_file}")
    assert code == 0
    assert "8 × 1 × 1 = 8 rows a step" in out and "run directory" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".prepared"]


def test_tensorboard_files_lie_in_the_run_directory(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    code, _, err = finetune(
        "train", "model=tiny", f"data.train={chat_file}", "training.max_steps=2", "tracking=tensorboard", "name=x"
    )
    assert code == 0, err
    assert list((tmp_path / "runs" / "x" / "tensorboard").glob("events.*"))


def test_a_finished_run_whose_result_is_gone_says_so(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.max_steps=2", "name=x")
    assert finetune(*command)[0] == 0
    shutil.rmtree(tmp_path / "runs" / "x" / "adapter")
    code, _, err = finetune(*command)
    assert code == 2 and "its result is gone; make it anew with resume=none" in err
    assert finetune(*command, "resume=none")[0] == 0


@pytest.mark.parametrize("name", ["save_only_model", "ignore_data_skip", "logging_nan_inf_filter", "padding_free"])
def test_what_would_undo_a_promise_is_not_passed_on(finetune: Run, chat_file: Path, name: str) -> None:
    code, _, err = finetune("plan", "model=tiny", f"data.train={chat_file}", f"method.trl.{name}=true")
    assert code == 2 and f"method.trl.{name}: {name} is set by" in err
