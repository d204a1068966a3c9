"""`finetune data check`: the story from the arguments to the exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from omegaconf import MISSING

from finetune.data import benchmarks, workers
from finetune.data.codes import ERROR
from finetune.data.examine.copies import as_compared, note_copies, note_leaks
from finetune.data.examine.gathered import Gathered
from finetune.data.examine.notes import Notes
from finetune.data.examine.page import page
from finetune.data.examine.result import Result, as_json, conclude, lines
from finetune.data.examine.settings import IDLE, MOST_ROWS, CheckSettings, check_settings
from finetune.data.examine.whole import look_at_all, note_trained
from finetune.data.leaks import Compared
from finetune.data.load import check_columns, check_hub
from finetune.data.pieces import HELD_OUT, PART_BYTES, TRAIN, pieces
from finetune.data.prepared import Allowed, said_allowed
from finetune.data.read import Source, find_sources, shorten
from finetune.errors import UserError
from finetune.failures import explained
from finetune.rundir import write_text
from finetune.settings.verb import read_verb

PAGE = "data-report.html"
WITHOUT_MODEL = (
    "Without a model, templates, masks, stop tokens and lengths in tokens were not looked at: add model=tiny or "
    "another."
)


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb; 2 when `train` would refuse the rows."""
    paths, settings = read_verb("data check", CheckSettings(), arguments, IDLE)
    check_settings(settings, arguments)
    target = _target(settings)
    with explained(target.parent):
        result = check(paths, settings)
        write_text(target, page(result))
    if json_output:
        print(json.dumps(as_json(result, str(target)), ensure_ascii=False))
    else:
        print("\n".join(lines(result, str(target))))
    return UserError.exit_code if result.count(ERROR) else 0


def check(paths: Sequence[str], settings: CheckSettings) -> Result:
    """Look at every row of the files; raises UserError when they cannot be found or a setting is wrong."""
    train, held_out = _sources(paths, settings)
    tests = benchmarks.find_benchmarks(settings.data.benchmarks)
    check_hub(settings.data, [*train, *held_out])
    check_columns(settings.data.columns)
    waiting = chain(pieces(TRAIN, train, settings.data), pieces(HELD_OUT, held_out, settings.data))
    gathered = Gathered(settings, compares=bool(held_out or tests))
    gathered.take(waiting, _processes(settings, (*train, *held_out)))
    look_at_all(gathered.train, gathered.notes)
    exams = benchmarks.read_benchmarks(tests, gathered.notes)
    remarks = [*_compare(gathered, exams, settings), *([] if settings.has_model else [WITHOUT_MODEL])]
    names = _names([*train, *held_out, *tests])
    return conclude(names, gathered, len(exams), settings, tuple(remarks))


def _names(sources: Sequence[Source]) -> tuple[str, ...]:
    """The files and datasets as messages name them."""
    return tuple(dict.fromkeys(name for source in sources for name in [*map(shorten, source.files)] or [source.given]))


def _compare(gathered: Gathered, exams: Sequence[benchmarks.Passage], settings: CheckSettings) -> Iterator[str]:
    """Note rows that are nearly the same; says what was left out."""
    texts, near = gathered.texts, settings.check.near
    if near is False:
        if not settings.data.allow_contamination:
            note_trained(gathered.train, gathered.held_out, gathered.notes)
        parts = ", and passages in common with held-out rows," if len(gathered.held_out.table()) else ""
        yield f"Near-copies{parts} were not looked for: leave check.near=false out."
        return
    processes = settings.check.processes
    held_out = as_compared("data.eval", gathered.held_out, gathered.held_texts)
    allowed = list(_leaks(gathered, [held_out, benchmarks.as_compared(exams)], settings))
    if allowed:
        yield f"{said_allowed(allowed)}."
    if near is None and len(gathered.train.table()) > MOST_ROWS:
        yield f"Near-copies among more than {MOST_ROWS:,} rows were not looked for: add check.near=true."
    elif len(texts) > 1:
        note_copies(gathered.train, texts, gathered.notes, processes)


def _leaks(gathered: Gathered, measured: Sequence[Compared], settings: CheckSettings) -> Iterator[Allowed]:
    """Note the rows that are trained and measured on; where that is allowed, give how many they are instead."""
    data, train = settings.data, as_compared("data.train", gathered.train, gathered.texts)
    notes = Notes(0) if data.allow_contamination else gathered.notes
    for part in (part for part in measured if len(part.texts) and len(train.texts)):
        words, processes = data.contamination_words, settings.check.processes
        found = note_leaks(train, part, notes, words=words, processes=processes)
        if data.allow_contamination and found:
            yield Allowed(part.key, "", found)


def _target(settings: CheckSettings) -> Path:
    """Where the page goes; refused before anything is read when nothing can be written there."""
    folder = Path(settings.check.output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made: {(error.strerror or str(error)).lower()}"
        raise UserError.at(f"check.output {folder}", what, "name another folder") from error
    if not os.access(folder, os.W_OK) or (folder / PAGE).is_dir():
        raise UserError.at(f"check.output {folder}", f"{PAGE} cannot be written there", "name another folder")
    return folder / PAGE


def _sources(paths: Sequence[str], settings: CheckSettings) -> tuple[list[Source], list[Source]]:
    data = settings.data
    if paths and data.train != MISSING:
        raise UserError.at("data.train", "files are given twice, alone and under this key", "keep one of them")
    if not paths and data.train == MISSING:
        raise UserError.at("data check", "no files are given", "name some, such as finetune data check my.jsonl")
    train = find_sources(list(paths) if paths else data.train, "data.train")
    return train, find_sources(data.eval, "data.eval") if data.eval is not None else []


def _processes(settings: CheckSettings, sources: Sequence[Source]) -> int:
    """As many processes as were asked for, but none without work: starting one costs as much as thousands of rows."""
    if any(source.on_hub for source in sources):
        return 1
    size = sum(path.stat().st_size for source in sources for path in source.files if path.is_file())
    return max(1, min(settings.check.processes or workers.cores(), size // (2 * PART_BYTES)))
