"""Distillation: what is compared of a row, what its settings mean, and that a student moves towards its teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import save_llama, save_tokenizer
from plans import GPU, composed, model, plan, rows
from rows import chat_row, write_rows

from finetune.errors import UserError
from finetune.machine import Machine
from finetune.methods import distill
from finetune.methods.answers import answered
from finetune.model_files import AdapterFacts, ModelFacts
from finetune.plan import make_plan
from finetune.plan.facts import Facts

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, half as wide as the teacher."""
    folder = tmp_path_factory.mktemp("student")
    save_llama(folder, hidden=32)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def command(student: Path, llama: Path, chat_file: Path) -> tuple[str, ...]:
    """A short run on a CPU, with all weights of a random student trained."""
    return (
        f"model.name={student}", f"method.teacher={llama}", "method=distill", "tuning=full", f"data.train={chat_file}",
        "training.batch_size=4", "training.learning_rate=1e-2", "training.log_every=1",
    )  # fmt: skip


def losses(run_dir: Path, kind: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[kind] for row in rows if kind in row]


def weights_of(run_dir: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run_dir / "model" / "model.safetensors")


def test_a_row_is_cut_where_its_answer_begins() -> None:
    row = answered([1, 2, 3, 4, 5], [-100, -100, 3, 4, -100])
    assert (row.prompt, row.answer, row.learned, row.asked) == ([1, 2], [3, 4], [1, 1], [1, 2])


def test_of_several_turns_all_are_learned_and_the_last_is_asked() -> None:
    row = answered([1, 2, 3, 4, 5, 6], [-100, 2, -100, -100, 5, 6])
    assert (row.prompt, row.answer, row.learned) == ([1], [2, 3, 4, 5, 6], [1, 0, 0, 1, 1])
    assert row.asked == [1, 2, 3, 4]


def test_the_first_token_of_plain_text_is_foretold_by_nothing() -> None:
    row = answered([7, 8, 9], [7, 8, 9])
    assert (row.prompt, row.answer, row.learned) == ([7], [8, 9], [1, 1])


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, student: Path, llama: Path) -> Any:
    """The trainer of a run, as train.py builds it, over rows of one and of two answers."""
    from finetune import weights
    from finetune.compose import compose
    from finetune.data.prepare import ordered_rows
    from finetune.methods.arguments import Parts
    from finetune.plan import plan_run
    from finetune.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("trainer")
    more = {"messages": [*chat_row(3)["messages"], *chat_row(8)["messages"]]}
    file = write_rows(folder / "rows.jsonl", [*(chat_row(number) for number in range(3)), more])
    settings = ("method=distill", f"method.teacher={llama}", "method.own_samples=0.5", "method.max_new_tokens=6")
    plan = plan_run(
        compose([
            f"model.name={student}", f"data.train={file}", "tuning=full", "training.batch_size=4", "data.eval_share=0",
            "training.max_steps=4", f"output_dir={folder / 'runs'}", *settings,
        ])
    )  # fmt: skip
    tokenizer = load_tokenizer(plan.model)
    rows, _ = ordered_rows(plan.data.train, steps=4, effective_batch=4, seed=1, group_by_length=False)
    frozen = weights.load_frozen(plan, tokenizer)
    parts = Parts(distill.build_args(plan), weights.load(plan, tokenizer), tokenizer, rows, None, [], frozen)
    return distill.build_trainer(plan, parts), rows, plan


def batch_of(trainer: Any, step: int) -> dict[str, Any]:
    trainer.state.global_step, trainer._step = step, 0
    trainer.model.train()
    return dict(trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader()))))


def test_given_answers_are_compared_at_the_very_tokens_that_sft_learns(trainer: Any) -> None:
    built, order, _ = trainer
    batch = batch_of(built, step=0)  # of two batches the second is the student's
    found = []
    for place in range(4):
        prompt, answer = batch["prompt_mask"][place].bool(), batch["completion_mask"][place].bool()
        ids = [*batch["prompt_ids"][place][prompt].tolist(), *batch["completion_ids"][place][answer].tolist()]
        counted = batch["tool_mask"][place][answer].tolist()
        masked = [-100] * int(prompt.sum())
        found.append(
            (ids, [*masked, *(id if on else -100 for id, on in zip(ids[len(masked) :], counted, strict=True))])
        )
    wanted = [(order[place]["input_ids"], order[place]["labels"]) for place in range(4)]
    ends = [max(place for place, label in enumerate(labels) if label != -100) + 1 for _, labels in wanted]
    assert found == [(ids[:end], labels[:end]) for (ids, labels), end in zip(wanted, ends, strict=True)]
    assert int(batch["num_items_in_batch"]) == sum(label != -100 for _, labels in wanted for label in labels)


def test_the_student_answers_what_stands_before_the_last_answer(trainer: Any) -> None:
    built, order, run = trainer
    batch = batch_of(built, step=1)
    assert "tool_mask" not in batch and batch["completion_ids"].shape[1] <= 6
    for place in range(4):
        asked = batch["prompt_ids"][place][batch["prompt_mask"][place].bool()].tolist()
        assert asked == answered(order[place]["input_ids"], order[place]["labels"]).asked
        written = batch["completion_ids"][place][batch["completion_mask"][place].bool()].tolist()
        assert not {*written[:-1]} & {*run.data.stop_ids}


@pytest.mark.parametrize(("share", "own"), [(0.0, 0), (0.25, 2), (0.4, 3), (1.0, 8)])
def test_a_share_of_the_batches_is_answered_by_the_student(trainer: Any, share: float, own: int) -> None:
    built, _, _ = trainer
    built.own_samples = share
    built.model.train()
    answers = []
    for built.state.global_step in range(8):
        answers.append(built._answers_itself())
    assert sum(answers) == own
    built.model.eval()
    assert not built._answers_itself()
    built.own_samples = 0.5


def test_the_loss_is_the_divergence_of_the_two_models(trainer: Any) -> None:
    import torch

    built, _, _ = trainer
    batch = batch_of(built, step=0)
    student, teacher = built.model, built.teacher_model
    loss = float(built.compute_loss(student, batch).detach())
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    first = batch["prompt_ids"].shape[1]
    with torch.no_grad():
        ours, theirs = (one(input_ids=ids, attention_mask=mask).logits.log_softmax(-1) for one in (student, teacher))
    reverse = (ours.exp() * (ours - theirs)).sum(-1)[:, first - 1 : -1]
    counted = (batch["completion_mask"] * batch["tool_mask"]).bool()
    assert loss == pytest.approx(float(reverse[counted].mean()), rel=1e-4)


def test_a_student_moves_towards_its_teacher_on_held_out_rows(
    finetune: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    code, _, err = finetune("train", *command, "training.max_steps=40", "name=x")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "x"
    held_out = losses(run_dir, "eval_loss")
    assert held_out[-1] < 0.7 * held_out[0]
    assert sum(losses(run_dir)[-5:]) < 0.7 * sum(losses(run_dir)[:5])


@pytest.mark.parametrize("own", ["0", "0.5"])
def test_a_run_cut_in_two_ends_in_the_same_weights(
    finetune: Run, tmp_path: Path, command: tuple[str, ...], own: str
) -> None:
    settings = (
        f"method.own_samples={own}", "training.accumulation=2", "training.save_every=3", "data.eval_share=0",
        "training.scheduler=constant", *(("method.max_new_tokens=5",) if own != "0" else ()),
    )  # fmt: skip
    assert finetune("train", *command, *settings, "name=whole", "training.max_steps=6")[0] == 0
    assert finetune("train", *command, *settings, "name=cut", "training.max_steps=3")[0] == 0
    code, out, err = finetune("train", *command, *settings, "name=cut", "training.max_steps=6", "--json")
    assert code == 0 and json.loads(out)["status"] == "resumed", err
    whole, cut = (weights_of(tmp_path / "runs" / name) for name in ("whole", "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)
    assert losses(tmp_path / "runs" / "whole") == losses(tmp_path / "runs" / "cut")


def faults_of(machine: Machine, teacher: ModelFacts, *settings: str) -> str:
    it = composed("method=distill", "method.teacher=big", *settings)
    facts = Facts(model(), rows(), machine, False, frozen={"teacher": teacher})
    with pytest.raises(UserError) as caught:
        make_plan(it, facts)
    return str(caught.value)


def test_a_teacher_that_does_not_fit_beside_the_student_is_refused() -> None:
    said = faults_of(GPU, replace(model(), parameters=100_000_000_000))
    assert said.startswith("error: method.teacher: its weights need about 18") and "NVIDIA H200 has 139.0 GB" in said


def test_the_estimate_counts_the_teacher() -> None:
    alone = plan(machine=GPU).memory
    facts = Facts(model(), rows(), GPU, False, frozen={"teacher": model()})
    taught = make_plan(composed("method=distill", "method.teacher=big"), facts).memory
    assert alone.frozen == 0 and taught.total - alone.total > 2 * model().parameters


def test_an_adapter_does_not_teach_where_weights_are_shared_out() -> None:
    teacher = replace(model(), adapter=AdapterFacts("/a", "big", 8, "LORA"), quantization="gptq")
    it = composed("method=distill", "method.teacher=big", "parallel=fsdp", "launch.processes=2")
    found = distill.check(it.config, it.sources, Facts(model(), rows(), GPU, False, frozen={"teacher": teacher}))
    assert "fsdp shares out" in str(found[-1])
