"""A machine that gives out, in words: what the libraries raise for a full disk or for no memory, and what to do."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from finetune.errors import RunFailed

FULL = (errno.ENOSPC, errno.EDQUOT)
# safetensors and torch tell of a write that failed in words alone; the last is torch's writer of archives.
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "inline_container.cc")
MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def explained(folder: Path, lower: str = "", then: str = "") -> Iterator[None]:
    """Turn a full disk under `folder`, and memory that ran out, into a failure with its mend.

    `lower` names the settings that take memory, `then` the command that goes on afterwards.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        said = _explanation(error, folder, lower)
        if said is None:
            raise
        raise RunFailed(f"{said}{f'; then continue with:{chr(10)}  {then}' if then else ''}") from error


def _explanation(error: Exception, folder: Path, lower: str) -> str | None:
    text = str(error)
    if (isinstance(error, OSError) and error.errno in FULL) or any(words in text for words in FULL_WORDS):
        what = f"{folder}: disk full while writing, {_size(_free(folder))} free"
        return f"{what}; free space there, or choose another output_dir"
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or (isinstance(error, RuntimeError) and any(words in text for words in MEMORY_WORDS)):
        return f"out of memory{_peak()}; {lower or 'use less data'}"
    return None


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _peak() -> str:
    """The most that a GPU held, when one was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return f" (peak {_size(torch.cuda.max_memory_allocated())}, {_size(free)} of {_size(total)} free)"


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
