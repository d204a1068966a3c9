"""Pieces looked at by several processes; what they find comes back in the order of the pieces.

A process dies with the one that started it: it hears of its end on their pipe when it waits, and from the system, where
that is Linux, when it works. Ctrl-C is for the parent alone, which then ends all others at once.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from finetune.data.examine.examine import Examiner, Looked
from finetune.data.examine.pieces import Piece
from finetune.data.examine.settings import CheckSettings
from finetune.data.examine.tokens import measurer
from finetune.errors import RunFailed, UserError

AHEAD = 4  # pieces a process that may be done before their turn comes
PR_SET_PDEATHSIG = 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def look_at(pieces: Iterator[Piece], settings: CheckSettings, processes: int) -> Generator[Looked, None, None]:
    """What each piece holds, in order."""
    if processes == 1:
        examiner = Examiner(settings, measurer(settings))
        yield from map(examiner.look, pieces)
        return
    crew = _Crew(pieces, settings, processes)
    try:
        yield from crew.results()
    finally:
        crew.end()


@dataclass
class _Worker:
    """One process and the pipe to it; what it works on by its number."""

    process: BaseProcess
    pipe: Connection
    busy: bool = False


@dataclass
class _Crew:
    """The processes, and the pieces that wait."""

    pieces: Iterator[Piece]
    settings: CheckSettings
    processes: int
    workers: list[_Worker] = field(default_factory=list)

    def results(self) -> Iterator[Looked]:
        self._start()
        done: dict[int, Looked] = {}
        given = told = 0
        exhausted = False
        while not exhausted or told < given:
            for worker in self.workers:
                if not worker.busy and not exhausted and given - told < AHEAD * self.processes:
                    piece = next(self.pieces, None)
                    exhausted = piece is None
                    if piece is not None:
                        self._give(worker, given, piece)
                        given += 1
            for worker in self._ready():
                number, looked = self._take(worker)
                done[number] = looked
            while told in done:
                yield done.pop(told)
                told += 1

    def _start(self) -> None:
        # A fresh interpreter for each: a copy of this one would hold its threads' locks for ever.
        context = multiprocessing.get_context("spawn")
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(self.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self.settings, os.getpid()), daemon=True)
                process.start()
                theirs.close()
                self.workers.append(_Worker(process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _give(self, worker: _Worker, number: int, piece: Piece) -> None:
        try:
            worker.pipe.send((number, piece))
        except OSError:
            raise self._died(worker) from None
        worker.busy = True

    def _ready(self) -> list[_Worker]:
        pipes = {worker.pipe: worker for worker in self.workers if worker.busy}
        return [pipes[pipe] for pipe in wait(list(pipes)) if isinstance(pipe, Connection)] if pipes else []

    def _take(self, worker: _Worker) -> tuple[int, Looked]:
        try:
            number, looked = worker.pipe.recv()
        except (EOFError, OSError):
            raise self._died(worker) from None
        worker.busy = False
        if isinstance(looked, UserError):
            raise looked
        return number, looked

    def _died(self, worker: _Worker) -> RunFailed:
        worker.process.join(5)
        code = worker.process.exitcode
        return RunFailed(f"a process that read rows ended with {code}; try again with check.processes=1")

    def end(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join(5)
            worker.pipe.close()


def _serve(pipe: Connection, settings: CheckSettings, parent: int) -> None:
    _die_with(parent)
    examiner: Examiner | None = None
    while True:
        try:
            number, piece = pipe.recv()
        except EOFError:
            return
        try:
            examiner = examiner or Examiner(settings, measurer(settings))
            pipe.send((number, examiner.look(piece)))
        except UserError as error:
            pipe.send((number, error))
        except BrokenPipeError:
            return


def _die_with(parent: int) -> None:
    """Ask the system to end this process when its parent ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)
