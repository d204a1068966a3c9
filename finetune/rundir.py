"""The run directory: its name, its files, its lock, and whose run it holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.compose import config_to_dict, identity
from finetune.config import NOT_IDENTITY, RunConfig
from finetune.errors import Fault, UserError

LOCK = ".lock"
OUTCOME = "outcome.json"
CHECKPOINTS = "checkpoints"


def run_directory(config: RunConfig) -> Path:
    """Where a run lives: its given name, or method, model and a hash of what decides the result."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model.name.rstrip("/")).name).strip(".-") or "model"
    name = config.name or f"{config.method.option}-{model[:40]}-{identity(config)}"
    return Path(config.output_dir).expanduser() / name


def check_writable(run_dir: Path) -> list[Fault]:
    """Whether a run directory can be made here, found out without making it."""
    where = str(run_dir)
    if run_dir.is_symlink():
        return [Fault(where, "is a symbolic link", "remove it, or choose another output_dir or name")]
    if run_dir.exists() and not run_dir.is_dir():
        return [Fault(where, "exists and is not a folder", "choose another output_dir or name")]
    if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / "plan.json").exists():
        known = {LOCK, "errors"}
        if {path.name for path in run_dir.iterdir()} - known:
            return [Fault(where, "holds files that are not of a run", "choose another name")]
    parent = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if not parent.is_dir():
        return [Fault(str(parent), "is a file where a folder is wanted", "choose another output_dir")]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [Fault(str(parent), "is not writable", "choose another output_dir")]
    return []


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Hold the run directory for this process alone; the system lets go when the process ends, however it ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LOCK, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            mend = "wait for it, stop it, or choose another name"
            raise UserError.at(str(run_dir), f"this run is running already ({holder})", mend) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_outcome(run_dir: Path) -> dict[str, Any] | None:
    """How the run in this directory ended, or None when it has not finished."""
    path = run_dir / OUTCOME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def check_same_run(run_dir: Path, config: RunConfig, data_fingerprint: str, steps: int) -> None:
    """Refuse to continue a run whose settings, data or length differ from those it began with."""
    path = run_dir / "plan.json"
    if not path.exists():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    then, now = _flat(stored["config"]), _flat(config_to_dict(config))
    differing = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    mend = f"choose another name, or allow it with 'allow_change=[{{}}]', or start anew in place of {run_dir}"
    faults = [
        Fault(key, f"was {then.get(key)!r} when {run_dir} began, is now {now.get(key)!r}", mend.format(key))
        for key in differing
        if not _free(key) and key not in config.allow_change
    ]
    if stored["data"]["fingerprint"] != data_fingerprint and "data" not in config.allow_change and not faults:
        what = f"the rows differ from those that {run_dir} began with"
        faults.append(Fault("data.train", what, mend.format("data")))
    if steps < stored["batch"]["steps"] and read_outcome(run_dir) is not None:
        what = f"{steps} steps are fewer than the {stored['batch']['steps']} that {run_dir} has finished"
        faults.append(Fault("training.epochs", what, "choose another name for a shorter run"))
    if faults:
        raise UserError(faults)


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in NOT_IDENTITY)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}{key}."))
    return flat
