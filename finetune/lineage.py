"""lineage.json: what a run came from, so that its result can be traced and made again."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.compose import identity
from finetune.data.build.origin import teachers
from finetune.errors import Fault, UserError
from finetune.methods import METHODS
from finetune.model_files import ModelFacts, digest_of
from finetune.plan import RunPlan
from finetune.rewards.own import digests
from finetune.rewards.settings import Rewarded
from finetune.rundir import has_progress, read_facts, write_json

LINEAGE = "lineage.json"


def refuse_other_models(plan: RunPlan) -> None:
    """Refuse to continue a run with other weights, under the same name, of a model that its method reads."""
    run_dir = Path(plan.run_dir)
    path = run_dir / LINEAGE
    if not plan.frozen or not has_progress(run_dir) or not path.exists():
        return
    stored = read_facts(path, *plan.frozen)
    keys = METHODS[plan.config.method.option].frozen_models(plan.config.method)
    what = f"has other weights than when {run_dir} began"
    mend = "choose another name, or start anew in its place with resume=none"
    if faults := [
        Fault(keys[role].key, f"{facts.name} {what}", mend)
        for role, facts in plan.frozen.items()
        if stored[role]["fingerprint"] != digest_of(facts)
    ]:
        raise UserError(faults)


def begin(plan: RunPlan) -> None:
    """Write the lineage of a run that starts or goes on."""
    write_json(Path(plan.run_dir) / LINEAGE, lineage(plan))


def lineage(plan: RunPlan) -> dict[str, Any]:
    """Base, rows, settings, versions and machine of a run."""
    model, data = plan.model, plan.data
    return {
        "base": {"name": model.name, "revision": model.revision, "fingerprint": model.fingerprint},
        **{role: _read_only(facts) for role, facts in plan.frozen.items()},
        "parent": model.adapter.path if model.adapter else None,
        "reference": reference(plan),
        "data": {
            "train": plan.config.data.train,
            "held_out": plan.config.data.eval or data.held_out_from,
            "fingerprint": data.fingerprint,
            "held_out_fingerprint": data.held_out_fingerprint,
            "rows": None if data.is_partial else data.train.rows,
            "allow_contamination": plan.config.data.allow_contamination,
            "contamination": [dataclasses.asdict(entry) for entry in data.contamination],
        },
        "teachers": teachers(plan.config.data.train),
        "method": plan.config.method.option,
        "rewards": _own_rewards(plan),
        "tuning": plan.config.tuning.option,
        "config": identity(plan.config),
        "seed": plan.config.seed,
        "versions": {"finetune": __version__, **plan.machine.versions},
        "host": {
            "name": socket.gethostname(),
            "device": plan.machine.device_name,
            "processes": plan.batch.processes,
        },
    }


def _own_rewards(plan: RunPlan) -> dict[str, str]:
    """The files of the user's own that pay for answers, as they are when training begins."""
    method = plan.config.method
    return digests(method.rewards) if isinstance(method, Rewarded) else {}


def reference(plan: RunPlan) -> str | None:
    """What the trained model is compared with while it trains, in words; None where the method has no reference."""
    if not METHODS[plan.config.method.option].keeps_reference(plan.config.method):
        return None
    model, start = plan.model, plan.config.tuning.start
    if model.adapter is None:
        return f"{model.name}, from which training starts"
    joined = "merged into" if start == "merge" else "on"
    return f"the adapter {model.adapter.path} {joined} {model.adapter.base_name}, from which training starts"


def _read_only(facts: ModelFacts) -> dict[str, Any]:
    """A model that the method reads beside the trained one."""
    adapter = facts.adapter
    return {
        "name": facts.name,
        "base": adapter.base_name if adapter else None,
        "revision": facts.revision,
        "fingerprint": digest_of(facts),
    }
