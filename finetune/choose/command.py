"""`finetune choose`: the story from the arguments to the advice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from finetune.choose import known
from finetune.choose import situation as kinds
from finetune.choose.asking import ask, can_ask
from finetune.choose.base import devices, look_at_base, proposed, said
from finetune.choose.commands import STAND_IN, given, next_commands, train_argument
from finetune.choose.decide import decide
from finetune.choose.known import Known, Question
from finetune.choose.needs import NEEDS
from finetune.choose.paths import path_of
from finetune.choose.seen import look_at_rows
from finetune.choose.settings import ChooseSettings, read_settings
from finetune.choose.situation import CHAT, Base, Evidence, Rows, Situation
from finetune.choose.text import Answer, as_json, lines
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
    machine = devices(settings)
    base, unseen = look_at_base(settings, rows, machine) if settings.has_model else (None, "")
    facts = _facts(settings, rows, ask)
    preset = proposed(machine)
    arguments_given = given(passed, preset)
    evidence = _evidence(settings, rows, base, arguments_given.run)
    situation = _situation(settings, facts, rows, base, evidence)
    advice = decide(situation)
    remarks = [f"the base was not looked at, so what fits is not known: {unseen}"] if unseen else []
    if base is None:
        remarks.append(f"model={preset}, for {said(machine)}; with a model named, what fits is looked at too")
    if situation.rows and not rows:
        remarks.append(f"{STAND_IN} stands for the rows")
    commands = next_commands(advice, situation, arguments_given)
    return Answer(advice, situation, tuple(facts.values()), tuple(commands), tuple(remarks))


def _facts(settings: ChooseSettings, rows: Sequence[Rows], ask: Ask | None) -> Known:
    told, shown = known.said(settings.choose), known.seen(rows)
    known.check(told, shown)
    return known.complete({**shown, **told}, ask)


def _evidence(settings: ChooseSettings, rows: Sequence[Rows], base: Base | None, run: Sequence[str]) -> Evidence | None:
    if not settings.choose.measure:
        return None
    other = next((one for one in rows if one.kind != CHAT), None)
    if other is not None:
        what = f"{other.given} holds {kinds.KINDS[other.kind]}, and only answers to questions can be measured"
        raise UserError.at("choose.measure", what, "leave it out, or show rows with answers")
    from finetune.choose.measure import measure

    start = ["tuning.start=continue"] if base is not None and base.adapter else []
    return measure([train_argument(rows), *run, *start])


def _situation(
    settings: ChooseSettings, facts: Known, rows: Sequence[Rows], base: Base | None, evidence: Evidence | None
) -> Situation:
    values = {name: fact.value for name, fact in facts.items()}
    count = values.pop("rows")
    if evidence is not None:
        rungs = {rung.rung for rung in evidence.rungs}
        measured = {now for now, rung in ((kinds.PROMPT, "prompted"), (kinds.FEW_SHOT, "few_shot")) if rung in rungs}
        values["tried"] = tuple(one for one in kinds.TRIED if one in {*values["tried"], *measured})
    situation = Situation(
        **values,
        hours=settings.choose.hours,
        target=settings.choose.target,
        rows=tuple(rows),
        base=base,
        evidence=evidence,
    )
    return situation if rows or not count else _with_rows(situation, count)


def _with_rows(situation: Situation, count: int) -> Situation:
    """The situation with rows that were only counted by word: of the kind that its method learns from."""
    rated = situation.feedback in (kinds.PAIRS, kinds.SCALE)
    kind = kinds.BETTER_WORSE if rated else NEEDS[path_of(situation).stages[0]].kinds[0]
    layout = "prompt_completion" if rated else ""
    return replace(situation, rows=(Rows("", kind, count, layout=layout),))
