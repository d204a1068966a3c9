"""What each scorer counts as right."""

import json

import pytest

from finetune.config import EvaluateConfig, flatten
from finetune.evaluate.score import SCORERS, fitting, is_json, strict_json, visible

CASES = [
    ("exact", "blue", "blue", 1.0),
    ("exact", " blue\n sky ", "blue sky", 1.0),
    ("exact", "Blue", "blue", 0.0),
    ("exact", "", "blue", 0.0),
    ("contains", "The answer is 12.", "12", 1.0),
    ("contains", "The answer is 312.", "12", 0.0),
    ("contains", "it costs $5 (a+b)", "(a+b)", 1.0),
    ("contains", "two\nlines", "two lines", 1.0),
    ("f1", "the cat sat", "the cat sat", 1.0),
    ("f1", "a b c d", "a b", 2 * 2 / 6),
    ("f1", "a a a", "a", 2 * 1 / 4),
    ("f1", "x", "a", 0.0),
    ("f1", "Hello, World!", "hello world", 1.0),
    ("f1", "東京都", "東京", 2 * 2 / 5),
    ("f1", "!!", "!!", 1.0),
    ("f1", "", "a", 0.0),
    ("json_valid", '{"a": 1}', "", 1.0),
    ("json_valid", '{"a": 1} and more', "", 0.0),
    ("json_valid", '{"a": NaN}', "", 0.0),
    ("json_valid", '{"a": 1, "a": 2}', "", 0.0),
    ("json_valid", "[" * 100_000, "", 0.0),
    ("json_valid", "9" * 5000, "", 0.0),
    ("json_fields", '{"b": 2, "a": 1}', '{"a": 1, "b": 2}', 1.0),
    ("json_fields", '{"a": 1}', '{"a": 1, "b": 2}', 0.5),
    ("json_fields", '{"a": 1, "b": 3}', '{"a": 1, "b": 2}', 0.5),
    ("json_fields", '{"a": true}', '{"a": 1}', 0.0),
    ("json_fields", '{"a": 1.0}', '{"a": 1}', 1.0),
    ("json_fields", '{"a": {"x": [1, 2]}}', '{"a": {"x": [1, 2]}}', 1.0),
    ("json_fields", '{"a": {"x": [1, true]}}', '{"a": {"x": [1, 1]}}', 0.0),
    ("json_fields", '{"a": [1]}', '{"a": [1, 2]}', 0.0),
    ("json_fields", "no JSON", '{"a": 1}', 0.0),
    ("json_fields", "[1]", '{"a": 1}', 0.0),
    ("json_fields", "[1]", "[1]", 1.0),
    ("json_fields", "{}", "{}", 1.0),
]


@pytest.mark.parametrize(("name", "answer", "reference", "expected"), CASES)
def test_score(name: str, answer: str, reference: str, expected: float) -> None:
    assert SCORERS[name](answer, reference) == pytest.approx(expected)


def test_the_settings_offer_exactly_these_scorers() -> None:
    metadata = {key: meta for key, _, meta in flatten(EvaluateConfig())}
    assert metadata["metric"]["choices"] == tuple(SCORERS)


@pytest.mark.parametrize("name", list(SCORERS))
def test_the_reference_itself_is_a_perfect_answer(name: str) -> None:
    reference = json.dumps({"topic": "billing", "urgent": False, "ids": [1, 2]})
    assert SCORERS[name](reference, reference) == 1.0


def test_json_scorers_are_left_out_where_references_are_text() -> None:
    assert fitting(['{"a": 1}', "[2]"]) == tuple(SCORERS)
    assert fitting(['{"a": 1}', "hello"]) == ("exact", "contains", "f1")


def test_a_key_given_twice_is_refused_at_any_depth() -> None:
    assert not is_json('{"a": {"b": 1, "b": 1}}')
    with pytest.raises(ValueError, match="twice"):
        strict_json('{"a": {"b": 1, "b": 1}}')


def test_reasoning_before_the_answer_is_not_scored() -> None:
    assert visible("<think>12 or 13?\n</think>\n\n12") == "\n\n12"
    assert visible("12 <think>kept</think>") == "12 <think>kept</think>"
    assert visible("<think>never ends") == "<think>never ends"
