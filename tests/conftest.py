"""What all tests share: rows to train on, and runs made once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

NAMES = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jun")
THINGS = ("lamp", "chair", "kettle", "radio", "coat", "clock", "ladder", "basket")


def chat_row(number: int) -> dict[str, Any]:
    """A short conversation with one right answer; lengths differ from row to row."""
    name, thing = NAMES[number % len(NAMES)], THINGS[number // 3 % len(THINGS)]
    extra = " please" * (number % 7)
    return {
        "messages": [
            {"role": "user", "content": f"{name} wants {number % 9 + 1} of the {thing}{extra}."},
            {"role": "assistant", "content": f"{thing.upper()} x{number % 9 + 1} for {name}"},
        ]
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """Forty conversations in a file."""
    return write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(40)])


@pytest.fixture
def finetune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in a folder of its own; gives exit code, stdout and stderr."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
