"""Checkpoints: sealed with a manifest when they are whole, verified before they are trusted, deleted when superseded.

A manifest lists size and SHA-256 of each file and is written last, so a checkpoint without one was cut short.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError
from finetune.rundir import CHECKPOINTS, write_json

MANIFEST = "MANIFEST.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    step: int


@dataclass(frozen=True)
class Found:
    """What a search for a checkpoint came to."""

    newest: Checkpoint | None
    skipped: tuple[Fault, ...]  # newer ones that do not verify, and why


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Declare a checkpoint whole: sync its files and write the manifest."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": digest}
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint that verifies says of itself."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def verify(folder: Path, *, every_byte: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None when it is whole; without `every_byte` only sizes are compared."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return "has no manifest, so its save was cut short"
    try:
        stored = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        files = {name: (int(facts["size"]), str(facts["sha256"])) for name, facts in stored.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is unreadable"
    try:
        return _first_damage(folder, files, every_byte)
    except OSError as error:  # another process may be deleting it
        return f"cannot be read ({error.strerror})"


def _first_damage(folder: Path, files: dict[str, tuple[int, str]], every_byte: bool) -> str | None:
    for name, (expected, digest) in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected:
            return f"{name} has {size:,} bytes instead of {expected:,}"
        if not every_byte:
            continue
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} differs from what was saved"
    return None


def find_newest(run_dir: Path) -> Found:
    """The newest checkpoint that verifies, and the newer ones that do not."""
    skipped: list[Fault] = []
    for step, folder in sorted(folders(run_dir), reverse=True):
        wrong = verify(folder)
        if wrong is None:
            return Found(Checkpoint(folder, step), tuple(skipped))
        skipped.append(Fault(str(folder), wrong))
    return Found(None, tuple(skipped))


def choose(run_dir: Path, resume: str) -> Found:
    """The checkpoint to continue from, as `resume` asks: auto, must, none, or a path."""
    if resume == "none":
        return Found(None, ())
    if resume not in ("auto", "must"):
        folder = Path(resume).expanduser()
        name = NAME.fullmatch(folder.name)
        wrong = "is no checkpoint folder" if not folder.is_dir() or not name else verify(folder)
        if wrong or not name:
            raise UserError.at(f"resume {folder}", wrong or "", "give runs/<name>/checkpoints/checkpoint-<step>")
        return Found(Checkpoint(folder, int(name[1])), ())
    found = find_newest(run_dir)
    damaged = [fault for fault in found.skipped if (Path(fault.where) / MANIFEST).exists()]
    if found.newest is None and damaged:
        mend = "start under another name, or with resume=none"
        raise UserError([Fault(fault.where, fault.what, mend) for fault in damaged])
    if found.newest is None and resume == "must":
        raise UserError.at("resume", f"no checkpoint in {run_dir / CHECKPOINTS}", "start without resume=must")
    return found


def step_of(folder: str | None) -> int:
    """The step that a checkpoint folder was saved at; 0 for none."""
    return int(Path(folder).name.rpartition("-")[2]) if folder else 0


def sweep(run_dir: Path, after: int) -> None:
    """Delete the checkpoints later than the step that a run continues from."""
    for step, folder in folders(run_dir):
        if step > after:
            shutil.rmtree(folder)


def retain(run_dir: Path, newest: int, keep: int, best: str | None) -> None:
    """Delete checkpoints over the number to keep, once the newest verifies; the best one stays."""
    kept = sorted(folders(run_dir))
    if verify(dict(kept)[newest]) is not None:
        return
    for step, folder in kept[:-keep]:
        if step != newest and (best is None or folder.name != Path(best).name):
            shutil.rmtree(folder)


def folders(run_dir: Path) -> list[tuple[int, Path]]:
    """The checkpoint folders of a run, whole or not, each with its step."""
    root = run_dir / CHECKPOINTS
    if not root.is_dir():
        return []
    matches = ((NAME.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir())
    return [(int(match[1]), path) for match, path in matches if match]
