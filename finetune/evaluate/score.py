"""How good an answer is: plain functions of the answer and the reference, from 0 to 1, and which of them fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from finetune.config import EvaluateConfig
from finetune.errors import UserError, counted, listed
from finetune.evaluate.classes import are_classes, choice
from finetune.evaluate.numeric import numeric
from finetune.evaluate.overlap import bleu, f1, rouge_l, spaced
from finetune.evaluate.schema import json_schema, read_schema
from finetune.evaluate.structured import json_fields, json_valid

Scorer = Callable[[str, str], float]
Where = Callable[[int], str]  # where a row stands, as messages name it

_REASONING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


def visible(answer: str) -> str:
    """The answer without the reasoning before it: a baseline that thinks first is not marked down for it."""
    return _REASONING.sub("", answer, count=1) if answer.lstrip().startswith("<think>") else answer


def exact(answer: str, reference: str) -> float:
    """1 when the texts are equal but for whitespace."""
    return float(spaced(answer) == spaced(reference))


def contains(answer: str, reference: str) -> float:
    """1 when the reference stands in the answer, as whole words."""
    wanted = re.escape(spaced(reference))
    return float(re.search(rf"(?<!\w){wanted}(?!\w)", spaced(answer)) is not None)


def regex(answer: str, reference: str, pattern: re.Pattern[str]) -> float:
    """1 when what the pattern finds last in the answer is what it finds last in the reference.

    Of a pattern with groups the groups are compared, else the whole of what was found.
    """
    given, wanted = _last(pattern, answer), _last(pattern, reference)
    return float(given is not None and given == wanted)


# The scorers that need no setting.
SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "contains": contains,
    "f1": f1,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "numeric": numeric,
    "choice": choice,
    "json_valid": json_valid,
    "json_fields": json_fields,
}

# Why a reference is none that a scorer can compare with.
UNFIT = {
    "numeric": "does not end in a number",
    "json_valid": "is not JSON",
    "json_fields": "is not JSON",
    "json_schema": "is not JSON as evaluate.schema wants it",
    "regex": "has nothing that evaluate.pattern finds",
}


# The setting that a scorer goes by.
SETTINGS = {"json_schema": "evaluate.schema", "regex": "evaluate.pattern", "numeric": "evaluate.tolerance"}


def scorers(settings: EvaluateConfig) -> dict[str, Scorer]:
    """Every scorer by its name; those that need a setting only where it is given."""
    found: dict[str, Scorer] = {**SCORERS, "numeric": partial(numeric, tolerance=settings.tolerance)}
    if settings.schema is not None:
        found["json_schema"] = partial(json_schema, schema=read_schema(settings.schema, SETTINGS["json_schema"]))
    if settings.pattern is not None:
        found["regex"] = partial(regex, pattern=_compiled(settings.pattern))
    if settings.metric in SETTINGS and settings.metric not in found:
        what, needed = "has nothing to go by", SETTINGS[settings.metric]
        raise UserError.at(f"evaluate.metric={settings.metric}", what, f"give {needed} too")
    return found


def fitting(references: Sequence[str], ways: Mapping[str, Scorer] = SCORERS) -> tuple[str, ...]:
    """The scorers that say something about such references, alone and together."""
    return tuple(name for name, way in ways.items() if not _unfit(name, references, way))


def fits(reference: str, way: Scorer) -> bool:
    """Whether a scorer says something about a reference: it is itself a perfect answer."""
    return way(reference, reference) == 1


def by_number(at: int) -> str:
    """The place of a held-out row of which nothing but its number is known."""
    return f"held-out row {at + 1}"


def fitting_scorers(settings: EvaluateConfig, references: Sequence[str], where: Where = by_number) -> dict[str, Scorer]:
    """The scorers that fit; a metric that does not, and a setting of a scorer that does not, are refused.

    A metric that is none of these scorers is another's to refuse.
    """
    ways = scorers(settings)
    fit = fitting(references, ways)
    given = {"json_schema": settings.schema, "regex": settings.pattern, "numeric": settings.tolerance}
    for name in (settings.metric, *(name for name, value in given.items() if value)):
        if name in ways and name not in fit:
            key = f"evaluate.metric={name}" if name == settings.metric else SETTINGS[name]
            raise _refusal(key, name, _unfit(name, references, ways[name]), where, fit)
    return {name: ways[name] for name in fit}


def _refusal(key: str, name: str, bad: Sequence[int], where: Where, fit: Sequence[str]) -> UserError:
    others = f"of these rows {listed(fit, len(fit))} say something"
    if name == "choice":
        what = "compares classes, and the references are not a few short names that come again and again"
        return UserError.at(key, what, others)
    more = f" (as those of {counted(len(bad) - 1, 'other row')})" if len(bad) > 1 else ""
    mend = f"{key} compares with nothing else; {others}"
    return UserError.at(f"{where(bad[0])} answer", f"{UNFIT[name]}{more}", mend)


def _unfit(name: str, references: Sequence[str], way: Scorer) -> list[int]:
    """The places of references about which a scorer says nothing."""
    if name == "choice":
        return [] if are_classes(references) else [*range(len(references))]
    return [at for at, text in enumerate(references) if not fits(text, way)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError.at("evaluate.pattern", f"is no regular expression ({error})", "correct it") from None


def _last(pattern: re.Pattern[str], text: str) -> tuple[str | None, ...] | None:
    """The groups, or else the whole, of the last place where a pattern is found."""
    found = [*pattern.finditer(text)]
    return (found[-1].groups() or (found[-1][0],)) if found else None
