"""Runs against each other on the same held-out rows, from the answers that their evaluations stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from finetune.data.groups import groups_of_rows
from finetune.errors import Fault, UserError, counted, did_you_mean, listed
from finetune.evaluate import stats
from finetune.evaluate.contents import ANSWERS, EVALUATION, JsonObject, read_lines
from finetune.evaluate.score import SCORERS, fitting, visible
from finetune.runs.record import TUNED, Run, Score

NLL = "nll"


@dataclass(frozen=True)
class Answer:
    """What the tuned model answered to a held-out row."""

    row: int
    reference: str
    text: str
    scores: Mapping[str, float]  # that were stored
    cluster: object  # what the row has in common with others; None when it stands alone
    is_right: bool = True  # the reference: a completion that was voted on need not be, and tasks may have none


@dataclass(frozen=True)
class Evaluated:
    """An evaluated run, with what it answered in the order of the rows; rows of plain text have no answers."""

    run: Run
    score: Score
    answers: tuple[Answer, ...]

    @property
    def references(self) -> list[str]:
        """The answers that were wanted."""
        return [answer.reference for answer in self.answers]

    @property
    def scored(self) -> tuple[str, ...]:
        """The metrics for which that is so."""
        return fitting(self.references) if self.answers and all(one.is_right for one in self.answers) else ()


@dataclass(frozen=True)
class Pair:
    """Two runs: the second against the first."""

    first: str  # the path of the run
    second: str
    found: stats.Comparison
    p_corrected: float  # for the number of pairs
    verdict: str


def evaluated(run: Run) -> Evaluated | None:
    """A run with its answers, if it was evaluated; answers that are not those of its evaluation are refused."""
    if run.score is None:
        return None
    where, mend = str(run.path / ANSWERS), f"run finetune evaluate {run.path}"
    try:
        answers = tuple(sorted(map(_answer, read_lines(run.path / ANSWERS)), key=lambda answer: answer.row))
    except KeyError as error:
        raise UserError.at(where, f"a row lacks {error}", mend) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError.at(where, "is damaged", mend) from error
    if answers and len(answers) != run.score.rows:
        what = f"holds {counted(len(answers), 'row')}, but {run.score.rows:,} were answered"
        raise UserError.at(where, what, mend)
    found = Evaluated(run, run.score, answers)
    stored = _stored(found, run.score.metric)
    if stored and not math.isclose(fmean(stored), run.score.score, abs_tol=1e-9):
        raise UserError.at(where, f"is of another evaluation than {EVALUATION}", mend)
    return found


def _answer(row: JsonObject) -> Answer:
    tuned = row["answers"][TUNED]
    scores = {name: float(score) for name, score in tuned.get("scores", {}).items()}
    return Answer(
        int(row["row"]),
        str(row["reference"]),
        str(tuned["text"]),
        scores,
        row.get("group"),
        "liked" not in row and bool(row["reference"]),
    )


def check_same_rows(found: Sequence[Evaluated]) -> None:
    """Refuse runs that were evaluated on different rows: each that differs from the first, and the first."""
    first = found[0]
    mend = "evaluate both on the same rows: the same data.eval, seed and evaluate.rows"
    faults = [
        Fault(
            str(other.run.path),
            f"was evaluated on other held-out rows ({_rows(other)}) than {first.run.path} ({_rows(first)})",
            mend,
        )
        for other in found[1:]
        if other.score.fingerprint != first.score.fingerprint
    ]
    if faults:
        raise UserError(faults)


def _rows(found: Evaluated) -> str:
    return f"{counted(found.score.rows, 'row')}, fingerprint {found.score.fingerprint}"


def choose_metric(found: Sequence[Evaluated], asked: str | None) -> str:
    """The metric that is asked for, or that all evaluations were decided by."""
    decided = list(dict.fromkeys(one.score.metric for one in found))
    if asked is None and len(decided) > 1:
        what = f"the evaluations were decided by different metrics: {listed(decided)}"
        raise UserError.at("evaluate.metric", what, f"choose one, such as evaluate.metric={decided[0]}")
    metric = asked or decided[0]
    if decided != [metric] and values(found, metric) is None:
        known = [name for name in _metrics(found[0]) if values(found, name) is not None] or decided
        mend = did_you_mean(metric, known) or f"take {listed(known)}"
        raise UserError.at(f"evaluate.metric={metric}", "cannot be had of the rows that all answered", mend)
    return metric


def _metrics(found: Evaluated) -> tuple[str, ...]:
    """The metrics that were stored, or can be scored from what was."""
    stored = found.answers[0].scores if found.answers else ()
    return tuple(dict.fromkeys((*stored, *found.scored)))


def values(found: Sequence[Evaluated], metric: str) -> list[tuple[float, ...]] | None:
    """The score of each row in each run: as all have stored it, else all from their texts; None where neither can be.

    Never some of one and some of the other: a scorer may have changed since.
    """
    stored = [_stored(one, metric) for one in found]
    if all(stored):
        return stored
    if not all(metric in one.scored for one in found):
        return None
    way = SCORERS[metric]
    return [tuple(way(visible(answer.text), answer.reference) for answer in one.answers) for one in found]


def _stored(found: Evaluated, metric: str) -> tuple[float, ...]:
    """The stored scores; nothing unless every row has one."""
    if all(metric in answer.scores for answer in found.answers):
        return tuple(answer.scores[metric] for answer in found.answers)
    return ()


def clusters_of(found: Evaluated) -> list[object] | None:
    """Which rows are not independent of each other; None when all are."""
    if all(answer.cluster is None for answer in found.answers):
        return None
    return [("row", answer.row) if answer.cluster is None else str(answer.cluster) for answer in found.answers]


def _joined(first: Evaluated, second: Evaluated) -> list[int] | None:
    """Which rows are not independent in one of two evaluations of the same rows, or in the other; None when all are."""
    if clusters_of(first) is None and clusters_of(second) is None:
        return None
    both = zip(first.answers, second.answers, strict=True)
    # no value stands for a row on its own
    named = (["" if one.cluster is None else f"group {one.cluster}" for one in pair] for pair in both)
    found: list[int] = groups_of_rows(named).tolist()
    return found


def _compared(first: Evaluated, second: Evaluated, scores: Sequence[Sequence[float]]) -> stats.Comparison:
    """The second against the first; but for the sign the same as the first against the second."""
    of_first, of_second = scores
    seed = min(first.score.seed, second.score.seed)
    return stats.paired_difference(of_second, of_first, seed=seed, clusters=_joined(first, second))


def pair_up(found: Sequence[Evaluated], metric: str) -> tuple[Pair, ...]:
    """Every two runs against each other; nothing when no scores of single rows can be had."""
    scores = values(found, metric)
    if scores is None:
        return ()
    names = [str(one.run.path) for one in found]
    tried = [
        (
            names[first],
            names[second],
            _compared(found[first], found[second], (scores[first], scores[second])),
        )
        for first, second in combinations(range(len(found)), 2)
    ]
    corrected = stats.holm([comparison.p for _, _, comparison in tried])
    return tuple(
        Pair(first, second, comparison, p, stats.verdict(comparison, p, lower_is_better=metric == NLL))
        for (first, second, comparison), p in zip(tried, corrected, strict=True)
    )
