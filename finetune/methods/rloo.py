"""REINFORCE, leave one out: learn from each answer's pay over the mean of the others to the same question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault
from finetune.methods import sampling
from finetune.methods.arguments import FrozenModel, Parts
from finetune.methods.sampling import Sampled, answers

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

__all__ = ["answers"]

OPTION = "rloo"
ROW_SHAPE = ("task",)
TRL_CONFIG = ("trl.trainer.rloo_config", "RLOOConfig")
HEAD = "causal"
LAYS_FLAT = False
RATE = 0.05
METRICS = sampling.METRICS
BEST = "eval_reward"
PATIENCE = sampling.PATIENCE
ROWS_TOGETHER = 1


@dataclass
class Config(Sampled):
    """Learn from the model's own answers, each against the others."""

    option: ClassVar[str] = OPTION
    beta: float = setting(
        0.05, "Leash to the model that training starts from: what divergence from it costs of the reward.", low=0
    )


OWNED: dict[str, str] = sampling.OWNED


def learned_tokens(config: MethodConfig) -> str:
    """Rows hold no answers; those that are drawn are learned."""
    return "last"


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one and its reference."""
    return {}


def keeps_reference(config: MethodConfig) -> bool:
    """Only a leash needs something to be tied to."""
    assert isinstance(config, Config)
    return config.beta > 0


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """The room for answers."""
    assert isinstance(config, Config)
    return {"max_new_tokens": sampling.room(config, facts)}


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean for this model and these rows."""
    assert isinstance(config.method, Config)
    return [*sampling.check_reference(config, config.method.beta), *sampling.check(config, sources, facts)]


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import RLOOConfig

    config = plan.config.method
    assert isinstance(config, Config)
    return RLOOConfig(**{**sampling.sampling_arguments(plan), "beta": config.beta, **config.trl})


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over questions in the order in which they are asked."""
    from finetune.methods.sampling_trainer import LeaveOneOutTrainer, built

    return built(LeaveOneOutTrainer, plan, parts)
