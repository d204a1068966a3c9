"""The story of a run: rows → tokenizer → model → adapter → trainer → train or resume → save.

`python -m finetune.train` is what `accelerate launch` starts, with a run directory or with overrides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from finetune import checkpoint, launch, tracking, weights
from finetune.errors import RunFailed
from finetune.log import log, rank
from finetune.methods import METHODS
from finetune.methods.arguments import Parts, passed_on
from finetune.plan import RunPlan
from finetune.rundir import OUTCOME, write_json


def train(plan: RunPlan) -> None:
    """Train one run in this process, which may be one of several; its directory is claimed already."""
    from transformers import PrinterCallback

    from finetune import adapter, callbacks, flat
    from finetune.ahead import Ahead
    from finetune.data.prepare import held_out_rows
    from finetune.tokenizer import load_tokenizer

    config = plan.config

    # 1. The rows, in the order in which they are trained.
    rows, tokens = all_rows(plan)
    held_out = held_out_rows(plan.data.held_out) if plan.batch.eval_every and plan.data.held_out else None

    # 2. The model, and what of it is trained. TRL's arguments come first: they set up sharding, if there is any.
    method = METHODS[config.method.option]
    with passed_on(config.method.trl):
        arguments = method.build_args(plan)
    refuse_other_processes(plan, arguments.world_size)
    tokenizer = load_tokenizer(plan.model, config.model.chat_template, tuple(config.tuning.new_tokens))
    tuned = weights.load(plan, tokenizer)
    frozen = weights.load_frozen(plan, tokenizer)

    # 3. TRL's trainer, watched.
    tracking.set_up(config.tracking, plan.run_dir)
    resume_step = checkpoint.step_of(plan.resume_from)
    ahead = Ahead(plan, resume_step * plan.batch.effective) if plan.data.is_partial and rank() == 0 else None
    watch = callbacks.build(plan, tokens, resume_step, ahead)
    with passed_on(config.method.trl):
        parts = Parts(arguments, tuned, tokenizer, rows, held_out, watch.callbacks, frozen)
        trainer = method.build_trainer(plan, parts)
    if config.parallel.option == "ddp":
        adapter.keep_in_fp32(trainer.model)
        if plan.resolved.batching == "flat":
            flat.check(trainer.model, rows, trainer.accelerator.autocast())
    trainer.remove_callback(PrinterCallback)  # stdout is for results

    # 4. Train, or go on training.
    if plan.resume_from:
        log.info(f"continuing from step {resume_step} of {plan.batch.steps}")
    started = time.monotonic()
    with (
        ahead or nullcontext(),
        watch.stops.listening(),
        passed_on(config.method.trl, lambda: trainer.state.global_step > resume_step),
    ):
        trainer.train(resume_from_checkpoint=plan.resume_from)
    if stopped := watch.stops.reason(trainer.state.global_step, plan.command):
        raise stopped
    seconds = time.monotonic() - started
    log.info(f"trained {trainer.state.global_step - resume_step} steps in {seconds:.1f} s")

    # 5. Save the result, and prove that it is what was trained.
    saved = weights.save(plan, trainer, tokenizer)
    if rank() == 0:
        leave_outcome(plan, saved, resume_step, trainer.state.global_step, seconds)


def all_rows(plan: RunPlan) -> tuple[Any, Callable[[int], int]]:
    """The rows in the order in which they are trained, and how many tokens the first so many of them have."""
    from finetune.data.prepare import ordered_rows
    from finetune.data.windows import FOLDER, StreamedRows, as_dataset

    batch, seed = plan.batch, plan.config.seed
    grouped = plan.resolved.batching == "grouped"
    if plan.data.window is not None:
        rows = StreamedRows(Path(plan.run_dir) / FOLDER, plan.data, seed, batch.rows, grouped)
        return as_dataset(rows, batch.rows_ordered), rows.tokens
    steps = batch.steps // batch.window
    return ordered_rows(plan.data.train, steps=steps, effective_batch=batch.rows, seed=seed, group_by_length=grouped)


def refuse_other_processes(plan: RunPlan, together: int) -> None:
    """Fail where processes that should train together would each train a copy, or with others."""
    if together != plan.batch.processes:
        what = f"{plan.batch.processes} processes were planned, but {together} train together"
        raise RunFailed(f"{what}; start the run with `{plan.command}`")


def leave_outcome(plan: RunPlan, saved: Path | None, resume_step: int, steps: int, seconds: float) -> None:
    """Say in the run directory that the run is done, and how it went."""
    from finetune.callbacks import METRICS, mean_loss

    outcome = {
        "run_dir": plan.run_dir,
        "status": "resumed" if resume_step else "finished",
        "steps": steps,
        "planned_steps": plan.batch.steps,
        "train_loss": mean_loss(Path(plan.run_dir) / METRICS),
        "train_seconds": round(seconds, 2),
        "artefact": str(saved),
    }
    write_json(Path(plan.run_dir) / OUTCOME, outcome)


if __name__ == "__main__":
    sys.exit(launch.rank_main(sys.argv[1:]))
