"""lineage.json: what a run came from, so that its result can be traced and made again."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.compose import identity
from finetune.plan import RunPlan
from finetune.rundir import write_json

LINEAGE = "lineage.json"


def begin(plan: RunPlan) -> None:
    """Write the lineage of a run that starts or goes on."""
    write_json(Path(plan.run_dir) / LINEAGE, lineage(plan))


def lineage(plan: RunPlan) -> dict[str, Any]:
    """Base, rows, settings, versions and machine of a run."""
    model, data = plan.model, plan.data
    return {
        "base": {"name": model.name, "revision": model.revision, "fingerprint": model.fingerprint},
        "parent": model.adapter.path if model.adapter else None,
        "data": {
            "train": plan.config.data.train,
            "held_out": plan.config.data.eval or data.held_out_from,
            "fingerprint": data.fingerprint,
            "held_out_fingerprint": data.held_out_fingerprint,
            "rows": data.train.rows,
            "allow_contamination": plan.config.data.allow_contamination,
            "contamination": [dataclasses.asdict(entry) for entry in data.contamination],
        },
        "method": plan.config.method.option,
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
