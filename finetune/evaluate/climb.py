"""Climbing the ladder: every row answered on every rung, the base first and what is judged after it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from finetune.config import EvaluateConfig
from finetune.data.rows import Chat, answer
from finetune.errors import Fault, UserError
from finetune.evaluate.contest import Contest
from finetune.evaluate.engines import Engine, Prompt, Said
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.ladder import BASE, BASELINES, FEW_SHOT, NLL, PROMPTED, TUNED, Evaluation, Rung, judge
from finetune.evaluate.local import LocalEngine
from finetune.evaluate.majority import commonest
from finetune.evaluate.prompts import SystemPrompt, made_for, read_prompts, with_prompt
from finetune.evaluate.questions import choose_examples, shown
from finetune.evaluate.score import Scorer, fits, fitting_scorers, visible
from finetune.log import log

Score = Callable[[LocalEngine], Sequence[float]]  # the metric of each held-out row
Aside = Callable[[Score], None]

LOOKED_AT = 1000  # training answers from which prompts are made


@dataclass(frozen=True)
class Asking:
    """What is asked on the rungs of the climber, and how it is scored."""

    engine: Engine
    metric: str
    room: int
    examples: tuple[Chat, ...]
    way: Scorer  # of the metric

    def prompts(self, rows: Sequence[Chat], text: str | None, examples: Sequence[Chat]) -> tuple[list[Prompt], int]:
        """What is given for each row, and for how many rows the context does not hold all of it."""
        given = [self._fitted(row, text, examples) for row in rows]
        return [prompt for prompt, _ in given], sum(not whole for _, whole in given)

    def _fitted(self, row: Chat, text: str | None, examples: Sequence[Chat]) -> tuple[Prompt, bool]:
        """As much as the context holds: fewer examples first, the bare question at the last."""
        bare = self.engine.is_bare(row)
        own = list(row.messages[:-1])
        for count in range(len(examples), -1, -1):
            messages = with_prompt(own, text, bare) if text is not None else own
            prompt = self.engine.prompt(row, shown(messages, examples[:count], "\n\n" if bare else ""))
            if self.engine.fits(prompt, self.room):
                return prompt, count == len(examples)
        return self.engine.prompt(row, own), text is None and not examples

    def score(self, rows: Sequence[Chat], text: str | None, examples: Sequence[Chat] = ()) -> float:
        """The mean metric over rows."""
        prompts, _ = self.prompts(rows, text, examples)
        pairs = zip(self.engine.answer(prompts, self.room), rows, strict=True)
        return fmean(self.way(visible(said.text), self.engine.reference(row)) for said, row in pairs)


def run_ladder(
    contest: Contest,
    held_out: Sequence[Chat],
    training: Sequence[Chat],
    settings: EvaluateConfig,
    *,
    seed: int,
    choices: Kept,
    clusters: Sequence[object] | None = None,
    aside: Aside = lambda score: None,
) -> Evaluation:
    """Answer the held-out rows on every rung and compare; examples and prompts come from `training`.

    `aside` is done while base and tuned model may still be in memory, with what scores an engine as `tuned` is.
    """
    climber = contest.climber
    ways = fitting_scorers(settings, [climber.reference(row) for row in held_out])
    way = ways[settings.metric]
    given = read_prompts(settings.prompts)
    drawn = choose_examples(training, held_out, settings.few_shot + settings.prompt_rows, seed)
    examples = drawn[: settings.few_shot]
    trial = [place for place in drawn[settings.few_shot :] if fits(climber.reference(training[place]), way)]
    wanted, left_out = _rungs(contest, settings, training, examples, trial, given)
    room = settings.max_new_tokens or climber.room(held_out)
    asking = Asking(climber, settings.metric, room, tuple(training[place] for place in examples), way)
    _check_contexts([climber, contest.judged, *contest.others], held_out)
    rungs, choice = list[Rung](), None
    try:
        if BASE in wanted:
            rungs.append(_answered(BASE, BASE, climber, held_out, asking.prompts(held_out, None, ()), room, ways))
        of = BASE if contest.base else TUNED
        if PROMPTED in wanted:
            prompts = given or _made(training, seed)
            choice = choose_prompt(asking, prompts, training, trial, choices, settings.choose_again)
            told = asking.prompts(held_out, choice.best.text, ())
            rung = _answered(PROMPTED, of, climber, held_out, told, room, ways)
            rungs.append(replace(rung, prompt=choice.best.text))
        if FEW_SHOT in wanted:
            text = choice.best.text if choice and choice.with_examples else None
            told = asking.prompts(held_out, text, asking.examples)
            rung = _answered(FEW_SHOT, of, climber, held_out, told, room, ways)
            rungs.append(replace(rung, prompt=text, examples=tuple(place + 1 for place in examples)))
        if contest.base:
            climber.close()
        rungs.append(_plain(TUNED, contest.judged, held_out, room, ways))
        aside(lambda engine: _plain(engine.name, engine, held_out, room, ways).values(settings.metric))
    finally:
        climber.close()
        contest.judged.close()
        if contest.models:
            contest.models.release()
    for other in contest.others:
        rungs.append(_plain(other.name, other, held_out, settings.max_new_tokens or other.room(held_out), ways))
    bare, _ = asking.prompts(held_out, None, ())
    judged = judge(settings.metric, held_out, rungs, seed, clusters)
    return replace(
        judged,
        max_new_tokens=room,
        prompts=tuple(climber.shown(prompt) for prompt in bare),
        references=tuple(climber.reference(row) for row in held_out),
        left_out=tuple(left_out.items()),
        tried=choice.record if choice else None,
        majority=commonest([answer(row) for row in training], [climber.reference(row) for row in held_out], way),
    )


def run_text_ladder(
    contest: Contest,
    held_out: Sequence[Any],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    aside: Aside = lambda score: None,
) -> Evaluation:
    """Rows of plain text have no answers: what is compared is how well each model predicts them."""
    named = [(TUNED, contest.judged), *((other.name, other) for other in contest.others)]
    if contest.base:
        named.insert(0, (BASE, contest.base))
    rungs = []
    for name, engine in named:
        assert isinstance(engine, LocalEngine), "endpoints are refused before"
        try:
            rungs.append(Rung(name, tuple(engine.read(held_out)), of=name))
        finally:
            engine.close()
        if name == TUNED:
            aside(lambda engine: Rung(engine.name, tuple(engine.read(held_out))).values(NLL))
        if name == TUNED and contest.models:
            contest.models.release()
    why = "rows of plain text have no answers"
    left_out = [(name, why) for name in BASELINES if name != BASE or contest.base is None]
    return replace(judge(NLL, held_out, rungs, seed, clusters), left_out=tuple(left_out))


@dataclass(frozen=True)
class Choice:
    """The system prompt of the climber, how it was chosen, and whether it stands above the examples too."""

    best: SystemPrompt
    with_examples: bool
    record: dict[str, Any]


def choose_prompt(
    asking: Asking,
    prompts: Sequence[SystemPrompt],
    training: Sequence[Chat],
    trial: Sequence[int],
    choices: Kept,
    again: bool = False,
) -> Choice:
    """The prompt with the best score on training rows; of equals the first. All scores are recorded.

    A choice that was made before, by whichever metric, stands unless it is to be made `again`: so another metric
    scores the same answers.
    """
    rows, count = [training[place] for place in trial], len(prompts) * len(trial)
    log.info(f"prompts: {len(prompts)} × {len(rows)} training rows, {count} answers to choose one")
    scores = [asking.score(rows, prompt.text) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    given = [asking.engine.prompt(row, row.messages[:-1]).messages for row in (*rows, *asking.examples)]
    key = key_of("choice", asking.engine.identity, asking.room, texts, given, [answer(row) for row in rows])
    if again or key not in choices.found:
        best = max(range(len(prompts)), key=scores.__getitem__)
        without, under = _under(asking, texts[best], rows)
        choices.add({key: {"by": asking.metric, "best": best, "with_examples": under > without}})
    chosen = choices.found[key]
    best = chosen["best"]
    without, under = _under(asking, texts[best], rows)
    named = zip(prompts, scores, strict=True)
    record = {
        "rows": [place + 1 for place in trial],
        "tried": [{"name": one.name, "text": one.text, "score": score} for one, score in named],
        "chosen": prompts[best].name,
        "by": chosen["by"],
        "with_examples": {"without": without, "under": under, "chosen": chosen["with_examples"]},
    }
    return Choice(prompts[best], chosen["with_examples"], record)


def _under(asking: Asking, text: str, rows: Sequence[Chat]) -> tuple[float, float]:
    """How examples do by themselves, and how under a prompt."""
    if not asking.examples:
        return 0.0, 0.0
    without, under = (asking.score(rows, given, asking.examples) for given in (None, text))
    return without, under


def _rungs(
    contest: Contest,
    settings: EvaluateConfig,
    training: Sequence[Chat],
    examples: Sequence[int],
    trial: Sequence[int],
    given: Sequence[SystemPrompt],
) -> tuple[list[str], dict[str, str]]:
    """The baselines that can be climbed, and why not the others; one that was asked for by name is refused then."""
    missing: dict[str, str] = {}
    if contest.base is None:
        missing[BASE] = f"{contest.judged.name} was made from no base that is known"
    none = "there are no training rows" if not training else "all training rows ask what held-out rows ask"
    if not examples:
        missing[FEW_SHOT] = f"{none} to show"
    if len(trial) < 2:
        missing[PROMPTED] = f"{none if not examples else 'there are too few training rows'} to choose a prompt on"
    elif not given and any(row.messages[-1].get("tool_calls") for row in training[:LOOKED_AT]):
        missing[PROMPTED] = "no prompt is made for answers that call tools; give evaluate.prompts"
    if faults := [
        Fault("evaluate.rungs", f"{rung}: {why}", "leave it out, or give data.train")
        for rung, why in missing.items()
        if rung in settings.rungs
    ]:
        raise UserError(faults)
    asked = settings.rungs or BASELINES
    left_out = {rung: why for rung, why in missing.items() if rung in asked}
    for rung, why in left_out.items():
        log.info(f"{rung} is left out: {why}")
    return [rung for rung in BASELINES if rung in asked and rung not in missing], left_out


def _made(training: Sequence[Chat], seed: int) -> list[SystemPrompt]:
    rows = random.Random(seed).sample(list(training), min(LOOKED_AT, len(training)))
    return made_for([answer(row) for row in rows], seed)


def _plain(name: str, engine: Engine, rows: Sequence[Chat], room: int, ways: Mapping[str, Scorer]) -> Rung:
    """A target asked as it is."""
    try:
        prompts = [engine.prompt(row, row.messages[:-1]) for row in rows]
        return _answered(name, name, engine, rows, (prompts, 0), room, ways)
    finally:
        engine.close()


def _answered(
    name: str,
    of: str,
    engine: Engine,
    rows: Sequence[Chat],
    given: tuple[list[Prompt], int],
    room: int,
    ways: Mapping[str, Scorer],
) -> Rung:
    prompts, shortened = given
    began = time.monotonic()
    said, predicted = engine.answer(prompts, room), engine.predict(prompts)
    log.info(f"{name}: {len(said)} answers in {time.monotonic() - began:.1f} s")
    return Rung(name, tuple(predicted), tuple(said), _scores(engine, rows, said, ways), of, shortened=shortened)


def _scores(
    engine: Engine, rows: Sequence[Chat], said: Sequence[Said], ways: Mapping[str, Scorer]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    pairs = [(visible(one.text), engine.reference(row)) for one, row in zip(said, rows, strict=True)]
    return tuple((name, tuple(way(text, right) for text, right in pairs)) for name, way in ways.items())


def _check_contexts(engines: Sequence[Engine], rows: Sequence[Chat]) -> None:
    """Refuse rows whose bare question leaves a model no room for a single token."""
    faults = []
    for engine in engines:
        prompts = [engine.prompt(row, row.messages[:-1]) for row in rows]
        faults += [
            Fault(f"held-out row {number}", f"is longer than the context of {engine.name}", "give shorter rows")
            for number, prompt in enumerate(prompts, 1)
            if not engine.fits(prompt, 1)
        ]
    if faults:
        raise UserError(dict.fromkeys(faults))
