"""How good an answer is: plain functions of the answer and the reference, from 0 to 1."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Scorer = Callable[[str, str], float]

# A token is a word, or one sign of a script that is written without spaces.
_SIGN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+")
_REASONING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


def visible(answer: str) -> str:
    """The answer without the reasoning before it: a baseline that thinks first is not marked down for it."""
    return _REASONING.sub("", answer, count=1) if answer.lstrip().startswith("<think>") else answer


def strict_json(text: str) -> Any:
    """The value of a JSON text; a ValueError for what the standard does not allow, or a key given twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def exact(answer: str, reference: str) -> float:
    """1 when the texts are equal but for whitespace."""
    return float(_spaced(answer) == _spaced(reference))


def contains(answer: str, reference: str) -> float:
    """1 when the reference stands in the answer, as whole words."""
    wanted = re.escape(_spaced(reference))
    return float(re.search(rf"(?<!\w){wanted}(?!\w)", _spaced(answer)) is not None)


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of words that answer and reference have in common, in any order."""
    given, wanted = (Counter(_TOKEN.findall(text.casefold())) for text in (answer, reference))
    if not given or not wanted:
        return exact(answer, reference)
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def json_valid(answer: str, reference: str) -> float:
    """1 when the whole answer is strict JSON."""
    return float(is_json(answer))


def json_fields(answer: str, reference: str) -> float:
    """Share of the reference's fields that the answer's JSON has with equal value; 0 when it is not JSON."""
    wanted = strict_json(reference)
    try:
        given = strict_json(answer)
    except ValueError:
        return 0.0
    if not isinstance(wanted, dict) or not wanted:
        return float(_same(given, wanted))
    if not isinstance(given, dict):
        return 0.0
    return sum(key in given and _same(given[key], value) for key, value in wanted.items()) / len(wanted)


SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "contains": contains,
    "f1": f1,
    "json_valid": json_valid,
    "json_fields": json_fields,
}

# Scorers that say something only about references that are JSON.
OF_JSON = ("json_valid", "json_fields")


def fitting(references: Sequence[str]) -> tuple[str, ...]:
    """The scorers that say something about such references."""
    structured = all(is_json(reference) for reference in references)
    return tuple(name for name in SCORERS if structured or name not in OF_JSON)


def is_json(text: str) -> bool:
    """Whether the whole text is strict JSON."""
    try:
        strict_json(text)
    except ValueError:
        return False
    return True


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _same(first: Any, second: Any) -> bool:
    """Equality of JSON values: Python alone would take `true` for 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    return bool(first == second)
