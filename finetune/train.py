"""The story of a run: rows → tokenizer → model → adapter → trainer → train or resume → save.

`python -m finetune.train` is what `accelerate launch` starts, with a run directory or with overrides.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from finetune import checkpoint, launch
from finetune.config import FullTuning, LoraTuning
from finetune.errors import RunFailed
from finetune.launch_command import shown_command
from finetune.log import log, rank
from finetune.methods import METHODS
from finetune.methods.arguments import passed_on
from finetune.plan import RunPlan
from finetune.rundir import OUTCOME, write_json


def train(plan: RunPlan) -> None:
    """Train one run in this process, which may be one of several; its directory is claimed already."""
    from transformers import PrinterCallback

    from finetune import callbacks
    from finetune.data.prepare import held_out_rows, ordered_rows
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

    # 2. The model, and what of it is trained. TRL's arguments come first: they set up sharding, if there is any.
    method = METHODS[config.method.option]
    with passed_on(config.method.trl):
        arguments = method.build_args(plan)
    if arguments.world_size != plan.batch.processes:
        what = f"{plan.batch.processes} processes were planned, but {arguments.world_size} train together"
        raise RunFailed(f"{what}; start the run with `{shown_command(plan)}`")
    tokenizer = load_tokenizer(plan.model, config.model.chat_template, tuple(config.tuning.new_tokens))
    tuned = tuned_model(plan, tokenizer)

    # 3. TRL's trainer, watched.
    resume_step = checkpoint.step_of(plan.resume_from)
    watch = callbacks.build(plan, token_counts, resume_step)
    with passed_on(config.method.trl):
        trainer = method.build_trainer(arguments, tuned, tokenizer, rows, held_out, watch.callbacks)
    trainer.remove_callback(PrinterCallback)  # stdout is for results

    # 4. Train, or go on training.
    if plan.resume_from:
        log.info(f"continuing from step {resume_step} of {plan.batch.steps}")
    started = time.monotonic()
    with (
        watch.stops.listening(),
        passed_on(config.method.trl, lambda: trainer.state.global_step > resume_step),
    ):
        trainer.train(resume_from_checkpoint=plan.resume_from)
    if stopped := watch.stops.reason(trainer.state.global_step, plan.command):
        raise stopped
    seconds = time.monotonic() - started
    log.info(f"trained {trainer.state.global_step - resume_step} steps in {seconds:.1f} s")

    # 5. Save the result, and prove that it is what was trained.
    saved = save(plan, trainer, tokenizer)
    if rank() == 0:
        outcome = {
            "run_dir": str(run_dir),
            "status": "resumed" if resume_step else "finished",
            "steps": trainer.state.global_step,
            "planned_steps": plan.batch.steps,
            "train_loss": round(callbacks.mean_loss(run_dir / callbacks.METRICS), 6),
            "train_seconds": round(seconds, 2),
            "artefact": str(saved),
        }
        write_json(run_dir / OUTCOME, outcome)


def tuned_model(plan: RunPlan, tokenizer: Any) -> Any:
    """The base in memory, with its adapter if one is trained."""
    from transformers import set_seed

    from finetune import adapter, model

    tuning = plan.config.tuning
    set_seed(plan.config.seed)
    base = model.load_model(
        plan.model,
        precision=plan.resolved.precision,
        attention=plan.resolved.attention,
        full=isinstance(tuning, FullTuning),
        tokenizer=tokenizer,
        quantization=model.plan_quantization(tuning),
        device=plan.machine.device,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        sharded=plan.config.parallel.option != "ddp",
    )
    if not isinstance(tuning, LoraTuning):
        return base
    return adapter.add_adapter(
        base,
        tuning,
        plan.model,
        seed=plan.config.seed,
        token_ids=adapter.new_token_ids(tokenizer, plan.model, tuning.new_tokens),
        start_folder=Path(plan.run_dir) / "start",
        main_process=rank() == 0,
    )


def save(plan: RunPlan, trainer: Any, tokenizer: Any) -> Path | None:
    """Save what was trained, and compare it with what is in memory; sharded weights are gathered first."""
    from finetune import artefact

    sharded = plan.config.parallel.option != "ddp"
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if rank() != 0:
        return None
    run_dir = Path(plan.run_dir)
    start = run_dir / "start"
    saved = artefact.save_artefact(
        trainer.model,
        tokenizer,
        run_dir,
        plan.model,
        precision=plan.resolved.precision,
        start_folder=start if start.is_dir() else None,
        state=state,
    )
    if not sharded:
        artefact.compare_reloaded(trainer.model, saved)
    return saved


if __name__ == "__main__":
    sys.exit(launch.rank_main(sys.argv[1:]))
