"""The rewards that come with the package, by name: what each pays for, and which settings it reads."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from finetune.evaluate.numeric import numeric
from finetune.evaluate.schema import json_schema, read_schema
from finetune.evaluate.score import SCORERS, regex
from finetune.rewards.form import format_of, length, repetition

Way = Callable[[str, str], float | None]  # answer and reference → what is paid; none where nothing can be said

MATH = "math_verify"  # the package as it is imported
OWN_READS = ("reward_timeout",)  # the setting that functions of the user's own are called by


@dataclass(frozen=True)
class Options:
    """What the settings say to single rewards."""

    pattern: str | None
    schema: str | None
    tolerance: float
    tags: tuple[str, ...]
    least_words: int | None
    most_words: int | None
    schema_key: str = "schema"  # as messages name it


@dataclass(frozen=True)
class Reward:
    """One of the rewards that come with the package."""

    pays_for: str
    way: Callable[[Options], Way] | None = None  # none for code, which takes many answers at once
    reads: tuple[str, ...] = ()
    compares: bool = True  # with the right answer; the others say nothing of right and wrong
    whole: bool = False  # looks at reasoning and tags too
    apart: bool = False  # may take long, so it is called in processes that can be stopped


def _scorer(name: str) -> Callable[[Options], Way]:
    return lambda options: SCORERS[name]


def _alone(of: Callable[[Options], Callable[[str], float]]) -> Callable[[Options], Way]:
    """A way that looks at the answer only."""

    def way(options: Options) -> Way:
        pays = of(options)
        return lambda answer, reference: pays(answer)

    return way


def _math(options: Options) -> Way:
    from math_verify import parse, verify

    logging.getLogger(MATH).setLevel(logging.ERROR)  # its own clocks are off on purpose: ours stop the process
    read = partial(parse, parsing_timeout=None)

    def compare(answer: str, reference: str) -> float | None:
        wanted = read(reference) or read(f"${reference}$")
        return float(verify(wanted, read(answer), timeout_seconds=None)) if wanted else None

    return compare


def _regex(options: Options) -> Way:
    return partial(regex, pattern=re.compile(options.pattern or ""))


def _schema(options: Options) -> Way:
    return partial(json_schema, schema=read_schema(options.schema or "", options.schema_key))


def _numeric(options: Options) -> Way:
    return partial(numeric, tolerance=options.tolerance)


_format = _alone(lambda options: partial(format_of, tags=options.tags))
_length = _alone(lambda options: partial(length, least=options.least_words, most=options.most_words))

REWARDS: dict[str, Reward] = {
    "exact": Reward("the reference, but for whitespace", _scorer("exact")),
    "choice": Reward("the reference, but for case, spaces and marks around it", _scorer("choice")),
    "numeric": Reward("ending in the number that the reference ends in", _numeric, ("tolerance",)),
    "math": Reward("ending in mathematics that equals the reference's", _math, ("reward_timeout",), apart=True),
    "regex": Reward("what `pattern` finds last in the reference", _regex, ("pattern", "reward_timeout"), apart=True),
    "json_fields": Reward("each field of the reference's JSON", _scorer("json_fields")),
    "f1": Reward("words of the reference, in any order", _scorer("f1")),
    "rouge_l": Reward("words of the reference, in its order", _scorer("rouge_l")),
    "bleu": Reward("runs of words of the reference", _scorer("bleu")),
    "contains": Reward("the reference somewhere in the answer", _scorer("contains")),
    "code": Reward("code that passes the row's tests", reads=("tests", "code_seconds", "code_memory")),
    "json_valid": Reward("being JSON", _scorer("json_valid"), compares=False),
    "json_schema": Reward(
        "being JSON as `schema` wants it", _schema, ("schema", "reward_timeout"), compares=False, apart=True
    ),
    "format": Reward("being in `tags`, in their order", _format, ("tags",), compares=False, whole=True),
    "length": Reward(
        "a length in words within the band", _length, ("least_words", "most_words"), compares=False, whole=True
    ),
    "repetition": Reward("not repeating runs of three words", _alone(lambda options: repetition), compares=False),
}


def paid_apart(name: str, options: Options, pair: tuple[str, str]) -> float | None:
    """What a reward pays for an answer beside its reference, called in another process."""
    return way_of(name, options)(*pair)


@cache
def way_of(name: str, options: Options) -> Way:
    """A reward as the settings make it."""
    way = REWARDS[name].way
    assert way is not None
    return way(options)


def needed_package(name: str) -> str:
    """The package that a reward needs and that is not installed; empty when nothing is missing."""
    return "math-verify" if name == "math" and importlib.util.find_spec(MATH) is None else ""


def readers() -> Mapping[str, list[str]]:
    """The rewards that read each setting."""
    found: dict[str, list[str]] = {}
    for name, reward in REWARDS.items():
        for key in reward.reads:
            found.setdefault(key, []).append(name)
    return found
