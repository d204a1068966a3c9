"""The windows of a stream, prepared in the background ahead of the training, and deleted when they are used up."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from finetune.data import prepared
from finetune.data.benchmarks import find_benchmarks, whole_benchmarks
from finetune.data.encode import tokenizer_digest
from finetune.data.prepare import Filling, Settings, crew_of, spooled
from finetune.data.prepared import Place, PreparedData, Window
from finetune.data.read import find_sources
from finetune.data.reading import Reading
from finetune.data.spool import SpoolWriter
from finetune.data.stream import LEAVE_ALONE, WindowReader, stream_digest
from finetune.data.windows import AT_WORK, FOLDER, LIST, Windows, listed_windows, read_windows, window_folder
from finetune.data.workers import Crew
from finetune.errors import RunFailed, UserError
from finetune.log import log
from finetune.methods import METHODS
from finetune.plan import RunPlan
from finetune.rundir import write_json
from finetune.tokenizer import load_tokenizer, stop_ids

SECONDS_TO_END = 20.0  # for what is done in this process between two tasks of others
Make = Callable[[int, Place, Window | None], Window]


class Ahead:
    """Keeps the windows on disk that the next steps need, and one more; deletes all others."""

    def __init__(self, plan: RunPlan, trained: int) -> None:
        self._plan, self._trained = plan, trained
        self._folder = Path(plan.run_dir) / FOLDER
        self._all = plan.batch.steps * plan.batch.effective
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._crew: Crew | None = None
        self._thread = threading.Thread(target=self._work, name="windows", daemon=True)

    def __enter__(self) -> Ahead:
        self._folder.mkdir(exist_ok=True)
        self._windows = self._checked()
        (self._folder / AT_WORK).touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._wake.set()
        if self._crew is not None:
            self._crew.kill()
        self._thread.join(SECONDS_TO_END)
        (self._folder / AT_WORK).unlink(missing_ok=True)
        if self._error is not None and isinstance(error, RunFailed):  # what was waited for has failed
            raise self._error from None
        if self._trained >= self._all:
            self._delete_but([])

    def trained(self, rows: int) -> None:
        """So many rows of the run are trained."""
        self._trained = rows
        self._wake.set()

    def check(self) -> None:
        """Raise what went wrong in the background."""
        if self._error is not None:
            raise self._error

    def _checked(self) -> Windows:
        """The windows that are known; what lies in their place and is not whole, or of other rows, is deleted."""
        windows = read_windows(self._folder, self._plan.data)
        for path in self._folder.iterdir():
            found = prepared.read(path) if path.name.isdecimal() else None
            same = found is not None and found.fingerprint == self._plan.data.fingerprint
            if path.is_dir() and not (same and found and found.window in windows.known[int(path.name) :][:1]):
                shutil.rmtree(path)
        write_json(self._folder / LIST, listed_windows(windows, self._plan.data))
        return windows

    def _work(self) -> None:
        try:
            with self._making() as make:
                while not self._stopping.is_set():
                    wanted = self._wanted()
                    self._delete_but(wanted)
                    missing = [index for index in wanted if not self._path(index).is_dir()]
                    if missing:
                        self._add(missing[0], make)
                    else:
                        self._wake.wait()
                        self._wake.clear()
        except BaseException as error:  # the edge of the thread: the training raises it
            if not self._stopping.is_set():
                self._error = error
                (self._folder / AT_WORK).unlink(missing_ok=True)

    def _wanted(self) -> list[int]:
        """Which windows are needed: from the last row that was trained to what is read ahead of it, and one more."""
        known, count = self._windows, len(self._windows.known)
        first = known.find(max(self._trained - 1, 0))
        last = known.find(min(self._trained + 2 * self._plan.batch.effective, self._all) - 1)
        begin = first.number if first else count
        end = count + 1 if last is None else last.number + 1 + (last.ends < self._all)
        return list(dict.fromkeys(number % count if known.are_all else number for number in range(begin, end)))

    def _add(self, index: int, make: Make) -> None:
        known = self._windows.known
        window = make(index, known[index - 1].ends, known[index] if index < len(known) else None)
        if index == len(known):
            self._windows = Windows((*known, window))
            write_json(self._folder / LIST, listed_windows(self._windows, self._plan.data))

    def _delete_but(self, wanted: list[int]) -> None:
        for path in self._folder.iterdir():
            if path.name.isdecimal() and int(path.name) not in wanted:
                gone = path.with_name(f".{path.name}.gone")  # all at once for whoever opens it
                path.rename(gone)
                shutil.rmtree(gone)

    def _path(self, index: int) -> Path:
        return window_folder(self._folder, self._plan.data, index)

    @contextmanager
    def _making(self) -> Iterator[Make]:
        """What prepares a window as the first one was prepared, in other processes where there is much to do."""
        plan, data = self._plan, self._plan.config.data
        tokenizer = load_tokenizer(plan.model, plan.config.model.chat_template, tuple(plan.config.tuning.new_tokens))
        method = METHODS[plan.config.method.option]
        settings = Settings(
            data, method.learned_tokens(plan.config.method), method.ROW_SHAPE, plan.resolved.max_length,
            plan.config.seed, stop_ids(plan.model, tokenizer), tokenizer_digest(tokenizer),
        )  # fmt: skip
        sources = find_sources(data.train, "data.train")
        held = find_sources(data.eval, "data.eval") if data.eval is not None else []
        stream, exams = stream_digest(sources, data), whole_benchmarks(find_benchmarks(data.benchmarks))
        with prepared.scratch(self._folder) as scratch, crew_of(settings, scratch) as crew:
            self._crew, reading = crew, Reading(data, settings.shapes, crew.mapped)
            reader = WindowReader(sources, data, reading)
            held_rows = spooled(scratch, "held_out", held, reading)
            encoder = settings.job.encoder(tokenizer)

            def make(index: int, begins: Place, expected: Window | None) -> Window:
                writer = SpoolWriter(scratch / "train.rows")
                span = begins, reader.read(begins, writer)
                rows = writer.close()
                filling = Filling(
                    scratch, rows, held_rows, exams, settings, tokenizer, encoder, crew, self._folder, stream, span,
                    str(index), expected,
                )  # fmt: skip
                if filling.fingerprint != plan.data.fingerprint:
                    raise UserError.at("data.train", "has changed since the run was planned", LEAVE_ALONE)
                return told(index, prepared.write(filling.folder, filling.fill))

            yield make


def told(index: int, made: PreparedData) -> Window:
    """The window that was made, with a word on it."""
    train = made.train
    assert made.window is not None
    log.info(
        f"window {index + 1}: {train.rows:,} rows, {train.tokens:,} tokens, longest {train.longest:,}"
        + (f"; {train.truncated:,} truncated, {train.dropped:,} dropped" if train.truncated or train.dropped else "")
    )
    return made.window
