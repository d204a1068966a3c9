"""JSON Schema, as far as answers need it: a schema that says more than is checked is refused, not half obeyed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError, listed, printable
from finetune.evaluate.structured import same_json, strict_json

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: TYPES["number"](value) and (isinstance(value, int) or value.is_integer()),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
SAYS_NOTHING = ("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated")
DEFINITIONS = ("$defs", "definitions")
# Bounds: what they are of, how it is measured, and when it is within them.
_Bound = tuple[str, Callable[[Any], Any], Callable[[Any, Any], bool]]
BOUNDS: dict[str, _Bound] = {
    "minimum": ("number", lambda value: value, lambda value, bound: value >= bound),
    "maximum": ("number", lambda value: value, lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value: value, lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value: value, lambda value, bound: value < bound),
    "minLength": ("string", len, lambda value, bound: value >= bound),
    "maxLength": ("string", len, lambda value, bound: value <= bound),
    "minItems": ("array", len, lambda value, bound: value >= bound),
    "maxItems": ("array", len, lambda value, bound: value <= bound),
}
CHECKED = (
    *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "pattern", "anyOf", "$ref"),
    *BOUNDS,
)


@dataclass(frozen=True)
class Schema:
    """A schema all of whose keywords are checked."""

    root: Any

    def allows(self, value: Any) -> bool:
        """Whether a JSON value is as the schema says."""
        return self._allows(value, self.root)

    def _allows(self, value: Any, schema: Any) -> bool:
        if isinstance(schema, bool):
            return schema
        types = schema.get("type", list(TYPES))
        return (
            any(TYPES[name](value) for name in ([types] if isinstance(types, str) else types))
            and ("const" not in schema or same_json(value, schema["const"]))
            and ("enum" not in schema or any(same_json(value, one) for one in schema["enum"]))
            and all(_within(value, schema, keyword) for keyword in BOUNDS if keyword in schema)
            and ("anyOf" not in schema or any(self._allows(value, one) for one in schema["anyOf"]))
            and ("$ref" not in schema or self._allows(value, _referred(self.root, schema["$ref"])))
            and self._inner(value, schema)
        )

    def _inner(self, value: Any, schema: Mapping[str, Any]) -> bool:
        if isinstance(value, str):
            return re.search(schema.get("pattern", ""), value) is not None
        if isinstance(value, list):
            return all(self._allows(item, schema.get("items", True)) for item in value)
        if not isinstance(value, dict):
            return True
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(name in value for name in schema.get("required", ())) and all(
            self._allows(item, known.get(name, rest)) for name, item in value.items()
        )


def json_schema(answer: str, reference: str, schema: Schema) -> float:
    """1 when the whole answer is strict JSON as the schema wants it."""
    try:
        return float(schema.allows(strict_json(answer)))
    except ValueError:
        return 0.0


def read_schema(path: str, key: str) -> Schema:
    """The schema of a file; every fault of it is raised at once, named by the setting."""
    where = f"{key} {path}"
    try:
        root = strict_json(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError.at(where, (error.strerror or str(error)).lower(), "give the file of a JSON schema") from None
    except ValueError as error:
        raise UserError.at(where, f"is not JSON ({error})", "give the file of a JSON schema") from None
    faults = [Fault(f"{where} {place}".rstrip(), what, mend) for place, what, mend in _wrong(root, root, "")]
    if faults:
        raise UserError(faults)
    return Schema(root)


def _within(value: Any, schema: Mapping[str, Any], keyword: str) -> bool:
    kind, measured, holds = BOUNDS[keyword]
    return not TYPES[kind](value) or holds(measured(value), schema[keyword])


def _referred(root: Any, reference: str) -> Any:
    """What a reference of the form #/$defs/NAME names."""
    folder, _, name = reference.removeprefix("#/").partition("/")
    return root[folder][name]


_Wrong = tuple[str, str, str]  # place in the schema, what is wrong, what to do


def _wrong(schema: Any, root: Any, place: str) -> Iterator[_Wrong]:
    """What in a schema cannot be checked, or means nothing."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield place, "a schema must be an object, true or false", "correct it"
        return
    known = (*CHECKED, *SAYS_NOTHING, *(DEFINITIONS if schema is root else ()))
    for keyword in schema:
        if keyword not in known:
            mend = f"leave it out; checked are {listed(list(CHECKED), len(CHECKED))}"
            yield place, f"the keyword {printable(keyword)} is not checked", mend
    for keyword, right in _SHAPES.items():
        if keyword in schema and not right(schema[keyword]):
            yield f"{place}.{keyword}".lstrip("."), f"{_SAID[keyword]}", "correct it"
            return
    yield from _wrong_reference(schema, root, place)
    for inner, where in _schemas(schema):
        yield from _wrong(inner, root, f"{place}.{where}".lstrip("."))


def _wrong_reference(schema: Mapping[str, Any], root: Any, place: str) -> Iterator[_Wrong]:
    """A reference that names nothing, or that leads to itself before any part of a value is looked at."""
    reference = schema.get("$ref")
    if reference is None:
        return
    where = f"{place}.$ref".lstrip(".")
    if not _names_definition(root, reference):
        yield where, f"{printable(reference)} names nothing", "name one of #/$defs/…"
    elif _is_circular(root, reference):
        yield where, f"{printable(reference)} refers to itself", "correct it"


def _names_definition(root: Any, reference: str) -> bool:
    folder, _, name = reference.removeprefix("#/").partition("/")
    return reference.startswith("#/") and folder in DEFINITIONS and name in root.get(folder, {})


def _is_circular(root: Any, reference: str) -> bool:
    """Whether a definition refers to itself without looking into the value."""
    seen, todo = set[str](), [reference]
    while todo:
        for inner in _at_once(_referred(root, todo.pop())):
            if inner == reference:
                return True
            if inner not in seen and _names_definition(root, inner):
                seen.add(inner)
                todo.append(inner)
    return False


def _at_once(schema: Any) -> set[str]:
    """The references of a schema that are followed before any part of a value is looked at."""
    if not isinstance(schema, dict):
        return set()
    own, choices = schema.get("$ref"), schema.get("anyOf")
    found = {own} if isinstance(own, str) else set[str]()
    return found.union(*map(_at_once, choices)) if isinstance(choices, list) else found


def _schemas(schema: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """The schemas inside one, and where they stand."""
    for keyword in ("properties", *DEFINITIONS):
        for name, inner in schema.get(keyword, {}).items():
            yield inner, f"{keyword}.{name}"
    for number, inner in enumerate(schema.get("anyOf", ()), 1):
        yield inner, f"anyOf.{number}"
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield schema[keyword], keyword


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type(value: Any) -> bool:
    return value in TYPES if isinstance(value, str) else _names(value) and bool(value) and set(value) <= set(TYPES)


_SHAPES: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "required": _names,
    "pattern": _is_pattern,
    "anyOf": lambda value: isinstance(value, list) and bool(value),
    "$ref": lambda value: isinstance(value, str),
    **{keyword: TYPES["object"] for keyword in ("properties", *DEFINITIONS)},
    **{keyword: TYPES["number"] for keyword in BOUNDS},
}
_SAID = {
    "type": f"must be one or a list of {', '.join(TYPES)}",
    "enum": "must be a list of values",
    "required": "must be a list of names",
    "pattern": "must be a regular expression",
    "anyOf": "must be a list of schemas",
    "$ref": "must be text",
    **{keyword: "must be an object of schemas" for keyword in ("properties", *DEFINITIONS)},
    **{keyword: "must be a number" for keyword in BOUNDS},
}
