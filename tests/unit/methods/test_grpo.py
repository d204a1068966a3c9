"""GRPO: what its settings mean, what is refused before training, and that a run learns and can be cut in two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from building import built as built_in
from plans import plan, rows
from rows import lookup, write_rows
from sampled import but, metrics, same_weights, samples, weights_of

from finetune.errors import UserError

Run = Callable[..., tuple[int, str, str]]
GRPO = ("method=grpo", "method.rewards=[exact]")


# What the settings mean together.


def planned(*settings: str, train: int = 1000) -> Any:
    return plan(*GRPO, *settings, data=rows(train, shape="task")).batch


def test_steps_count_questions() -> None:
    batch = planned("training.batch_size=16", "training.accumulation=2", "training.epochs=1", train=100)
    assert (batch.effective, batch.rows, batch.steps, batch.left_over) == (32, 4, 25, 0)
    assert batch.rows_ordered == 100 and batch.epochs == 1


def test_answers_that_are_learned_from_twice_make_twice_the_steps() -> None:
    batch = planned("training.batch_size=32", "method.iterations=2", "training.epochs=1", train=102)
    assert (batch.steps, batch.rows_ordered, batch.left_over) == (50, 100, 2)
    assert batch.save_every % 2 == 0 and batch.eval_every % 2 == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("training.batch_size=12",), "groups of 8 do not divide the 12 × 1 × 1 = 12 answers a step; use training."
         "batch_size=8 or 16, or method.generations=6"),
        (("training.batch_size=3", "training.accumulation=2"), "groups of 8 do not divide the 3 × 2 × 1 = 6 answers a "
         "step; use training.batch_size=4, or method.generations=6"),
        (("training.batch_size=1", "method.generations=4"), "groups of 4 do not divide the 1 × 1 × 1 = 1 answer a step; "
         "use training.batch_size=4"),
    ],
)  # fmt: skip
def test_a_batch_is_a_whole_number_of_groups(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(*settings)
    assert str(caught.value) == f"error: method.generations: {said}"


@pytest.mark.parametrize("key", ["training.max_steps", "training.save_every", "training.eval_every"])
def test_what_happens_between_two_generations_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}: 3 is no multiple of method.iterations=2; use 4"):
        planned(*but(("method.iterations=2", "training.max_steps=40", "training.keep_best=none"), f"{key}=3"))


@pytest.mark.parametrize(
    ("settings", "where", "said"),
    [
        (("method.loss=gspo",), "method.loss", "is the same as grpo where answers are learned from once"),
        (("method.trl.epsilon=0.1",), "method.trl.epsilon", "has no effect with method.iterations=1"),
        (("method.trl.use_vllm=true",), "method.trl.use_vllm", "in this process"),
        (("method.trl.vllm_mode=server",), "method.trl.vllm_mode", "has no effect"),
        (("method.trl.log_completions=true",), "method.trl.log_completions", "stdout"),
        (("method.max_new_tokens=2048",), "method.max_new_tokens", "more than the context of 2,048 tokens"),
        (("method.pattern=a",), "method.pattern", "none of the rewards reads it"),
        (("method.reference=nowhere",), "method.reference", "no row has a column nowhere"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_or_fail_late_is_refused(
    finetune: Run, command: tuple[str, ...], settings: tuple[str, ...], where: str, said: str
) -> None:
    code, _, err = finetune("plan", *but(command, *settings))
    assert code == 2 and f"{where}: " in err and said in err


def test_the_losses_are_those_of_trl() -> None:
    from finetune.methods import grpo

    for name, fields in grpo.LOSSES.items():
        loop = "method.iterations=2" if name in grpo.NEEDS_RATIO else "method.iterations=1"
        settings = (*GRPO, f"method.loss={name}", loop, "training.batch_size=8")
        arguments = grpo.build_args(plan(*settings, data=rows(shape="task")))
        assert {key: getattr(arguments, key) for key in fields} == fields
        assert arguments.scale_rewards == ("none" if name == "dr_grpo" else "group")
        assert arguments.steps_per_generation == arguments.gradient_accumulation_steps
        assert arguments.metric_for_best_model == "eval_reward" and arguments.greater_is_better


# Rewards that nothing can be learned from.


def test_a_reward_that_pays_everything_the_same_is_refused(
    finetune: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "mine.py").write_text("def same(completions, answer):\n    return [1.0] * len(completions)\n")
    code, _, err = finetune("plan", *but(command, "method.rewards=[mine.py:same]"))
    assert code == 2 and "method.rewards same: pays everything the same, 1" in err


def test_a_reward_that_can_be_cheated_is_refused_unless_that_is_accepted(
    finetune: Run, command: tuple[str, ...]
) -> None:
    code, _, err = finetune("plan", *but(command, "method.rewards=[contains]"))
    assert code == 2 and "method.rewards contains: can be cheated: it pays as much as" in err and "all options" in err
    assert finetune("plan", *but(command, "method.rewards=[contains]", "method.allow_cheating=true"))[0] == 0


def test_questions_that_are_never_answered_right_stop_the_run(
    finetune: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    hard = [{**lookup(number), "answer": f"unheard {number}"} for number in range(12)]
    file = write_rows(tmp_path / "hard.jsonl", hard)
    settings = but(command, f"data.train={file}", "data.eval_share=0", "training.max_steps=1", "name=x")
    code, _, err = finetune("train", *but(settings, "method.most_dead=0.6"))
    assert code == 2 and "method.rewards: 100% of the groups teach nothing before training begins" in err
    assert "2 at the lowest pay, 0" in err and "take easier rows" in err
    assert not list((tmp_path / "runs" / "x" / "checkpoints").glob("*"))
    code, _, err = finetune("train", *settings)  # accepts all, and then says that nothing was learned
    assert code == 1 and "reward 0.000" in err


# The trainer.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Any:
    """The trainer of a run, its rows and its plan."""
    made = built_in(
        tmp_path_factory.mktemp("trainer"), "model=tiny", *GRPO, f"data.train={tasks}", "method.generations=4",
        "method.max_new_tokens=6", "training.batch_size=4", "training.accumulation=2", "training.max_steps=2", "method.most_dead=1",
        "data.eval_share=0.2",
    )  # fmt: skip
    return made.trainer, made.rows, made.plan


def batches(trainer: Any) -> list[dict[str, Any]]:
    trainer.model.train()
    return [dict(trainer._generate_and_score_completions(rows)) for rows in trainer.get_train_dataloader()]


def test_questions_are_asked_in_order_at_the_tokens_that_were_prepared(built: tuple[Any, Any, Any]) -> None:
    trainer, order, plan = built
    asked, stops = [], set(plan.data.stop_ids)
    every = batches(trainer)
    for batch in every[:: plan.batch.accumulation]:  # a batch is handed out for each forward pass, and used once
        for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True):
            asked.append(ids[mask.bool()].tolist())
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True):
            said = ids[mask.bool()].tolist()
            assert len(said) <= 6 and not {*said[:-1]} & stops
    assert asked == [row["prompt_ids"] for row in order for _ in range(4)]


def test_measuring_draws_no_number_that_training_draws(built: tuple[Any, Any, Any]) -> None:
    import torch

    trainer, _, _ = built
    before = torch.get_rng_state()
    first, second = trainer.evaluate()["eval_reward"], trainer.evaluate()["eval_reward"]
    assert torch.equal(before, torch.get_rng_state()) and first == second


def test_trying_the_start_draws_none_either_and_is_not_logged(built: tuple[Any, Any, Any]) -> None:
    import torch

    trainer, _, plan = built
    probe = next(one for one in trainer.callback_handler.callbacks if type(one).__name__ == "Probe")
    before, seen = torch.get_rng_state(), trainer.state.num_input_tokens_seen
    mode = trainer.model.training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "eval_dataset", None)
        probe.on_train_begin(trainer.args, SimpleNamespace(global_step=0), None)
    assert torch.equal(before, torch.get_rng_state())
    assert trainer.state.num_input_tokens_seen == seen and not trainer._metrics["eval"]
    assert trainer.model.training == mode
    assert [row["step"] for row in samples(Path(plan.run_dir))] == [0, 0]


def test_the_held_out_reward_is_the_mean_over_rows(built: tuple[Any, Any, Any]) -> None:
    trainer, _, plan = built
    held_out = plan.data.held_out.rows
    assert held_out % 4  # the last batch is short
    paid: list[float] = []
    total = trainer.payment.total
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "reward_funcs", [lambda **given: paid.extend(found := total(**given)) or found])
        measured = trainer.evaluate()["eval_reward"]
    assert len(paid) == held_out and measured == pytest.approx(sum(paid) / held_out)


def test_what_a_reward_does_not_know_is_no_zero(built: tuple[Any, Any, Any]) -> None:
    from finetune.methods.payment import Asked
    from finetune.methods.probe import found_in

    trainer, train, _ = built
    row = json.loads(train[0]["row"])
    del row["columns"]["answer"]
    nobody = Asked(train[0]["prompt_ids"], json.dumps(row))
    assert trainer.payment.score([nobody], ["a"], [True]).totals == (None,)
    found = found_in([[None, None], [0.0, 1.0], [1.0, 1.0], [None, 0.5]])
    assert found.means == (0.5, 1.0, 0.5) and found.dead == (False, True, True)


# Warnings while it runs.


def told(caplog: pytest.LogCaptureFixture, rows: list[dict[str, float]]) -> list[str]:
    from finetune.methods.drift import Drift

    caplog.clear()
    drift = Drift(held_out_rows=100)
    for step, row in enumerate(rows, 1):
        drift.on_log(None, SimpleNamespace(global_step=step), None, row)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("metric", "values", "said"),
    [
        ("frac_reward_zero_std", [0.9] * 12, "step 5: 90% of the groups are paid alike"),
        ("completions/clipped_ratio", [0.0] * 5 + [1.0] * 5, "step 7: 40% of the answers are cut off"),
        ("entropy", [1.0] * 5 + [0.05] * 6, "step 10: the model's choice of tokens has narrowed from 1.000 to 0.050"),
        ("kl", [0.1] * 4 + [6.0] * 5, "step 5: the divergence from the start is 1.28 nats a token"),
        ("duplicates", [0.95] * 6, "step 5: 95% of the answers of a group repeat"),
        ("unpaid", [0.5] * 6, "step 5: 50% of the answers are paid nothing"),
    ],
)
def test_what_goes_wrong_is_said_once_with_its_number(
    caplog: pytest.LogCaptureFixture, metric: str, values: list[float], said: str
) -> None:
    found = told(caplog, [{metric: value} for value in values])
    assert len(found) == 1 and found[0].startswith(said)
    assert told(caplog, [{metric: 0.2} for _ in values]) == []


def test_a_held_out_reward_that_falls_while_the_other_rises_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def logged(*held_out: float) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        for at, value in enumerate(held_out):
            found += [{"reward": 0.3 + 0.1 * at}] * 5 + [{"eval_reward": value, "eval_reward_std": 0.5}]
        return found

    assert any("has fallen from 0.600 to 0.400" in line for line in told(caplog, logged(0.5, 0.6, 0.4)))
    assert told(caplog, logged(0.5, 0.6, 0.55)) == []  # as chance may have it


# Whole runs.


def test_a_run_learns_and_leaves_what_it_answered(finetune: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    settings = ("training.max_steps=16", "training.batch_size=64", "training.learning_rate=3e-3", "name=x")
    code, _, err = finetune("train", *but(command, *settings, "training.eval_every=8"))
    assert code == 0, err
    run_dir = tmp_path / "runs" / "x"
    assert "before training: reward" in err and "of the groups are paid alike" in err
    paid = metrics(run_dir)
    assert sum(paid[-4:]) > sum(paid[:4]) + 0.2
    assert metrics(run_dir, "reward/exact") == pytest.approx(paid)
    assert len(metrics(run_dir, "eval_reward")) == 3  # before the first step too
    tokens = metrics(run_dir, "tokens")
    assert tokens == sorted(tokens) and tokens[-1] > 16 * 64 * 8
    kept = samples(run_dir)
    assert {row["step"] for row in kept} == {*range(17)} and all(len(row["answers"]) == 4 for row in kept)
    assert {*kept[0]["answers"][0]} == {"text", "tokens", "stopped", "reward", "rewards"}
    page = (run_dir / "report.html").read_text()
    assert "What it answered" in page and "Before training" in page and "Step 16" in page
    assert "held-out reward at the start" in page and "Reward over the steps" in page
    code, _, err = finetune("evaluate", "x", "evaluate.few_shot=1")
    assert code == 0, err
    result = json.loads((run_dir / "eval.json").read_text())
    assert {rung["name"]: rung["n"] for rung in result["rungs"]}["tuned"] == result["held_out"]["rows"] > 2


def test_what_a_model_answered_cannot_break_the_report() -> None:
    from finetune.evaluate.samples import section

    answer = {"text": "<script>", "tokens": 3, "stopped": False, "reward": 0.5, "rewards": {"a<b": 1.0, "c": None}}
    groups = [{"step": step, "question": f"<b>{step}", "answers": [answer]} for step in (0, 2, 4)]
    page = section(groups)
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>" not in page
    assert "0.5, a&lt;b 1, c –, cut off" in page
    assert "Before training" in page and "Step 4" in page and "&lt;b&gt;2" not in page
    assert section([]) == ""


@pytest.mark.parametrize("settings", [("training.accumulation=2",), ("method.iterations=2", "training.batch_size=32")])
def test_a_run_cut_in_two_ends_in_the_same_weights(
    finetune: Run, tmp_path: Path, command: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    settings = but(command, *settings, "training.save_every=2", "training.eval_every=2", "training.keep_best=none")
    assert finetune("train", *settings, "name=whole", "training.max_steps=4")[0] == 0
    code, _, err = finetune("train", *settings, "name=cut", "training.max_steps=2")
    assert code == 0, err
    code, out, err = finetune("train", *settings, "name=cut", "training.max_steps=4", "--json")
    assert code == 0 and json.loads(out)["status"] == "resumed", err
    assert "before training" not in err  # it is not tried again
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    assert same_weights(whole, cut)
    assert metrics(whole) == metrics(cut) and metrics(whole, "tokens") == metrics(cut, "tokens")
    assert samples(whole) == samples(cut)


@pytest.mark.slow
def test_how_often_it_is_measured_changes_nothing(finetune: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    settings = (*command, "training.max_steps=3", "training.save_every=3", "training.keep_best=none")
    for name, every in (("often", 1), ("once", 3)):
        code, _, err = finetune("train", *settings, f"training.eval_every={every}", f"name={name}")
        assert code == 0, err
    assert same_weights(tmp_path / "runs" / "often", tmp_path / "runs" / "once")


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["qlora", "full"])
def test_other_tunings(finetune: Run, tmp_path: Path, command: tuple[str, ...], tuning: str) -> None:
    own = [one for one in command if not (tuning == "full" and one.startswith("tuning."))]
    code, _, err = finetune("train", *own, f"tuning={tuning}", "training.max_steps=3", "name=x", "data.eval_share=0")
    assert code == 0, err
    assert weights_of(tmp_path / "runs" / "x")
