"""The comparison on held-out rows: the base alone, the base with examples in its prompt, and the tuned model.

A tuned model is worth something when it beats the best of the baselines on rows that it has not seen.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finetune.config import EvaluateConfig
from finetune.data.rows import Chat, Row
from finetune.errors import SHOWN_FAULTS, Fault, UserError
from finetune.evaluate import stats
from finetune.evaluate.generate import IGNORED, Answer, Likelihood, generate, likelihoods
from finetune.evaluate.questions import (
    Question,
    Speech,
    ask,
    choose_examples,
    fingerprint,
    tokens_of,
    with_examples,
)
from finetune.evaluate.score import OF_JSON, SCORERS, fitting, is_json, visible
from finetune.log import log

BASE, FEW_SHOT, TUNED = "base", "few_shot", "tuned"
NLL = "nll"  # the metric of rows that have no answers

Opener = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Models:
    """What is compared. A model is opened when its turn comes, and let go after it."""

    base: Opener
    tuned: Opener


@dataclass(frozen=True)
class Rung:
    """One way of answering, over all rows: an entry a row in each tuple."""

    name: str
    likelihoods: tuple[Likelihood, ...]
    answers: tuple[Answer, ...] = ()  # none for rows of plain text
    scores: tuple[tuple[str, tuple[float, ...]], ...] = ()  # scorer, its score of each row
    examples: tuple[int, ...] = ()  # training rows shown, counted from 1
    shortened: int = 0  # rows for which not all examples fit into the context

    def of(self, metric: str) -> tuple[float, ...]:
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
    comparisons: tuple[tuple[str, stats.Comparison], ...]  # of tuned with each baseline
    corrected: tuple[float, ...]  # their p-values after Holm
    best: str  # the baseline that counts
    verdict: str
    seed: int
    max_new_tokens: int | None = None
    prompts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


def run_ladder(
    models: Models,
    speech: Speech,
    held_out: Sequence[Chat],
    training: Sequence[Chat],
    settings: EvaluateConfig,
    *,
    seed: int,
) -> Evaluation:
    """Answer the held-out rows on every rung and compare; `training` gives the few-shot examples."""
    questions = [ask(row, speech) for row in held_out]
    _check(settings.metric, [question.reference for question in questions])
    room = settings.max_new_tokens or _room(questions)
    chosen = choose_examples(training, held_out, settings.few_shot, seed)
    examples = [ask(training[index], speech) for index in chosen]
    bare = [list(question.prompt) for question in questions]

    def climb(name: str, model: Any, prompts: list[list[int]]) -> Rung:
        began = time.monotonic()
        answers = _answers(model, speech, prompts, room, settings.batch_size)
        predicted = _predicted(model, speech, prompts, questions, settings.batch_size)
        log.info(f"{name}: {len(answers)} answers in {time.monotonic() - began:.1f} s")
        return Rung(name, predicted, answers, _scores(answers, questions))

    with models.base() as model:
        rungs = [climb(BASE, model, bare)]
        if examples:
            prompted = [with_examples(question, examples, speech, room) for question in questions]
            shortened = sum(count < len(examples) for _, count in prompted)
            told = climb(FEW_SHOT, model, [ids for ids, _ in prompted])
            shown = tuple(index + 1 for index in chosen)
            rungs.append(dataclasses.replace(told, examples=shown, shortened=shortened))
    del model  # or two models would be in memory while the next one is loaded
    with models.tuned() as model:
        rungs.append(climb(TUNED, model, bare))
    prompts = tuple(speech.tokenizer.decode(ids) for ids in bare)
    references = tuple(question.reference for question in questions)
    judged = judge(settings.metric, held_out, rungs, seed)
    return dataclasses.replace(judged, max_new_tokens=room, prompts=prompts, references=references)


def run_text_ladder(
    models: Models, speech: Speech, held_out: Sequence[Row], settings: EvaluateConfig, *, seed: int
) -> Evaluation:
    """Rows of plain text have no answers: what is compared is how well base and tuned model predict them."""
    _at_least_two(len(held_out))
    sequences = []
    for row in held_out:
        ids, labels = tokens_of(row, speech)
        sequences.append((ids[: speech.context], labels[: speech.context]))
    rungs, pad = [], speech.tokenizer.pad_token_id
    for name, opened in ((BASE, models.base), (TUNED, models.tuned)):
        with opened() as model:
            rungs.append(Rung(name, tuple(likelihoods(model, sequences, batch_size=settings.batch_size, pad_id=pad))))
    return judge(NLL, held_out, rungs, seed)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """What `eval.json` holds."""
    comparisons = [
        {
            "against": against,
            "difference": found.difference,
            "interval": list(found.interval),
            "p": found.p,
            "p_corrected": corrected,
            "detectable": found.detectable,
        }
        for (against, found), corrected in zip(evaluation.comparisons, evaluation.corrected, strict=True)
    ]
    counting = dict(evaluation.comparisons)[evaluation.best]
    return {
        "verdict": evaluation.verdict,
        "best_baseline": evaluation.best,
        "underpowered": stats.underpowered(counting),
        "metric": evaluation.metric,
        "lower_is_better": evaluation.metric == NLL,
        "held_out": {"rows": len(evaluation.rows), "fingerprint": fingerprint(evaluation.rows)},
        "max_new_tokens": evaluation.max_new_tokens,
        "seed": evaluation.seed,
        "rungs": [_rung_json(rung, evaluation) for rung in evaluation.rungs],
        "comparisons": comparisons,
    }


def answer_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What `answers.jsonl` holds: for every row, what each rung said and how it scored."""
    pairs = zip(evaluation.prompts, evaluation.references, strict=True)
    return [
        {
            "row": index + 1,
            "prompt": prompt,
            "reference": reference,
            "answers": {
                rung.name: {
                    "text": rung.answers[index].text,
                    "stopped": rung.answers[index].stopped,
                    "scores": {name: values[index] for name, values in rung.scores},
                }
                for rung in evaluation.rungs
            },
        }
        for index, (prompt, reference) in enumerate(pairs)
    ]


def _check(metric: str, references: Sequence[str]) -> None:
    _at_least_two(len(references))
    bad = [number for number, text in enumerate(references, 1) if metric in OF_JSON and not is_json(text)]
    if bad:
        mend = f"evaluate.metric={metric} compares JSON; for text take exact, contains or f1"
        faults = [Fault(f"held-out row {number} answer", "is not JSON", mend) for number in bad[:SHOWN_FAULTS]]
        raise UserError(faults, total=len(bad))


def _at_least_two(rows: int) -> None:
    if rows < 2:
        what = f"{rows} held-out rows, and a comparison needs at least 2"
        raise UserError.at("data.eval", what, "give more held-out rows, or a larger data.eval_share")


def _room(questions: Sequence[Question]) -> int:
    """A little over the longest reference, so that a wordy answer is seen to be one."""
    longest = max(len(question.reference_ids) for question in questions)
    return longest + longest // 4 + 8


def _answers(model: Any, speech: Speech, prompts: list[list[int]], room: int, batch_size: int) -> tuple[Answer, ...]:
    return tuple(
        generate(
            model,
            speech.tokenizer,
            prompts,
            stop_ids=speech.encoder.stop_ids,
            max_new_tokens=room,
            batch_size=batch_size,
            context=speech.context,
        )
    )


def _predicted(
    model: Any, speech: Speech, prompts: list[list[int]], questions: Sequence[Question], batch_size: int
) -> tuple[Likelihood, ...]:
    sequences = [
        ([*ids, *question.reference_ids], [IGNORED] * len(ids) + list(question.reference_ids))
        for ids, question in zip(prompts, questions, strict=True)
    ]
    return tuple(likelihoods(model, sequences, batch_size=batch_size, pad_id=speech.tokenizer.pad_token_id))


def _scores(answers: Sequence[Answer], questions: Sequence[Question]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    wanted = [question.reference for question in questions]
    pairs = [(visible(answer.text), text) for answer, text in zip(answers, wanted, strict=True)]
    names = fitting(wanted)
    return tuple((name, tuple(SCORERS[name](said, text) for said, text in pairs)) for name in names)


def judge(metric: str, rows: Sequence[Row], rungs: Sequence[Rung], seed: int) -> Evaluation:
    """Tuned against every baseline; the verdict is the one against the best of them."""
    values = {rung.name: rung.of(metric) for rung in rungs}
    tuned, lower = values.pop(TUNED), metric == NLL
    found = {name: stats.paired_difference(tuned, scores, seed=seed) for name, scores in values.items()}
    corrected = dict(zip(found, stats.holm([one.p for one in found.values()]), strict=True))
    best = (min if lower else max)(values, key=lambda name: fmean(values[name]))
    return Evaluation(
        metric,
        tuple(rows),
        tuple(rungs),
        tuple(found.items()),
        tuple(corrected.values()),
        best,
        stats.verdict(found[best], corrected[best], lower_is_better=lower),
        seed,
    )


def _rung_json(rung: Rung, evaluation: Evaluation) -> dict[str, Any]:
    values = rung.of(evaluation.metric)
    tokens = sum(one.tokens for one in rung.likelihoods)
    entry: dict[str, Any] = {
        "name": rung.name,
        "score": fmean(values),
        "interval": list(stats.mean_interval(values, evaluation.seed)),
        "n": len(values),
        "nll_per_token": sum(one.nll for one in rung.likelihoods) / max(1, tokens),
    }
    if rung.answers:
        entry["scores"] = {name: fmean(of_rows) for name, of_rows in rung.scores}
        entry["stop_rate"] = fmean(answer.stopped for answer in rung.answers)
        entry["tokens_per_answer"] = fmean(answer.tokens for answer in rung.answers)
        entry["seconds"] = sum(answer.seconds for answer in rung.answers)
    if rung.examples:
        entry["examples"] = list(rung.examples)
        entry["rows_with_fewer_examples"] = rung.shortened
    return entry
