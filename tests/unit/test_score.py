"""What each scorer counts as right, and about which references it says something."""

import json
import math
from pathlib import Path

import pytest

from finetune.config import EvaluateConfig, flatten
from finetune.errors import UserError
from finetune.evaluate.score import SCORERS, Scorer, fitting, fitting_scorers, scorers, visible
from finetune.evaluate.shapes import OWN
from finetune.evaluate.structured import is_json, strict_json

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
    ("json_fields", '{"a": 1}', "no JSON", 0.0),
    # Lin (2004), section 3: the same words, and "police … the gunman" against "the gunman"
    ("rouge_l", "police kill the gunman", "police killed the gunman", 3 / 4),
    ("rouge_l", "the gunman kill police", "police killed the gunman", 2 / 4),
    ("rouge_l", "the gunman police killed", "police killed the gunman", 2 / 4),
    ("rouge_l", "a b c", "a x b y c", 2 * 3 / 8),
    ("rouge_l", "Hello, World!", "hello world", 1.0),
    ("rouge_l", "京東", "東京", 1 / 2),
    ("rouge_l", "", "a", 0.0),
    ("rouge_l", "!", "!", 1.0),
    # runs of 1 to 4 words found, and those there are; from 2 on 1 is added to both
    ("bleu", "the cat sat on the mat", "the cat is on the mat", (5 / 6 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25),
    ("bleu", "the the the the", "the cat", (1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25),  # counted once, as often as there
    ("bleu", "the cat", "the cat sat down", math.exp(1 - 4 / 2)),  # all right, and too short
    ("bleu", "yes", "yes", 1.0),
    ("bleu", "Yes", "yes", 0.0),
    ("bleu", "no", "yes, no", math.exp(1 - 3)),
    ("bleu", "", "yes", 0.0),
    ("numeric", "42", "42", 1.0),
    ("numeric", "41", "42", 0.0),
    ("numeric", "First 12, then 30: the answer is 42.", "42", 1.0),
    ("numeric", "It is 42, and not 41", "42", 0.0),  # the last one counts
    ("numeric", "so it is 72", "He sold 24 clips.\n48 + 24 = 72\n#### 72", 1.0),
    ("numeric", "1,234,567.50", "1234567.5", 1.0),
    ("numeric", "1.234.567,5", "1234567.5", 1.0),
    ("numeric", "1\u202f234\u202f567", "1234567", 1.0),
    ("numeric", "1'234 or 12_345", "12345", 1.0),
    ("numeric", "3,5", "3.5", 1.0),
    ("numeric", "1,2,3", "3", 1.0),
    ("numeric", "1,234", "1.234", 0.0),
    ("numeric", "12345678901234567890123", "12345678901234567890124", 0.0),  # floats would be equal
    ("numeric", "5.0", "5", 1.0),
    ("numeric", ".5", "0.50", 1.0),
    ("numeric", "-3", "3", 0.0),
    ("numeric", "−3", "-3", 1.0),
    ("numeric", "+3", "3", 1.0),
    ("numeric", "10-3", "3", 1.0),  # a range, or a difference
    ("numeric", "-$12.50", "-12.5", 1.0),
    ("numeric", "$-12.50", "-12.5", 1.0),
    ("numeric", "12 %", "12%", 1.0),
    ("numeric", "0.12", "12%", 0.0),
    ("numeric", "about 12 km", "12 km/h", 1.0),
    ("numeric", "12 square metres.", "12 m²", 1.0),
    ("numeric", "6e3", "6000", 1.0),
    ("numeric", "3/4", "0.75", 1.0),
    ("numeric", "1/3", "2/6", 1.0),
    ("numeric", "part x5", "5", 0.0),
    ("numeric", "GPT-4 has 7", "7", 1.0),
    ("numeric", "none", "7", 0.0),
    ("numeric", "1/0", "0", 1.0),  # no fraction
    ("numeric", "9" * 5000, "9" * 5000, 1.0),
    ("choice", "Billing", "billing", 1.0),
    ("choice", ' "billing".\n', "billing", 1.0),
    ("choice", "**New  order**", "new order", 1.0),
    ("choice", "billing or sales", "billing", 0.0),
    ("choice", "C", "C++", 0.0),
    ("choice", "A-", "A+", 0.0),
    ("choice", "?", "!", 0.0),
    ("choice", "ﬁne", "fine", 1.0),
]


@pytest.mark.parametrize(("name", "answer", "reference", "expected"), CASES)
def test_score(name: str, answer: str, reference: str, expected: float) -> None:
    assert SCORERS[name](answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "tolerance", "expected"), [("105", 0.05, 1.0), ("94.9", 0.05, 0.0), ("100.0001", 0.0, 0.0)]
)
def test_a_number_may_be_off_by_a_share_of_the_reference(answer: str, tolerance: float, expected: float) -> None:
    assert scorers(EvaluateConfig(tolerance=tolerance))["numeric"](answer, "100") == expected


@pytest.mark.parametrize(
    ("pattern", "answer", "reference", "expected"),
    [
        (r"\d+", "rows 5 and 7", "7", 1.0),  # what is found last, whole
        (r"\d+", "rows 7 and 5", "7", 0.0),
        (r"#### (\S+)", "… #### 12", "so #### 12", 1.0),
        (r"#### (\S+)", "12", "so #### 12", 0.0),
        (r"(\w+)=(\w+)", "a=1", "a=2", 0.0),
        (r"(?i)answer: (\w)", "ANSWER: b", "Answer: b", 1.0),
        (r"x|(y)", "x", "x", 1.0),
    ],
)
def test_what_a_pattern_finds_is_compared(pattern: str, answer: str, reference: str, expected: float) -> None:
    assert scorers(EvaluateConfig(pattern=pattern))["regex"](answer, reference) == expected


@pytest.fixture
def every(tmp_path: Path) -> dict[str, Scorer]:
    """All scorers, with the settings that some of them need."""
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["topic"]}')
    return scorers(EvaluateConfig(schema=str(tmp_path / "schema.json"), pattern='"topic": ("\\w+")'))


def test_the_settings_offer_exactly_these_scorers(every: dict[str, Scorer]) -> None:
    metadata = {key: meta for key, _, meta in flatten(EvaluateConfig())}
    assert set(metadata["metric"]["choices"]) == {*every, *(name for own in OWN.values() for name in own)}


REFERENCES = {
    "text": ["Come at 5 pm.", "No, thanks.", "Yes, gladly."],
    "numbers": ["12", "24 km", "7 %"],
    "numbers inside": ["I had 12 there, all told", "5 of these are in your basket", '[{"box": 7}, "x"]'],
    "labels": ["spam", "ham", "ham", "spam"],
    "digits": ["1", "2", "1", "2"],
    "all the same": ["spam", "spam", "spam"],
    "all different": ["spam", "ham", "eggs", "toast"],
    "JSON": ['{"topic": "a"}', '{"topic": "b"}', '{"topic": "b"}', '{"topic": "a"}'],
}
FIT = {
    "text": set[str](),
    "numbers": {"numeric"},
    "numbers inside": set[str](),
    "labels": {"choice"},
    "digits": {"choice", "numeric", "json_valid", "json_fields"},
    "all the same": set[str](),
    "all different": set[str](),
    "JSON": {"json_valid", "json_fields", "json_schema", "regex"},
}


@pytest.mark.parametrize("kind", list(REFERENCES))
def test_scorers_fit_references_that_they_say_something_about(kind: str, every: dict[str, Scorer]) -> None:
    found = fitting(REFERENCES[kind], every)
    assert set(found) == {"exact", "contains", "f1", "rouge_l", "bleu"} | FIT[kind]
    for name in found:
        assert [every[name](text, text) for text in REFERENCES[kind]] == [1.0] * len(REFERENCES[kind])


@pytest.mark.parametrize(
    ("settings", "kind", "where", "says"),
    [
        (EvaluateConfig(metric="json_fields"), "text", "held-out row 1 answer", "is not JSON"),
        (EvaluateConfig(metric="numeric"), "text", "held-out row 2 answer", "does not end in a number"),
        (EvaluateConfig(metric="choice"), "all different", "evaluate.metric=choice", "again and again"),
        (EvaluateConfig(metric="choice"), "all the same", "evaluate.metric=choice", "again and again"),
        (EvaluateConfig(tolerance=0.1), "labels", "held-out row 1 answer", "evaluate.tolerance"),
        (EvaluateConfig(pattern=r"\d"), "labels", "held-out row 1 answer", "nothing that evaluate.pattern finds"),
        (EvaluateConfig(pattern="(", metric="regex"), "text", "evaluate.pattern", "no regular expression"),
        (EvaluateConfig(metric="regex"), "text", "evaluate.metric=regex", "give evaluate.pattern too"),
        (EvaluateConfig(metric="json_schema"), "JSON", "evaluate.metric=json_schema", "give evaluate.schema too"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(settings: EvaluateConfig, kind: str, where: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        fitting_scorers(settings, REFERENCES[kind])
    assert caught.value.faults[0].where == where
    assert says in str(caught.value.faults[0])


def test_a_refusal_names_the_first_row_the_count_of_the_others_and_the_metrics_that_fit() -> None:
    references, places = ["{}", "x", "[]", *"y" * 30], [f"my.jsonl:{2 * at}" for at in range(33)]
    with pytest.raises(UserError) as caught:
        fitting_scorers(EvaluateConfig(metric="json_valid"), references, places.__getitem__)
    (fault,) = caught.value.faults
    assert (fault.where, fault.what) == ("my.jsonl:2 answer", "is not JSON (as those of 30 other rows)")
    assert "of these rows exact, contains, f1, rouge_l, bleu say something" in fault.mend
    with pytest.raises(UserError) as caught:
        fitting_scorers(EvaluateConfig(metric="json_valid"), ["{}", "x"])
    assert [fault.what for fault in caught.value.faults] == ["is not JSON"]


def test_a_schema_that_references_break_is_refused_even_beside_another_metric(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"required": ["urgent"]}')
    settings = EvaluateConfig(schema=str(tmp_path / "schema.json"))
    with pytest.raises(UserError, match=r"not JSON as evaluate\.schema wants it"):
        fitting_scorers(settings, REFERENCES["JSON"])
    assert "json_schema" in fitting_scorers(settings, [json.dumps({"urgent": 1})] * 2)


def test_a_key_given_twice_is_refused_at_any_depth() -> None:
    assert not is_json('{"a": {"b": 1, "b": 1}}')
    with pytest.raises(ValueError, match="twice"):
        strict_json('{"a": {"b": 1, "b": 1}}')


def test_reasoning_before_the_answer_is_not_scored() -> None:
    assert visible("<think>12 or 13?\n</think>\n\n12") == "\n\n12"
    assert visible("12 <think>kept</think>") == "12 <think>kept</think>"
    assert visible("<think>never ends") == "<think>never ends"
