"""A trainer as train.py builds it, not yet started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune.plan import RunPlan


class Built(NamedTuple):
    """The plan of a run, its trainer, and the rows in the order in which they are trained."""

    plan: RunPlan
    trainer: Any
    rows: Any


def built(folder: Path, *overrides: str, then: Callable[[Any], None] = lambda trainer: None) -> Built:
    """The trainer of a run in a folder; `then` changes it before it is handed out."""
    from finetune import adapter, weights
    from finetune.compose import compose
    from finetune.data.prepare import held_out_rows
    from finetune.launch import begin
    from finetune.methods import METHODS
    from finetune.methods.arguments import Parts
    from finetune.plan import plan_run
    from finetune.tokenizer import load_tokenizer
    from finetune.train import all_rows

    composed = compose([*overrides, f"output_dir={folder / 'runs'}"])
    plan = plan_run(composed)
    Path(plan.run_dir).mkdir(parents=True, exist_ok=True)
    plan = begin(plan, composed)
    method = METHODS[plan.config.method.option]
    rows, _ = all_rows(plan)
    held_out = held_out_rows(plan.data.held_out) if plan.data.held_out else None
    arguments = method.build_args(plan)
    tokenizer = load_tokenizer(plan.model, None, tuple(plan.config.tuning.new_tokens))
    tuned, frozen = weights.load(plan, tokenizer), weights.load_frozen(plan, tokenizer)
    trainer = method.build_trainer(plan, Parts(arguments, tuned, tokenizer, rows, held_out, [], frozen))
    adapter.keep_in_fp32(trainer.model)
    then(trainer)
    return Built(plan, trainer, rows)
