"""The story of a run: rows → tokenizer → model → adapter → trainer → train or resume → save.

`python -m finetune.train` is what `accelerate launch` starts, with a run directory or with overrides.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from finetune import checkpoint, launch
from finetune.log import log
from finetune.methods import METHODS
from finetune.plan import RunPlan
from finetune.rundir import OUTCOME, write_json


def train(plan: RunPlan) -> None:
    """Train one run in this process, which may be one of several; its directory is claimed already."""
    from transformers import set_seed

    from finetune import adapter, callbacks, model
    from finetune.data.order import held_out_rows, ordered_rows
    from finetune.tokenizer import load_tokenizer

    config, run_dir = plan.config, Path(plan.run_dir)

    # 1. The rows, in the order in which they are trained.
    rows, token_counts = ordered_rows(
        plan.data.train,
        steps=plan.batch.steps,
        effective_batch=plan.batch.effective,
        seed=config.seed,
        group_by_length=config.training.group_by_length,
    )
    held_out = held_out_rows(plan.data.held_out) if plan.batch.eval_every and plan.data.held_out else None

    # 2. The model, and what of it is trained.
    set_seed(config.seed)
    tokenizer = load_tokenizer(plan.model, config.model.chat_template, tuple(config.tuning.new_tokens))
    tuned = adapter.apply_tuning(plan, model.load_for_training(plan, tokenizer), tokenizer)
    log.info(str(adapter.trainable_report(tuned)))

    # 3. TRL's trainer, watched.
    resume_step = checkpoint.step_of(plan.resume_from)
    watch = callbacks.build(plan, token_counts, resume_step, callbacks.main_process())
    method = METHODS[config.method.option]
    trainer = method.build_trainer(plan, tuned, tokenizer, rows, held_out, watch.callbacks)

    # 4. Train, or go on training.
    if plan.resume_from:
        log.info(f"continuing from step {resume_step} of {plan.batch.steps}")
    started = time.monotonic()
    with watch.stops.listening():
        trainer.train(resume_from_checkpoint=plan.resume_from)
    if stopped := watch.stops.reason(trainer.state.global_step, plan.command):
        raise stopped
    seconds = time.monotonic() - started
    log.info(f"trained {trainer.state.global_step - resume_step} steps in {seconds:.1f} s")

    # 5. Save the result, and prove that it is what was trained.
    artefact = adapter.save_artefact(trainer, tokenizer, run_dir)
    if callbacks.main_process():
        outcome = {
            "run_dir": str(run_dir),
            "status": "resumed" if resume_step else "finished",
            "steps": trainer.state.global_step,
            "planned_steps": plan.batch.steps,
            "train_loss": round(callbacks.mean_loss(run_dir / callbacks.METRICS), 6),
            "train_seconds": round(seconds, 2),
            "artefact": str(artefact),
        }
        write_json(run_dir / OUTCOME, outcome)


if __name__ == "__main__":
    sys.exit(launch.rank_main(sys.argv[1:]))
