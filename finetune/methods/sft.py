"""Supervised fine-tuning: learn to give the answers of the examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.plan import RunPlan

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
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.learning_rate",
    "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulation",
    "auto_find_batch_size": "training.batch_size",
    "lr_scheduler_type": "training.scheduler",
    "warmup_ratio": "training.warmup",
    "warmup_steps": "training.warmup",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "optim": "training.optimizer",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "train_sampling_strategy": "training.batching",
    "shuffle_dataset": "training.batching",
    "logging_steps": "training.log_every",
    "logging_strategy": "training.log_every",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    "save_total_limit": "training.keep_checkpoints",
    "eval_steps": "training.eval_every",
    "eval_strategy": "training.eval_every",
    "load_best_model_at_end": "training.keep_best",
    "metric_for_best_model": "training.keep_best",
    "resume_from_checkpoint": "resume",
    "report_to": "tracking",
    "run_name": "name",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "trust_remote_code": "model.trust_remote_code",
    "chat_template_path": "model.chat_template",
    "max_length": "data.max_length",
    "truncation_mode": "data.on_long",
    "assistant_only_loss": "method.learn",
    "completion_only_loss": "method.learn",
    "deepspeed": "parallel",
    "fsdp": "parallel",
    "fsdp_config": "parallel",
    "use_cpu": "launch",
    "disable_tqdm": "tracking",
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
    "remove_unused_columns": "data",
    "push_to_hub": "output_dir",
    "save_only_model": "training.save_every",
    "ignore_data_skip": "resume",
    "accelerator_config": "launch",
    "logging_nan_inf_filter": "training.log_every",
}


def learned_tokens(config: MethodConfig) -> str:
    """Which tokens of a conversation are learned."""
    assert isinstance(config, Config)
    return config.learn


def check(config: MethodConfig, sources: dict[str, str], data: PreparedData) -> list[Fault]:
    """What these settings cannot mean for these rows."""
    if data.shape == "text" and "method.learn" in sources:
        what = "has no effect on plain text, which is learned whole"
        return [Fault("method.learn", what, "leave it out, or give rows with messages")]
    return []


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import SFTConfig

    from finetune.methods.arguments import shared_arguments

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


def build_trainer(
    arguments: Any, model: Any, tokenizer: Any, train_rows: Any, held_out_rows: Any, callbacks: list[Any]
) -> Any:
    """TRL's trainer over rows in the order in which they are trained."""
    from trl import SFTTrainer

    return SFTTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=train_rows,
        eval_dataset=held_out_rows,
        callbacks=callbacks,
    )
