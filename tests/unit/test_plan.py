"""The plan decides every open setting once, says why, and refuses what cannot mean anything."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import CPU, GPU, OLD_GPU, composed, model, plan, rows

from finetune.data.prepare import PreparedData
from finetune.errors import UserError
from finetune.machine import Machine
from finetune.plan import as_json, load_plan
from finetune.plan.checks import check_facts, check_settings, seconds
from finetune.plan.facts import Facts
from finetune.plan.text import describe


def faults(*overrides: str, machine: Machine = CPU, data: PreparedData | None = None) -> dict[str, str]:
    it = composed(*overrides)
    found = check_settings(it.config, it.sources, machine)
    found += check_facts(it.config, it.sources, Facts(model(), data or rows(), machine, False))
    return {fault.where: f"{fault.what}; {fault.mend}" for fault in found}


def test_steps_follow_from_rows_epochs_and_batch() -> None:
    batch = plan("training.batch_size=4", "training.accumulation=2", "launch.processes=2").batch
    assert (batch.effective, batch.steps, batch.left_over) == (16, 187, 8)
    assert batch.epochs == pytest.approx(187 * 16 / 1000, abs=1e-3)


def test_max_steps_decides_over_the_default_epochs() -> None:
    batch = plan("training.max_steps=50").batch
    assert (batch.steps, batch.left_over) == (50, 0)


def test_a_fraction_of_an_epoch_is_trained_exactly() -> None:
    assert plan("training.epochs=0.5", "training.batch_size=10").batch.steps == 50


def test_several_sources_are_shown_with_what_each_has() -> None:
    data = replace(rows(), mixture=((600, 30_000), (400, 60_000)))
    shown = plan("data.counts=[600,400]", data=data)
    assert "mixture" not in describe(shown)
    shown.config.data.train = ["a.jsonl", "b.jsonl"]
    lines = [line.strip() for line in describe(shown).splitlines()]
    assert "mixture        a.jsonl: 600 rows, 30,000 tokens (33%)" in lines
    assert "b.jsonl: 400 rows, 60,000 tokens (67%)" in lines


def test_too_few_rows_for_one_batch_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(UserError) as error:
        plan("training.epochs=1", data=rows(train=1, held_out=None))
    assert "1 row in 1 epoch cannot fill one batch of 8 × 1 × 1 = 8 rows" in str(error.value)


@pytest.mark.parametrize(
    ("machine", "precision"), [(CPU, "fp32"), (GPU, "bf16"), (OLD_GPU, "fp16")], ids=["cpu", "gpu", "old gpu"]
)
def test_precision_suits_the_device(machine: Machine, precision: str) -> None:
    made = plan("tuning=qlora", machine=machine)
    assert made.resolved.precision == precision
    assert machine.device_name in made.reasons["model.precision"] or machine.device == "cpu"


def test_flash_attention_is_taken_where_it_is_installed_and_exact() -> None:
    assert plan(machine=GPU, flash_attention=True).resolved.attention == "flash_attention_2"
    assert plan(machine=GPU).resolved.attention == "sdpa"
    assert plan(machine=CPU, flash_attention=True).resolved.attention == "sdpa"


def test_batches_are_flat_where_that_is_exact_and_cheap() -> None:
    assert plan().resolved.batching == "flat"
    long = replace(rows(), train=replace(rows().train, tokens=1000 * 2000, longest=8000))
    assert plan(data=long).resolved.batching == "grouped"
    assert plan(data=long, machine=GPU, flash_attention=True).resolved.batching == "flat"
    assert plan(base=replace(model(), model_type="gpt2")).resolved.batching == "grouped"
    alike = replace(rows(), train=replace(rows().train, longest=100))
    assert plan(data=alike).resolved.batching == "padded"
    assert plan("training.batching=padded").resolved.batching == "padded"


def test_an_adapter_gets_ten_times_the_rate_of_full_tuning() -> None:
    lora, full = plan("tuning=lora", machine=GPU), plan("tuning=full", machine=GPU)
    assert lora.resolved.learning_rate == pytest.approx(10 * full.resolved.learning_rate)
    given = plan("training.learning_rate=3e-4")
    assert given.resolved.learning_rate == 3e-4
    assert given.reasons["training.learning_rate"] == "as set"


def test_activations_are_recomputed_only_when_memory_demands_it() -> None:
    assert not plan("tuning=qlora", "training.batch_size=1", machine=GPU).resolved.gradient_checkpointing
    tight = replace(GPU, device_memory=24 * 2**30)
    long = replace(rows(), train=replace(rows().train, longest=8192))
    assert plan("tuning=qlora", "training.batch_size=4", machine=tight, data=long).resolved.gradient_checkpointing
    kept = plan("training.gradient_checkpointing=false", machine=tight, data=long)
    assert not kept.resolved.gradient_checkpointing


def test_a_run_that_will_not_fit_is_warned_of_with_what_to_lower() -> None:
    made = plan("tuning=full", machine=replace(GPU, device_memory=24 * 2**30))
    assert any("lower training.batch_size" in warning and "qlora" in warning for warning in made.warnings)


def test_the_best_checkpoint_needs_rows_to_measure_it_on() -> None:
    made = plan("data.eval_share=0", data=rows(held_out=None))
    assert made.resolved.keep_best == "none"
    assert made.batch.eval_every is None
    assert plan().batch.save_every % (plan().batch.eval_every or 0) == 0


def test_cadences_that_do_not_meet_are_refused_with_one_that_does() -> None:
    with pytest.raises(UserError) as error:
        plan("training.eval_every=10", "training.save_every=25")
    assert "training.save_every: 25 is not a multiple of training.eval_every=10" in str(error.value)
    assert "use 20" in str(error.value)


def test_evaluating_less_often_than_the_run_is_long_is_refused() -> None:
    with pytest.raises(UserError, match=r"training.eval_every: 5000 is more than the run's 375 steps"):
        plan("training.eval_every=5000", "training.save_every=5000")


def test_several_processes_are_launched_through_accelerate() -> None:
    assert plan().resolved.launcher == "inline"
    assert plan("launch.processes=2").resolved.launcher == "accelerate"


CONTRADICTIONS = [
    (("launch=inline", "launch.processes=2"), CPU, "launch.processes", "use launch=accelerate"),
    (("launch.processes=2",), GPU, "launch.processes", "use at most 1"),
    (("parallel=fsdp", "launch.processes=2"), CPU, "parallel", "use parallel=ddp"),
    (("parallel=zero3", "launch.processes=2"), CPU, "parallel", "use parallel=ddp"),
    (("parallel=fsdp",), GPU, "parallel", "raise launch.processes"),
    (("model.precision=bf16",), OLD_GPU, "model.precision", "set model.precision=fp16"),
    (("model.precision=bf16",), CPU, "model.precision", "set model.precision=fp32"),
    (("model.precision=fp16",), CPU, "model.precision", "set model.precision=fp32"),
    (("model.attention=flash_attention_2",), CPU, "model.attention", "use sdpa"),
    (("training.optimizer=paged_adamw_8bit",), CPU, "training.optimizer", "use adamw_torch"),
    (("tuning=qlora", "tuning.bits=8", "tuning.quant_type=nf4"), CPU, "tuning.quant_type", "leave it out"),
    (("tuning=qlora", "tuning.initialization=pissa"), CPU, "tuning.initialization", "use tuning=lora"),
    (("tuning.targets=[q_prj]",), CPU, "tuning.targets", "q_proj"),
    (("tuning.start=continue", "tuning.rank=8"), CPU, "tuning.rank", "use tuning.start=merge"),
    (("tuning.start=merge",), CPU, "tuning.start", "some/model"),
    (("training.epochs=2", "training.max_steps=5"), CPU, "training.epochs", "keep one of them"),
    (("training.max_time=soon",), CPU, "training.max_time", "1h30m"),
    (("training.warmup=2.5",), CPU, "training.warmup", "use 0.05 or 100"),
    (("training.scheduler=constant", "training.warmup=5"), CPU, "training.warmup", "constant_with_warmup"),
    (("training.early_stopping=2", "training.keep_best=none"), CPU, "training.early_stopping", "eval_loss"),
    (("data.eval=e.jsonl", "data.eval_share=0.2"), CPU, "data.eval_share", "leave one of them out"),
    (("model.trust_remote_code=true",), CPU, "model.trust_remote_code", "full 40-digit commit"),
    (("tracking=wandb",), CPU, "tracking", "pip install 'finetune[wandb]'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "machine", "where", "mend"), CONTRADICTIONS)
def test_a_setting_that_cannot_take_effect_is_refused(
    overrides: tuple[str, ...], machine: Machine, where: str, mend: str
) -> None:
    found = faults(*overrides, machine=machine)
    assert where in found, found
    assert mend in found[where]


def test_settings_that_fit_together_raise_nothing() -> None:
    assert faults() == {}
    assert faults("tuning=qlora", "launch.processes=2") == {}
    assert faults("tuning=full", machine=GPU) == {}


def test_every_contradiction_is_reported_at_once() -> None:
    found = faults("launch=inline", "launch.processes=2", "model.precision=fp16", "training.max_time=x")
    assert set(found) == {"launch.processes", "model.precision", "training.max_time"}


def test_measuring_settings_without_held_out_rows_are_refused() -> None:
    found = faults("data.eval_share=0", "training.eval_every=5", data=rows(held_out=None))
    assert "no held-out rows" in found["training.eval_every"]


def test_what_to_learn_in_a_conversation_is_refused_for_plain_text() -> None:
    assert "method.learn" in faults("method.learn=last", data=rows(shape="text"))


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    made = replace(plan("tuning=qlora", "method.trl.neftune_noise_alpha=5"), run_dir=str(tmp_path))
    (tmp_path / "plan.json").write_text(json.dumps(as_json(made)), encoding="utf-8")
    assert load_plan(tmp_path) == made
    assert load_plan(tmp_path).config == made.config


def test_the_plan_says_where_each_value_came_from() -> None:
    text = describe(plan("training.batch_size=4"))
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "override" in lines["training.batch_size"]
    assert "plan: ten times the rate" in lines["training.learning_rate"]
    assert "4 × 1 × 1 = 4 rows a step" in text


def test_one_of_anything_is_said_as_one() -> None:
    text = describe(plan("training.batch_size=1", "training.epochs=1", data=rows(1, 1)))
    said = ("1 chat row, 90 tokens", "1 row, 10% split off", "= 1 row a step", "1 step, 1 epoch")
    assert all(one in text for one in said) and not re.search(r"\b1 \w+( \w+)?s\b", text.split("the first row")[0]), (
        text
    )


def test_durations_are_read_as_they_are_written() -> None:
    assert [seconds(text) for text in ("90m", "3h", "1h30m", "45s", "x", "")] == [
        5400,
        10800,
        5400,
        45,
        None,
        None,
    ]
