"""Where the trackers that Trainer knows are told to write: they listen to the environment."""

from __future__ import annotations

import os

from finetune.config import MlflowTracking, TensorboardTracking, TrackingConfig, WandbTracking


def set_up(tracking: TrackingConfig, run_dir: str) -> None:
    """Point the tracker at this run, before the trainer is built."""
    os.environ.update(environment(tracking, run_dir))


def environment(tracking: TrackingConfig, run_dir: str) -> dict[str, str]:
    """The variables that a tracker reads; Trackio is told by an argument instead."""
    if isinstance(tracking, TensorboardTracking):
        return {"TENSORBOARD_LOGGING_DIR": f"{run_dir}/tensorboard"}
    if isinstance(tracking, WandbTracking):
        return {"WANDB_PROJECT": tracking.project, "WANDB_DIR": run_dir}
    if isinstance(tracking, MlflowTracking):
        return {"MLFLOW_EXPERIMENT_NAME": tracking.project}
    return {}
