"""TRL's trainers of a model's own answers, given our tokens and rewards. Imports TRL."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import use_adapter

from finetune.config import LoraTuning
from finetune.evaluate.contents import SAMPLES
from finetune.log import rank
from finetune.methods import METHODS, reference
from finetune.methods.arguments import Parts
from finetune.methods.drift import Drift
from finetune.methods.payment import Asked, Closing, Payment
from finetune.methods.probe import Probe
from finetune.methods.sampling import Sampled, columns_of, rewards_for, tasks
from finetune.plan import RunPlan

COMPARED = 4  # questions on which the reference is proven


class _Answering:
    """What differs from TRL's trainers: which tokens are asked, and that measuring does not disturb what follows."""

    payment: Payment
    args: Any
    _metrics: dict[str, dict[str, list[float]]]
    always_copies: ClassVar[bool]  # TRL makes a second adapter of the first even where no leash needs one

    def _tokenize_prompts(self, prompts: list[Asked]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The tokens that were prepared; no images."""
        return [one.ids for one in prompts], None, {}

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure with random numbers of its own, the same each time."""
        with apart(self.args), self.payment.measuring():
            found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]
            return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean pay of held-out rows; TRL's is one of batches, of which the last may be short."""
        if self.payment.is_measuring:
            self._metrics["eval"].update(self.payment.measured())
        super().log(logs, start_time)  # type: ignore[misc]


class GroupTrainer(_Answering, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer for GRPO."""

    always_copies = False


class LeaveOneOutTrainer(_Answering, RLOOTrainer):  # type: ignore[misc]
    """TRL's trainer for RLOO."""

    always_copies = True


@contextmanager
def apart(args: Any) -> Iterator[None]:
    """Draw other random numbers for a while, the same each time, and then go on as if none had been drawn."""
    devices = [args.device.index or 0] if args.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(args.seed + args.process_index)
        yield


def built(kind: Any, plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over questions in the order in which they are asked, watched."""
    config = plan.config.method
    assert isinstance(config, Sampled)
    # TRL ends an answer where the model's own settings do; the chat template may end it elsewhere.
    parts.model.generation_config.eos_token_id = list(plan.data.stop_ids)
    columns = columns_of(tasks(plan.data.train))
    rewards = rewards_for(config, columns)
    path = Path(plan.run_dir) / SAMPLES if rank() == 0 else None
    payment = Payment(rewards, columns, plan.batch, frozenset(plan.data.stop_ids), path)
    adapted = isinstance(plan.config.tuning, LoraTuning)
    is_tied = METHODS[config.option].keeps_reference(config)
    copies = is_tied or kind.always_copies
    start = reference.hold(plan, parts) if adapted and copies else reference.Start({}, None)
    trainer = kind(
        model=parts.model,
        reward_funcs=[payment.total],
        args=parts.arguments,
        processing_class=parts.tokenizer,
        train_dataset=_questions(parts.train_rows),
        eval_dataset=_questions(parts.held_out_rows) if parts.held_out_rows is not None else None,
        callbacks=parts.callbacks,
    )
    trainer.payment = payment
    if is_tied:
        reference.put_back(plan, trainer, start, _most_apart)
    elif start.adapter:
        reference.drop(plan, trainer, start)
    closing = weakref.finalize(trainer, rewards.close)
    drift = Drift(len(parts.held_out_rows) if parts.held_out_rows is not None else 0)
    for callback in (Probe(trainer, plan, lambda: apart(trainer.args)), drift, Closing(closing)):
        trainer.add_callback(callback)
    return trainer


def _most_apart(trainer: Any) -> float:
    """The most by which model and reference differ about a token of the first questions."""
    most, model = 0.0, trainer.accelerator.unwrap_model(trainer.model)
    trainer.model.eval()
    with torch.no_grad():
        for place in range(min(COMPARED, len(trainer.train_dataset))):
            ids = torch.tensor([trainer.train_dataset[place]["prompt"].ids], device=trainer.args.device)
            asked = ids, torch.ones_like(ids), ids.shape[1] - 1
            own, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, *asked)
            frozen = nullcontext() if trainer.ref_model is not None else use_adapter(model, reference.COPY)
            with frozen:
                other, *_ = trainer._get_per_token_logps_and_entropies(trainer.ref_model or trainer.model, *asked)
            most = max(most, float((own - other).abs().max()))
    return most


def _questions(rows: Any) -> Any:
    """Prepared rows as the trainer reads them: one column with the question."""
    return rows.with_transform(_read)


def _read(given: dict[str, list[Any]]) -> dict[str, list[Asked]]:
    return {"prompt": [Asked(ids, row) for ids, row in zip(given["prompt_ids"], given["row"], strict=True)]}
