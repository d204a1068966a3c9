"""What is found in one row: private data, characters, answers, languages, tools."""

from __future__ import annotations

import time
from typing import Any

import pytest

from finetune.data.examine.answers import answer_hits, ends_well, is_json
from finetune.data.examine.languages import LANGUAGES_OF, NAMES, WORDS, language
from finetune.data.examine.private import MASK, iban, luhn, masked, spans
from finetune.data.examine.text import text_hits
from finetune.data.examine.tools import mismatch, tool_findings
from finetune.data.examine.turns import turn_findings
from finetune.data.examine.view import view
from finetune.data.formats import from_messages
from finetune.data.rows import Chat

PRIVATE = {
    "secret-key": [
        "AKIAIOSFODNN7ABCDEFG",
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2,
        "github_pat_11ABCDEFG0abcdefghijkl_mnopq",
        "glpat-abcDEF1234567890xyzw",
        "sk-proj-abcDEF1234567890abcDEF1234567890",
        "sk-ant-api03-abcDEF1234567890abcDEF12345",
        "xoxb-123456789012-abcdefABCDEF",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "sk_live_abcDEF1234567890abcd",
        "hf_abcdefghijklmnopqrstuvwxyz1234567890",
        "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    ],
    "secret-private-key": [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----",
    ],
    "secret-token": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"],
    "secret-assignment": [
        "postgres://admin:hunter22@db.intern.net",
        'api_key = "hG7k2LpQ9xZr4T"',
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI7K7MDENGbPxRfiCYzQ1",
        "Password: Tr0ub4dor&3xyz",
    ],
    "personal-email": ["bob.smith@corporate-mail.com", "a+b@mail.co.uk"],
    "personal-phone": ["+47 912 34 567", "+1 (415) 555-2671", "415-555-2671", "(415) 555-2671", "+4915112345678"],
    "personal-iban": ["NO93 8601 1117 947", "DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19"],
    "personal-card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    "personal-ssn": ["123-45-6789"],
    "personal-ip": ["8.8.8.8", "151.101.1.69"],
}
HARMLESS = [
    "bob@example.com", "user@host", "@somebody wrote", "a @ b", "me@localhost.localhost",
    "4111 1111 1111 1112", "1234567890123", "20260501123000", "0.4111111111111111", "1111111111111111",
    "NO93 8601 1117 948", "DE00370400440532013000", "ISBN 978-3-16-148410-0",
    "000-45-6789", "123-00-6789", "2024-05-01", "12:30:45", "page 123-45", "1 2 3 4 5 6 7 8 9 0", "3.14159265358979",
    "10.0.0.1", "127.0.0.1", "192.168.1.20", "999.1.1.1", "version 1.2.3", "1.2.3.4.5", "203.0.113.7",
    "task-force-of-the-whole-country-and-more", "sk-learn", "risk-aversion-and-so-on-and-so-on-more",
    "password = your_password_here1", "token: <YOUR_TOKEN_123456>", "secret = get_secret(name1)", "password: hello",
    "key = value", "https://example.org/a:b@c", "http://localhost:8080/path", "the key: it is important to understand",
    "token = aaaaaaaaaaaa1", "-----BEGIN CERTIFICATE-----", "+1", "+47", "2+2=4, 10+10=20", "+ 12 345",
]  # fmt: skip


@pytest.mark.parametrize(("code", "value"), [(code, value) for code, values in PRIVATE.items() for value in values])
def test_what_is_private_is_found_and_covered_whole(code: str, value: str) -> None:
    for text in (value, f"Here: {value}", f"So ({value}), it is.", f"x\n{value}\ny"):
        found = {span.code for span in spans(text)}
        assert code in found, text
        assert found <= {code, "secret-key", "secret-assignment", "personal-email"}
        covered = masked(text)
        assert len(covered) == len(text) and MASK * 5 in covered
        assert value[len(value) // 2 - 2 : len(value) // 2 + 3] not in covered


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert list(spans(text)) == []
    assert masked(text) == text


def test_checksums_hold_for_the_right_digit_alone() -> None:
    assert [digit for digit in range(10) if luhn(f"411111111111111{digit}")] == [1]
    assert [two for two in range(100) if iban(f"NO{two:02}86011117947")] == [93]


SLOW = [
    "a" * 1_000_000 + "@", "1 " * 500_000, "1" * 1_000_000, "+1-" * 300_000, "eyJ" * 300_000, "-----BEGIN " * 100_000 + "PRIVATE KEY",
    "AB12 " * 200_000, "password=" * 100_000, "x.y@" * 250_000, "://a:" * 200_000, "1.1." * 250_000, "sk-" * 300_000, "&amp" * 250_000 + ";",
    "Ã" * 1_000_000, "\u200b" * 1_000_000, "```" * 300_000, "{" * 1_000_000, "-----BEGIN PRIVATE KEY-----" * 30_000, "a:" * 500_000 + "token",
]  # fmt: skip


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_no_text_takes_long(text: str) -> None:
    """A million characters cost seconds at most, not the square of their number."""
    row = Chat(({"role": "user", "content": text}, {"role": "assistant", "content": text}))
    began = time.process_time()
    masked(text), list(text_hits(text)), list(answer_hits(view(row, {}))), language(text), is_json(text)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("itâ€™s", "mojibake"), ("cafÃ©", "mojibake"), ("Â°C", "mojibake"), ("ðŸ˜€", "mojibake"), ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "mojibake"),
        ("a\ufffdb", "replacement-character"), ("a\x07b", "control-character"), ("a\x9fb", "control-character"),
        ("a\u200bb", "invisible-character"), ("a\ufeffb", "invisible-character"), ("a\u200db", "invisible-character"),
        ("a\U000e0041b", "invisible-character"), ("a\u00adb", "invisible-character"),
        ("a\u202eb", "bidirectional-character"), ("a\u2066b", "bidirectional-character"),
        ("a &amp; b", "html-entity"), ("it&#39;s", "html-entity"), ("&nbsp;", "html-entity"), ("&#x27;", "html-entity"),
    ],
)  # fmt: skip
def test_broken_and_hidden_characters_are_found(text: str, code: str) -> None:
    (hit,) = text_hits(text)
    assert hit.code == code and text[hit.begin : hit.end]


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\r\nc",
        "naïve Ångström São Âge Ça «â»",
        "👩‍👩‍👧‍👦",
        "می‌خواهم",
        "\U0001f3f4\U000e0067\U000e0062\U000e007f",
        "AT&T; R&D",
        "a\u2028b\x85c",
    ],
)
def test_odd_but_sound_characters_are_left_alone(text: str) -> None:
    assert list(text_hits(text)) == []


SENTENCES = {
    "en": "This is the house that was built by the people who live on the hill.",
    "de": "Das ist das Haus, das von den Leuten gebaut wurde, die auf dem Berg sind.",
    "fr": "C'est la maison qui est dans la rue et que les gens ont vue avec nous.",
    "es": "Esta es la casa que está en la calle y que las personas ven por la tarde.",
    "pt": "Esta é a casa que não está na rua e que as pessoas viram com os amigos.",
    "it": "Questa è la casa che è nella strada e che gli amici hanno visto con noi.",
    "nl": "Dit is het huis dat door de mensen van het dorp is gebouwd en niet meer.",
    "sv": "Det är ett hus som jag har sett och som inte är till för att bo i med dem.",
    "da": "Det er et hus som jeg har sett og som ikke er til for at bo i med dem.",
    "fi": "Se on talo, joka ei ole niin vanha kuin muut, mutta se on myös hyvä ja se voi.",
    "cs": "Je to dům, který není tak starý jako jiné, a stojí na kopci za městem, které se mi líbí.",
    "hu": "Ez az a ház, amely a hegyen van, és nem olyan régi, mint a többi, de szép is.",
    "pl": "To jest dom, który nie jest tak stary jak inne, ale jest przez to dla nas i że się.",
    "ru": "Это дом, который построили люди на горе.",
    "uk": "Це будинок, який збудували люди на її горі.",
    "zh": "这是人们在山上建造的房子。",
    "ja": "これは人々が丘の上に建てた家です。",
    "ko": "이것은 사람들이 언덕 위에 지은 집입니다.",
    "ar": "هذا هو البيت الذي بناه الناس على التل.",
    "he": "זה הבית שאנשים בנו על הגבעה.",
    "el": "Αυτό είναι το σπίτι που έχτισαν οι άνθρωποι.",
    "hi": "यह वह घर है जो लोगों ने पहाड़ी पर बनाया।",
    "th": "นี่คือบ้านที่ผู้คนสร้างบนเนินเขา",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_in_its_language(name: str) -> None:
    assert language(SENTENCES[name]) == name


@pytest.mark.parametrize(
    "text",
    [
        "I need to create a new event in my calendar.",
        "Generate a function to sort a list of strings",
        "Think of a new way to use a plastic bottle",
        "James writes a letter to 2 different friends twice a week to say hello",
        "He earns $400 per month, so he gets 400 x 12 per year, or 4800 per year.",
        "Hansel makes $30,000 and received a raise so his raise is a tenth of a year",
        "Ann has 5 apples at home and buys 3 for lunch at noon for Bo",
    ],
)
def test_english_is_not_taken_for_another(text: str) -> None:
    assert language(text) in ("en", "")


@pytest.mark.parametrize(
    "text", ["", "yes", "x = f(y) + 3; return x * 2", "1 2 3 4 5 6 7", "LAMP x3 for Ada", "{}" * 20]
)
def test_nothing_is_guessed_where_nothing_can_be_told(text: str) -> None:
    assert language(text) == ""


def test_every_language_has_a_name() -> None:
    assert set(WORDS) < set(NAMES)
    assert all(set(names) <= set(WORDS) for names in LANGUAGES_OF.values())


def codes_of(*turns: tuple[str, str]) -> list[str]:
    row = Chat(tuple({"role": role, "content": content} for role, content in turns))
    return [hit.code for hit in answer_hits(view(row, {}))]


def test_phrases_are_found_in_every_answer_and_only_there() -> None:
    phrase = "As an AI language model, I like it."
    assert codes_of(("user", phrase), ("assistant", "Fine.")) == []
    assert codes_of(("user", "a"), ("assistant", phrase), ("user", "b"), ("assistant", "c")) == ["boilerplate"]
    assert codes_of(("user", "a"), ("assistant", "I’m sorry, but I can’t do it.")) == ["refusal"]
    assert codes_of(("user", "a"), ("assistant", "word " * 100 + "I cannot assist with that")) == []


def test_only_a_whole_question_that_is_long_is_a_repetition() -> None:
    asked = "Where is the order that I made?"
    assert codes_of(("user", asked), ("assistant", f"{asked} It is here.")) == ["answer-repeats-prompt"]
    assert codes_of(("user", "Oslo"), ("assistant", "Oslo is a city.")) == []


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        ("short", None),
        ("one two three four five six seven eight", False),
        ("one two three four five six seven eight.", True),
        ("one two three four five six seven 八", True),
        ("one two three four five six seven)", None),
    ],
)
def test_an_answer_of_some_words_ends_like_a_sentence(answer: str, ends: bool | None) -> None:
    assert ends_well(answer) is ends


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": ["integer", "null"]},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "places": {
            "type": "array",
            "items": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}},
        },
    },
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"city": "Oslo"}, ""),
        ({"city": "Oslo", "days": None, "places": [{"x": 1}, {"x": 1.5}]}, ""),
        ({"city": "Oslo", "days": 2.0}, ""),
        ({}, "city is required and missing"),
        ({"city": 5}, "city must be of type string, got a number"),
        ({"city": "a", "days": True}, "days must be of type integer or null, got true or false"),
        ({"city": "a", "days": 1.5}, "days must be of type integer or null, got a number"),
        ({"city": "a", "unit": "K"}, "unit is none of the values that `enum` allows"),
        ({"city": "a", "citi": "b"}, "citi is no parameter (did you mean city?)"),
        ({"city": "a", "places": [{"x": 1}, {}]}, "places[1].x is required and missing"),
        ({"city": "a", "places": {}}, "places must be of type array, got an object"),
    ],
)
def test_arguments_are_held_against_their_schema(value: Any, said: str) -> None:
    assert mismatch(value, SCHEMA) == said


@pytest.mark.parametrize(
    "schema", [None, 5, {}, {"type": "strange"}, {"$ref": "#/x"}, {"anyOf": []}, {"required": 5}, {"properties": []}]
)
def test_a_schema_that_says_nothing_refuses_nothing(schema: Any) -> None:
    assert mismatch({"a": 1}, schema) == ""


def test_a_conversation_may_end_in_a_call() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    row = from_messages({"messages": [{"role": "user", "content": "a"}, call], "tools": [{"name": "f"}]})
    assert isinstance(row, Chat) and list(tool_findings(row)) == []


def test_sound_weights_are_silent() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1, "name": "x"}]
    assert list(turn_findings({"messages": turns})) == []
    assert list(turn_findings({"messages": [{**turns[1], "weight": None}]})) == []


@pytest.mark.parametrize(
    "values", [[1] * 800, [2, 3, 3], list(range(5, 300)), [1, 10_000], [7, 0, 0], [3, 4, 1000, 100_000]]
)
def test_a_histogram_counts_every_row_once(values: list[int]) -> None:
    import re

    import numpy as np

    from finetune.data.examine.page import histogram

    drawn = histogram("Lengths", np.array(values))
    counts = [int(count.replace(",", "")) for count in re.findall(r"<title>[^<]*: ([\d,]+)</title>", drawn)]
    assert sum(counts) == sum(value > 0 for value in values)
    assert histogram("Lengths", np.zeros(3)) == ""
