"""Prepared rows on disk: a folder for each fingerprint, found again by a hash of the files they came from."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.read import Source
from finetune.errors import counted

SCRATCH = ".scratch-"
SCRATCH_SECONDS = 60  # a folder younger than this may not be locked yet by the process that made it
GROUP = "group"  # the kind of overlap that is a value of data.group_by
FACTS_FILE = "prepared.json"  # written last: a folder without it is not whole


@dataclass(frozen=True)
class Place:
    """Where reading goes on: in which of all files, after how many of its rows; the byte, in a file of JSON lines."""

    file: int = 0
    row: int = 0
    byte: int = 0


START = Place()


@dataclass(frozen=True)
class Window:
    """Rows of a stream that are prepared together; what comes after the last of them begins at the start again."""

    begins: Place
    ends: Place
    rows: int
    tokens: int
    digest: str  # of the rows before they became tokens

    @property
    def is_last(self) -> bool:
        """Whether the files end with it."""
        return self.ends == START


@dataclass(frozen=True)
class SplitFacts:
    """One prepared split: where it lies and what it holds."""

    # Arrow dataset (datasets.load_from_disk) with the tokens, length, row (canonical JSON), group; see `store`
    path: str
    rows: int
    tokens: int  # of all sides: of a pair what is asked counts twice, as it is computed twice
    supervised_tokens: int  # of the answers; none of tasks
    longest: int  # tokens of the longest side: of a pair two of them are in memory together
    truncated: int = 0
    dropped: int = 0
    groups: int = 0  # of rows that depend on each other: parts of one conversation, one value of data.group_by


@dataclass(frozen=True)
class Allowed:
    """Rows that are measured on and trained on, which was allowed: what names them, how they overlap, how many."""

    key: str
    kind: str
    rows: int


@dataclass(frozen=True)
class PreparedData:
    """The prepared rows of a run. Small: the rows themselves stay on disk."""

    folder: str  # <output_dir>/.prepared/<fingerprint>
    shape: str  # one of rows.SHAPES; chat where there is plain text too
    train: SplitFacts
    held_out: SplitFacts | None
    held_out_from: str  # "files" or "split" or "none"
    fingerprint: str  # of everything that decides the tokens: rows, template, tokenizer, settings
    held_out_fingerprint: str | None
    warnings: tuple[str, ...] = ()
    mixture: tuple[tuple[int, int], ...] = ()  # rows and tokens of each source that is trained on
    stop_ids: tuple[int, ...] = ()  # the tokens that end an answer: generation must stop at each of them
    contamination: tuple[Allowed, ...] = ()  # rows on which the model is measured and that are trained on too
    window: Window | None = None  # of a stream, that the rows to train on are

    @property
    def is_partial(self) -> bool:
        """Whether there are more rows to train on than these."""
        return self.window is not None and not self.window.is_last


def said_allowed(contamination: Sequence[Allowed]) -> str:
    """One line on overlaps that were allowed."""
    rows = Counter[str]()
    for entry in contamination:
        rows[GROUP if entry.kind == GROUP else entry.key] += entry.rows
    grouped, of_group = rows.pop(GROUP, 0), "of a group that is trained on"
    parts = " and ".join(f"{counted(count, 'row')} of {key}" for key, count in rows.items())
    said = [f"{parts} {'is' if rows.total() == 1 else 'are'} trained on too"] if rows else []
    said += [f"{counted(grouped, 'row')} of data.eval {'is' if grouped == 1 else 'are'} {of_group}"] if grouped else []
    return f"{'; '.join(said)}, which data.allow_contamination allows: scores on them mean little"


def files_digest(sources: Sequence[Source]) -> str | None:
    """A hash of the bytes of all files; none when rows come from the hub, where a branch may move."""
    digest = hashlib.sha256()
    for source in sources:
        if source.on_hub:
            return None
        for path in source.files:
            if not path.is_file():
                return None
            with path.open("rb") as file:
                digest.update(f"{path}\0".encode() + hashlib.file_digest(file, "sha256").digest())
        digest.update(b"|")
    return digest.hexdigest()


def find(root: Path, key: str) -> PreparedData | None:
    """What was remembered under a key, if it is still whole."""
    try:
        fingerprint = (root / f"{key}.key").read_text(encoding="utf-8")
    except OSError:
        return None
    return read(root / fingerprint) if fingerprint.isalnum() else None


def remember(root: Path, key: str, fingerprint: str) -> None:
    """Let `find` find a fingerprint under a key."""
    temporary = root / f".{key}.{os.getpid()}.{threading.get_ident()}.tmp"
    temporary.write_text(fingerprint, encoding="utf-8")
    temporary.replace(root / f"{key}.key")


def read(folder: Path) -> PreparedData | None:
    """The facts of a prepared folder; none when it is not there or not whole, so that it is made anew."""
    try:
        kept = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        sizes = kept.pop("sizes")
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        train, held_out = (
            _split(kept["train"], folder / "train"),
            _split(kept["held_out"], folder / "held_out"),
        )
        if train is None:
            return None
        kept |= {"folder": str(folder), "train": train, "held_out": held_out}
        return PreparedData(**(kept | tuples(kept)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tuples(kept: dict[str, Any]) -> dict[str, Any]:
    """What was written as lists, as it was before."""
    mixture = tuple((rows, tokens) for rows, tokens in kept["mixture"])
    contamination = tuple(Allowed(**entry) for entry in kept["contamination"])
    plain = {name: tuple(kept[name]) for name in ("warnings", "stop_ids")}
    window = as_window(kept["window"]) if kept["window"] else None
    return {**plain, "mixture": mixture, "contamination": contamination, "window": window}


def as_window(kept: dict[str, Any]) -> Window:
    """A window, from what `dataclasses.asdict` made of it."""
    return Window(**{**kept, "begins": Place(**kept["begins"]), "ends": Place(**kept["ends"])})


def _split(kept: dict[str, Any] | None, path: Path) -> SplitFacts | None:
    if kept is None:
        return None
    return SplitFacts(**{**kept, "path": str(path)})


def write(folder: Path, make: Callable[[Path], PreparedData]) -> PreparedData:
    """Let `make` fill a temporary folder, and give it its name when it is whole. One process at a time."""
    with _made(folder.parent), _locked(folder.with_name(f"{folder.name}.lock")):
        found = read(folder)
        if found is not None:  # another process was faster
            return found
        temporary = folder.with_name(f".{folder.name}.tmp")
        for stale in (temporary, folder):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            prepared = make(temporary)
            files = [file for file in temporary.rglob("*") if file.is_file()]
            sizes = {str(file.relative_to(temporary)): file.stat().st_size for file in files}
            kept = json.dumps({**dataclasses.asdict(prepared), "sizes": sizes}, indent=2)
            (temporary / FACTS_FILE).write_text(kept, encoding="utf-8")
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return prepared


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder under `root` for rows on their way to tokens, gone afterwards; so are those of processes that died."""
    with _made(root):
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=root))
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _sweep(root: Path) -> None:
    """Remove what processes that were killed have left: nobody holds its lock."""
    for folder in root.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < SCRATCH_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, made if need be; refused rows leave none of the folders that were made for them."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):  # another process uses it by now
                path.rmdir()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # whoever made it may have removed it meanwhile
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                current = False
            if not current:  # the last holder has removed the file that was waited for
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
