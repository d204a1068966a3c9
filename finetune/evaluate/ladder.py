"""The rungs side by side: what each scored, how the first target differs from the others, and the verdict.

A tuned model is worth something when it beats the best of the baselines on rows that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from finetune.data.rows import Row, Vote
from finetune.evaluate import stats
from finetune.evaluate.classes import are_classes, by_class, macro_f1, no_class
from finetune.evaluate.engines import Said
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.majority import Majority, against
from finetune.evaluate.preference import ByLength
from finetune.evaluate.questions import Asked, fingerprint
from finetune.evaluate.score import visible
from finetune.evaluate.shapes import OWN
from finetune.evaluate.slices import Slice, slices
from finetune.evaluate.table import in_percent

BASE, PROMPTED, FEW_SHOT, TUNED = "base", "prompted", "few_shot", "tuned"
BASELINES = (BASE, PROMPTED, FEW_SHOT)
NLL = "nll"  # the metric of rows that have no answers
ACCURACY = "accuracy"  # the metric of pairs, of whose answers one is chosen and none is written


@dataclass(frozen=True)
class Rung:
    """One way of answering, over all rows: an entry a row in each tuple."""

    name: str
    likelihoods: tuple[Likelihood, ...]  # none for an endpoint
    answers: tuple[Said, ...] = ()  # none for rows of plain text
    scores: tuple[tuple[str, tuple[float, ...]], ...] = ()  # scorer, its score of each row
    of: str = BASE  # what answered: base, tuned, or the name of a target
    prompt: str | None = None  # the system prompt that was added
    examples: tuple[int, ...] = ()  # training rows shown, counted from 1
    shortened: int = 0  # rows whose context did not hold all of that
    rejected: tuple[Likelihood, ...] = ()  # of pairs, of the worse answers

    @property
    def said(self) -> tuple[str | Likelihood, ...]:
        """What tells it from other rungs."""
        return tuple(answer.text for answer in self.answers) or self.likelihoods

    def values(self, metric: str) -> tuple[float, ...]:
        """The rows' values of a metric."""
        if metric == NLL:
            return tuple(one.nll / max(1, one.tokens) for one in self.likelihoods)
        return dict(self.scores)[metric]


@dataclass(frozen=True)
class Evaluation:
    """The whole comparison."""

    metric: str
    rows: tuple[Row, ...]
    rungs: tuple[Rung, ...]
    comparisons: tuple[tuple[str, stats.Comparison], ...]  # of the first target with each other rung
    corrected: tuple[float, ...]  # their p-values after Holm
    best: str | None  # the baseline that counts; None when there is nothing to compare with
    verdict: str | None
    seed: int
    clusters: tuple[object, ...] | None = None  # of each row; rows of one cluster are not independent
    max_new_tokens: int | None = None
    prompts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()  # baselines that could not be climbed, and why
    tried: dict[str, Any] | None = None  # how the system prompt was chosen
    majority: Majority | None = None  # what one answer to all rows would score
    length: ByLength | None = None  # what the length of answers alone would say of pairs and votes
    rejected: tuple[str, ...] = ()  # of pairs, the worse answers
    compares_text: bool = True  # the references are right answers


def judge(
    metric: str,
    rows: Sequence[Row],
    rungs: Sequence[Rung],
    seed: int,
    clusters: Sequence[object] | None = None,
    *,
    baselines: Sequence[str] = BASELINES,
) -> Evaluation:
    """The first target against every other rung.

    The verdict is the one against the best baseline; where there is none, against the best of the other targets.
    """
    values = {rung.name: rung.values(metric) for rung in rungs}
    tuned, lower = values.pop(TUNED), metric == NLL
    found = {
        name: stats.paired_difference(tuned, scores, seed=seed, clusters=clusters) for name, scores in values.items()
    }
    # the same model named twice, such as the base as a target too, is one comparison and no second chance
    said = {rung.name: (rung.said, rung.values(metric)) for rung in rungs}
    once = {said[name]: one.p for name, one in found.items()}
    adjusted = dict(zip(once, stats.holm([*once.values()]), strict=True))
    corrected = {name: adjusted[said[name]] for name in found}
    rivals = [name for name in values if name in baselines] or list(values)
    best = (min if lower else max)(rivals, key=lambda name: fmean(values[name])) if rivals else None
    return Evaluation(
        metric,
        tuple(rows),
        tuple(rungs),
        tuple(found.items()),
        tuple(corrected.values()),
        best,
        stats.verdict(found[best], corrected[best], lower_is_better=lower) if best else None,
        seed,
        tuple(clusters) if clusters is not None else None,
    )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """What `eval.json` holds."""
    lower = evaluation.metric == NLL
    comparisons = [
        {
            "against": against,
            "difference": found.difference,
            "interval": list(found.interval),
            "p": found.p,
            "p_corrected": corrected,
            # no two shares lie further apart; a likelihood or a reward may
            "detectable": min(1.0, found.detectable) if in_percent(evaluation.metric) else found.detectable,
            "verdict": stats.verdict(found, corrected, lower_is_better=lower),
        }
        for (against, found), corrected in zip(evaluation.comparisons, evaluation.corrected, strict=True)
    ]
    counting = dict(evaluation.comparisons)[evaluation.best] if evaluation.best else None
    return {
        "verdict": evaluation.verdict,
        "best_baseline": evaluation.best,
        "underpowered": stats.underpowered(counting) if counting else None,
        "metric": evaluation.metric,
        "lower_is_better": lower,
        "held_out": {
            "rows": len(evaluation.rows),
            "groups": len(set(_groups(evaluation))),
            "fingerprint": fingerprint(evaluation.rows),
        },
        "max_new_tokens": evaluation.max_new_tokens,
        "seed": evaluation.seed,
        "rungs": [_rung_json(rung, evaluation) for rung in evaluation.rungs],
        "comparisons": comparisons,
        **_slices_json(evaluation),
        "majority": _majority_json(evaluation),
        "length": _length_json(evaluation),
        "left_out": [{"rung": rung, "why": why} for rung, why in evaluation.left_out],
        "prompts": evaluation.tried,
    }


def _length_json(evaluation: Evaluation) -> dict[str, Any] | None:
    """The first target against what the length of the answers alone says."""
    if evaluation.length is None:
        return None
    tuned = next(rung for rung in evaluation.rungs if rung.name == TUNED).values(evaluation.metric)
    found = against(evaluation.length.values, tuned, seed=evaluation.seed, clusters=evaluation.clusters)
    return {"rule": evaluation.length.rule, **found}


def _majority_json(evaluation: Evaluation) -> dict[str, Any] | None:
    """The first target against the commonest answer of the training rows."""
    tuned = next(rung for rung in evaluation.rungs if rung.name == TUNED).values(evaluation.metric)
    found, clusters = evaluation.majority, evaluation.clusters
    return found.as_json(tuned, seed=evaluation.seed, clusters=clusters) if found else None


def _slices_json(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """The rows by the length of question and answer and by turns."""
    # a part of the rows has a ranking of its own, which is no mean over it
    if evaluation.best is None or evaluation.metric in OWN["vote"]:
        return {"slices": [], "slices_left_out": []}
    return sliced(evaluation, *slices(evaluation.rows, evaluation.references))


def sliced(evaluation: Evaluation, shown: Sequence[Slice], left_out: Sequence[Slice]) -> dict[str, Any]:
    """The first target against the best baseline on parts of the rows, and the parts that are too small for it."""
    assert evaluation.best is not None
    values = {rung.name: rung.values(evaluation.metric) for rung in evaluation.rungs}
    entries = []
    for one in shown:
        tuned, best = ([values[name][place] for place in one.rows] for name in (TUNED, evaluation.best))
        clusters = [evaluation.clusters[place] for place in one.rows] if evaluation.clusters else None
        found = stats.paired_difference(tuned, best, seed=evaluation.seed, clusters=clusters)
        entries.append(
            {
                "by": one.by,
                "name": one.name,
                "n": len(one.rows),
                "scores": {name: fmean(scores[place] for place in one.rows) for name, scores in values.items()},
                "difference": found.difference,
                "interval": list(found.interval),
            }
        )
    small = [{"by": one.by, "name": one.name, "n": len(one.rows)} for one in left_out]
    return {"slices": entries, "slices_left_out": small}


def answer_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What `answers.jsonl` holds: for every row, what each rung said and how it scored."""
    pairs, groups = zip(evaluation.prompts, evaluation.references, strict=True), _groups(evaluation)
    return [
        {
            "row": index + 1,
            "group": groups[index],
            "prompt": prompt,
            "reference": reference,
            **_beside(evaluation, index),
            "answers": {rung.name: _answer_json(rung, index) for rung in evaluation.rungs},
        }
        for index, (prompt, reference) in enumerate(pairs)
    ]


def _beside(evaluation: Evaluation, index: int) -> dict[str, Any]:
    """What a row that is no conversation has beside the reference."""
    row = evaluation.rows[index]
    if evaluation.rejected:
        return {"rejected": evaluation.rejected[index]}
    return {"liked": row.liked} if isinstance(row, Asked) and isinstance(row.origin, Vote) else {}


def _groups(evaluation: Evaluation) -> list[int]:
    """The group of each row: the number of the first row of its cluster."""
    first: dict[object, int] = {}
    clusters = evaluation.clusters or range(len(evaluation.rows))
    return [first.setdefault(cluster, row) for row, cluster in enumerate(clusters, 1)]


def _answer_json(rung: Rung, index: int) -> dict[str, Any]:
    said = rung.answers[index]
    worse = {"nll_rejected": rung.rejected[index].nll} if rung.rejected else {}
    return {
        "text": said.text,
        "stopped": said.stopped,
        "tokens": said.tokens,
        "prompt_tokens": said.prompt_tokens,
        "seconds": said.seconds,
        "nll": rung.likelihoods[index].nll if rung.likelihoods else None,
        **worse,
        "scores": {name: values[index] for name, values in rung.scores},
    }


def _rung_json(rung: Rung, evaluation: Evaluation) -> dict[str, Any]:
    values = rung.values(evaluation.metric)
    tokens = sum(one.tokens for one in rung.likelihoods)
    entry: dict[str, Any] = {
        "name": rung.name,
        "of": rung.of,
        "score": fmean(values),
        "interval": score_interval(
            values, metric=evaluation.metric, seed=evaluation.seed, clusters=evaluation.clusters
        ),
        "n": len(values),
        "nll_per_token": sum(one.nll for one in rung.likelihoods) / max(1, tokens) if rung.likelihoods else None,
    }
    if rung.answers:
        entry["scores"] = {name: fmean(of_rows) for name, of_rows in rung.scores}
    if rung.answers and evaluation.metric != ACCURACY:
        entry["stop_rate"] = fmean(answer.stopped for answer in rung.answers)
        entry["tokens_per_answer"] = _mean([answer.tokens for answer in rung.answers])
        entry["prompt_tokens"] = _mean([answer.prompt_tokens for answer in rung.answers])
        entry["seconds"] = sum(answer.seconds for answer in rung.answers)
        entry["seconds_per_answer"] = entry["seconds"] / len(rung.answers)
        entry |= _classes(rung, evaluation.references) if evaluation.compares_text else {}
    if rung.prompt is not None:
        entry["prompt"] = rung.prompt
    if rung.prompt is not None and not rung.examples:
        entry["rows_without_prompt"] = rung.shortened
    if rung.examples:
        entry["examples"] = list(rung.examples)
        entry["rows_with_fewer_examples"] = rung.shortened
    return entry


def score_interval(
    values: Sequence[float], *, metric: str, seed: int, clusters: Sequence[object] | None
) -> list[float]:
    """The 95 % interval of a score, from those of the rows."""
    found = stats.mean_interval(values, seed, clusters=clusters)
    # rows' parts in a ranking may lie outside of 0 to 1, the ranking itself does not
    return [min(1.0, max(0.0, bound)) for bound in found] if metric in OWN["vote"] else list(found)


def _classes(rung: Rung, references: Sequence[str]) -> dict[str, Any]:
    """What became of each class, where the references name classes."""
    if not are_classes(references):
        return {}
    table = by_class([visible(said.text) for said in rung.answers], references)
    classes = [
        {**asdict(one), "answers": [{"label": said, "rows": count} for said, count in one.answers]} for one in table
    ]
    return {"classes": classes, "macro_f1": macro_f1(table), "no_class": no_class(table)}


def _mean(numbers: Sequence[int | None]) -> float | None:
    """The mean; None when any is unknown."""
    known = [number for number in numbers if number is not None]
    return fmean(known) if len(known) == len(numbers) else None
