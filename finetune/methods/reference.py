"""The reference: a frozen copy of what training starts from, and the proof that it is one. Imports torch.

TRL keeps the copy as a second adapter, or beside a model of which every weight is trained as a second model. What
training starts from is held before TRL builds its trainer and put back into both afterwards, because TRL lowers an
adapter over a quantized base to bf16 but not its copy, leaves the rows of new tokens out of the copy, and reads a
second model from a file, which lacks the rows that were added.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.config import LoraTuning
from finetune.errors import RunFailed
from finetune.log import log
from finetune.rundir import read_facts

if TYPE_CHECKING:
    from finetune.methods.arguments import Parts
    from finetune.plan import RunPlan

POLICY, COPY = "default", "ref"  # what TRL calls the adapter that is trained and its frozen copy
MOST_APART = 1e-3  # nats, of one token: the same weights on the same rows differ by none


@dataclass(frozen=True)
class Start:
    """What training starts from, held while TRL builds its trainer."""

    adapter: dict[str, torch.Tensor]  # the trained numbers of an adapter, by their names
    model: Any  # a frozen copy of a model of which every weight is trained, else none


def hold(plan: RunPlan, parts: Parts) -> Start:
    """Hold what training starts from."""
    from finetune import weights

    model = parts.model
    if not isinstance(plan.config.tuning, LoraTuning):
        return Start({}, weights.load(plan, parts.tokenizer).requires_grad_(False).eval())
    # PiSSA and OLoRA have taken their part out of the base. TRL makes its copy from the same settings, which
    # would take a second part out, for policy and reference alike, so that no loss would show it.
    model.peft_config[POLICY].init_lora_weights = True
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return Start({name: tensor.detach().clone() for name, tensor in trained.items()}, None)


def put_back(plan: RunPlan, trainer: Any, start: Start) -> None:
    """Make what is trained and its copy what was held, and let the trainer prove it before its first step."""
    from finetune.lineage import LINEAGE

    said = str(read_facts(Path(plan.run_dir) / LINEAGE, "reference")["reference"])
    sharded = plan.config.parallel.option != "ddp"
    for name, held in start.adapter.items():
        trained = trainer.model.get_parameter(name)
        # Where FSDP shards the model it wants one type: that to which TRL has lowered what is trained.
        value = held.to(trained.device, trained.dtype if sharded else held.dtype)
        trained.data = value
        trainer.model.get_parameter(_of_copy(name)).data = value.clone()
    trainer.add_callback(Proof(trainer, said, sharded))


def _of_copy(name: str) -> str:
    return ".".join(COPY if part == POLICY else part for part in name.split("."))


class Proof(TrainerCallback):  # type: ignore[misc]
    """Fail a run that does not start at its reference, or goes on with another one than it began with."""

    def __init__(self, trainer: Any, said: str, sharded: bool) -> None:
        self.trainer, self.said, self.sharded = trainer, said, sharded
        self.digest = "" if sharded else _digest(trainer.model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            # Ranks that hold shards cannot compare; TRL has then loaded what the checkpoint has.
            if not self.sharded and _digest(self.trainer.model) != self.digest:
                mend = "start anew in its place with resume=none"
                raise RunFailed(f"resume: the checkpoint's reference is not {self.said}; {mend}")
            return
        apart = most_apart(self.trainer)
        if not apart <= MOST_APART:
            what = f"the log-probability of a token differs by {apart:.2g} nats between the model and its reference"
            mend = "they must be the same before the first step; use the tested versions of TRL and PEFT"
            raise RunFailed(f"{what}, {self.said}: {mend}")
        log.info(f"reference: {self.said}; the same as the model on the first rows (within {apart:.0e} nats a token)")


def most_apart(trainer: Any) -> float:
    """The most by which model and reference differ about a token of the first rows, as TRL's own loss sees them."""
    passes: list[torch.Tensor] = []
    models = [one for one in (trainer.model, trainer.ref_model) if one is not None]
    hooks = [one.register_forward_hook(lambda module, given, out: passes.append(out.log_probs)) for one in models]
    rows = [trainer.train_dataset[place] for place in range(trainer.args.per_device_train_batch_size)]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    trainer.model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            trainer.compute_loss(trainer.model_wrapped, batch)
    finally:
        for hook in hooks:
            hook.remove()
        trainer._metrics["eval"].clear()  # what TRL noted is no evaluation
    # The reference is asked what the model was asked, in the same order.
    half = len(passes) // 2
    apart = [(own - other).abs().max() for own, other in zip(passes[:half], passes[half:], strict=True)]
    return float(torch.stack(apart).max())


def _digest(model: Any) -> str:
    """A hash of the frozen copy of an adapter; of nothing where a second model is the reference."""
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        if COPY in name.split("."):
            part = tensor.detach().to("cpu").contiguous()
            digest.update(name.encode() + part.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
