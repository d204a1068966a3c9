"""What every method gives to its TRL trainer in the same way: arguments, parts, and the names that are ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config import TrackioTracking
from finetune.errors import UserError, first_line, listed

if TYPE_CHECKING:
    from finetune.plan import RunPlan

# Names of transformers' own arguments for what our keys decide in every method.
OWNED_BY_ALL: dict[str, str] = {
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
    "deepspeed": "parallel",
    "fsdp": "parallel",
    "fsdp_config": "parallel",
    "use_cpu": "launch",
    "disable_tqdm": "tracking",
    "remove_unused_columns": "data",
    "push_to_hub": "output_dir",
    "save_only_model": "training.save_every",
    "ignore_data_skip": "resume",
    "accelerator_config": "launch",
    "logging_nan_inf_filter": "training.log_every",
    "do_train": "method",
    "do_eval": "data.eval",
    "do_predict": "evaluate",
    "project": "tracking",
    "trackio_space_id": "tracking",
    "trackio_static_space_id": "tracking",
    "save_on_each_node": "output_dir",
    "dataloader_drop_last": "training.batch_size",
}


@dataclass(frozen=True)
class FrozenModel:
    """A model that a method reads beside the one it trains."""

    key: str  # the setting that names it
    name: str
    revision: str | None


@dataclass(frozen=True)
class Parts:
    """What a trainer is built from."""

    arguments: Any
    model: Any
    tokenizer: Any
    train_rows: Any  # input_ids and labels, in the order in which they are trained
    held_out_rows: Any
    callbacks: list[Any]
    frozen: Mapping[str, Any]  # the models that are only read, by their role


def shared_arguments(plan: RunPlan) -> dict[str, Any]:
    """Transformers' training arguments of a plan."""
    from finetune.rundir import CHECKPOINTS

    training, resolved, batch = plan.config.training, plan.resolved, plan.batch
    best = resolved.keep_best != "none"
    arguments: dict[str, Any] = {
        "output_dir": f"{plan.run_dir}/{CHECKPOINTS}",
        "seed": plan.config.seed,
        "per_device_train_batch_size": batch.micro,
        "per_device_eval_batch_size": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "max_steps": batch.steps,
        "learning_rate": resolved.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": batch.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": resolved.optimizer,
        "gradient_checkpointing": resolved.gradient_checkpointing,
        "bf16": resolved.precision == "bf16",
        "fp16": resolved.precision == "fp16",
        "logging_steps": batch.log_every,
        # A NaN must reach the guard instead of being logged as the mean of the steps before it.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": batch.save_every,
        # Superseded checkpoints are deleted by our own callback, after the new one is sealed.
        "save_total_limit": None,
        "eval_strategy": "steps" if batch.eval_every else "no",
        "eval_steps": batch.eval_every,
        "load_best_model_at_end": best,
        "metric_for_best_model": resolved.keep_best if best else None,
        "greater_is_better": resolved.keep_best != "eval_loss" if best else None,
        # The rows are already in their final order: seeded, grouped by length, the same for any number of processes.
        "train_sampling_strategy": "sequential",
        "report_to": [] if plan.config.tracking.option == "none" else [plan.config.tracking.option],
        "run_name": plan.run_dir.rsplit("/", 1)[-1],
        "disable_tqdm": True,
        # Without it, processes on a machine without a GPU train independent copies and say nothing.
        "use_cpu": plan.machine.device == "cpu",
        "dataloader_pin_memory": plan.machine.device == "cuda",
        "remove_unused_columns": True,
    }
    if isinstance(plan.config.tracking, TrackioTracking):
        # Records stay on this machine: nothing is published as a Space.
        arguments |= {"project": plan.config.tracking.project, "trackio_static_space_id": False}
    if training.scheduler == "cosine_with_min_lr":
        arguments["lr_scheduler_kwargs"] = {"min_lr_rate": 0.1}
    return arguments


@contextmanager
def passed_on(given: Mapping[str, Any], has_begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Name the arguments passed on to TRL when it refuses them, which it may do as late as the first step."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        # Memory that runs out is a RuntimeError of a kind of its own, or says so.
        foreign = isinstance(error, RuntimeError) and (type(error) is not RuntimeError or "memory" in str(error))
        if not given or foreign or has_begun():
            raise
        what = f"TRL refuses what is passed on to it ({first_line(error):.200})"
        raise UserError.at("method.trl", what, f"correct or leave out {listed(list(given))}") from error
