"""The story of a run: rows → tokenizer → model → adapter → trainer → train or resume → save.

`python -m finetune.train` is what `accelerate launch` starts, with a run directory or with overrides.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from finetune import checkpoint, launch, lineage
from finetune.errors import RunFailed
from finetune.log import log
from finetune.methods import METHODS
from finetune.plan import RunPlan
from finetune.rundir import OUTCOME, write_json


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as `train --json` prints it."""

    run_dir: str
    status: str  # finished, resumed or already_finished
    steps: int
    train_loss: float
    artefact: str


def train(plan: RunPlan) -> Outcome:
    """Train one run in this process, which may be one of several; the run directory is claimed already."""
    from transformers import set_seed

    from finetune import adapter, callbacks, model
    from finetune.data.order import ordered_rows
    from finetune.data.prepare import open_rows
    from finetune.tokenizer import load_tokenizer

    config, run_dir, main = plan.config, Path(plan.run_dir), callbacks.main_process()

    # 1. The rows, in the order in which they are trained.
    rows, token_counts = ordered_rows(plan.data.train, plan.batch, config.seed, config.training.group_by_length)
    held_out = open_rows(plan.data.held_out) if plan.data.held_out else None

    # 2. The model, and what of it is trained.
    set_seed(config.seed)
    tokenizer = load_tokenizer(plan.model, config.model.chat_template, tuple(config.tuning.new_tokens))
    base = model.load_for_training(plan, tokenizer)
    tuned = adapter.apply_tuning(plan, base, tokenizer)
    log.info(str(adapter.trainable_report(tuned)))

    # 3. Where to go on from.
    found = checkpoint.choose(run_dir, config.resume)
    for fault in found.skipped:
        log.warning(f"not continued from: {fault}")
    resume_step = found.newest.step if found.newest else 0
    if main:
        checkpoint.sweep(run_dir, after=resume_step)

    # 4. TRL's trainer.
    watch = callbacks.build(plan, token_counts, resume_step, main)
    method = METHODS[config.method.option]
    trainer = method.build_trainer(plan, tuned, tokenizer, rows, held_out, watch.callbacks)

    # 5. Train, or go on training.
    if found.newest:
        log.info(f"continuing from step {resume_step} of {plan.batch.steps}")
    give_back = watch.stops.listen()
    started = time.monotonic()
    try:
        result = trainer.train(resume_from_checkpoint=str(found.newest.path) if found.newest else None)
    finally:
        give_back()
    if stopped := watch.stops.error(trainer.state.global_step, launch.command(plan)):
        raise stopped
    if resume_step and trainer.state.global_step < resume_step:
        raise RunFailed(f"error: continued from step {resume_step} but arrived at {trainer.state.global_step}")
    log.info(f"trained {trainer.state.global_step - resume_step} steps in {time.monotonic() - started:.1f} s")

    # 6. Save the result, and prove that it is what was trained.
    artefact = adapter.save_artefact(trainer, tokenizer, run_dir)
    outcome = Outcome(
        run_dir=str(run_dir),
        status="resumed" if resume_step else "finished",
        steps=trainer.state.global_step,
        train_loss=round(result.training_loss, 6),
        artefact=str(artefact),
    )
    if main:
        lineage.finish(plan, outcome)
        write_json(run_dir / OUTCOME, outcome.__dict__)
    return outcome


if __name__ == "__main__":
    sys.exit(launch.rank_main(sys.argv[1:]))
