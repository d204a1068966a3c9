"""What the check found: as the object that `--json` prints, and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.codes import CODES, ERROR, INFO, SEVERITIES, WARNING
from finetune.data.examine.gathered import Gathered
from finetune.data.examine.languages import NAMES
from finetune.data.examine.notes import Sample
from finetune.data.examine.settings import CheckSettings
from finetune.data.examine.sums import Sums
from finetune.data.examine.whole import labels
from finetune.data.formats import SAID
from finetune.data.rows import LEARNED
from finetune.errors import counted

CHARACTERS_OF_A_TOKEN = 4  # of English text with a common tokenizer; only for a rough estimate
SHOWN_LABELS = 20


@dataclass(frozen=True)
class Problem:
    """One code, how often it is there, and where first."""

    code: str
    count: int
    samples: tuple[Sample, ...]

    @property
    def severity(self) -> str:
        """How bad it is."""
        return CODES[self.code].severity


@dataclass(frozen=True)
class Result:
    """Everything that is told."""

    files: tuple[str, ...]
    rows: int  # read, of the training files
    sound: int  # fit to be learned from
    held_out: int
    benchmarks: int  # rows of benchmarks
    problems: tuple[Problem, ...]
    statistics: dict[str, Any]
    remarks: tuple[str, ...] = ()  # what was not looked at, and how to have it looked at
    lengths: dict[str, NDArray[Any]] = field(default_factory=dict)  # what the page draws; no part of the JSON

    def count(self, severity: str) -> int:
        """How many defects of a severity there are."""
        return sum(problem.count for problem in self.problems if problem.severity == severity)

    @property
    def verdict(self) -> str:
        """One sentence."""
        errors, warnings = self.count(ERROR), self.count(WARNING)
        if errors:
            return f"`train` would refuse this data: {counted(errors, 'error')} in {counted(self.rows, 'row')}."
        if warnings:
            kinds = sum(problem.severity == WARNING for problem in self.problems)
            said = f"{counted(warnings, 'warning')} of {counted(kinds, 'kind')}"
            return f"This data can be trained on, but look at {said} first."
        return f"Nothing speaks against training on {counted(self.rows, 'row')}."


def conclude(
    files: tuple[str, ...], gathered: Gathered, benchmarks: int, settings: CheckSettings, remarks: tuple[str, ...]
) -> Result:
    """The result of all that was noted and counted."""
    train, held_out = gathered.train, gathered.held_out
    table = train.table()
    problems = tuple(Problem(code, tally.count, tuple(tally.samples)) for code, tally in gathered.notes.sorted())
    lengths = {name: table[name] for name in ("words", "answer_words", "turns", "tokens")}
    return Result(
        files=files,
        rows=train.records,
        sound=len(table),
        held_out=held_out.records,
        benchmarks=benchmarks,
        problems=problems,
        statistics=_statistics(train, table, settings),
        remarks=remarks,
        lengths=lengths,
    )


def _statistics(train: Sums, table: NDArray[Any], settings: CheckSettings) -> dict[str, Any]:
    measured = table["tokens"][table["tokens"] > 0]
    answers = table["turns"] > 0
    return {
        "shapes": dict(train.shapes),
        "votes": {"up": train.up, "down": train.shapes["vote"] - train.up} if train.shapes["vote"] else None,
        "words": _spread(table["words"]),
        "answer_words": _spread(table["answer_words"][answers]),
        "turns": _spread(table["turns"][answers]),
        "tokens": _spread(measured) if settings.has_model else None,
        "learned_tokens": int(table["learned"].sum()) if settings.has_model else None,
        "training": _training(train, table, settings),
        "languages": {name: count for name, count in train.languages.most_common()},
        "labels": [{"label": label, "rows": count} for label, count in labels(train)[:SHOWN_LABELS]],
        "private": dict(sorted(train.private.items())),
    }


def _training(train: Sums, table: NDArray[Any], settings: CheckSettings) -> dict[str, Any]:
    """Tokens and cost of a training run; exact for the tokens of a model, else a rough estimate."""
    exact = settings.has_model
    tokens = int(table["tokens"].sum()) if exact else round(train.characters / CHARACTERS_OF_A_TOKEN)
    total = round(tokens * settings.training.epochs)
    price = settings.check.price_per_million
    return {
        "tokens_per_epoch": tokens,
        "epochs": settings.training.epochs,
        "tokens": total,
        "exact": exact,
        "cost": None if price is None else round(total * price / 1e6, 4),
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Where values lie; None where there are none."""
    if not len(values):
        return None
    low, median, high, top = np.percentile(values, (0, 50, 95, 100))
    return {
        "min": int(low),
        "median": float(median),
        "p95": float(high),
        "max": int(top),
        "mean": round(float(values.mean()), 2),
    }


def as_json(result: Result, page: str) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "verdict": result.verdict,
        "files": list(result.files),
        "rows": result.rows,
        "sound_rows": result.sound,
        "held_out_rows": result.held_out,
        "benchmark_rows": result.benchmarks,
        "errors": result.count(ERROR),
        "warnings": result.count(WARNING),
        "hints": result.count(INFO),
        "problems": [_problem(problem) for problem in result.problems],
        "statistics": result.statistics,
        "remarks": list(result.remarks),
        "page": page,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    code = CODES[problem.code]
    return {
        "code": problem.code,
        "severity": code.severity,
        "what": code.what,
        "mend": code.mend,
        "count": problem.count,
        "samples": [
            {
                "where": sample.where,
                "field": sample.field,
                "text": sample.text,
                **({"mend": sample.mend} if sample.mend else {}),
            }
            for sample in problem.samples
        ],
    }


def lines(result: Result, page: str) -> Iterator[str]:
    """The result for a terminal: what was read, each defect with its places, the verdict."""
    yield from _facts(result)
    for severity in SEVERITIES:
        for problem in (problem for problem in result.problems if problem.severity == severity):
            code = CODES[problem.code]
            yield ""
            yield f"{severity} {problem.code} × {problem.count:,}: {code.what} {code.mend}"
            yield from (f"  {sample.line}" for sample in problem.samples)
            if problem.count > len(problem.samples):
                yield f"  … {problem.count - len(problem.samples):,} more"
    yield ""
    yield from result.remarks
    yield result.verdict
    yield f"The whole report: {page}"


def _facts(result: Result) -> Iterator[str]:
    stats = result.statistics
    held = f", {result.held_out:,} held out" if result.held_out else ""
    held += f", {result.benchmarks:,} of benchmarks" if result.benchmarks else ""
    yield f"{counted(result.rows, 'row')} in {counted(len(result.files), 'file')}{held}"
    if set(stats["shapes"]) - set(LEARNED):
        yield f"  {', '.join(f'{count:,} {SAID[shape]}' for shape, count in stats['shapes'].items())}"
    if votes := stats["votes"]:
        yield f"  {votes['up']:,} votes up, {votes['down']:,} down"
    for name, said in (("words", "words a row"), ("turns", "turns a conversation"), ("tokens", "tokens a row")):
        if spread := stats[name]:
            low, high, top = spread["median"], spread["p95"], spread["max"]
            yield f"  {said}: {low:,.0f} in the middle, {high:,.0f} at 95 %, {top:,} at most"
    yield f"  {said_training(stats['training'])}"
    if stats["languages"]:
        known = sum(stats["languages"].values())
        shares = {name: round(100 * count / known) for name, count in list(stats["languages"].items())[:4]}
        said = ", ".join(f"{NAMES[name]} {share} %" for name, share in shares.items() if share)
        yield f"  languages, where they can be told: {said}"


def said_training(training: dict[str, Any]) -> str:
    """The estimate of tokens and cost in words."""
    about = "" if training["exact"] else "roughly "
    cost = "" if training["cost"] is None else f", {training['cost']:,.2f} at the given price"
    return f"{about}{training['tokens']:,} tokens in {counted(training['epochs'], 'epoch')}{cost}"
