"""Prompts that are made from what answers look like, so that a prompted base is a fair opponent."""

import json

import pytest

from finetune.evaluate.prompts import made_for, with_prompt


def texts(references: list[str]) -> dict[str, str]:
    return {prompt.name: prompt.text for prompt in made_for(references, seed=1)}


def test_labels_are_all_named_and_nothing_else_is_wanted() -> None:
    made = texts(["spam", "ham", "spam", "eggs and ham", "ham", "eggs and ham", "spam", "ham", "eggs and ham"])
    assert len(made) >= 3
    for text in made.values():
        assert all(label in text for label in ("spam", "ham", "eggs and ham"))
    assert "- spam" in made["one-of"]


def test_few_rows_with_different_answers_are_no_labels() -> None:
    assert "one-of" not in texts(["oak", "elm", "ash", "fir"])


def test_json_is_described_by_its_keys_and_their_values() -> None:
    references = [
        json.dumps(
            {
                "team": ("billing", "shipping")[number % 2],
                "order": f"A-{number}",
                "urgent": number % 3 == 0,
                "count": number if number % 4 else None,
                "tags": ["new", "old"][: number % 3],
                **({"note": "x"} if number == 5 else {}),
            }
        )
        for number in range(12)
    ]
    made = texts(references)
    lines = made["fields"].splitlines()
    assert '- "team": one of "billing", "shipping"' in lines
    assert '- "order": text' in lines
    assert '- "urgent": true or false' in lines
    assert '- "count": null or a number' in lines
    assert '- "tags": a list of any of "new", "old"' in lines
    assert '- "note": text (left out where it does not apply)' in lines
    assert [line.split('"')[1] for line in lines[1:]] == ["team", "order", "urgent", "count", "tags", "note"]
    for name in ("fields-and-form", "keys"):
        assert any(reference in made[name] for reference in references)


def test_json_that_is_no_object_is_taken_as_text() -> None:
    assert "fields" not in texts(["[1]", "[2]", "[3]"])


@pytest.mark.parametrize(
    ("references", "name", "says"),
    [
        ([str(number * 1.5) for number in range(30)], "number", "number alone"),
        ([f"the {name}" for name in ("oak", "elm", "ash", "fir", "yew")], "alone", "answer alone"),
        (
            [f"Dear {n}, " + "thank you for your letter of last week. " * 5 for n in range(5)],
            "direct",
            "no introduction",
        ),
    ],
)
def test_other_answers_are_asked_for_in_their_own_form(references: list[str], name: str, says: str) -> None:
    made = texts(references)
    assert says in made[name]
    assert any(reference.strip() in made["alike"] for reference in references)
    assert made == texts(references)


def test_the_length_of_long_answers_is_named() -> None:
    assert "about 20 words" in texts([f"{number} " + "word " * 19 for number in range(9)])["length"]


def test_a_prompt_joins_the_rows_own_system_message() -> None:
    asked, own = {"role": "user", "content": "Q"}, {"role": "system", "content": "Own."}
    assert with_prompt([asked], "New.", bare=False) == [{"role": "system", "content": "New."}, asked]
    assert with_prompt([own, asked], "New.", bare=False) == [{"role": "system", "content": "Own.\n\nNew."}, asked]
    assert with_prompt([asked], "New.", bare=True) == [{"role": "user", "content": "New.\n\nQ"}]
    assert own["content"] == "Own."  # the row itself is not changed
