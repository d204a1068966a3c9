"""Preference tuning: which tokens are compared, what is measured against what, and what its settings cannot mean."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import built
from plans import CPU, GPU, composed, model, plan, rows
from rows import pair_row, vote_row, write_rows

from finetune.errors import UserError
from finetune.methods import METHODS, kto
from finetune.methods.falling import MOST_FALLEN, Falling
from finetune.methods.preference_trainers import PairTrainer, VoteTrainer, other_places
from finetune.plan.facts import Facts

Run = Callable[..., tuple[int, str, str]]
SHORT = ("training.batch_size=4", "training.max_steps=2", "data.eval_share=0", "training.batching=padded")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [pair_row(number, " ".join(["violet"] * (1 + number % 3)), "umber") for number in range(12)]
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [vote_row(number, " ".join(["violet"] * (1 + number % 3))) for number in range(12)]
    return write_rows(tmp_path_factory.mktemp("votes") / "votes.jsonl", rows)


def conversation(prompt: str, answers: dict[str, str]) -> dict[str, Any]:
    turns = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return {"prompt": [{"role": "user", "content": prompt}], **turns}


def as_trl(trainer: Any, kind: type[Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row as TRL's own method tokenises it, which ours stands in place of."""
    from datasets import Dataset

    of_trl = super(kind, trainer)._prepare_dataset
    prepared = of_trl(Dataset.from_list([row]), trainer.processing_class, trainer.args, "eval")
    return dict(prepared[0])


@pytest.mark.parametrize("base", ["tiny", "llama"])
def test_pairs_are_the_tokens_that_trl_would_make_up_to_the_stop_token(
    tmp_path: Path, llama: Path, pairs: Path, base: str
) -> None:
    named = "model=tiny" if base == "tiny" else f"model.name={llama}"
    run, trainer, _ = built(tmp_path, named, "method=dpo", f"data.train={pairs}", *SHORT)
    texts = {row["prompt"]: row for row in map(json.loads, pairs.read_text().splitlines())}
    for row in (trainer.train_dataset[place] for place in range(8)):
        asked = trainer.processing_class.decode(row["prompt_ids"])
        text = next(text for prompt, text in texts.items() if prompt in asked)
        answers = {name: text[name] for name in ("chosen", "rejected")}
        theirs = as_trl(trainer, PairTrainer, conversation(text["prompt"], answers))
        assert row["prompt_ids"] == theirs["prompt_ids"]
        for name in ("chosen_ids", "rejected_ids"):
            assert row[name][-1] in run.data.stop_ids
            # What the template writes after the stop token is no part of an answer: TRL learns the newline of llama's.
            after = trainer.processing_class.decode(theirs[name][len(row[name]) :])
            assert theirs[name][: len(row[name])] == row[name] and after == ("" if base == "tiny" else "\n")


def test_votes_are_the_tokens_that_trl_would_make(tmp_path: Path, votes: Path) -> None:
    _, trainer, _ = built(tmp_path, "model=tiny", "method=kto", f"data.train={votes}", *SHORT)
    texts = {row["prompt"]: row for row in map(json.loads, votes.read_text().splitlines())}
    for row in (trainer.train_dataset[place] for place in range(8)):
        asked = trainer.processing_class.decode(row["prompt_ids"])
        text = next(text for prompt, text in texts.items() if prompt in asked)
        given = conversation(text["prompt"], {"completion": text["completion"]})
        theirs = as_trl(trainer, VoteTrainer, {**given, "label": text["label"]})
        assert {name: row[name] for name in ("prompt_ids", "completion_ids", "label")} == {
            name: theirs[name] for name in ("prompt_ids", "completion_ids", "label")
        }


def test_every_vote_has_the_answer_of_another_one_of_its_batch(tmp_path: Path, votes: Path) -> None:
    _, trainer, rows = built(tmp_path, "model=tiny", "method=kto", f"data.train={votes}", *SHORT)
    given = [trainer.train_dataset[place] for place in range(8)]
    own = [row["completion_ids"] for row in given]
    assert own == rows["completion_ids"]
    # TRL's own order: each has the answer of the row before it, and the first of a batch that of its last.
    others = [row["KL_completion_ids"] for row in given]
    assert others == [own[3], *own[:3], own[7], *own[4:7]]
    batch = trainer.data_collator(given[:4])
    assert batch["KL_input_ids"].shape[0] == 4 and "KL_completion_mask" in batch


@pytest.mark.parametrize(("count", "together"), [(8, 4), (9, 4), (10, 4), (7, 8), (2, 8)])
def test_no_vote_is_compared_with_its_own_answer(count: int, together: int) -> None:
    places = other_places(count, together)
    assert sorted(places) == list(range(count)) and (places != np.arange(count)).all()
    assert all(abs(own - other) < together + 1 for own, other in enumerate(places))


def test_one_vote_has_nothing_to_be_compared_with() -> None:
    assert other_places(1, 4).tolist() == [0] and other_places(0, 4).tolist() == []


def test_held_out_votes_have_answers_of_others_too(finetune: Run, tmp_path: Path, llama: Path, votes: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", [vote_row(number) for number in range(20, 25)])
    given = (f"model.name={llama}", "method=kto", f"data.train={votes}", f"data.eval={held}", "name=x")
    code, _, err = finetune("train", *given, "training.batch_size=4", "training.max_steps=2")
    assert code == 0, err
    logged = [json.loads(line) for line in (tmp_path / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    assert all("eval_kl" in row for row in logged if "eval_loss" in row)


def faults(*settings: str, shape: str = "pair", more: tuple[str, ...] = ()) -> str:
    it = composed(*settings, *more)
    method = METHODS[it.config.method.option]
    found = method.check(it.config, it.sources, Facts(model(), rows(shape=shape), CPU, False))
    return "\n".join(str(fault) for fault in found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("method.loss=[sigmoid,sigmoid]",), "method.loss: names sigmoid more than once"),
        (("method.loss=[]",), "method.loss: names no loss"),
        (("method.loss=[sft]",), "method.loss: sft alone learns from the better answers only"),
        (("method.loss=[sigmoid,sft]", "method.loss_weights=[1.0]"), "method.loss_weights: 1 weights for 2 losses"),
        (("method.loss_weights=[0.0]",), "method.loss_weights: must be above 0"),
        (("method.label_smoothing=0.1",), "method.label_smoothing: has no effect on sigmoid"),
        (("method.loss=[robust]",), "method.label_smoothing: is 0, with which robust is sigmoid"),
        (("method.loss=[exo_pair]",), "method.label_smoothing: is 0, with which exo_pair has no value"),
        (("method.trl.f_divergence_type=kl",), "method.trl.f_divergence_type: 'kl' is not one of reverse_kl"),
        (("method.trl.f_divergence_type=js_divergence", "method.loss=[apo_zero]"), "does not go with apo_zero"),
        (("method.trl.f_alpha_divergence_coef=0.5",), "f_alpha_divergence_coef: has no effect without"),
        (("tuning.dropout=0.1",), "tuning.dropout: has no effect: method=dpo compares"),
    ],
)
def test_what_pairs_cannot_be_learned_with_is_refused_before_training(settings: tuple[str, ...], said: str) -> None:
    assert said in faults("method=dpo", *settings)


def test_settings_that_belong_together_are_taken() -> None:
    taken = ("method.loss=[robust,sft]", "method.label_smoothing=0.1", "method.loss_weights=[1.0,0.5]")
    assert faults("method=dpo", *taken) == ""
    assert faults("method=dpo", "method.trl.f_divergence_type=alpha_divergence",
                  "method.trl.f_alpha_divergence_coef=0.5") == ""  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [("loss", "[sigmiod]"), ("loss", "[aot]"), ("label_smoothing", "0.5"), ("beta", "0")]
)
def test_values_outside_their_limits_are_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"method.{key}"):
        composed("method=dpo", f"method.{key}={value}")


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.parametrize("key", ["precompute_ref_log_probs", "sync_ref_model", "disable_dropout", "max_length", "beta"])
def test_names_of_trl_that_are_ours_are_refused(method: str, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is set by"):
        composed(f"method={method}", f"method.trl.{key}=1")


def test_every_loss_that_is_offered_is_one_of_trl_and_learns(
    finetune: Run, tmp_path: Path, llama: Path, pairs: Path
) -> None:
    from finetune.methods.dpo import LOSSES, SMOOTHED

    for loss in LOSSES:
        names = "[sigmoid,sft]" if loss == "sft" else f"[{loss}]"
        smoothing = ["method.label_smoothing=0.01"] if loss in SMOOTHED else []
        given = (f"model.name={llama}", "method=dpo", f"data.train={pairs}", "data.eval_share=0", f"name={loss}",
                 "training.max_steps=4", "training.log_every=1", "training.scheduler=constant", "training.learning_rate=1e-2")  # fmt: skip
        code, _, err = finetune("train", *given, f"method.loss={names}", *smoothing)
        assert code == 0, err
        lines = (tmp_path / "runs" / loss / "metrics.jsonl").read_text().splitlines()
        margins = [json.loads(line)["rewards/margins"] for line in lines]
        assert margins[-1] > margins[0] + 1e-3, loss


def test_losses_per_token_have_a_larger_beta() -> None:
    assert plan("method=dpo", data=rows(shape="pair")).resolved.method == {"beta": 0.1}
    assert plan("method=dpo", "method.loss=[sigmoid_norm,sft]", data=rows(shape="pair")).resolved.method == {"beta": 5}
    assert (
        plan("method=dpo", "method.loss=[sigmoid,sigmoid_norm]", data=rows(shape="pair")).resolved.method["beta"] == 0.1
    )
    assert plan("method=dpo", "method.beta=0.3", data=rows(shape="pair")).resolved.method == {"beta": 0.3}


def test_preferences_are_learned_at_a_small_share_of_the_rate() -> None:
    sft, dpo = (plan(f"method={name}", data=rows(shape=shape)) for name, shape in (("sft", "chat"), ("dpo", "pair")))
    assert dpo.resolved.learning_rate == pytest.approx(0.05 * sft.resolved.learning_rate)


def test_the_estimate_counts_the_reference() -> None:
    sft, dpo = (
        plan(f"method={name}", "tuning=full", data=rows(shape=shape), machine=GPU).memory
        for name, shape in (("sft", "chat"), ("dpo", "pair"))
    )
    assert dpo.frozen - sft.frozen > 4 * model().parameters and dpo.activations > 1.7 * sft.activations


@pytest.mark.parametrize(
    ("up", "down", "given", "found"),
    [
        (100, 100, (None, None), (1.0, 1.0)),
        (120, 100, (None, None), (1.0, 1.0)),
        (50, 100, (None, None), (2.0, 1.0)),
        (400, 100, (None, None), (1.0, 3.0)),
        (100, 100, (2.0, None), (2.0, 1.5)),
        (100, 100, (0.5, None), (0.5, 0.5)),
        (100, 100, (None, 3.0), (3.0, 3.0)),
        (100, 100, (7.0, 1.0), (7.0, 1.0)),
        (0, 0, (None, None), (1.0, 1.0)),
    ],
)
def test_votes_up_and_down_weigh_alike(
    up: int, down: int, given: tuple[float | None, float | None], found: tuple[float, float]
) -> None:
    assert kto.balanced(up, down, *given) == pytest.approx(found)


def test_the_plan_says_how_votes_are_weighed(finetune: Run, tmp_path: Path) -> None:
    rows = [{**vote_row(number), "label": number % 4 == 0} for number in range(40)]
    file = write_rows(tmp_path / "votes.jsonl", rows)
    given = ("model=tiny", "method=kto", f"data.train={file}", "data.eval_share=0")
    code, out, err = finetune("plan", *given)
    assert code == 0, err
    assert re.search(r"method.desirable_weight +3.0 +plan: 10 up × 3 against 30 down × 1", out)
    settings = ("method.desirable_weight=1", "method.undesirable_weight=1", "training.max_steps=1")
    code, _, err = finetune("train", *given, *settings)
    assert code == 0 and "10 votes up × 1 weigh 0.33 times what 30 votes down × 1 do" in err
    assert "method.desirable_weight=3 method.undesirable_weight=1 would balance them" in err


@pytest.mark.parametrize(("up", "mend"), [(True, "use method=sft"), (False, "add votes of the other kind")])
def test_votes_that_all_say_the_same_are_refused(finetune: Run, tmp_path: Path, up: bool, mend: str) -> None:
    file = write_rows(tmp_path / "votes.jsonl", [{**vote_row(number), "label": up} for number in range(20)])
    code, _, err = finetune("plan", "model=tiny", "method=kto", f"data.train={file}")
    assert code == 2 and "data.train: every vote of" in err and mend in err


def test_one_vote_at_a_time_is_refused_where_others_are_needed() -> None:
    settings = ("method=kto", "training.batch_size=1")
    assert "training.batch_size: 1 leaves no other answer" in faults(*settings, shape="vote")
    assert "batch_size" not in faults(*settings, "method.loss=apo_zero_unpaired", shape="vote")


class Gathered(logging.Handler):
    """What is said, as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def told(monkeypatch: pytest.MonkeyPatch, *logs: dict[str, float]) -> list[str]:
    from transformers import TrainerState

    gathered = Gathered()
    monkeypatch.setattr(logging.getLogger("finetune"), "handlers", [gathered])
    guard = Falling(beta=0.1, tokens=20, mend="do this")
    for one in logs:
        guard.on_log(None, TrainerState(global_step=7), None, one)  # type: ignore[arg-type]
    return gathered.said


def test_better_answers_that_become_unlikely_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # A reward is 0.1 times the change of the whole answer of 20 tokens.
    fallen = {"rewards/chosen": -(MOST_FALLEN + 0.1) * 20 * 0.1, "rewards/margins": 1.5}
    (said,) = told(monkeypatch, {"loss": 1.0}, fallen, fallen)
    assert said.startswith("by step 7 the better answers are 0.40 nats a token less likely") and "do this" in said


@pytest.mark.parametrize(("chosen", "margin"), [(-(MOST_FALLEN - 0.1) * 2, 1.5), (-2.0, -0.1), (2.0, 3.0)])
def test_little_less_likely_is_as_it_should_be(monkeypatch: pytest.MonkeyPatch, chosen: float, margin: float) -> None:
    assert told(monkeypatch, {"rewards/chosen": chosen, "rewards/margins": margin}) == []
