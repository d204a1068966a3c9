"""Work on many rows spread over processes, with the results in the order of the tasks.

A process ends with the one that started it, however that ends. Ctrl-C is for the parent alone, which then ends all
others at once.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from finetune.errors import RunFailed

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_PROCESSES = 16
FEW_TEXTS = 20_000  # starting processes takes longer than to work through these in one
TASK_CHARACTERS = 2_000_000
STARTING = 120.0  # seconds in which a process must have begun to take timed tasks
AHEAD = 3  # tasks a process that are begun before the result of the first is taken


def count(processes: int | None, texts: int) -> int:
    """How many processes to use: those asked for, or one for each core that this process may use."""
    if processes is not None:
        return max(processes, 1)
    if texts < FEW_TEXTS:
        return 1
    return cores()


def cores() -> int:
    """The cores that this process may use, as far as they help."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, MOST_PROCESSES)


def portions(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The texts in lists of bounded size, each with the index of its first text."""
    portion: list[str] = []
    size = first = 0
    for begin in range(0, len(texts), 64):
        for text in texts[begin : begin + 64]:
            portion.append(text)
            size += len(text)
            if size >= TASK_CHARACTERS:
                yield first, portion
                first, size, portion = first + len(portion), 0, []
    if portion:
        yield first, portion


def mapped(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Generator[Result, None, None]:
    """The function's result for each task, in their order; only a few tasks are read ahead.

    The function is sent to each process once, and what it keeps between tasks stays there. It must be importable by
    name, because other processes are started afresh: a fork of a process with threads may hang.
    """
    with Crew(function, processes) as crew:
        yield from crew.mapped(tasks)


class Lost(Exception):
    """What a timed task gives that took too long, or whose process ended."""

    def __init__(self, late: bool) -> None:
        super().__init__("took too long" if late else "its process ended")
        self.late = late


@dataclass
class _Worker:
    """One process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection
    busy: bool = False
    number: int = -1  # of the task that it works on
    until: float = math.inf  # when that must be done


@dataclass
class Crew:
    """Processes that are started when there is work for them, and end with the block; see `mapped`.

    With `seconds`, a task that takes longer, or ends its process, gives a `Lost` instead of a result, and everything is
    done in other processes, which first carry out `begin`: its time does not count.
    """

    function: Callable[[Any], Any]
    processes: int
    workers: list[_Worker] = field(default_factory=list)
    seconds: float | None = None
    begin: Callable[[], Any] | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def mapped(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The function's result for each task, in their order. Take all of one call before the next."""
        tasks = iter(tasks)
        ahead = list(islice(tasks, 2))
        waiting = chain(ahead, tasks)
        if self.seconds is None and (self.processes == 1 or len(ahead) < 2):
            return map(self.function, waiting)
        return self._results(waiting)

    def _results(self, tasks: Iterator[Any]) -> Iterator[Any]:
        done: dict[int, Any] = {}
        given = told = 0
        more = True
        while more or told < given:
            while more and given - told < AHEAD * self.processes and (worker := self._idle()) is not None:
                try:
                    task = next(tasks)
                except StopIteration:
                    more = False
                else:
                    self._give(worker, given, task)
                    given += 1
            done.update(self._take(worker) for worker in self._ready())
            done.update(self._give_up(worker) for worker in [*self.workers] if worker.until < time.monotonic())
            while told in done:
                yield done.pop(told)
                told += 1

    def _idle(self) -> _Worker | None:
        """A process that has nothing to do; started if there may be one more."""
        idle = next((worker for worker in self.workers if not worker.busy), None)
        return idle or (self._start() if len(self.workers) < self.processes else None)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # it unblocks the signal when it starts
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.function, self.begin), daemon=True)
        # What is blocked here is blocked in a new process from its first instruction on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self.workers.append(_Worker(process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        if self.begin is not None:
            self._await_begin(self.workers[-1])
        return self.workers[-1]

    def _await_begin(self, worker: _Worker) -> None:
        _, found = self._take(worker) if worker.pipe.poll(STARTING) else self._give_up(worker)
        if isinstance(found, Lost):
            raise RunFailed(f"a process could not begin: {found}")

    def _give(self, worker: _Worker, number: int, task: Any) -> None:
        try:
            worker.pipe.send((number, task))
        except OSError:
            raise _killed() from None
        worker.busy, worker.number = True, number
        if self.seconds is not None:
            worker.until = time.monotonic() + self.seconds

    def _give_up(self, worker: _Worker, late: bool = True) -> tuple[int, Any]:
        """End a process that takes too long, or has ended itself."""
        self.workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        return worker.number, Lost(late)

    def _ready(self) -> list[_Worker]:
        """The processes that have something to say; waits for one when any works."""
        busy = [worker for worker in self.workers if worker.busy]
        until = min((worker.until for worker in busy), default=math.inf)
        longest = None if until == math.inf else max(0.0, until - time.monotonic())
        ready = wait([worker.pipe for worker in busy], longest) if busy else []
        return [worker for worker in busy if worker.pipe in ready]

    def _take(self, worker: _Worker) -> tuple[int, Any]:
        try:
            number, result, error = worker.pipe.recv()
        except (EOFError, OSError):
            if self.seconds is not None:
                return self._give_up(worker, late=False)
            raise _killed() from None
        worker.busy, worker.until = False, math.inf
        if error is not None:
            raise error
        return number, result

    def kill(self) -> None:
        """End all processes at once, whatever they do; whoever waits for their results fails."""
        for worker in self.workers:
            worker.process.kill()

    def end(self) -> None:
        """The same, and wait until they are gone."""
        self.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()


def _killed() -> RunFailed:
    return RunFailed("a process that works on the rows was killed, most likely for want of memory")


def _serve(pipe: Connection, function: Callable[[Any], Any], begin: Callable[[], Any] | None) -> None:
    _follow_parent()
    with suppress(EOFError, BrokenPipeError):  # the parent has gone
        if begin is not None:
            _, _, error = _answer(-1, begin)
            pipe.send((-1, None, error))
        while True:
            number, task = pipe.recv()
            pipe.send(_answer(number, partial(function, task)))


def _answer(number: int, work: Callable[[], Any]) -> tuple[int, Any, Exception | None]:
    try:
        return number, work(), None
    except Exception as error:  # the edge of this process: the parent raises it again
        error.add_note(traceback.format_exc())
        return number, None, error


def _follow_parent() -> None:
    """End with the parent, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
