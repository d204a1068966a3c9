"""The cheap rungs, measured: the base alone, with the best prompt and with examples, on rows `train` would hold out.

The one place where choosing touches evaluation, and the only one that loads a model. Answers are kept where
`finetune evaluate` keeps them, so that neither asks again what the other has asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from finetune.choose.situation import Evidence, Measured
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.evaluate.ladder import Evaluation, Rung
    from finetune.evaluate.local import LocalEngine
    from finetune.plan import RunPlan

POOL = 10_000  # training rows that examples and prompts are drawn from
BASE = "base"


def measure(arguments: Sequence[str]) -> Evidence:
    """What the base scores without any tuning; `arguments` are those of the run that would be trained."""
    from finetune.compose import compose
    from finetune.data.prepare import read_groups, read_rows
    from finetune.data.rows import Chat
    from finetune.evaluate.climb import run_ladder
    from finetune.evaluate.contest import Contest
    from finetune.evaluate.kept import CHOICES, FOLDER, Kept
    from finetune.evaluate.ladder import TUNED
    from finetune.evaluate.questions import choose_rows
    from finetune.failures import explained
    from finetune.plan import plan_run

    plan = plan_run(compose(arguments))
    split, settings, seed = plan.data.held_out, plan.config.evaluate, plan.config.seed
    if split is None:
        mend = "give data.eval=FILE, or data.eval_share above 0"
        raise UserError.at("choose.measure", "no rows are held out to measure on", mend)
    rows = choose_rows(read_rows(split), split.rows, settings.rows, seed)
    held_out = [row for row in rows if isinstance(row, Chat)]
    clusters = choose_rows(read_groups(split), split.rows, settings.rows, seed)
    training = [row for row in read_rows(plan.data.train, POOL) if isinstance(row, Chat)]
    answers = Path(plan.config.output_dir).expanduser() / FOLDER
    with explained(answers, "lower evaluate.batch_size"):
        # Nothing is tuned yet, so the base stands in for what is judged too; its answers are kept by then.
        engine, choices = _engine(plan, answers), Kept.open(answers, CHOICES)
        pair = Contest(engine, engine)
        found = run_ladder(pair, held_out, training, settings, seed=seed, choices=choices, clusters=clusters)
    rungs = tuple(_measured(rung, found) for rung in found.rungs if rung.name != TUNED)
    return Evidence(found.metric, len(held_out), rungs, split.rows)


def _measured(rung: Rung, found: Evaluation) -> Measured:
    from finetune.evaluate.stats import mean_interval

    scores = rung.values(found.metric)
    interval = mean_interval(scores, found.seed, clusters=found.clusters)
    return Measured(rung.name, fmean(scores), interval, len(rung.examples))


def _engine(plan: RunPlan, answers: Path) -> LocalEngine:
    """The base, with the adapter that it may have, held as the run would hold it."""
    from finetune.evaluate.kept import Kept
    from finetune.evaluate.local import (
        LocalEngine,
        adapter_models,
        alone,
        held_as,
        identity_of,
        load,
        opener,
        speech_of,
    )

    facts, held, speech = plan.model, held_as(plan), speech_of(plan.model, plan.config.model.chat_template)
    adapter, opened = None, opener(facts, held, speech.tokenizer)
    if facts.adapter is not None:
        adapter = Path(facts.adapter.path)
        opened = alone(adapter_models(partial(load, facts, held, speech.tokenizer), adapter))
    kept = Kept.open(answers, identity_of(facts, adapter, held, speech.tokenizer, answers))
    return LocalEngine(BASE, speech, opened, kept, plan.config.evaluate.batch_size)
