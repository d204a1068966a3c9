"""The weights of a run: in memory to be trained, and saved when they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finetune.config import FullTuning, LoraTuning
from finetune.data.prepared import said_allowed
from finetune.log import rank
from finetune.plan import RunPlan


def load(plan: RunPlan, tokenizer: Any) -> Any:
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


def load_frozen(plan: RunPlan, tokenizer: Any) -> dict[str, Any]:
    """The models that the method only reads, by their role; an adapter is merged into its base."""
    from finetune import adapter, model

    found = {}
    for role, facts in plan.frozen.items():
        read = model.load_model(
            facts,
            precision=plan.resolved.precision,
            attention=plan.resolved.attention,
            full=False,
            tokenizer=tokenizer,
            sharded=plan.config.parallel.option != "ddp",
        )
        found[role] = adapter.merged(read, facts).requires_grad_(False).eval()
    return found


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
        remark=said_allowed(plan.data.contamination) if plan.data.contamination else "",
    )
    if not sharded:
        artefact.compare_reloaded(trainer.model, saved)
    return saved
