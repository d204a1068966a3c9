"""A command in a process of its own, forked from one that has imported the libraries already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

STACK = [
    "torch",
    "transformers",
    "peft",
    "datasets",
    "trl.trainer.sft_trainer",
    "finetune.cli",
    "finetune.callbacks",
]


def context() -> ForkServerContext:
    """Where children are forked from: nothing has run there yet, so no thread is lost in the fork."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(STACK)
    return made


@dataclass(frozen=True)
class Signalled:
    """A signal that a child gets at one certain point: when it opens a file for writing for the so-manieth time."""

    number: int
    path: str  # a part of the file's path
    time: int = 1


def start(arguments: list[str], folder: Path, signalled: Signalled | None = None) -> ForkServerProcess:
    """Start `finetune …` in a folder; what it prints goes to the file `child.log` there."""
    child = context().Process(target=_run, args=(arguments, str(folder), signalled))
    child.start()
    return child


def run(arguments: list[str], folder: Path, seconds: float = 240, signalled: Signalled | None = None) -> int:
    """Run `finetune …` in a folder to its end; returns its exit code."""
    child = start(arguments, folder, signalled)
    child.join(seconds)
    if child.is_alive():
        child.kill()
        raise TimeoutError(f"finetune {' '.join(arguments)}\n{(folder / 'child.log').read_text()}")
    assert child.exitcode is not None
    return child.exitcode


def wait_for_step(metrics: Path, step: int, child: ForkServerProcess, seconds: float = 120) -> None:
    """Wait until a run has logged a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.is_alive():
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.005)
    raise TimeoutError(f"step {step} was not seen in {metrics}; the run is {'on' if child.is_alive() else 'over'}")


def _signal_at(wanted: Signalled) -> None:
    """Have this process signal itself, by what the interpreter tells of every file that is opened."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "open" or not arguments[2] & (os.O_WRONLY | os.O_RDWR) or not isinstance(arguments[0], (str, Path)):
            return
        if wanted.path in str(arguments[0]):
            seen += 1
            if seen == wanted.time:
                os.kill(os.getpid(), wanted.number)

    sys.addaudithook(hook)


def _run(arguments: list[str], folder: str, signalled: Signalled | None) -> None:
    os.chdir(folder)
    if signalled is not None:
        _signal_at(signalled)
    descriptor = os.open("child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from finetune.cli import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
