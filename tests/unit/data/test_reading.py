"""Large files are read in parts, by several processes: rows, faults and fingerprint are those of reading them whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import question

from finetune.data import pieces
from finetune.data import prepare as prepare_module
from finetune.data.prepare import PreparedData, read_rows
from finetune.data.rows import Row
from finetune.errors import Fault, UserError

Run = Callable[..., PreparedData]
Outcome = tuple[str, list[Row]] | tuple[tuple[Fault, ...], int]


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n" for row in rows)


MANY = [question(number) for number in range(60)]
ASKED = [{"asked": f"Q{number}?", "completion": f"A{number}", "user": f"u{number % 7}"} for number in range(60)]
TEXT = {"text": "a text among conversations"}
NAMED = {"columns": {"prompt": "asked"}, "group_by": ["user"], "eval_share": 0.3}

CASES: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "sound rows of two files": ([lines(*MANY, "", *MANY), lines(*MANY)], {}),
    "a split by groups": ([lines(*ASKED)], NAMED),
    "a file with nothing of data.columns first": ([lines(*MANY), lines(*ASKED)], NAMED),
    "faults all over": ([lines(*MANY[:30], "{", *MANY[:30], *["[1]"] * 40), lines(*MANY, "nope")], {}),
    "a first part without a row": ([lines(*["{"] * 500, *MANY)], {}),
    "another layout in a later part": ([lines(*MANY, TEXT, *MANY)], {}),
    "a file that fits no layout after faults": ([lines(*MANY, "{"), lines(*[{"odd": 1}] * 200)], {}),
    "preferences in two files": ([lines(*[{"chosen": "a", "rejected": "b"}] * 100)] * 2, {}),
    "nothing but blank lines": ([lines(*MANY), b"\n" * 5000, lines("{")], {}),
    "a column that is nowhere": ([lines(*ASKED)], {"columns": {"prompt": "asked", "tools": "gone"}}),
    "a group that is nowhere": ([lines(*ASKED)], {"columns": {"prompt": "asked"}, "group_by": ["gone"]}),
    "a line of UTF-16 between others": ([lines(*MANY) + "ü\n".encode("utf-16") + b"\n" + lines(*MANY, "{")], {}),
    "a file of UTF-16": ([lines(*MANY).decode().encode("utf-16")], {}),
    "a limit": ([lines(*MANY), lines(*MANY)], {"limit": 40}),
}


@pytest.fixture
def outcome(tmp_path: Path, run_prepare: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """What comes of a case when files are read in parts of so many bytes, with so many cores."""
    monkeypatch.setattr(prepare_module, "LARGE_BYTES", 0)

    def run(name: str, size: int, cores: int) -> Outcome:
        monkeypatch.setattr(pieces, "PART_BYTES", size)
        monkeypatch.setattr(prepare_module, "cores", lambda: cores)
        files, settings = CASES[name]
        paths = [tmp_path / f"{number}.jsonl" for number in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        try:
            prepared = run_prepare([str(path) for path in paths], **{"eval_share": 0.0, **settings})
        except UserError as error:
            return error.faults, error.total
        return prepared.fingerprint, list(read_rows(prepared.train))

    return run


@pytest.mark.parametrize("name", CASES)
def test_parts_are_read_as_the_whole_is(name: str, outcome: Callable[..., Outcome]) -> None:
    whole = outcome(name, 10**9, 1)
    for size in (700, 3000):
        assert outcome(name, size, 1) == whole


@pytest.mark.parametrize("name", ["a split by groups", "faults all over", "a file that fits no layout after faults"])
def test_two_processes_read_as_one_does(name: str, processes: list[int], outcome: Callable[..., Outcome]) -> None:
    whole = outcome(name, 10**9, 1)
    assert outcome(name, 1000, 2) == whole
    assert processes == [0, 2]


def test_few_rows_start_no_process(write_rows: Callable[..., str], run_prepare: Run, processes: list[int]) -> None:
    run_prepare(write_rows(MANY), eval_share=0)
    assert processes == [0]
