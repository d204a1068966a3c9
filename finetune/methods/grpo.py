"""Group relative policy optimisation: learn from which of its own answers are paid more than the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault
from finetune.methods import sampling
from finetune.methods.arguments import FrozenModel, Parts
from finetune.methods.sampling import Sampled, answers
from finetune.rewards.own import is_learned

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

__all__ = ["answers"]

OPTION = "grpo"
ROW_SHAPE = ("task",)
TRL_CONFIG = ("trl.trainer.grpo_config", "GRPOConfig")
HEAD = "causal"
LAYS_FLAT = False
RATE = 0.05
METRICS: tuple[str, ...] = (*sampling.METRICS, "cispo_clip_ratio", "clip_ratio/region_mean")
BEST = "eval_reward"
PATIENCE = sampling.PATIENCE
ROWS_TOGETHER = 1

# What each loss is to TRL. Where answers are learned from once, cispo is dapo, and gspo is grpo.
LOSSES: dict[str, dict[str, Any]] = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "bnpo": {"loss_type": "bnpo"},
    # For cispo the upper bound is one of the weight itself, not of how far the ratio may be from 1.
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
}
LEASH = 0.04  # where a reward is learned
NEEDS_RATIO = {"cispo": "dapo", "gspo": "grpo"}


@dataclass
class Config(Sampled):
    """Learn from the model's own answers, compared in groups."""

    option: ClassVar[str] = OPTION
    beta: float | None = setting(
        None,
        "Leash to the model that training starts from: weight of the divergence from it; by default none, and 0.04 "
        "where a reward is a trained model.",
        low=0,
    )
    loss: str = setting(
        "dapo",
        "How the tokens of the answers are weighed: `dapo` each alike, `grpo` each answer alike, `dr_grpo` by the "
        "longest answer, `bnpo` alike within a forward pass; `cispo` and `gspo` bound otherwise how far a step may go.",
        choices=tuple(LOSSES),
    )
    scale_rewards: str | None = setting(
        None,
        "What the pay above the mean is divided by: the spread within the `group`, within the `batch`, or `none`; by "
        "default the group's, and none for `dr_grpo`.",
        choices=("group", "batch", "none"),
    )


OWNED: dict[str, str] = {
    **sampling.OWNED,
    "loss_type": "method.loss",
    "importance_sampling_level": "method.loss",
    "scale_rewards": "method.scale_rewards",
}


def learned_tokens(config: MethodConfig) -> str:
    """Rows hold no answers; those that are drawn are learned."""
    return "last"


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one."""
    return {}


def keeps_reference(config: MethodConfig) -> bool:
    """Only a leash needs something to be tied to."""
    assert isinstance(config, Config)
    return bool(_leash(config)[0])


def _leash(config: Config) -> tuple[float, str]:
    """How the model is tied to where it starts; what a reward model pays for elsewhere means nothing."""
    if config.beta is not None:
        return config.beta, "as set"
    if any(map(is_learned, config.rewards)):
        return LEASH, "a learned reward means something only near the answers that it was learned from"
    return 0.0, "the rewards are computed, not learned, and need no leash"


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """The room for answers, the leash, and the scale of the rewards."""
    assert isinstance(config, Config)
    scaled = (
        ("none", "dr_grpo does without it") if config.loss == "dr_grpo" else ("group", "as GRPO was first described")
    )
    return {
        "max_new_tokens": sampling.room(config, facts),
        "beta": _leash(config),
        "scale_rewards": scaled,
    }


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean for this model and these rows."""
    assert isinstance(config.method, Config)
    method = config.method
    return [
        *_check_loss(method),
        *sampling.check_reference(config, _leash(method)[0]),
        *sampling.check(config, sources, facts),
    ]


def _check_loss(config: Config) -> Iterator[Fault]:
    same = NEEDS_RATIO.get(config.loss)
    if same and config.iterations == 1:
        what = f"{config.loss} is the same as {same} where answers are learned from once"
        yield Fault("method.loss", what, f"use {same}, or raise method.iterations")


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import GRPOConfig

    config, own = plan.config.method, plan.resolved.method
    assert isinstance(config, Config)
    return GRPOConfig(
        **{
            **sampling.sampling_arguments(plan),
            **LOSSES[config.loss],
            "beta": own["beta"],
            "scale_rewards": own["scale_rewards"],
            **config.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over questions in the order in which they are asked."""
    from finetune.methods.sampling_trainer import GroupTrainer, built

    return built(GroupTrainer, plan, parts)
