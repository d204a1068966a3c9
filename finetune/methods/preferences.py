"""What the methods that learn from preferences have in common: TRL's names that are ours, metrics, checks."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.config import LoraTuning, RunConfig
from finetune.errors import Fault
from finetune.methods.arguments import OWNED_BY_ALL

OWNED_BY_PREFERENCES: dict[str, str] = {
    **OWNED_BY_ALL,
    "model_init_kwargs": "model",
    "trust_remote_code": "model.trust_remote_code",
    "dataset_num_proc": "data",
    "max_length": "data.max_length",
    "disable_dropout": "tuning.dropout",
    "loss_type": "method.loss",
    "beta": "method.beta",
    # The reference is what training starts from, and stays so.
    "sync_ref_model": "tuning.start",
    "ref_model_mixup_alpha": "tuning.start",
    "ref_model_sync_steps": "tuning.start",
    # TRL would compute every repetition of a row, and write files beside the prepared rows.
    "precompute_ref_log_probs": "method",
    "precompute_ref_batch_size": "method",
}
METRICS = (
    "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected",
    "kl",
)  # fmt: skip


def check_dropout(config: RunConfig) -> Iterator[Fault]:
    """Dropout would blur what model and reference say of the same row, so TRL's trainers switch it off."""
    if isinstance(config.tuning, LoraTuning) and config.tuning.dropout > 0:
        what = f"has no effect: method={config.method.option} compares the model with its reference without dropout"
        yield Fault("tuning.dropout", what, "leave it out")
