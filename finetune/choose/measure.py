"""The cheap rungs, measured: the base alone and with examples in its prompt, on the rows that `train` would hold out.

The one place where choosing touches evaluation, and the only one that loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune.choose.situation import Evidence, Measured
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.data.rows import Chat
    from finetune.evaluate.questions import Question, Speech
    from finetune.plan import RunPlan

POOL = 10_000  # training rows that examples are drawn from


def measure(arguments: Sequence[str]) -> Evidence:
    """What the base scores without any tuning; `arguments` are those of the run that would be trained."""
    from finetune.compose import compose
    from finetune.data.prepare import read_rows
    from finetune.data.rows import Chat
    from finetune.evaluate.questions import choose_rows
    from finetune.plan import plan_run

    plan = plan_run(compose(arguments))
    split = plan.data.held_out
    if split is None:
        mend = "give data.eval=FILE, or data.eval_share above 0"
        raise UserError.at("choose.measure", "no rows are held out to measure on", mend)
    settings, seed = plan.config.evaluate, plan.config.seed
    held_out = [row for row in choose_rows(read_rows(split), split.rows, settings.rows, seed) if isinstance(row, Chat)]
    training = [row for row in read_rows(plan.data.train, POOL) if isinstance(row, Chat)]
    return Evidence(settings.metric, len(held_out), tuple(_rungs(plan, held_out, training)))


def _rungs(plan: RunPlan, held_out: Sequence[Chat], training: Sequence[Chat]) -> list[Measured]:
    from finetune.evaluate.questions import ask, choose_examples, with_examples

    speech = _speech(plan)
    questions = [ask(row, speech) for row in held_out]
    _check(plan.config.evaluate.metric, questions)
    chosen = choose_examples(training, held_out, plan.config.evaluate.few_shot, plan.config.seed)
    examples = [ask(training[index], speech) for index in chosen]
    longest = max(len(question.reference_ids) for question in questions)
    room = plan.config.evaluate.max_new_tokens or longest + longest // 4 + 8
    model = _load(plan, speech.tokenizer)
    prompts = [list(question.prompt) for question in questions]
    rungs = [_measured(plan, speech, model, questions, prompts, room, 0)]
    if examples:
        prompts = [with_examples(question, examples, speech, room)[0] for question in questions]
        rungs.append(_measured(plan, speech, model, questions, prompts, room, len(examples)))
    return rungs


def _measured(
    plan: RunPlan,
    speech: Speech,
    model: Any,
    questions: Sequence[Question],
    prompts: list[list[int]],
    room: int,
    examples: int,
) -> Measured:
    from finetune.evaluate.generate import generate
    from finetune.evaluate.score import SCORERS, visible
    from finetune.evaluate.stats import mean_interval

    answers = generate(
        model,
        speech.tokenizer,
        prompts,
        stop_ids=speech.encoder.stop_ids,
        max_new_tokens=room,
        batch_size=plan.config.evaluate.batch_size,
        context=speech.context,
    )
    score = SCORERS[plan.config.evaluate.metric]
    scores = [
        score(visible(answer.text), question.reference) for answer, question in zip(answers, questions, strict=True)
    ]
    rung = "few_shot" if examples else "base"
    return Measured(rung, fmean(scores), mean_interval(scores, plan.config.seed), examples)


def _check(metric: str, questions: Sequence[Question]) -> None:
    from finetune.evaluate.score import fitting

    known = fitting([question.reference for question in questions])
    if metric not in known:
        what = f"{metric} does not fit these answers, which are not JSON"
        raise UserError.at("evaluate.metric", what, f"take {' or '.join(known)}")


def _speech(plan: RunPlan) -> Speech:
    from finetune.data.encode import Encoder
    from finetune.evaluate.questions import Speech
    from finetune.tokenizer import load_tokenizer, stop_ids

    tokenizer = load_tokenizer(plan.model, plan.config.model.chat_template)
    encoder = Encoder(tokenizer, "last", stop_ids=stop_ids(plan.model, tokenizer))
    return Speech(tokenizer, encoder, plan.model.context)


def _load(plan: RunPlan, tokenizer: Any) -> Any:
    from finetune.model import load_model

    model: Any = load_model(
        plan.model,
        precision=plan.resolved.precision,
        attention=plan.resolved.attention,
        full=False,
        tokenizer=tokenizer,
        device=plan.machine.device,
    )
    if plan.model.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, plan.model.adapter.path)
    return model.to(plan.machine.device)
