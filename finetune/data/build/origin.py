"""Which teacher wrote the rows of a file: said by the synth.json in its folder, and by the records of later verbs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.data.read import find_sources
from finetune.log import log

SYNTH = "synth.json"
LATER = ("clean.json", "split.json")  # of verbs that read rows and write them again; each passes the teachers on


def teachers(given: Any) -> list[dict[str, Any]]:
    """The teachers behind the files of `data.train`, each with its licence and whether its rows are as it left them."""
    paths = sorted({path for source in find_sources(given, "data.train") for path in source.files})
    return [entry for path in paths for entry in _behind(path)]


def passed_on(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The teachers behind some files, for the record of a verb that writes their rows again."""
    found = []
    for path in paths:
        for entry in _behind(path):
            names = {key: entry[key] for key in ("name", "hosts", "license")}
            if names not in found:
                found.append(names)
    return found


def _behind(path: Path) -> list[dict[str, Any]]:
    record = path.parent / SYNTH
    if record.is_file():
        return _written(record, path)
    return [entry for name in LATER if (path.parent / name).is_file() for entry in _rewritten(path.parent / name, path)]


def _written(record: Path, path: Path) -> list[dict[str, Any]]:
    """What the record beside a teacher's rows says."""
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        rows, names = made["rows_sha256"], _names(made["teacher"])
    except (ValueError, LookupError, TypeError, OSError):
        return _damaged(record, path)
    with path.open("rb") as file:
        unchanged = hashlib.file_digest(file, "sha256").hexdigest() == rows
    return [{"file": str(path), **names, "unchanged": unchanged}]


def _rewritten(record: Path, path: Path) -> list[dict[str, Any]]:
    """What the record of a later verb says of a file that it has written."""
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        is_record = isinstance(made, dict) and {"teachers", "fingerprints"} <= made.keys()  # others use such names too
        names = (
            [_names(teacher) for teacher in made["teachers"]] if is_record and path.name in made["fingerprints"] else []
        )
    except (ValueError, LookupError, TypeError, OSError):
        return _damaged(record, path)
    return [{"file": str(path), **teacher, "unchanged": False} for teacher in names]


def _names(teacher: dict[str, Any]) -> dict[str, Any]:
    return {"name": teacher["name"], "hosts": teacher["hosts"], "license": teacher["license"]}


def _damaged(record: Path, path: Path) -> list[dict[str, Any]]:
    log.warning(f"{record}: is damaged, so lineage.json does not name the teacher of {path.name}")
    return []
