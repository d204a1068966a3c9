"""Sources → raw records, streamed, each with the file and row that it came from."""

from __future__ import annotations

import difflib
import glob
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from finetune.data.faults import FaultLog, kind_of
from finetune.data.jsonl import first_byte, read_json, read_jsonl
from finetune.data.tables import read_csv, read_parquet
from finetune.errors import UserError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".tar", ".tgz", ".7z")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# First bytes that tell what a file is, whatever its name says.
MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"BZh91AY&SY": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF file",
}
POINTER = b"version https://git-lfs.github.com/spec/"  # what git leaves of a large file that was not fetched


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its file has it."""

    file: str
    row: int  # from 1; in CSV files the line
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """The place of the row, as faults name it."""
        return f"{self.file}:{self.row}"


@dataclass(frozen=True)
class Source:
    """One entry of `data.train` or `data.eval`: local files, or a dataset of the hub."""

    given: str
    files: tuple[Path, ...] = ()

    @property
    def on_hub(self) -> bool:
        """Whether the rows come from the hub."""
        return not self.files


def find_sources(given: Any, key: str) -> list[Source]:
    """What a `data.train` or `data.eval` names; all that cannot be found is raised at once."""
    names = [given] if isinstance(given, str) else given
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence) or not names:
        what = f"must be a path or a list of paths, got {kind_of(given)}"
        raise UserError.at(key, what, f"such as {_naming(key, 'my.jsonl')}", "path-invalid")
    faults, sources = FaultLog(), []
    for name in names:
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            faults.add(key, f"must hold paths, got {name!r}", f"such as {_naming(key, 'my.jsonl')}", "path-invalid")
        else:
            sources.append(Source(name, tuple(_files(name, key, faults))))
    faults.raise_any()
    return sources


def _naming(key: str, *files: str) -> str:
    """How files are given on the command line: behind a verb, or by a setting."""
    if " " in key:
        return f"finetune {key} {' '.join(files)}"
    return f"{key}={files[0]}" if len(files) == 1 else f"{key}=[{','.join(files)}]"


def _files(name: str, key: str, faults: FaultLog) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and _shown(item))
        if not found:
            faults.add(
                f"{key} {name}",
                f"no data file in the folder (looked for {', '.join(SUFFIXES)})",
                "name the files",
                "file-missing",
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(name):
        found = sorted(Path(item) for item in glob.glob(str(path), recursive=True) if _shown(Path(item)))
        found = [item for item in found if not item.is_dir()]
        if not found:
            faults.add(
                f"{key} {name}",
                f"the pattern matches no file in {os.getcwd()}",
                f"correct it, or give a list of files as {_naming(key, 'a.jsonl', 'b.jsonl')}",
                "file-missing",
            )
        return found
    if HUB_ID.fullmatch(name) and not name.lower().endswith(SUFFIXES + PACKED) and not path.parent.is_dir():
        return []
    if path.is_symlink():
        faults.add(f"{key} {name}", "is a link to nothing", "mend the link, or give the file itself", "file-missing")
        return []
    faults.add(f"{key} {name}", f"no such file in {os.getcwd()}", _mend_of(name, path, key), "file-missing")
    return []


def _mend_of(name: str, path: Path, key: str) -> str:
    """What to do about a path that leads nowhere."""
    if "://" in name:
        return "download it first, and give the file"
    parts = [part.strip() for part in name.split(",") if part.strip()]
    if len(parts) > 1 and any(Path(part).expanduser().exists() for part in parts):
        return f"for several files write {_naming(key, *parts)}"
    near = _nearest(path)
    return f"did you mean {near}?" if near else "give a file, a folder, a pattern or a hub id such as org/name"


def _shown(path: Path) -> bool:
    return not path.name.startswith((".", "_"))


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [item.name for item in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return str(path.parent / near[0]) if near else ""


def read(
    source: Source,
    faults: FaultLog,
    *,
    wanted: Collection[str],
    others: bool = False,
    limit: int | None = None,
    split: str = "train",
    revision: str | None = None,
    streaming: bool = False,
) -> Iterator[Record]:
    """The records of a source. `wanted` columns can be used; `others` in Parquet are read when they are asked for.

    `streaming` reads a dataset of the hub from there, row by row, and does not download it first.
    """
    if source.on_hub:
        records = _hub(source.given, split, revision, streaming)
    else:
        records = _local(source.files, wanted, others, faults)
    yield from islice(records, limit)


def _local(files: Sequence[Path], wanted: Collection[str], others: bool, faults: FaultLog) -> Iterator[Record]:
    for path in files:
        name, rows, before = shorten(path), 0, faults.total
        for row, values in _open(path, name, wanted, others, faults):
            rows += 1
            yield Record(name, row, values)
        if not rows and faults.total == before:
            note_empty(name, faults)


def note_empty(name: str, faults: FaultLog) -> None:
    """Note that a file has no rows."""
    faults.add(name, "no rows", "the file is empty: check that it was copied whole", "file-empty")


def shorten(path: Path) -> str:
    """A path as the user would write it."""
    home = os.path.expanduser("~")
    text = str(path)
    return "~" + text[len(home) :] if len(home) > 1 and text.startswith(home + os.sep) else text


def _open(
    path: Path, name: str, wanted: Collection[str], others: bool, faults: FaultLog
) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if not _is_readable(path, name, suffix, faults):
        return iter(())
    if suffix in (".csv", ".tsv"):
        return read_csv(path, name, "\t" if suffix == ".tsv" else ",", faults)
    if suffix == ".parquet":
        return read_parquet(path, name, wanted, faults, others=others)
    if _is_array(path, suffix):
        return read_json(path, name, faults)
    return read_jsonl(path, name, faults)


def is_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, which can be read in parts."""
    suffix = path.suffix.lower()
    sound = _is_readable(path, "", suffix, FaultLog())
    return sound and suffix in (".jsonl", ".ndjson") and not _is_array(path, suffix)


def _is_array(path: Path, suffix: str) -> bool:
    return suffix == ".json" or first_byte(path) == b"["


def _is_readable(path: Path, name: str, suffix: str, faults: FaultLog) -> bool:
    known = f"known are {', '.join(SUFFIXES)}"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "is not a file (a pipe, a device or a folder)"
            faults.add(name, what, "write the rows to a file first", "file-kind")
            return False
        if suffix in PACKED:
            faults.add(name, "packed files are not read", "unpack it first", "file-packed")
            return False
        if suffix not in SUFFIXES:
            what = f"unknown kind of file {suffix or '(no ending)'!r}"
            faults.add(name, what, f"{known}; rename or convert it", "file-kind")
            return False
        with path.open("rb") as file:
            head = file.read(len(POINTER))
    except OSError as error:
        what = f"cannot be read: {(error.strerror or str(error)).lower()}"
        faults.add(name, what, "check its rights", "file-unreadable")
        return False
    if head == POINTER:
        faults.add(name, "is a git-lfs pointer, not the rows themselves", "run git lfs pull", "file-kind")
        return False
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if kind and not (suffix == ".parquet" and kind == "a Parquet file"):
        faults.add(name, f"is {kind}, not what its ending {suffix} says", "rename or unpack it", "file-kind")
        return False
    return True


def _hub(name: str, split: str, revision: str | None, streaming: bool) -> Iterator[Record]:
    import datasets

    with _hub_refusals(name, split):
        rows = iter(datasets.load_dataset(name, split=split, revision=revision, streaming=streaming))
    for row in count(1):
        with _hub_refusals(name, split):  # a stream may break off
            values = next(rows, None)
        if values is None:
            return
        yield Record(name, row, values)


def hub_version(name: str, split: str, revision: str | None) -> str:
    """The version of a dataset of the hub that would be read now."""
    import datasets

    with _hub_refusals(name, split):
        return str(datasets.load_dataset_builder(name, revision=revision).hash)


@contextmanager
def _hub_refusals(name: str, split: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError.at(f"data {name}", *_why_not(error, name, split), "hub") from error


def _why_not(error: Exception, name: str, split: str) -> tuple[str, str]:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, ConnectionError):
        return (
            "the hub cannot be reached, and the dataset is not in the cache",
            "connect, or give a local file",
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return "no such file, and no such dataset on the hub (or it needs a login)", "check the name"
    if "split" in reason.lower():
        return f"has no split {split!r}: {reason}", "set data.split"
    return reason, "check the name, or download the dataset and give its files"
