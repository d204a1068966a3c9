"""Preference tuning on pairs: give the better of two answers more often than the worse one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault, listed
from finetune.methods import preferences
from finetune.methods.arguments import FrozenModel, Parts, shared_arguments

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

OPTION = "dpo"
ROW_SHAPE = ("pair",)
TRL_CONFIG = ("trl.trainer.dpo_config", "DPOConfig")
HEAD = "causal"
LAYS_FLAT = False
RATE = 0.05
METRICS = preferences.METRICS
BEST = "eval_loss"
PATIENCE = 2
ROWS_TOGETHER = 2

# TRL's losses that are the same however a batch is split, and what each asks for.
LOSSES = (
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sft",
)  # fmt: skip
SMOOTHED = ("robust", "exo_pair")
DIVERGED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "sft")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass
class Config(MethodConfig):
    """Preference tuning on pairs of answers."""

    option: ClassVar[str] = OPTION
    loss: list[str] = setting(
        ["sigmoid"],
        "What is asked of a pair: `sigmoid` is DPO's own loss, `sigmoid_norm` the same per token, `sft` learns the "
        "better answer besides; several are added.",
        choices=LOSSES,
    )
    loss_weights: list[float] = setting([], "Weight of each loss; by default 1 each.")
    beta: float | None = setting(
        None,
        "How closely the model keeps to its reference; by default 0.1, and 5 where the loss is per token.",
        above=0,
    )
    label_smoothing: float = setting(
        0.0,
        "Share of the pairs that are taken to be the wrong way round, for `robust` and `exo_pair`.",
        low=0,
        below=0.5,
    )


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **preferences.OWNED_BY_PREFERENCES,
    "loss_weights": "method.loss_weights",
    "label_smoothing": "method.label_smoothing",
    "discopop_tau": "method.loss",
    "truncation_mode": "data.on_long",
    "padding_free": "training.batching",
    "pad_token": "model.chat_template",
}


def learned_tokens(config: MethodConfig) -> str:
    """The two answers, which end their conversations."""
    return "last"


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one and its reference."""
    return {}


def answers(config: MethodConfig) -> tuple[int, int]:
    """Each row of a step holds its answers, learned once."""
    return 1, 1


def keeps_reference(config: MethodConfig) -> bool:
    """How much likelier an answer has become is measured against it."""
    return True


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """How closely the model keeps to its reference."""
    assert isinstance(config, Config)
    if set(config.loss) - {"sft"} == {"sigmoid_norm"}:
        return {"beta": (5.0, "sigmoid_norm measures answers per token, where they differ by little")}
    return {"beta": (0.1, f"the usual one for {listed(config.loss)}")}


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean."""
    method = config.method
    assert isinstance(method, Config)
    return [*preferences.check_dropout(config), *_check_losses(method), *_check_smoothing(method), *_check_trl(method)]


def _check_losses(config: Config) -> Iterator[Fault]:
    names, weights = config.loss, config.loss_weights
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Fault("method.loss", f"names {name} more than once", "give method.loss_weights instead")
    if not names:
        yield Fault("method.loss", "names no loss", "use [sigmoid]")
    if names == ["sft"]:
        yield Fault("method.loss", "sft alone learns from the better answers only", "add sigmoid, or use method=sft")
    if weights and len(weights) != len(names):
        what = f"{len(weights)} weights for {len(names)} losses"
        yield Fault("method.loss_weights", what, "give one for each loss")
    if any(not weight > 0 for weight in weights):
        yield Fault("method.loss_weights", f"must be above 0, got {weights}", "leave the loss out instead")


def _check_smoothing(config: Config) -> Iterator[Fault]:
    smoothed = [name for name in config.loss if name in SMOOTHED]
    if config.label_smoothing and not smoothed:
        what = f"has no effect on {listed(config.loss)}"
        yield Fault("method.label_smoothing", what, "use method.loss=[robust], or leave it out")
    if not config.label_smoothing and smoothed:
        what = f"is 0, with which {smoothed[0]} {'is sigmoid' if smoothed[0] == 'robust' else 'has no value'}"
        mend = "say how many pairs may be the wrong way round, such as 0.1" if smoothed[0] == "robust" else "use 0.001"
        yield Fault("method.label_smoothing", what, mend)


def _check_trl(config: Config) -> Iterator[Fault]:
    """What TRL refuses only in the first step, or passes over in silence."""
    divergence = config.trl.get("f_divergence_type", "reverse_kl")
    if divergence not in DIVERGENCES:
        what = f"{divergence!r} is not one of {', '.join(DIVERGENCES)}"
        yield Fault("method.trl.f_divergence_type", what, "use one of them")
    others = [name for name in config.loss if name not in DIVERGED]
    if divergence != "reverse_kl" and others:
        what = f"{divergence} does not go with {listed(others)}"
        yield Fault("method.trl.f_divergence_type", what, f"use {listed(DIVERGED[:4])}, or leave it out")
    if divergence != "alpha_divergence" and "f_alpha_divergence_coef" in config.trl:
        what = "has no effect without method.trl.f_divergence_type=alpha_divergence"
        yield Fault("method.trl.f_alpha_divergence_coef", what, "leave it out")


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import DPOConfig

    config = plan.config.method
    assert isinstance(config, Config)
    return DPOConfig(
        **{
            **shared_arguments(plan),
            "max_length": None,
            "loss_type": config.loss,
            "loss_weights": config.loss_weights or None,
            "beta": plan.resolved.method["beta"],
            "label_smoothing": config.label_smoothing,
            **config.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over rows in the order in which they are trained."""
    from finetune.methods import reference
    from finetune.methods.falling import Falling
    from finetune.methods.preference_trainers import PairTrainer

    train = plan.data.train
    mend = "add the loss sft (method.loss=[sigmoid,sft]), raise method.beta, or lower training.learning_rate"
    falling = Falling(plan.resolved.method["beta"], train.supervised_tokens / max(1, 2 * train.rows), mend)
    start = reference.hold(plan, parts)
    trainer = PairTrainer(
        model=parts.model,
        ref_model=start.model,
        args=parts.arguments,
        processing_class=parts.tokenizer,
        train_dataset=parts.train_rows,
        eval_dataset=parts.held_out_rows,
        callbacks=[*parts.callbacks, falling],
    )
    reference.put_back(plan, trainer, start)
    return trainer
