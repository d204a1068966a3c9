"""A reward model: learn from pairs which of two answers is better, as one number for each answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault
from finetune.methods.arguments import OWNED_BY_ALL, FrozenModel, Parts, shared_arguments

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

OPTION = "reward"
ROW_SHAPE = ("pair",)
TRL_CONFIG = ("trl.trainer.reward_config", "RewardConfig")
HEAD = "score"
LAYS_FLAT = False
# Full tuning to a reward model usually takes half the rate of learning answers, or less.
RATE = 0.5
METRICS = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")
# The accuracy of a few hundred pairs is coarse, so that many checkpoints share the best one; the loss tells them apart.
BEST = "eval_loss"
PATIENCE = 2
ROWS_TOGETHER = 2


@dataclass
class Config(MethodConfig):
    """A reward model, from pairs of a better and a worse answer."""

    option: ClassVar[str] = OPTION
    center_rewards: float | None = setting(
        None,
        "Weight of the squared sum of both rewards of a pair in the loss, which keeps rewards near zero, such as 0.01; "
        "by default only their difference counts.",
        above=0,
    )


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **OWNED_BY_ALL,
    "center_rewards_coefficient": "method.center_rewards",
    "trust_remote_code": "model.trust_remote_code",
    "model_init_kwargs": "model",
    "chat_template_path": "model.chat_template",
    "pad_token": "model.chat_template",
    "eos_token": "model.chat_template",
    "max_length": "data.max_length",
    "dataset_num_proc": "data",
    "disable_dropout": "tuning.dropout",
}


def learned_tokens(config: MethodConfig) -> str:
    """The last answer of both sides is what differs."""
    return "last"


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one."""
    return {}


def answers(config: MethodConfig) -> tuple[int, int]:
    """Each row of a step is one pair, learned once."""
    return 1, 1


def keeps_reference(config: MethodConfig) -> bool:
    """It has to stay near nothing: it writes no text."""
    return False


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """No setting is left open."""
    return {}


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """Settings of the evaluation that say nothing of a model that answers nothing."""
    from finetune.evaluate.scoring import idle

    return idle(config.evaluate)


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import RewardConfig

    config = plan.config.method
    assert isinstance(config, Config)
    return RewardConfig(
        **{
            **shared_arguments(plan),
            "center_rewards_coefficient": config.center_rewards,
            # The rows come tokenised, as what is asked and two answers, which the collator joins.
            "remove_unused_columns": False,
            "max_length": None,
            "disable_dropout": False,  # tuning.dropout is what was asked for
            **config.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over pairs in the order in which they are trained."""
    from trl import RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    collator = DataCollatorForPreference(parts.tokenizer.pad_token_id, parts.arguments.pad_to_multiple_of)
    return RewardTrainer(
        model=parts.model,
        args=parts.arguments,
        data_collator=Whole(collator),
        processing_class=parts.tokenizer,
        train_dataset=parts.train_rows,
        eval_dataset=parts.held_out_rows,
        callbacks=parts.callbacks,
    )


@dataclass(frozen=True)
class Whole:
    """Pairs as a batch: what is asked stands before both answers, and a pair without a margin has one of nothing."""

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some prepared rows."""
        sides = ("chosen_ids", "rejected_ids")
        return self.collator(
            [
                {**{side: row["prompt_ids"] + row[side] for side in sides}, "margin": float(row["margin"] or 0.0)}
                for row in rows
            ]
        )
