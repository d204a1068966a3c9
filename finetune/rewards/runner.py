"""A program of its own: runs an answer's code and the calls of its tests, inside the cage. Imports nothing of ours.

What it gives back is data and no verdict: it never learns what a call is expected to give. So an answer gains nothing
from patching equality, leaving early or writing the result itself: it would have to know the right values.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

# What an answer may do in its own folder, and what of it in Python's library too.
OF_FILES = ("open", "os.listdir", "os.scandir", "os.walk", "os.mkdir", "os.remove", "os.rename", "os.rmdir")
LISTING = ("os.listdir", "os.scandir", "os.walk")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = ("os.putenv", "os.unsetenv")
# Files otherwise, processes, the network, foreign code, and what would lead to the guard itself.
REFUSED = ("os.", "subprocess.", "socket.", "ctypes.", "pty.", "fcntl.", "resource.", "sqlite3.", "gc.")
FOREIGN = ("ctypes", "_ctypes", "_posixsubprocess")
UNIX = 1  # a pair of sockets, which is how asyncio wakes itself
DEEPEST = 100


def main() -> None:
    """Do the work that stands on stdin."""
    folder, result, apart, closed = sys.argv[1:]
    work = json.loads(sys.stdin.readline())
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.chdir(folder)
    leave = os._exit
    _guard(folder)
    values = _values(work["code"], work["calls"])
    said = json.dumps({"values": values, "apart": apart == "1", "closed": closed == "1"})
    with open(int(result), "w", encoding="utf-8") as pipe:
        pipe.write(f"{said}\n")
    leave(0)


def _values(code: str, calls: Sequence[str]) -> list[Any]:
    """What each call gives, in a list; an empty list where it gives nothing. An answer that fails ends the program."""
    answer = types.ModuleType("answer")
    sys.modules["answer"] = answer
    exec(compile(code, "answer", "exec"), answer.__dict__)
    return [_value(call, answer.__dict__) for call in calls]


def _value(call: str, space: dict[str, Any]) -> list[Any]:
    try:
        return [_data(eval(compile(call, "test", "eval"), space), 0)]
    except Exception:
        return []


def _data(value: Any, depth: int) -> Any:
    """A value as JSON that keeps its kind; a ValueError for what is no plain data."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {"dict": [[_data(key, depth + 1), _data(item, depth + 1)] for key, item in value.items()]}
    kinds: dict[str, Any] = {"list": list, "tuple": tuple, "set": (set, frozenset)}
    for name, kind in kinds.items():
        if isinstance(value, kind):
            return {name: [_data(item, depth + 1) for item in value]}
    raise ValueError(f"a {type(value).__name__} is no plain data")


def _guard(folder: str) -> None:
    """End at once at the first try to reach other files, processes or the network.

    The watch uses nothing that an answer could replace: no global name, and no method of a value it was given.
    """
    leave, known, cut, begins = os._exit, isinstance, str.partition, str.startswith
    text, number, decoded, split = str, int, os.fsdecode, str.split
    of_files, listing, writing, harmless, refused = OF_FILES, LISTING, WRITING, HARMLESS, REFUSED
    foreign, unix, nothing, size, deepest = FOREIGN, UNIX, type(None), len, DEEPEST
    own = (f"{folder}/",)
    library = (*own, f"{os.path.realpath(os.path.dirname(os.__file__))}/", "/usr/share/zoneinfo/")
    import _posixsubprocess

    def refuse(*_: object) -> None:
        leave(1)

    _posixsubprocess.fork_exec = refuse  # type: ignore[assignment]  # it starts processes without an event

    def inside(path: Any, folders: tuple[str, ...]) -> bool:
        if known(path, (number, nothing)):
            return True  # what is open already, or the folder itself
        if not known(path, (text, bytes)):
            return False
        name = decoded(path)
        parts = split(name, "/")
        if ".." in parts or size(parts) > deepest:
            return False
        return not begins(name, "/") or begins(name + "/", folders)

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event == "import":
            bad = cut(given[0], ".")[0] in foreign
        elif event in of_files:
            reads = event in listing or (event == "open" and not given[2] & writing)
            bad = not inside(given[0], library if reads else own)
            bad = bad or (event == "os.rename" and not inside(given[1], own))
        elif event == "socket.__new__":
            bad = given[1] != unix
        else:
            bad = begins(event, refused) and event not in harmless
        if bad:
            leave(1)

    sys.addaudithook(watch)


if __name__ == "__main__":
    main()
