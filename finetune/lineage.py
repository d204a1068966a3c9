"""lineage.json: what a run came from, so that its result can be traced and made again."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.artefact import ADAPTER, MODEL
from finetune.compose import identity
from finetune.config import flatten
from finetune.data.build.origin import teachers
from finetune.errors import Fault, UserError
from finetune.evaluate.contents import artefact_digest, weights_digest
from finetune.methods import METHODS
from finetune.model_files import ModelFacts, digest_of
from finetune.plan import PLAN_FILE, RunPlan
from finetune.rewards.own import digests
from finetune.rewards.settings import Rewarded
from finetune.rundir import CHECKPOINTS, has_progress, read_facts, write_json
from finetune.settings.recipe import shown_path

LINEAGE = "lineage.json"
START = "start"  # the part of an ancestor whose weights were trained on; others are named by what they were read as
# What a run's lineage keeps of an ancestor's.
TOLD = ("base", "data", "teachers", "method", "tuning", "config", "seed", "versions")


def refuse_other_models(plan: RunPlan) -> None:
    """Refuse to continue a run when what it began with, or a model that its method reads, has other weights now."""
    run_dir = Path(plan.run_dir)
    path = run_dir / LINEAGE
    if not has_progress(run_dir) or not path.exists():
        return
    stored, start = read_facts(path, "parent", "ancestors", *plan.frozen), parent(plan.model)
    keys = METHODS[plan.config.method.option].frozen_models(plan.config.method)
    then = {one["run"]: one["weights"] for one in stored["ancestors"]}
    changed = {
        f"method.{one['role']}": one["run"]
        for one in ancestors(plan)
        if one["role"] != START and one["weights"] != then.get(one["run"], one["weights"])
    }
    changed |= {
        keys[role].key: facts.name
        for role, facts in plan.frozen.items()
        if stored[role]["fingerprint"] != digest_of(facts)
    }
    if start and stored["parent"] and start["weights"] != stored["parent"]["weights"]:
        changed["model.name"] = start["name"]
    mend = "choose another name, or start anew in its place with resume=none"
    if changed:
        what = f"has other weights than when {run_dir} began"
        raise UserError(Fault(key, f"{name} {what}", mend) for key, name in changed.items())


def begin(plan: RunPlan) -> None:
    """Write the lineage of a run that starts or goes on."""
    write_json(Path(plan.run_dir) / LINEAGE, lineage(plan))


def lineage(plan: RunPlan) -> dict[str, Any]:
    """Base, rows, settings, versions and machine of a run."""
    model, data = plan.model, plan.data
    return {
        "base": {"name": _base_name(model), "revision": model.revision, "fingerprint": model.fingerprint},
        **{role: _read_only(facts) for role, facts in plan.frozen.items()},
        "parent": parent(model),
        "ancestors": ancestors(plan),
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


def _base_name(facts: ModelFacts) -> str:
    """The name of the model under an adapter, or of a model that has none."""
    name = facts.adapter.base_name if facts.adapter else facts.name
    return shown_path(Path(name)) if Path(name).is_absolute() else name


def _read_only(facts: ModelFacts) -> dict[str, Any]:
    """A model that the method reads beside the trained one."""
    adapter = facts.adapter
    return {
        "name": facts.name,
        "base": adapter.base_name if adapter else None,
        "revision": facts.revision,
        "fingerprint": digest_of(facts),
    }


def parent(facts: ModelFacts) -> dict[str, Any] | None:
    """The adapter or the result of a run that a model is; None for a model that nobody tuned, as far as is known."""
    if facts.hub_id is not None and facts.adapter is None:
        return None
    folder = Path(facts.adapter.path if facts.adapter else facts.path)
    run_dir = next(runs_around(folder), None)
    if run_dir is None and facts.adapter is None:
        return None
    return {
        "name": facts.name,
        "run": shown_path(run_dir) if run_dir else None,
        "artefact": shown_path(folder),
        "weights": weights_digest([folder]),
    }


def runs_around(folder: Path) -> Iterator[Path]:
    """The run in which the folder of an adapter, a model or a checkpoint lies."""
    for place in (folder, folder.resolve()):  # a link may lead into a run
        around = place.parent.parent if place.parent.name == CHECKPOINTS else place.parent
        if (place.name in (ADAPTER, MODEL) or place.parent.name == CHECKPOINTS) and (around / PLAN_FILE).is_file():
            yield around


def ancestors(plan: RunPlan) -> list[dict[str, Any]]:
    """What each run told of itself whose result this one starts from or reads, and those before it, oldest first."""
    found: dict[str, dict[str, Any]] = {}
    start = parent(plan.model)
    runs = [(START, Path(start["run"]))] if start and start["run"] else []
    for role, run_dir in [*runs, *_read_runs(plan)]:
        if not (run_dir / LINEAGE).is_file():
            continue
        told = read_facts(run_dir / LINEAGE, "ancestors", *TOLD)
        made = {"run": shown_path(run_dir), "role": START, "weights": artefact_digest(run_dir)}
        for one in (*told["ancestors"], {**made, **{key: told[key] for key in TOLD}}):
            found.setdefault(one["run"], one if role == START else {**one, "role": role})
    return list(found.values())


def _read_runs(plan: RunPlan) -> Iterator[tuple[str, Path]]:
    """The runs whose results the settings of the method name, by the setting."""
    for key, value, _ in flatten(plan.config.method):
        for name in value if isinstance(value, list) else [value]:
            folder = Path(name).expanduser() if isinstance(name, str) else None
            if folder is None or not folder.is_dir():
                continue
            run_dir = folder if (folder / PLAN_FILE).is_file() else next(runs_around(folder), None)
            if run_dir is not None:
                yield key, run_dir


def trained_before(run_dir: Path) -> list[Path]:
    """The runs before this one whose rows its weights have seen, oldest first, whether they are still there or not."""
    path = run_dir / LINEAGE
    told = read_facts(path, "ancestors")["ancestors"] if path.is_file() else []
    places = [Path(one["run"]) for one in told if one["role"] == START]
    # their folder may have been moved with all that lies in it
    return [place if place.is_dir() else run_dir.parent / place.name for place in places]
