"""The run directory: its name, its files, its lock, and whose run it holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, TextIO

from finetune.compose import config_to_dict, identity
from finetune.config import NOT_IDENTITY, RunConfig
from finetune.errors import Fault, UserError, counted

LOCK = ".lock"
OUTCOME = "outcome.json"
CHECKPOINTS = "checkpoints"
# What a run writes before its plan.
FIRST_FILES = frozenset(("errors", "config.yaml", "lineage.json", "preview.html", "preview.txt", "base"))
# Pauses between attempts at a lock: whoever asks whether a run is going on holds it for an instant.
PATIENCE = (0.0, 0.05, 0.1)

# What a checkpoint's weights and optimizer state are made for, with its exceptions.
SHAPES = ("model.name", "model.revision", "method.option", "training.optimizer", "tuning")
KEEPS_SHAPE = ("tuning.dropout", "tuning.alpha", "tuning.rslora")


def run_directory(config: RunConfig) -> Path:
    """Where a run lives: its given name, or method, model and a hash of what decides the result."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model.name.rstrip("/")).name).strip(".-") or "model"
    name = config.name or f"{config.method.option}-{model[:40]}-{identity(config)}"
    return Path(config.output_dir).expanduser() / name


def check_writable(run_dir: Path) -> list[Fault]:
    """Whether a run directory can be made here, found out without making it."""
    try:
        return _obstacles(run_dir)
    except OSError as error:
        what = f"cannot be a folder ({(error.strerror or str(error)).lower()})"
        return [Fault(f"output_dir {run_dir.parent}", what, "choose another output_dir")]


def _obstacles(run_dir: Path) -> list[Fault]:
    where = str(run_dir)
    if run_dir.is_symlink():
        return [Fault(where, "is a symbolic link", "remove it, or choose another output_dir or name")]
    if run_dir.exists() and not run_dir.is_dir():
        return [Fault(where, "exists and is not a folder", "choose another output_dir or name")]
    names = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    if names and "plan.json" not in names and not is_begun(names):
        return [Fault(where, "holds files that are not of a run", "choose another name")]
    parent = next(path for path in (run_dir, *run_dir.parents) if path.exists() or path.is_symlink())
    if not parent.is_dir():
        what = "is a link to nothing" if parent.is_symlink() else "is a file where a folder is wanted"
        return [Fault(f"output_dir {parent}", what, "choose another output_dir")]
    cache = run_dir.parent / ".prepared"
    if cache.is_symlink() or (cache.exists() and not cache.is_dir()):
        return [Fault(str(cache), "is not a folder, and prepared rows are kept there", "remove it")]
    try:
        # Permissions say less than a try: a place may be read-only or full for whoever asks.
        os.rmdir(tempfile.mkdtemp(prefix=".finetune-", dir=parent))
    except OSError as error:
        what = f"is not writable ({(error.strerror or str(error)).lower()})"
        return [Fault(f"output_dir {parent}", what, "choose another output_dir, or free it")]
    return []


def is_begun(names: Set[str]) -> bool:
    """Whether files of these names, where there is no plan yet, are those of a run that was killed while it began."""
    return LOCK in names and not {name for name in names if not name.startswith(".")} - FIRST_FILES


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Hold the run directory for this process alone; the system lets go when the process ends, however it ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LOCK, "a+", encoding="utf-8") as lock:
        if not _locked(lock):
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            mend = "wait for it, stop it, or choose another name"
            raise UserError.at(str(run_dir), f"this run is running already ({holder})", mend)
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def _locked(lock: TextIO) -> bool:
    """Whether the lock could be taken."""
    for pause in PATIENCE:
        time.sleep(pause)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def holder_of(run_dir: Path) -> str | None:
    """Which process holds a run directory now; None when none does."""
    with contextlib.suppress(FileNotFoundError), open(run_dir / LOCK, encoding="utf-8", errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return lock.read().strip() or "another process"
    return None


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
    return read_facts(path, "planned_steps") if path.exists() else None


def read_facts(path: Path, *keys: str) -> dict[str, Any]:
    """What a file of a run holds; one that a person or a broken disk has changed is named."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(key in found for key in keys):
            return dict(found)
    except (ValueError, TypeError):
        pass
    mend = "choose another name, or start anew in its place with resume=none"
    raise UserError.at(str(path), "is damaged", mend)


def check_same_run(
    run_dir: Path, config: RunConfig, data_fingerprint: str, steps: int, effective: int, batching: str
) -> None:
    """Refuse to continue a run whose settings, data, batch or length differ from those it began with.

    The batch may be made up otherwise, of more processes with fewer rows each, as long as a step sees as many rows.
    """
    path = run_dir / "plan.json"
    if not path.exists() or not has_progress(run_dir):
        return
    stored = read_facts(path, "config", "data", "batch", "resolved")
    then, now = _flat(stored["config"]), _flat(config_to_dict(config))
    anew = "choose another name, or start anew in its place with resume=none"
    mend = f"{anew}, or allow it with 'allow_change=[{{}}]'"
    other_rows = "data" in config.allow_change
    faults = [
        Fault(
            key,
            f"was {then.get(key)!r} when {run_dir} began, is now {now.get(key)!r}",
            anew if _decides_shape(key) else mend.format("data" if _within(key, ("data",)) else key),
        )
        for key in _differing(then, now)
        if _decides_shape(key) or not (key in config.allow_change or (_within(key, ("data",)) and other_rows))
    ]
    rows = stored["batch"]["effective"]
    if rows != effective:
        what = f"with processes and accumulation it makes {counted(effective, 'row')} a step, and {run_dir} has {rows}"
        faults.append(Fault("training.batch_size", what, f"choose them so that their product is {rows}"))
    before = stored["resolved"]["batching"]
    if (before == "grouped") != (batching == "grouped"):  # flat and padded batches hold the same rows
        what = f"was {before!r} when {run_dir} began, and is {batching!r} on this machine"
        faults.append(Fault("training.batching", what, f"set training.batching={before}"))
    if stored["data"]["fingerprint"] != data_fingerprint and not other_rows and not faults:
        what = f"the rows differ from those that {run_dir} began with"
        faults.append(Fault("data.train", what, mend.format("data")))
    if steps < stored["batch"]["steps"] and read_outcome(run_dir) is not None:
        made = stored["batch"]["steps"]
        what = f"{counted(steps, 'step')} would be fewer than the {made} that {run_dir} has finished"
        key = "training.max_steps" if config.training.max_steps else "training.epochs"
        faults.append(Fault(key, what, "choose another name for a shorter run"))
    if faults:
        raise UserError(faults)


def has_progress(run_dir: Path) -> bool:
    """Whether there is anything to continue: a run that died before its first checkpoint binds nobody."""
    checkpoints = run_dir / CHECKPOINTS
    return read_outcome(run_dir) is not None or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def _differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings whose values differ; where an option differs, its own settings say nothing more."""
    free = (*NOT_IDENTITY, "training.batch_size", "training.accumulation", "training.batching")
    keys = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key) and not _within(key, free)]
    options = {key.rpartition(".")[0] for key in keys if key.endswith(".option")}
    return [key for key in keys if key.endswith(".option") or key.partition(".")[0] not in options]


def _decides_shape(key: str) -> bool:
    """Whether another value asks for other weights or another optimizer than the checkpoints hold."""
    return _within(key, SHAPES) and key not in KEEPS_SHAPE


def _within(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}{key}."))
    return flat
