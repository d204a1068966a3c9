"""JSON Schema: what a schema allows, and which schemas are refused rather than half obeyed."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.evaluate.schema import Schema, json_schema, read_schema

TICKET = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Ticket",
    "type": "object",
    "properties": {
        "topic": {"enum": ["billing", "login"]},
        "urgent": {"type": "boolean"},
        "customer": {"anyOf": [{"$ref": "#/$defs/Customer"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 2},
    },
    "required": ["topic", "urgent"],
    "additionalProperties": False,
    "$defs": {"Customer": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1}}}},
}
# A leads into a ring of which it is no part.
RING = {name: {"$ref": f"#/$defs/{to}"} for name, to in (("A", "B"), ("B", "C"), ("C", "B"))}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a schema that stands in a file."""

    def read_it(content: Any) -> Schema:
        path = tmp_path / "schema.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_schema(str(path), "evaluate.schema")

    return read_it


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"topic": "billing", "urgent": True}, 1.0),
        ({"topic": "billing", "urgent": True, "customer": None, "tags": ["ab", "cd"]}, 1.0),
        ({"topic": "billing", "urgent": True, "customer": {"id": 1.0}}, 1.0),
        ({"topic": "billing"}, 0.0),
        ({"topic": "sales", "urgent": True}, 0.0),
        ({"topic": "billing", "urgent": 1}, 0.0),
        ({"topic": "billing", "urgent": True, "more": 1}, 0.0),
        ({"topic": "billing", "urgent": True, "customer": {"id": 0}}, 0.0),
        ({"topic": "billing", "urgent": True, "customer": {"id": True}}, 0.0),
        ({"topic": "billing", "urgent": True, "customer": 5}, 0.0),
        ({"topic": "billing", "urgent": True, "tags": ["a"]}, 0.0),
        ({"topic": "billing", "urgent": True, "tags": ["ab", "cd", "ef"]}, 0.0),
        ([], 0.0),
    ],
)
def test_an_answer_is_held_against_the_whole_schema(read: Any, answer: Any, expected: float) -> None:
    assert json_schema(json.dumps(answer), "", read(TICKET)) == expected


@pytest.mark.parametrize("answer", ["", "{", '{"topic": "billing", "urgent": true} done', "[" * 100_000, '{"a": NaN}'])
def test_what_is_not_json_breaks_every_schema(read: Any, answer: str) -> None:
    assert json_schema(answer, "", read({})) == 0.0


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, [1, 1.0, -(10**400)], [1.5, True, "1"]),
        ({"type": "number"}, [1, 1.5], [True, None]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"const": 1}, [1, 1.0], [True, 2]),
        ({"enum": [True, [1]]}, [True, [1]], [1, [True]]),
        ({"minimum": 1, "maximum": 2}, [1, 2, "x"], [0.5, 3]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, [1.5], [1, 2]),
        ({"minLength": 1, "maxLength": 2}, ["ä", "ab", 5], ["", "abc"]),
        ({"minItems": 1, "maxItems": 2}, [[1], {}], [[], [1, 2, 3]]),
        ({"pattern": "^a+$"}, ["aa", 5], ["b", ""]),
        ({"items": {"type": "null"}}, [[], [None]], [[None, 1]]),
        ({"additionalProperties": {"type": "string"}, "properties": {"n": True}}, [{"n": 1, "s": "x"}], [{"s": 1}]),
        ({"properties": {"gone": False}}, [{}], [{"gone": 1}]),
        (True, [1, None], []),
        (False, [], [1, None]),
        (
            {"$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}, "$ref": "#/$defs/Tree"},
            [[], [[], [[]]]],
            [1, [[1]]],
        ),
    ],
)
def test_keywords(read: Any, schema: Any, right: list[Any], wrong: list[Any]) -> None:
    found = read(schema)
    assert [found.allows(value) for value in right] == [True] * len(right)
    assert [found.allows(value) for value in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("schema", "where", "says"),
    [
        ({"format": "date"}, "", "the keyword format is not checked; leave it out; checked are type"),
        ({"properties": {"a": {"oneOf": []}}}, "properties.a", "the keyword oneOf is not checked"),
        ({"items": {"anyOf": [{"not": {}}]}}, "items.anyOf.1", "the keyword not is not checked"),
        ({"type": "text"}, "type", "must be one or a list of object"),
        ({"type": []}, "type", "must be one or a list of object"),
        ({"pattern": "("}, "pattern", "must be a regular expression"),
        ({"minimum": "1"}, "minimum", "must be a number"),
        ({"required": "a"}, "required", "must be a list of names"),
        ({"properties": []}, "properties", "must be an object of schemas"),
        ({"items": []}, "items", "must be an object, true or false"),
        ({"$ref": "#/$defs/gone"}, "$ref", "#/$defs/gone names nothing"),
        ({"$ref": "https://example.org/x"}, "$ref", "names nothing"),
        ({"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}}, "$defs.A.anyOf.1.$ref", "refers to itself"),
        ({"$ref": "#/$defs/A", "$defs": RING}, "$defs.A.$ref", "#/$defs/B refers to itself"),
        ("{", "", "is not JSON"),
        ("[]", "", "must be an object, true or false"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused_by_name(read: Any, schema: Any, where: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(schema)
    fault = caught.value.faults[0]
    assert fault.where.startswith("evaluate.schema ")
    assert fault.where.endswith(f"schema.json {where}".rstrip())
    assert says in str(fault)


def test_every_fault_of_a_schema_is_told_at_once(read: Any) -> None:
    with pytest.raises(UserError) as caught:
        read({"format": "date", "properties": {"a": {"oneOf": []}, "b": {"not": {}}}})
    assert len(caught.value.faults) == 3


def test_a_schema_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"evaluate.schema gone.json: no such file"):
        read_schema("gone.json", "evaluate.schema")
