"""`finetune choose`: the story from the arguments to the advice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from finetune.choose import known
from finetune.choose import situation as kinds
from finetune.choose.asking import ask, can_ask
from finetune.choose.base import devices, inspect_base, look_at_base, proposed, said
from finetune.choose.commands import STAND_IN, given, next_commands, train_argument
from finetune.choose.decide import decide
from finetune.choose.known import Known, Question
from finetune.choose.needs import NEEDS
from finetune.choose.paths import path_of
from finetune.choose.seen import look_at_rows
from finetune.choose.settings import ChooseSettings, read_settings
from finetune.choose.situation import CHAT, Evidence, Rows, Situation
from finetune.choose.text import Answer, as_json, lines
from finetune.choose.tokens import guess
from finetune.errors import UserError

Ask = Callable[[Question], Any]


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb."""
    answer = choose(arguments, ask if can_ask() and not json_output else None)
    print(json.dumps(as_json(answer), ensure_ascii=False) if json_output else "\n".join(lines(answer)))
    return 0


def choose(arguments: Sequence[str], ask: Ask | None) -> Answer:
    """The advice for what the arguments say and show; open questions go to `ask`, where somebody answers."""
    settings, passed = read_settings(arguments)
    rows = look_at_rows(settings.data) if settings.has_rows else ()
    model, unseen = inspect_base(settings) if settings.has_model else (None, "")
    facts, machine = _facts(settings, rows, ask), devices(settings)
    usable = given(passed, proposed(machine))
    situation, refused = _situation(settings, facts, rows), ""
    if model is not None:
        base, basis = look_at_base(situation, model, machine, usable)
        situation, refused = replace(situation, base=base, tokens=basis.tokens), basis.refused
    if (evidence := _evidence(settings, situation, usable.run)) is not None:
        facts["tried"] = known.measured(facts["tried"], evidence)
        situation = replace(situation, evidence=evidence, tried=facts["tried"].value)
    advice = decide(situation)
    commands = next_commands(advice, situation, usable, refused)
    remarks = [f"the base was not looked at, so what fits is not known: {unseen}"] if unseen else []
    remarks += [f"`finetune plan` would refuse this run: {refused}"] if refused else []
    if not settings.has_model:
        named = "with a model named, what fits is looked at, and tokens are counted"
        remarks.append(f"{usable.model[0]}, for {said(machine)}; {named}")
    if not rows and any(f"data.train={STAND_IN}" in one.words for one in commands):
        remarks.append(f"{STAND_IN} stands for the rows")
    return Answer(advice, situation, tuple(facts.values()), tuple(commands), tuple(remarks))


def _facts(settings: ChooseSettings, rows: Sequence[Rows], ask: Ask | None) -> Known:
    told, shown = known.said(settings.choose), known.seen(rows)
    known.check(told, shown)
    return known.complete({**shown, **told}, ask)


def _evidence(settings: ChooseSettings, situation: Situation, run: Sequence[str]) -> Evidence | None:
    if not settings.choose.measure:
        return None
    rows, base = situation.rows, situation.base
    other = next((one for one in rows if one.kind != CHAT), None)
    if other is not None:
        what = f"{other.given} holds {kinds.KINDS[other.kind]}, and only answers to questions can be measured"
        raise UserError.at("choose.measure", what, "leave it out, or show rows with answers")
    from finetune.choose.measure import measure

    start = ["tuning.start=continue"] if base is not None and base.adapter else []
    return measure([train_argument(rows), *run, *start])


def _situation(settings: ChooseSettings, facts: Known, rows: Sequence[Rows]) -> Situation:
    """What the rows show and what is known besides, before the base is looked at."""
    values = {name: fact.value for name, fact in facts.items()}
    count, tokens = values.pop("rows"), guess(rows, settings.data)
    choose = settings.choose
    situation = Situation(**values, hours=choose.hours, target=choose.target, rows=tuple(rows), tokens=tokens)
    return situation if rows or not count else _with_rows(situation, count)


def _with_rows(situation: Situation, count: int) -> Situation:
    """The situation with rows that were only counted by word: of the kind that its method learns from."""
    rated = situation.feedback in (kinds.PAIRS, kinds.SCALE)
    kind = kinds.BETTER_WORSE if rated else NEEDS[path_of(situation).stages[0]].kinds[0]
    layout = "prompt_completion" if rated else ""
    return replace(situation, rows=(Rows("", kind, count, layout=layout),))
