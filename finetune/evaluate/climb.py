"""Climbing the ladder: every row answered on every rung, the base first and what is judged after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune.config import EvaluateConfig
from finetune.data.rows import Chat, answer
from finetune.errors import Fault, UserError, counted
from finetune.evaluate.choice import LOOKED_AT, Asking, Choice, choose_prompt, made_prompts
from finetune.evaluate.contest import Contest
from finetune.evaluate.engines import Engine, Prompt
from finetune.evaluate.hearing import Hearing, Way, by_text, rejected
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import (
    BASE,
    BASELINES,
    FEW_SHOT,
    NLL,
    PROMPTED,
    TUNED,
    Evaluation,
    Rung,
    judge,
    score_interval,
)
from finetune.evaluate.local import LocalEngine
from finetune.evaluate.majority import commonest
from finetune.evaluate.preference import by_length
from finetune.evaluate.prompts import SystemPrompt, read_prompts
from finetune.evaluate.questions import choose_examples
from finetune.evaluate.remote import EndpointEngine
from finetune.evaluate.score import Scorer, Where, by_number, fits, fitting_scorers
from finetune.evaluate.shapes import BY_LIKELIHOOD, Form, settled
from finetune.log import log

Score = Callable[[LocalEngine], Sequence[float]]  # the metric of each held-out row
Spread = Callable[[Sequence[float]], list[float]]  # the interval of their mean, as the rungs have it
Aside = Callable[[Score, Spread], None]
CHATS = Form()


def run_ladder(
    contest: Contest,
    held_out: Sequence[Chat],
    training: Sequence[Chat],
    settings: EvaluateConfig,
    *,
    seed: int,
    choices: Kept,
    clusters: Sequence[object] | None = None,
    aside: Aside = lambda score, spread: None,
    where: Where = by_number,
    form: Form = CHATS,
) -> Evaluation:
    """Answer the held-out rows on every rung and compare; examples and prompts come from `training`.

    `aside` is done while base and tuned model may still be in memory, with what scores an engine as `tuned` is, and
    with what gives the interval of such scores.
    `where` names a held-out row in messages; `form` says how rows of their shape are scored.
    """
    climb = _planned(contest, held_out, training, settings, seed, where, form)
    climb.probe()
    try:
        rungs, choice = climb.baselines(choices)
        rungs.append(climb.plain(TUNED, contest.judged))
        metric = climb.asking.metric
        spread = partial(score_interval, metric=metric, seed=seed, clusters=clusters)
        aside(lambda engine: climb.plain(engine.name, engine).values(metric), spread)
    finally:
        contest.climber.close()
        contest.judged.close()
        if contest.models:
            contest.models.release()
    for other in contest.others:
        rungs.append(climb.plain(other.name, other, climb.room(other)))
    return climb.compared(rungs, choice, clusters)


@dataclass(frozen=True)
class _Climb:
    """All that is decided before the first answer."""

    contest: Contest
    held_out: Sequence[Chat]
    training: Sequence[Chat]
    settings: EvaluateConfig
    seed: int
    asking: Asking
    form: Form
    ways: Mapping[str, Way]
    scorers: Mapping[str, Scorer]  # those of them that compare texts
    examples: Sequence[int]  # places among the training rows
    trial: Sequence[int]  # the same, of the rows on which a prompt is chosen
    given: Sequence[SystemPrompt]  # the user's
    wanted: Sequence[str]  # rungs
    left_out: Mapping[str, str]  # rungs, and why

    def probe(self) -> None:
        """Fail before any model is loaded if an endpoint cannot be asked later."""
        for other in self.contest.others:
            if isinstance(other, EndpointEngine):
                try:
                    other.probe([other.prompt(row, row.messages[:-1]) for row in self.held_out], self.room(other))
                finally:
                    other.close()

    def baselines(self, choices: Kept) -> tuple[list[Rung], Choice | None]:
        """The baselines, answered, and the prompt that was chosen for them."""
        rungs, choice, asking = list[Rung](), None, self.asking
        if BASE in self.wanted:
            rungs.append(self._climbed(BASE, asking.prompts(self.held_out, None, ())))
        if PROMPTED in self.wanted:
            shown = [row for row in self.training if self.form.can_be_shown(row)]
            prompts = self.given or made_prompts(shown, self.seed)
            choice = choose_prompt(asking, prompts, self.training, self.trial, choices, self.settings.choose_again)
            rung = self._climbed(PROMPTED, asking.prompts(self.held_out, choice.best.text, ()))
            rungs.append(replace(rung, prompt=choice.best.text))
        if FEW_SHOT in self.wanted:
            text = choice.best.text if choice and choice.with_examples else None
            rung = self._climbed(FEW_SHOT, asking.prompts(self.held_out, text, asking.examples))
            rungs.append(replace(rung, prompt=text, examples=tuple(place + 1 for place in self.examples)))
        if self.contest.base:
            self.contest.climber.close()
        return rungs, choice

    def _climbed(self, name: str, told: tuple[list[Prompt], int]) -> Rung:
        of = BASE if self.contest.base else TUNED
        return self._answered(name, of, Hearing(self.asking.engine, told[0], self.asking.room), told[1])

    def plain(self, name: str, engine: Engine, room: int | None = None) -> Rung:
        """A target asked as it is."""
        try:
            prompts = [engine.prompt(row, row.messages[:-1]) for row in self.held_out]
            return self._answered(name, name, Hearing(engine, prompts, room or self.asking.room))
        finally:
            engine.close()

    def room(self, engine: Engine) -> int:
        """Tokens that an answer of an engine may have."""
        return _room(engine, self.held_out, self.settings, self.form)

    def _answered(self, name: str, of: str, heard: Hearing, shortened: int = 0) -> Rung:
        """What came of asking in one way, scored."""
        engine, began = heard.engine, time.monotonic()
        asked = engine.unkept(heard.prompts, heard.room)
        said, called = heard.said, engine.name if name == TUNED else name
        predicted = heard.predicted if self.form.has_references else []
        if asked:
            log.info(f"{called}: {counted(asked, 'answer')} in {time.monotonic() - began:.1f} s")
        # a model of this machine may well say nothing; an endpoint more often failed to say it
        is_local = isinstance(engine, LocalEngine)
        if (empty := sum(one.is_empty for one in said)) and not is_local:
            log.warning(f"{called}: {empty:,} of {counted(len(said), 'answer')} have no text")
        ways = {name: way for name, way in self.ways.items() if is_local or name not in BY_LIKELIHOOD}
        scores = tuple((name, way(heard)) for name, way in ways.items())
        worse = tuple(heard.rejected) if self.form.shape == "pair" else ()
        return Rung(name, tuple(predicted), tuple(said), scores, of, shortened=shortened, rejected=worse)

    def compared(self, rungs: Sequence[Rung], choice: Choice | None, clusters: Sequence[object] | None) -> Evaluation:
        """The rungs side by side, with what was asked and how."""
        climber = self.contest.climber
        bare, _ = self.asking.prompts(self.held_out, None, ())
        references = tuple(climber.reference(row) for row in self.held_out)
        metric, form = self.asking.metric, self.form
        scorer = self.scorers.get(metric)
        answers = [answer(row) for row in self.training]
        return replace(
            judge(metric, self.held_out, rungs, self.seed, clusters),
            max_new_tokens=self.asking.room,
            prompts=tuple(climber.shown(prompt) for prompt in bare),
            references=references,
            left_out=tuple(self.left_out.items()),
            tried=choice.record if choice else None,
            majority=commonest(answers, references, scorer) if scorer else None,
            length=by_length(self.held_out) if metric in BY_LIKELIHOOD else None,
            rejected=tuple(climber.reference(worse) for row in self.held_out if (worse := rejected(row))),
            compares_text=form.compares_text and metric not in BY_LIKELIHOOD,
        )


def _planned(
    contest: Contest,
    held_out: Sequence[Chat],
    training: Sequence[Chat],
    settings: EvaluateConfig,
    seed: int,
    where: Where,
    form: Form,
) -> _Climb:
    """Which rungs are climbed, by which metric, with which examples; what cannot be is refused."""
    climber, metric = contest.climber, settled(settings, form)
    settings = replace(settings, metric=metric)
    texts = [climber.reference(row) for row in held_out] if form.compares_text else []
    scorers = fitting_scorers(settings, texts, where) if form.compares_text else {}
    ways = {**{name: by_text(score) for name, score in scorers.items()}, **form.ways(climber)}
    drawn = choose_examples(training, held_out, settings.few_shot + settings.prompt_rows, seed)
    examples = [place for place in drawn if form.can_be_shown(training[place])][: settings.few_shot]
    score = scorers.get(metric)
    others = [place for place in drawn if place not in examples]
    trial = [place for place in others if score is None or fits(climber.reference(training[place]), score)]
    given = read_prompts(settings.prompts)
    wanted, left_out = _rungs(contest, settings, training, examples, trial, given, form)
    shown = tuple(training[place] for place in examples)
    asking = Asking(climber, metric, _room(climber, held_out, settings, form), shown, ways[metric], form)
    _check_contexts([climber, contest.judged, *contest.others], held_out, where, form)
    return _Climb(
        contest,
        held_out,
        training,
        settings,
        seed,
        asking,
        form,
        ways,
        scorers,
        examples,
        trial,
        given,
        wanted,
        left_out,
    )


def _room(engine: Engine, held_out: Sequence[Chat], settings: EvaluateConfig, form: Form) -> int:
    """Tokens that an answer may have."""
    every = [one for row in held_out for one in (form.weighed(row) or [row])]
    return settings.max_new_tokens or form.room or engine.room(every)


def run_text_ladder(
    contest: Contest,
    held_out: Sequence[Any],
    *,
    seed: int,
    clusters: Sequence[object] | None = None,
    aside: Aside = lambda score, spread: None,
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
            spread = partial(score_interval, metric=NLL, seed=seed, clusters=clusters)
            aside(lambda engine: Rung(engine.name, tuple(engine.read(held_out))).values(NLL), spread)
        if name == TUNED and contest.models:
            contest.models.release()
    why = "rows of plain text have no answers"
    left_out = [(name, why) for name in BASELINES if name != BASE or contest.base is None]
    return replace(judge(NLL, held_out, rungs, seed, clusters), left_out=tuple(left_out))


def _rungs(
    contest: Contest,
    settings: EvaluateConfig,
    training: Sequence[Chat],
    examples: Sequence[int],
    trial: Sequence[int],
    given: Sequence[SystemPrompt],
    form: Form,
) -> tuple[list[str], dict[str, str]]:
    """The baselines that can be climbed, and why not the others; one that was asked for by name is refused then."""
    missing: dict[str, str] = {}
    if contest.base is None:
        missing[BASE] = f"{contest.judged.name} was made from no base that is known"
    none = "there are no training rows" if not training else "all training rows ask what held-out rows ask"
    if not examples:
        missing[FEW_SHOT] = f"{none} to show"
    if not form.has_references:
        missing[FEW_SHOT] = "the rows have no right answers to show"
    if not form.can_choose([training[place] for place in trial]):
        missing[PROMPTED] = f"{none if not examples else 'there are too few training rows'} to choose a prompt on"
    elif not given and not form.has_references:
        missing[PROMPTED] = "no prompt is made where right answers are not known; give evaluate.prompts"
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


def _check_contexts(engines: Sequence[Engine], rows: Sequence[Chat], where: Where, form: Form) -> None:
    """Refuse rows whose bare question leaves a model no room for a single token, or for the answers it is to weigh."""
    faults = []
    for engine in engines:
        prompts = [engine.prompt(row, row.messages[:-1]) for row in rows]
        needed = [max(map(engine.length, form.weighed(row)), default=1) for row in rows]
        long = [at for at, prompt in enumerate(prompts) if not engine.fits(prompt, needed[at])]
        more = f", as {counted(len(long) - 1, 'other row')}" if len(long) > 1 else ""
        if long:
            what = f"is longer than the context of {engine.name}{more}"
            faults.append(Fault(where(long[0]), what, "give shorter rows"))
    if faults:
        raise UserError(dict.fromkeys(faults))
