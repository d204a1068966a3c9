"""Answers and likelihoods on disk, by what gave them and what it was given: nothing is computed twice.

A file for each engine, of JSON lines that are only ever added, as answers come. A line that cannot be read, such as
one that a kill has cut short, is as good as not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FOLDER = ".answers"
DIGESTS = "digests.json"
CHOICES = "choices"  # the file of prompts that were chosen
VERSION = 1  # raised whenever the same weights would give the same prompt another answer
FRESH = 2.0  # seconds; a file that changed so lately may change again without its times showing it
BLOCK = 2**24  # bytes


def key_of(*given: Any) -> str:
    """A name for what was given, the same for the same."""
    text = json.dumps([VERSION, *given], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Kept:
    """The kept answers of one engine."""

    path: Path
    found: dict[str, Mapping[str, Any]]

    @classmethod
    def open(cls, folder: Path, identity: str) -> Kept:
        """Those of the engine of that identity, if any are there."""
        path = folder / f"{identity}.jsonl"
        return cls(path, dict(_entries(path)))

    def add(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep more: on disk when this returns."""
        lines = [json.dumps({"key": key, "value": value}, ensure_ascii=False) for key, value in entries.items()]
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of several evaluations at once
            _drop_cut_line(file)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.found.update(entries)


def _entries(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    found = list[tuple[str, Mapping[str, Any]]]()
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            found.append((str(entry["key"]), dict(entry["value"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _drop_cut_line(file: IO[bytes]) -> None:
    """Cut off what a process that died left behind the last whole line."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"", b"\n"):
        return
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0 or not start:
            file.truncate(start + place + 1)
            break
        end = start
    file.seek(0, os.SEEK_END)


def contents_digest(paths: Sequence[Path], folder: Path) -> str:
    """A hash of files, whole; one whose times, size and place are as before is not read again."""
    known = _known(folder / DIGESTS)
    digest, learned = hashlib.sha256(), dict[str, str]()
    for path in paths:
        real, facts = path.resolve(), path.stat()
        state = f"{real}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}:{facts.st_ino}"
        if state not in known:
            known[state] = _read(real)
            if time.time() - max(facts.st_mtime, facts.st_ctime) > FRESH:
                learned[state] = known[state]
        digest.update(f"{path.name}:{known[state]};".encode())
    if learned:
        _remember(folder / DIGESTS, learned)
    return digest.hexdigest()


def _known(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _remember(path: Path, learned: Mapping[str, str]) -> None:
    from finetune.rundir import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**_known(path), **learned})


def _read(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
