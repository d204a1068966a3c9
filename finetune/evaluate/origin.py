"""What a run made: whether it is whole, and which run it is that made what a folder holds."""

from __future__ import annotations

from pathlib import Path

from finetune.artefact import ADAPTER, MODEL
from finetune.config import FullTuning
from finetune.errors import Fault, UserError
from finetune.evaluate.contents import weights_digest
from finetune.lineage import runs_around
from finetune.model_files.adapters import CONFIG, is_adapter, read_adapter
from finetune.model_files.weights import read_weights
from finetune.plan import PLAN_FILE, RunPlan, load_plan
from finetune.rundir import CHECKPOINTS

MEND = "put it back from a copy, or train the run anew with resume=none"


def check_made(plan: RunPlan) -> None:
    """Refuse a run whose adapter or model, or whose base on this machine, is not there or is damaged."""
    faults = [Fault(fault.where, fault.what, MEND) for fault in _made_faults(plan)]
    if plan.model.hub_id is None:
        faults += read_weights(Path(plan.model.path))[1]
    if faults:
        raise UserError(faults)


def _made_faults(plan: RunPlan) -> list[Fault]:
    run_dir = Path(plan.run_dir)
    folder = run_dir / (MODEL if isinstance(plan.config.tuning, FullTuning) else ADAPTER)
    if not folder.is_dir():
        return [Fault(str(run_dir), f"the run has finished, but its {folder.name}/ is not there")]
    return _model_faults(folder) if folder.name == MODEL else _adapter_faults(folder)


def _model_faults(folder: Path) -> list[Fault]:
    if not (folder / "config.json").is_file():
        return [Fault(str(folder / "config.json"), "is missing")]
    return read_weights(folder)[1]


def _adapter_faults(folder: Path) -> list[Fault]:
    if not is_adapter(folder):
        return [Fault(str(folder / CONFIG), "is missing")]
    try:
        read_adapter(folder, scores=True)
    except UserError as error:
        return list(error.faults)
    return []


def run_that_made(folder: Path, runs: Path) -> RunPlan | None:
    """The run in which the folder of an adapter or a model lies, or of which it is a copy; None when none is known."""
    found = next(runs_around(folder), None) or _run_with_same_weights(folder, runs)
    return load_plan(found) if found else None


def _run_with_same_weights(folder: Path, runs: Path) -> Path | None:
    wanted = _sizes(folder)
    if not wanted:
        return None
    digest = weights_digest([folder])
    for plan in sorted(runs.glob(f"*/{PLAN_FILE}")):
        saved = (plan.parent / ADAPTER, plan.parent / MODEL, *sorted(plan.parent.glob(f"{CHECKPOINTS}/*")))
        if any(_sizes(one) == wanted and weights_digest([one]) == digest for one in saved):
            return plan.parent
    return None


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
