"""`finetune runs compare`: runs side by side, what differs between them, and which answers better."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from finetune.config import setting
from finetune.errors import Fault, UserError, counted
from finetune.evaluate import stats
from finetune.evaluate.table import in_percent, shown_score
from finetune.runs.differing import Difference, differing
from finetune.runs.find import find_run
from finetune.runs.pairs import (
    Evaluated,
    Pair,
    check_same_rows,
    choose_metric,
    clusters_of,
    evaluated,
    pair_up,
    values,
)
from finetune.runs.record import Planned, Run, Score, as_json, read_run
from finetune.runs.state import FINISHED
from finetune.runs.text import (
    NOTHING,
    columns,
    shown_difference,
    shown_interval,
    shown_loss,
    shown_metric,
    shown_model,
    shown_rows,
)
from finetune.settings.verb import read_verb


@dataclass
class _Evaluate:
    metric: str | None = setting(None, "Score that is compared; by default the one that decided the evaluations.")


@dataclass
class CompareSettings:
    """What `finetune runs compare` can be told."""

    evaluate: _Evaluate = field(default_factory=_Evaluate)


@dataclass(frozen=True)
class Compared:
    """Runs side by side."""

    runs: tuple[Run, ...]
    differing: tuple[Difference, ...]
    unevaluated: tuple[Run, ...]
    metric: str | None = None  # None when fewer than two runs were evaluated
    held_out: tuple[int, str] | None = None  # rows that all answered, and their fingerprint
    measured: tuple[tuple[str, Score], ...] = ()  # path and score of each, on that metric
    pairs: tuple[Pair, ...] = ()


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb."""
    targets, given = read_verb("runs compare", CompareSettings(), arguments)
    compared = compare(read_runs(targets), given.evaluate.metric)
    print(json.dumps(compared_json(compared), ensure_ascii=False) if json_output else "\n".join(lines(compared)))
    return 0


def read_runs(targets: Sequence[str]) -> tuple[Run, ...]:
    """The runs that are named; every fault in them is raised at once."""
    if len(targets) < 2:
        what = f"{counted(len(targets), 'run')} given, and a comparison needs two"
        raise UserError.at("runs compare", what, "write finetune runs compare RUN RUN")
    runs, faults = list[Run](), list[Fault]()
    for target in targets:
        try:
            run = read_run(find_run(target))
            if run.planned is None:
                raise UserError.at(str(run.path), "never started, so there is nothing to compare", "leave it out")
            runs.append(run)
        except UserError as error:
            faults += error.faults
    seen = [run.path.resolve() for run in runs]
    faults += [Fault(str(path), "is named twice", "keep one") for path in dict.fromkeys(seen) if seen.count(path) > 1]
    if faults:
        raise UserError(faults)
    return tuple(runs)


def compare(runs: Sequence[Run], metric: str | None) -> Compared:
    """Put runs side by side; those that were evaluated on other held-out rows than the first are refused."""
    known = [one for run in runs if (one := evaluated(run)) is not None]
    unevaluated = tuple(run for run in runs if run.score is None)
    differences = tuple(differing(runs))
    if unevaluated:
        _check_same_split(runs)
    if len(known) < 2:
        return Compared(tuple(runs), differences, unevaluated)
    check_same_rows(known)
    chosen = choose_metric(known, metric)
    return Compared(
        tuple(runs),
        differences,
        unevaluated,
        chosen,
        (known[0].score.rows, known[0].score.fingerprint),
        _measured(known, chosen),
        pair_up(known, chosen),
    )


def _check_same_split(runs: Sequence[Run]) -> None:
    """Refuse runs that hold out different rows: neither their losses nor a later evaluation can be compared."""
    (first, origin), *others = [(run, run.planned) for run in runs if run.planned is not None]
    mend = "train both with the same data.eval, or the same rows and seed"
    faults = [
        Fault(str(run.path), f"holds out other rows ({_split(planned)}) than {first.path} ({_split(origin)})", mend)
        for run, planned in others
        if planned.held_out_fingerprint != origin.held_out_fingerprint
    ]
    if faults:
        raise UserError(faults)


def _split(planned: Planned) -> str:
    if planned.held_out_fingerprint is None:
        return "none"
    return f"{counted(planned.held_out_rows, 'row')}, fingerprint {planned.held_out_fingerprint[:16]}"


def _measured(known: Sequence[Evaluated], metric: str) -> tuple[tuple[str, Score], ...]:
    """The scores with their intervals: the evaluation's own, where they are of its metric."""
    found = []
    for one, scores in zip(known, values(known, metric) or [()] * len(known), strict=True):
        score = one.score
        if scores and not (metric == score.metric and math.isclose(fmean(scores), score.score, abs_tol=1e-9)):
            interval = stats.mean_interval(scores, score.seed, clusters=clusters_of(one))
            score = replace(score, metric=metric, score=fmean(scores), interval=interval)
        found.append((str(one.run.path), score))
    return tuple(found)


def compared_json(compared: Compared) -> dict[str, Any]:
    """What `--json` prints."""
    rows, fingerprint = compared.held_out or (0, None)
    return {
        "runs": [as_json(run) for run in compared.runs],
        "differing": [{"key": one.key, "values": list(one.values)} for one in compared.differing],
        "metric": compared.metric,
        "held_out": {"rows": rows, "fingerprint": fingerprint} if compared.held_out else None,
        "scores": [
            {"run": run, "score": one.score, "interval": list(one.interval), "n": one.rows}
            for run, one in compared.measured
        ],
        "pairs": [_pair_json(pair) for pair in compared.pairs],
        "not_evaluated": [{"run": str(run.path), "command": _to_evaluate(run)} for run in compared.unevaluated],
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    found = pair.found
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": found.difference,
        "interval": list(found.interval),
        "p": found.p,
        "p_corrected": pair.p_corrected,
        "detectable": found.detectable,
        "underpowered": stats.underpowered(found),
        "verdict": pair.verdict,
    }


def _to_evaluate(run: Run) -> str:
    """The command after which a run can be compared."""
    if run.state.kind == FINISHED or run.planned is None:
        return f"finetune evaluate {run.path}"
    return run.planned.command


def lines(compared: Compared) -> list[str]:
    """The comparison as a person reads it."""
    runs = compared.runs
    text = columns([["", *(str(run.path) for run in runs)], *_facts(runs)])
    if compared.differing:
        text += ["", "settings that differ"]
        shown = [
            [one.key, *(NOTHING if value is None else str(value) for value in one.values)] for one in compared.differing
        ]
        text += columns(shown, indent="  ")
    else:
        text += ["", "no setting differs"]
    if compared.metric and compared.held_out:
        text += ["", *_scores(compared, compared.metric, *compared.held_out)]
    waiting = [f"not evaluated: {run.path}; run {_to_evaluate(run)}" for run in compared.unevaluated]
    return [*text, *([""] if waiting else []), *waiting]


def _facts(runs: Sequence[Run]) -> list[list[str]]:
    told = [(run, run.planned) for run in runs if run.planned is not None]
    return [
        ["state", *(run.state.shown for run, _ in told)],
        ["trained", *(f"{planned.method}, {planned.tuning}" for _, planned in told)],
        ["model", *(f"{shown_model(planned.model)} ({planned.base[:8]})" for _, planned in told)],
        ["trained numbers", *(f"{planned.trainable:,}" for _, planned in told)],
        ["rows", *(f"{shown_rows(planned.rows)} ({planned.data_fingerprint[:8]})" for _, planned in told)],
        ["held-out rows", *(_held_out(planned) for _, planned in told)],
        ["rows a step", *(f"{planned.batch:,}" for _, planned in told)],
        ["last loss", *(shown_loss(run.losses.train) for run, _ in told)],
        ["best held-out loss", *(shown_loss(run.losses.held_out) for run, _ in told)],
    ]


def _held_out(planned: Planned) -> str:
    print_of = (planned.held_out_fingerprint or "")[:8]
    return f"{planned.held_out_rows:,} ({print_of})" if print_of else "none"


def _scores(compared: Compared, metric: str, rows: int, fingerprint: str) -> list[str]:
    text = [f"{shown_metric(metric)} on the same {rows:,} held-out rows ({fingerprint}), 95 % intervals"]
    text += columns(
        [[run, shown_score(metric, one.score), shown_interval(metric, one.interval)] for run, one in compared.measured],
        indent="  ",
    )
    if not compared.pairs:
        return [*text, "", f"no paired test: {shown_metric(metric)} was not stored for each row"]
    corrected = f", p corrected for {len(compared.pairs)} pairs" if len(compared.pairs) > 1 else ""
    return [*text, "", f"row by row{corrected}", *(f"  {_pair(pair, metric)}" for pair in compared.pairs)]


def _pair(pair: Pair, metric: str) -> str:
    found = pair.found
    low, high = (shown_difference(metric, bound) for bound in found.interval)
    unit = " points" if in_percent(metric) else ""
    p = f"p {pair.p_corrected:.3f}" if pair.p_corrected >= 0.001 else "p < 0.001"
    interval = f"{shown_difference(metric, found.difference)}{unit} (95 % interval {low} to {high}, {p})"
    line = f"{pair.second} against {pair.first}: {pair.verdict}, {interval}"
    weak = pair.verdict == "inconclusive" and stats.underpowered(found)
    return f"{line}; underpowered: {counted(found.rows, 'row')} are too few" if weak else line
