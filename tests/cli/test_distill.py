"""Distillation from the command line: teachers that work, teachers that are refused, and ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models import save_llama, save_tokenizer
from rows import chat_row, write_rows

Run = Callable[..., tuple[int, str, str]]
SHORT = ("method=distill", "training.max_steps=4", "training.batch_size=4", "training.log_every=1")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(24)])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_llama(folder, hidden=32)
    save_tokenizer(folder)
    return folder


def test_a_finetune_run_teaches_with_its_adapter(finetune: Run, tmp_path: Path, llama: Path, rows: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    from finetune import weights
    from finetune.plan import load_plan
    from finetune.tokenizer import load_tokenizer

    tuned = ("training.max_steps=3", "training.batch_size=4", "training.learning_rate=0.05", "name=teacher")
    assert finetune("train", f"model.name={llama}", f"data.train={rows}", *tuned)[0] == 0
    code, out, err = finetune(
        "train", "model.name=" + str(llama), *SHORT, f"data.train={rows}", "method.teacher=runs/teacher", "name=x",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / json.loads(out)["artefact"])
    lineage = json.loads((tmp_path / "runs" / "x" / "lineage.json").read_text())
    assert lineage["teacher"]["name"] == "runs/teacher" and lineage["teacher"]["base"] == str(llama)
    assert len(lineage["teacher"]["fingerprint"]) == 64
    plan = load_plan(tmp_path / "runs" / "x")
    teacher = weights.load_frozen(plan, load_tokenizer(plan.model))["teacher"]
    real = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "runs" / "teacher" / "adapter")
    ids = torch.tensor([[5, 9, 200, 31]])
    with torch.no_grad():
        found, expected, base = teacher(ids).logits, real(ids).logits, real.get_base_model()
        with real.disable_adapter():
            plain = base(ids).logits
    assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(found, plain, atol=1e-2)
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_a_quantized_student_learns(finetune: Run, llama: Path, student: Path, rows: Path) -> None:
    code, _, err = finetune(
        "train", f"model.name={llama}", *SHORT, "tuning=qlora", f"data.train={rows}", f"method.teacher={student}"
    )
    assert code == 0, err


def test_other_weights_under_the_teachers_name_are_refused(
    finetune: Run, tmp_path: Path, llama: Path, student: Path, rows: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(llama, teacher)
    command = ("train", f"model.name={student}", "method=distill", f"method.teacher={teacher}", f"data.train={rows}",
               "training.batch_size=4", "name=x")  # fmt: skip
    assert finetune(*command, "training.max_steps=2")[0] == 0
    shutil.rmtree(teacher)
    save_llama(teacher, hidden=128)
    save_tokenizer(teacher)
    code, _, err = finetune(*command, "training.max_steps=4")
    assert code == 2 and "method.teacher: " in err and "has other weights than when runs/x began" in err


def other_tokenizer(folder: Path) -> str:
    save_llama(folder, vocab_size=300)
    save_tokenizer(folder, vocab_size=300)
    return str(folder)


def more_rows(folder: Path) -> str:
    save_llama(folder, vocab_size=384)
    save_tokenizer(folder)
    return str(folder)


def stored_quantized(folder: Path) -> str:
    save_llama(folder)
    save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def short_context(folder: Path) -> str:
    save_llama(folder)
    save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 12}))
    return str(folder)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (other_tokenizer, "has another tokenizer than the student"),
        (more_rows, "gives 384 probabilities, and the student 320"),
        (stored_quantized, "is stored quantized"),
        (short_context, "was made for 12; set data.max_length=12"),
        (lambda folder: str(folder / "nothing"), "no such folder"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    finetune: Run, tmp_path: Path, student: Path, rows: Path, made: Callable[[Path], str], said: str
) -> None:
    teacher = made(tmp_path / "teacher")
    code, _, err = finetune("plan", f"model.name={student}", *SHORT, f"method.teacher={teacher}", f"data.train={rows}")
    assert code == 2 and said in err, err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("method.max_new_tokens=9",), "method.max_new_tokens: has no effect: method.own_samples is 0"),
        (("method.trl.top_p=0.9",), "method.trl.top_p: has no effect: method.own_samples is 0"),
        (("method.trl.beta=0.5",), "method.trl.beta: beta is set by method.divergence"),
        (("method.trl.temperature=2.0",), "temperature is set by method.temperature"),
        (("method.own_samples=0.5", "method.learn=all"), "method.learn: does not say where an answer begins"),
        (("method.own_samples=1", "method.learn=last"), "method.learn: has no effect"),
        (("method.own_samples=1.5",), "method.own_samples"),
        (("method.own_samples=1", "method.max_new_tokens=250"), "more than a context of 256 tokens; use at most"),
        (("method.teacher_revision=main",), "method.teacher_revision: has no effect on a local teacher"),
        (("training.batching=flat",), "training.batching: method=distill pads its rows"),
        (("tuning.new_tokens=[<x>]",), "has another tokenizer than the student: 1 differences, such as <x>"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    finetune: Run, llama: Path, student: Path, rows: Path, settings: tuple[str, ...], said: str
) -> None:
    code, _, err = finetune(
        "plan", f"model.name={student}", *SHORT, f"method.teacher={llama}", f"data.train={rows}", *settings
    )
    assert code == 2 and said in err, err


def test_a_student_does_not_teach_itself(finetune: Run, llama: Path, rows: Path) -> None:
    code, _, err = finetune("plan", f"model.name={llama}", *SHORT, f"method.teacher={llama}", f"data.train={rows}")
    assert code == 2 and "is the student itself" in err


def test_a_teacher_must_be_named(finetune: Run, llama: Path, rows: Path) -> None:
    code, _, err = finetune("plan", f"model.name={llama}", *SHORT, f"data.train={rows}")
    assert code == 2 and "method.teacher: must be given" in err


def test_plain_text_is_distilled_on_what_is_given(finetune: Run, tmp_path: Path, llama: Path, student: Path) -> None:
    rows = write_rows(tmp_path / "text.jsonl", [{"text": f"The quick brown fox {number}."} for number in range(24)])
    command = ("train", f"model.name={student}", *SHORT, f"method.teacher={llama}", f"data.train={rows}", "name=x")
    code, _, err = finetune(*command, "method.own_samples=0.5")
    assert code == 2 and "method.own_samples: plain text has no prompt to answer" in err
    assert finetune(*command)[0] == 0


def test_the_plan_shows_the_teacher_and_counts_it(finetune: Run, llama: Path, student: Path, rows: Path) -> None:
    command = ("plan", f"model.name={student}", *SHORT, f"method.teacher={llama}", f"data.train={rows}")
    code, out, _ = finetune(*command)
    assert code == 0 and f"{llama} (LlamaForCausalLM" in out and "models only read" in out
    code, out, _ = finetune(*command, "method.own_samples=1", "--json")
    plan = json.loads(out)
    assert plan["resolved"]["method"].keys() == {"divergence", "max_new_tokens"}
    assert plan["memory"]["frozen"] > 4 * plan["frozen"]["teacher"]["parameters"]
    assert plan["reasons"]["method.divergence"].startswith("own samples")


def test_two_ranks_learn_what_one_does(finetune: Run, tmp_path: Path, llama: Path, student: Path, rows: Path) -> None:
    command = (f"model.name={student}", "method=distill", "training.max_steps=4", "training.log_every=1", "tuning=full",
               f"method.teacher={llama}", f"data.train={rows}", "data.eval_share=0",
               "training.learning_rate=1e-3")  # fmt: skip
    assert finetune("train", *command, "training.batch_size=4", "name=alone")[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "train", *command, "training.batch_size=2", "launch.processes=2", "name=two"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, two = ([json.loads(line)["loss"] for line in (tmp_path / "runs" / name / "metrics.jsonl").open()]
                  for name in ("alone", "two"))  # fmt: skip
    assert len(alone) == 4 and alone == pytest.approx(two, rel=1e-3)
