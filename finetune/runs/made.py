"""What a run made, looked at cheaply: that it is there, its configuration, and the heads of its weights."""

from __future__ import annotations

from pathlib import Path

from finetune.artefact import ADAPTER, MODEL
from finetune.errors import UserError
from finetune.model_files.adapters import read_adapter
from finetune.model_files.weights import read_weights


def fault_of_made(run_dir: Path) -> str:
    """What is wrong with the adapter or model of a finished run; nothing when it looks whole."""
    adapter, model = run_dir / ADAPTER, run_dir / MODEL
    if adapter.is_dir():
        return adapter_fault(adapter)
    return model_fault(model) if model.is_dir() else nothing_made()


def nothing_made() -> str:
    """What is said of a finished run without a result."""
    return f"the run has finished, but neither {ADAPTER} nor {MODEL} is there"


def adapter_fault(folder: Path) -> str:
    """What is wrong with an adapter's files."""
    try:
        read_adapter(folder, scores=True)
    except UserError as error:
        return f"{Path(error.faults[0].where).name} {error.faults[0].what}"
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    return ""


def model_fault(folder: Path) -> str:
    """What is wrong with a model's weights."""
    _, faults = read_weights(folder)
    return f"{Path(faults[0].where).name} {faults[0].what}" if faults else ""
