"""The files that a verb writes: written beside their names, and given them when all are whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from finetune.errors import UserError
from finetune.rundir import write_json


class Output:
    """Files of one folder, which replace those of an earlier run together; a failure leaves those as they were."""

    def __init__(self, folder: str, names: Sequence[str], record: str) -> None:
        self.folder, self._record = Path(folder).expanduser(), record
        self._files: dict[str, TextIO] = {}
        self._names = tuple(names)
        self._made: list[Path] = []

    def check_free(self, inputs: Iterable[Path]) -> None:
        """Refuse a folder that is not ours to write in, or that what is read comes from."""
        where = f"output {self.folder}"
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError.at(where, "is a file where a folder is wanted", "choose another output")
        for name in (*self._names, self._record):
            path = self.folder / name
            if path.exists() and not (self.folder / self._record).exists():
                mend = "move it away, or choose another output"
                raise UserError.at(where, f"holds a {name} that this command has not written", mend)
        for path in inputs:
            real = Path(os.path.realpath(path))  # Path.resolve raises on a link that leads to itself
            if real.parent == self.folder.resolve() and real.name in self._names:
                raise UserError.at(where, f"{path} is read and would be replaced", "choose another output")

    def __enter__(self) -> Output:
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            for name in self._names:
                self._files[name] = self._temporary(name).open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            self._discard()
            what = f"cannot be written ({(error.strerror or str(error)).lower()})"
            raise UserError.at(f"output {self.folder}", what, "choose another output") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or any(not file.closed for file in self._files.values()):
            self._discard()

    def write(self, name: str, text: str) -> None:
        """Add to a file."""
        self._files[name].write(text)

    def publish(self, record: dict[str, Any]) -> dict[str, Any]:
        """Give the files their names, and write the record with their fingerprints, last; gives the record."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        prints = {name: fingerprint(self._temporary(name)) for name in self._names}
        for name in self._names:
            self._temporary(name).replace(self.folder / name)
        whole = {**record, "fingerprints": prints}
        write_json(self.folder / self._record, whole)
        return whole

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.{os.getpid()}.tmp"

    def _sweep(self) -> None:
        """Remove what a killed command has left."""
        for name in self._names:
            for path in self.folder.glob(f".{name}.*.tmp"):
                process = path.name.removeprefix(f".{name}.").removesuffix(".tmp")
                if process.isdigit() and not _is_running(int(process)):
                    path.unlink(missing_ok=True)

    def _discard(self) -> None:
        for file in self._files.values():
            file.close()
        for name in self._names:
            self._temporary(name).unlink(missing_ok=True)
        for path in self._made:
            with suppress(OSError):  # another process uses it by now
                path.rmdir()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
