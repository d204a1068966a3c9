"""Answers that are JSON: whether they are, and which fields of the reference they have."""

from __future__ import annotations

import json
from typing import Any


def json_valid(answer: str, reference: str) -> float:
    """1 when the whole answer is strict JSON."""
    return float(is_json(answer))


def json_fields(answer: str, reference: str) -> float:
    """Share of the reference's fields that the answer's JSON has with equal value; 0 when either is not JSON."""
    try:
        wanted, given = strict_json(reference), strict_json(answer)
    except ValueError:
        return 0.0
    if not isinstance(wanted, dict) or not wanted:
        return float(same_json(given, wanted))
    if not isinstance(given, dict):
        return 0.0
    return sum(key in given and same_json(given[key], value) for key, value in wanted.items()) / len(wanted)


def is_json(text: str) -> bool:
    """Whether the whole text is strict JSON."""
    try:
        strict_json(text)
    except ValueError:
        return False
    return True


def strict_json(text: str) -> Any:
    """The value of a JSON text; a ValueError for what the standard does not allow, or a key given twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def same_json(first: Any, second: Any) -> bool:
    """Equality of JSON values: Python alone would take `true` for 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same_json, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same_json(value, second[key]) for key, value in first.items())
    return bool(first == second)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
