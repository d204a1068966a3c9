"""Supervised fine-tuning: learn to give the answers of the examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault
from finetune.methods.arguments import OWNED_BY_ALL, FrozenModel, Parts, shared_arguments

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

OPTION = "sft"
ROW_SHAPE = ("chat", "text")
TRL_CONFIG = ("trl.trainer.sft_config", "SFTConfig")


@dataclass
class Config(MethodConfig):
    """Supervised fine-tuning."""

    option: ClassVar[str] = OPTION
    learn: str = setting(
        "assistant",
        "Tokens that are learned in a conversation: every assistant turn, the last one, or the whole text.",
        choices=("assistant", "last", "all"),
    )


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **OWNED_BY_ALL,
    "shuffle_dataset": "training.batching",
    "trust_remote_code": "model.trust_remote_code",
    "chat_template_path": "model.chat_template",
    "max_length": "data.max_length",
    "truncation_mode": "data.on_long",
    "assistant_only_loss": "method.learn",
    "completion_only_loss": "method.learn",
    "packing": "training.batching",
    "packing_strategy": "training.batching",
    "eval_packing": "training.batching",
    "padding_free": "training.batching",
    "dataset_text_field": "data.columns",
    "dataset_kwargs": "data",
    "dataset_num_proc": "data",
    "model_init_kwargs": "model",
    "pad_token": "model.chat_template",
    "eos_token": "model.chat_template",
}
HEAD = "causal"
LAYS_FLAT = True
RATE = 1.0
METRICS: tuple[str, ...] = ()
BEST = "eval_loss"
PATIENCE = 2
ROWS_TOGETHER = 1


def learned_tokens(config: MethodConfig) -> str:
    """Which tokens of a conversation are learned."""
    assert isinstance(config, Config)
    return config.learn


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one."""
    return {}


def answers(config: MethodConfig) -> tuple[int, int]:
    """Each row of a step is one text, learned once."""
    return 1, 1


def keeps_reference(config: MethodConfig) -> bool:
    """It moves away from what it starts from as far as the rows lead."""
    return False


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """No setting is left open."""
    return {}


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean for these rows."""
    if facts.data.shape == "text" and "method.learn" in sources:
        what = "has no effect on plain text, which is learned whole"
        return [Fault("method.learn", what, "leave it out, or give rows with messages")]
    return []


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import SFTConfig

    return SFTConfig(
        **{
            **shared_arguments(plan),
            # The rows come tokenised and masked, so TRL neither tokenises, truncates nor packs them.
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "max_length": None,
            "padding_free": plan.resolved.batching == "flat",
            **plan.config.method.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over rows in the order in which they are trained."""
    from trl import SFTTrainer

    return SFTTrainer(
        model=parts.model,
        args=parts.arguments,
        processing_class=parts.tokenizer,
        train_dataset=parts.train_rows,
        eval_dataset=parts.held_out_rows,
        callbacks=parts.callbacks,
    )
