"""Bad inputs given to the real command, and what must come of each: one line a fault, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import chat_row

Run = Callable[..., tuple[int, str, str]]
Content = str | bytes

GOOD = [chat_row(number) for number in range(20)]
# Seconds of this process, which a busy machine does not stretch.
MOST_SECONDS = 10


@dataclass(frozen=True)
class Refused:
    """What is given, and what is said of it; FOLDER in `said` stands for the folder that it is given in."""

    row: int  # of the fault table
    name: str
    said: str  # the beginning of a line after `error: `
    arguments: tuple[str, ...] = ()
    files: Mapping[str, Content] = field(default_factory=dict)
    build: Callable[[Path], object] | None = None
    keeps: bool = False  # whether the rows are sound, so that they may stay prepared

    def __str__(self) -> str:
        return f"{self.row}-{self.name}"


def lines(rows: Iterable[Any]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    """A conversation from its turns."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def second(row: Any) -> str:
    """A file whose second row is this one, among good ones."""
    return lines([GOOD[0], row, *GOOD[2:]])


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """Write the files of a case."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def refuse(case: Refused, finetune: Run, folder: Path) -> str:
    """Run the case, and check everything that holds of every refusal; gives what was said."""
    write_files(folder, case.files)
    if case.build:
        case.build(folder)
    before, began = everything(folder), time.process_time()
    code, out, err = finetune("train", *case.arguments)
    assert time.process_time() - began < MOST_SECONDS
    assert code == 2, err
    assert out == ""
    said = err.splitlines()
    assert all(line.startswith("error: ") for line in said)
    assert "Traceback" not in err and "bug of ours" not in err
    wanted = f"error: {case.said.replace('FOLDER', str(folder))}"
    assert any(line.startswith(wanted) for line in said), err
    assert all("; " in line or re.search(r"must be|known are|in all$|not one of", line) for line in said), err
    left = everything(folder) - before
    assert {name for name in left if not (case.keeps and f"{name}/".startswith(("runs/", "runs/.prepared/")))} == set()
    assert not case.keeps or not any(
        name.startswith("runs/") and not name.startswith("runs/.prepared") for name in left
    )
    return err


def everything(folder: Path) -> set[str]:
    """Every file and folder under a folder."""
    return {
        os.path.relpath(os.path.join(root, name), folder)
        for root, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }


def error_lines(found: dict[str, Any]) -> list[str]:
    """The errors of a result in the form in which `train` says them."""
    return [
        f"{sample['where']} {sample['field']}".rstrip() + f": {sample['text']}; {sample.get('mend', '')}"
        for problem in found["problems"]
        if problem["severity"] == "error"
        for sample in problem["samples"]
    ]
