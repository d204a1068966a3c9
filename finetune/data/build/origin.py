"""Which teacher wrote the rows of a file: said by the synth.json in its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune.data.read import find_sources
from finetune.log import log

SYNTH = "synth.json"


def teachers(given: Any) -> list[dict[str, Any]]:
    """The teachers behind the files of `data.train`, each with its licence and whether its rows are as it left them."""
    found = []
    for path in sorted({path for source in find_sources(given, "data.train") for path in source.files}):
        record = path.parent / SYNTH
        if record.is_file() and (entry := _entry(record, path)):
            found.append(entry)
    return found


def _entry(record: Path, path: Path) -> dict[str, Any] | None:
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        teacher, rows = made["teacher"], made["rows_sha256"]
        names = {"name": teacher["name"], "hosts": teacher["hosts"], "license": teacher["license"]}
    except (ValueError, LookupError, TypeError, OSError):
        log.warning(f"{record}: is damaged, so lineage.json does not name the teacher of {path.name}")
        return None
    with path.open("rb") as file:
        unchanged = hashlib.file_digest(file, "sha256").hexdigest() == rows
    return {"file": str(path), **names, "unchanged": unchanged}
