"""Paying for code that does what its row's tests ask: each answer runs in a cage of its own.

The tests are held against its values here, outside: see `cases.py`. This keeps answers that a model writes in training
from cheating and from harming the run. It is no wall against someone who means harm.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from finetune.data.workers import cores
from finetune.errors import UserError
from finetune.log import log
from finetune.rewards.cases import Case

FENCE = re.compile(r" {0,3}```\s*(?P<said>[^`\s]*)[^`]*")
PYTHON = ("python", "py", "python3", "")
CLOCK = 3  # times the processor seconds, plus one, are what an answer gets by the clock
MOST_RESULT = 4 << 20  # bytes
GRACE = 5.0  # seconds beyond its own clock until a cage is given up
CAGE, RUNNER = Path(__file__).with_name("cage.py"), Path(__file__).with_name("runner.py")


@dataclass(frozen=True)
class Limits:
    """What an answer may use."""

    seconds: float  # of the processor
    megabytes: int

    @property
    def clock(self) -> float:
        """The seconds by the clock."""
        return CLOCK * self.seconds + 1


def written_code(answer: str) -> str:
    """The last fenced block of Python in an answer, or else the whole answer."""
    found, opened = "", list[str]()  # the lines since the fence that opens a block, with it
    for line in answer.split("\n"):
        fence = FENCE.fullmatch(line)
        if opened and (fence is None or fence["said"]):
            opened.append(line)
        elif opened:
            language = FENCE.fullmatch(opened[0])
            found = "\n".join(opened[1:]) if language and language["said"].lower() in PYTHON else found
            opened = []
        elif fence is not None:
            opened = [line]
    return found or answer


def score_code(answers: Sequence[str], tests: Sequence[Sequence[Case]], limits: Limits) -> list[float]:
    """1 for each answer that passes all its tests, 0 for the others; as many run at once as there are cores."""
    check_system()
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(lambda answer, cases: float(_passes(answer, cases, limits)), answers, tests))


def _passes(answer: str, cases: Sequence[Case], limits: Limits) -> bool:
    calls = [call for case in cases for call in case.calls]
    values = run(written_code(answer), calls, limits).get("values")
    if not isinstance(values, list) or len(values) != len(calls):
        return False
    waiting = iter(values)
    return all([case.passes([next(waiting) for _ in case.calls]) for case in cases])


@cache
def check_system() -> None:
    """Refuse systems where no process can be limited; say once what this one cannot keep away."""
    if not hasattr(os, "fork"):
        raise UserError.at("rewards code", "this system cannot limit processes", "use Linux or macOS")
    said = run("", [], Limits(5, 512))
    if "values" not in said:
        raise UserError.at("rewards code", "no program can be started in its cage here", "leave the reward out")
    if not said["apart"]:
        log.warning("this system allows no namespaces here: code that answers hold is not cut off from the network")
    if not said["closed"]:
        log.warning("this system has no Landlock: only Python itself keeps code that answers hold from other files")


def run(code: str, calls: Sequence[str], limits: Limits) -> dict[str, Any]:
    """What the calls give after the code; empty when the code gave nothing in time."""
    folder = os.path.realpath(tempfile.mkdtemp(prefix="finetune-code-"))
    with ExitStack() as at_the_end:
        at_the_end.callback(shutil.rmtree, folder, ignore_errors=True)
        result, theirs = os.pipe()
        at_the_end.callback(os.close, result)
        try:
            process = _start(folder, theirs, limits)
        finally:
            os.close(theirs)
        at_the_end.callback(_end, process)
        with suppress(BrokenPipeError):
            _stdin(process).write(json.dumps({"code": code, "calls": list(calls)}).encode() + b"\n")
            _stdin(process).flush()
        return _read(result, time.monotonic() + limits.clock + GRACE)


def _start(folder: str, result: int, limits: Limits) -> subprocess.Popen[bytes]:
    words = (RUNNER, folder, limits.seconds, limits.clock, limits.megabytes << 20, result)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(CAGE), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[result],
        env={"TMPDIR": folder},
        cwd=folder,
        start_new_session=True,
    )


def _read(result: int, until: float) -> dict[str, Any]:
    """The line that comes, if it comes in time and is of a bearable length."""
    found, asking = b"", select.poll()  # `select` itself knows no more than 1,024 open files
    asking.register(result, select.POLLIN)
    while not found.endswith(b"\n") and len(found) <= MOST_RESULT:
        if not asking.poll(1000 * max(0.0, until - time.monotonic())):
            return {}
        part = os.read(result, 1 << 16)
        if not part:
            return {}
        found += part
    try:
        said = json.loads(found)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the cage end all that runs in it, which it does when its stdin is closed."""
    with suppress(BrokenPipeError):
        _stdin(process).close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
