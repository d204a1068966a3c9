"""A tracker is told where this run belongs."""

from finetune.config import MlflowTracking, NoTracking, TensorboardTracking, WandbTracking
from finetune.tracking import environment


def test_each_tracker_is_told_in_its_own_way() -> None:
    assert environment(NoTracking(), "runs/x") == {}
    assert environment(TensorboardTracking(), "runs/x") == {"TENSORBOARD_LOGGING_DIR": "runs/x/tensorboard"}
    assert environment(WandbTracking(project="mine"), "runs/x")["WANDB_PROJECT"] == "mine"
    assert environment(MlflowTracking(project="mine"), "runs/x") == {"MLFLOW_EXPERIMENT_NAME": "mine"}
