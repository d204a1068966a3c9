"""The report of a run: whatever its directory holds, as a page and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.evaluate import changes, table
from finetune.evaluate.contents import Contents, Pairs, facts, read_contents, settings, tiles
from finetune.evaluate.page import page
from finetune.rundir import write_text

PAGE, TEXT = "report.html", "report.md"
RESULTS = ("<!-- results -->", "<!-- end of results -->")


def write_report(run_dir: Path) -> Path:
    """Write report.html and report.md from the files that the run directory has; gives the page's path."""
    contents = read_contents(run_dir)
    write_text(run_dir / TEXT, markdown(contents))
    write_text(run_dir / PAGE, page(contents))
    return run_dir / PAGE


def write_results(run_dir: Path, card: Path) -> None:
    """Write a run's comparison, and what it was made on, between the marks of a recipe's README."""
    contents = read_contents(run_dir)
    if contents.evaluation is None:
        raise ValueError(f"{run_dir} holds no evaluation")
    head, begin, rest = card.read_text(encoding="utf-8").partition(RESULTS[0])
    _, end, tail = rest.partition(RESULTS[1])
    if not end:
        raise ValueError(f"{card} has no place for results, between {RESULTS[0]} and {RESULTS[1]}")
    heads, *rows = table.cells(contents.evaluation)
    said = _plain(table.verdict_line(contents.evaluation))
    parts = [_grid(heads, rows), said, _plain(f"{contents.subtitle}. {contents.machine}")]
    write_text(card, "\n\n".join([head + begin, *parts, end + tail]))


def markdown(contents: Contents) -> str:
    """The report as Markdown, for a terminal or a pull request."""
    parts = [f"# {_plain(contents.name)}", _plain(contents.subtitle)]
    if contents.evaluation is not None:
        heads, *rows = table.cells(contents.evaluation)
        said = [table.verdict_line(contents.evaluation), *table.majority_lines(contents.evaluation)]
        parts += ["## Did it help?", *map(_plain, said), _grid(heads, rows)]
        heads, *rows = table.slice_cells(contents.evaluation)
        parts += ["Parts of the rows, a hint and no verdict:", _grid(heads, rows)] if rows else []
        parts += [_plain(line)] if (line := table.slices_left_out(contents.evaluation)) else []
        parts += map(_plain, table.other_lines(contents.evaluation))
        parts += _changes(contents.evaluation)
    if numbers := tiles(contents):
        parts += ["## Training", _grid([name for name, _ in numbers], [[value for _, value in numbers]])]
    parts += [f"Warning: {_plain(warning)}" for warning in contents.warnings]
    parts += _made(facts(contents), settings(contents))
    return "\n\n".join(parts) + "\n"


def _changes(result: Mapping[str, Any]) -> list[str]:
    found = result.get("forgetting")
    if not found:
        return []
    heads, *rows = changes.forgetting_cells(found)
    parts = ["## What else changed?", *map(_plain, changes.remarks(found)), _grid(heads, rows)]
    if points := result.get("strengths"):
        heads, *rows = changes.strength_cells(points, result["metric"])
        parts += ["## At other strengths", _grid(heads, rows)]
    if tasks := result.get("tasks"):
        heads, *rows = changes.task_cells(tasks)
        said = [_plain(f"exceeded: {line}") for line in tasks["exceeded"]]
        parts += ["## Tasks of lm-evaluation-harness", *said, _grid(heads, rows)]
    return parts


def _made(made: Pairs, given: Sequence[Sequence[str]]) -> list[str]:
    parts = ["## How it was made", _grid(["", ""], made)] if made else []
    return [*parts, _grid(["setting", "value", "where from"], given)] if given else parts


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that cannot break out of its line or cell, nor be read as HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
