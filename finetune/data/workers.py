"""Work on many rows spread over processes, with the results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import wait
from typing import TypeVar

from finetune.errors import RunFailed

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_PROCESSES = 16
FEW_TEXTS = 20_000  # starting processes takes longer than to work through these in one
TASK_CHARACTERS = 2_000_000


def count(processes: int | None, texts: int) -> int:
    """How many processes to use: those asked for, or one for each core that this process may use."""
    if processes is not None:
        return max(processes, 1)
    if texts < FEW_TEXTS:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


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


def mapped(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """The function's result for each task, in their order; only a few tasks are read ahead.

    The function must be importable by name, because other processes are started afresh: a fork of a process
    with threads may hang.
    """
    tasks = iter(tasks)
    ahead = list(islice(tasks, 2))
    tasks = chain(ahead, tasks)
    if processes == 1 or len(ahead) < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_follow_parent)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunFailed("a process that compared rows was killed, most likely for want of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End with the parent, however it ends; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
