"""Tools and their calls: names, schemas, arguments, answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finetune.data.faults import kind_of
from finetune.data.rows import Chat, Message
from finetune.errors import counted, did_you_mean, listed


class Said(NamedTuple):
    """What is wrong, with its code, and the place of the turn that it is wrong in; none for the tools."""

    code: str
    what: str
    turn: int | None = None


NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
DEEPEST = 20  # levels of a schema that are followed


def tool_findings(row: Chat) -> Iterator[Said]:
    """What is wrong with the tools of a row and their calls."""
    if not row.tools and all(len(message) == 2 for message in row.messages):
        return
    declared: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(row.tools, 1):
        function = tool["function"]
        yield from _tool(function, number, declared)
        declared[function["name"]] = function
    yield from _calls(row.messages, declared)
    yield from _answers(row.messages)


def _tool(function: Mapping[str, Any], number: int, declared: Mapping[str, Any]) -> Iterator[Said]:
    name = function["name"]
    if name in declared:
        yield Said("tool-twice", f"entry {number}: there is a tool {name!r} already")
    if not NAME.fullmatch(name):
        yield Said("tool-name", f"entry {number}: {name!r} is no name for a function")
    schema = function.get("parameters")
    if schema is not None and (wrong := _wrong_schema(schema)):
        yield Said("tool-schema", f"entry {number} ({name}): {wrong}")


def _wrong_schema(schema: Any) -> str:
    if not isinstance(schema, dict):
        return f"parameters must be an object, got {kind_of(schema)}"
    if schema and schema.get("type", "object") != "object":
        return f"parameters must be of type object, got {schema['type']!r}"
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        return f"properties must be an object, got {kind_of(properties)}"
    if not isinstance(required, list):
        return f"required must be a list, got {kind_of(required)}"
    missing = [str(name) for name in required if name not in properties]
    return f"required names {listed(missing)}, which properties has not" if missing else ""


def _calls(messages: Sequence[Message], declared: Mapping[str, Mapping[str, Any]]) -> Iterator[Said]:
    for number, message in enumerate(messages, 1):
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            if name not in declared:
                near = did_you_mean(name, declared) or (
                    f"declared: {listed(list(declared))}" if declared else "none is"
                )
                what = f"turn {number} calls {name!r}, which is not declared ({near})"
                yield Said("tool-undeclared", what, number - 1)
                continue
            schema = declared[name].get("parameters")
            if isinstance(schema, dict) and (wrong := mismatch(call["function"]["arguments"], schema)):
                yield Said("call-arguments", f"turn {number} calls {name!r}: {wrong}", number - 1)


def _answers(messages: Sequence[Message]) -> Iterator[Said]:
    for place, message in enumerate(messages):
        calls = message.get("tool_calls", ())
        if not calls:
            continue
        answers = []
        for later in messages[place + 1 :]:
            if later["role"] != "tool":
                break
            answers.append(later)
        ended = place + 1 == len(messages)  # the last turn may be the call: that is what is learned then
        if not ended and len(answers) < len(calls):
            what = f"turn {place + 1} makes {counted(len(calls), 'call')}, and {len(answers)} are answered"
            yield Said("call-unanswered", what, place)
        known = {call["id"] for call in calls if "id" in call}
        for offset, answer in enumerate(answers, place + 2):
            if known and answer.get("tool_call_id") is not None and answer["tool_call_id"] not in known:
                yield Said("call-id", f"turn {offset} answers a call of another id than those made", offset - 1)


def mismatch(value: Any, schema: Any, path: str = "", depth: int = 0) -> str:
    """How a value breaks a JSON schema, without the value; nothing when it fits or the schema says nothing."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return ""
    kinds = schema.get("type")
    names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    known = [name for name in names if isinstance(name, str) and name in TYPES]
    where = path or "the arguments"
    if known and len(known) == len(names) and not any(_is(value, name) for name in known):
        return f"{where} must be of type {' or '.join(known)}, got {kind_of(value)}"
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return f"{where} is none of the values that `enum` allows"
    if isinstance(value, dict):
        return _object(value, schema, path, depth)
    items = enumerate(value) if isinstance(value, list) else ()
    return next(
        (said for i, item in items if (said := mismatch(item, schema.get("items"), f"{path}[{i}]", depth + 1))), ""
    )


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[name])


def _object(value: Mapping[str, Any], schema: Mapping[str, Any], path: str, depth: int) -> str:
    properties = schema.get("properties") if isinstance(schema.get("properties"), dict) else {}
    required = schema.get("required") if isinstance(schema.get("required"), list) else []
    prefix = f"{path}." if path else ""
    for name in required or ():
        if isinstance(name, str) and name not in value:
            return f"{prefix}{name} is required and missing"
    extra = [name for name in value if name not in (properties or {})]
    if schema.get("additionalProperties") is False and extra:
        near = did_you_mean(extra[0], properties or {})
        return f"{prefix}{extra[0]} is no parameter" + (f" ({near})" if near else "")
    for name, inner in (properties or {}).items():
        if name in value and (said := mismatch(value[name], inner, f"{prefix}{name}", depth + 1)):
            return said
    return ""
