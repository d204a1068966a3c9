"""Every step of `finetune data clean`: what sets it off, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.data.clean import filters, normalise, personal, roles
from finetune.data.clean.item import Item
from finetune.data.clean.settings import PERSONAL, LengthConfig
from finetune.data.read import Record


def item(values: dict[str, Any], layout: str = "messages") -> Item:
    made = Item(Record("a.jsonl", 1, values), layout, values)
    made.convert(values)
    return made


def chat(*turns: tuple[str, Any], **more: Any) -> Item:
    return item({"messages": [{"role": role, "content": content} for role, content in turns], **more})


def talk(question: str, answer: str) -> Item:
    return chat(("user", question), ("assistant", answer))


def turns(found: Item) -> list[tuple[str, str]]:
    assert found.row is not None
    return [(message["role"], message["content"]) for message in found.row.messages]  # type: ignore[union-attr]


# normalise


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("cafe\u0301", "café"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("zero\u200bwidth\ufeff, word\u2060joiner", "zerowidth, wordjoiner"),
        ("bell\x07 and \x1b[31mred\x1b[0m", "bell and red"),
        ("end of line  \nand of text \n\n", "end of line\nand of text"),
        ("le\u200dft to r\u202eight", "left to right"),
        ("hidden\U000e0041\U000e0042", "hidden"),
    ],
)
def test_text_is_written_in_one_way(given: str, made: str) -> None:
    assert normalise.text(given) == made
    assert normalise.text(made) == made


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    if x:\n\t\treturn 1\n\n\n    return 2",
        "    an indented first line",
        "می\u200cخواهم",  # a joiner that Persian needs
        "क\u094d\u200dष",
        "👩\u200d💻 and 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "שלום \u200fabc\u200f עולם",
        "double  spaces | a table |",
        "non-breaking\u00a0space, ideographic\u3000space",
    ],
)
def test_what_has_a_meaning_stays(text: str) -> None:
    assert normalise.text(text) == text


def test_a_row_is_changed_only_where_something_was_to_be_done() -> None:
    clean, odd = talk("Hello", "Hi"), talk("Hello\r\n", "Hi")
    for one in (clean, odd):
        normalise.normalise(one)
    assert (clean.changes, odd.changes) == (0, 1)
    assert turns(odd) == [("user", "Hello"), ("assistant", "Hi")]


def test_a_prompt_keeps_the_space_before_its_completion() -> None:
    made = item({"prompt": "Capital of Norway: ", "completion": "Oslo \n"}, "prompt_completion")
    normalise.normalise(made)
    assert turns(made) == [("user", "Capital of Norway: "), ("assistant", "Oslo")]


def test_reasoning_is_normalised_and_arguments_of_calls_are_not() -> None:
    call = {"type": "function", "function": {"name": "write", "arguments": {"text": "kept \r\n"}}}
    answer = {"role": "assistant", "content": "Done\u200b", "reasoning_content": "So\r\n", "tool_calls": [call]}
    made = item({"messages": [{"role": "user", "content": "Write"}, answer]})
    normalise.normalise(made)
    message = made.row.messages[1]  # type: ignore[union-attr]
    assert (message["content"], message["reasoning_content"], message["tool_calls"]) == ("Done", "So", [call])


# roles


@pytest.mark.parametrize(
    ("given", "role"),
    [("User", "user"), ("HUMAN", "human"), ("assistent", "assistant"), ("### Assistant:", "assistant"), ("bot", "assistant"),
     ("ChatGPT", "assistant"), ("System", "system"), (" user ", "user"), ("sys", "system")],
)  # fmt: skip
def test_odd_names_of_roles_are_known(given: str, role: str) -> None:
    assert roles.role_of(given) == role


@pytest.mark.parametrize("given", ["robot7", "narrator", "x", "", "moderator"])
def test_a_role_that_nobody_can_guess_stays(given: str) -> None:
    assert roles.role_of(given) == ""
    made = chat((given, "Hello"), ("assistant", "Hi"))
    roles.repair(made)
    assert made.row is None and made.changes == 0


REPAIRS = [
    ("odd names", [("Human", "a"), ("AI", "b")], [("user", "a"), ("assistant", "b")]),
    ("users joined", [("user", "a"), ("user", "b"), ("assistant", "c")], [("user", "a\n\nb"), ("assistant", "c")]),
    (
        "answers joined",
        [("user", "a"), ("assistant", "b"), ("assistant", "c")],
        [("user", "a"), ("assistant", "b\n\nc")],
    ),
    ("last question", [("user", "a"), ("assistant", "b"), ("user", "c")], [("user", "a"), ("assistant", "b")]),
    (
        "empty answer",
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " ")],
        [("user", "a"), ("assistant", "b")],
    ),
    (
        "late system",
        [("user", "a"), ("assistant", "b"), ("system", "s")],
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
    (
        "two systems",
        [("system", "s"), ("system", "t"), ("user", "a"), ("assistant", "b")],
        [("system", "s\n\nt"), ("user", "a"), ("assistant", "b")],
    ),
    (
        "system twice",
        [("system", "s"), ("user", "a"), ("system", "s"), ("assistant", "b")],
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
]


@pytest.mark.parametrize(("given", "made"), [case[1:] for case in REPAIRS], ids=[case[0] for case in REPAIRS])
def test_turns_are_repaired(given: list[tuple[str, str]], made: list[tuple[str, str]]) -> None:
    repaired = chat(*given)
    roles.repair(repaired)
    assert turns(repaired) == made
    assert repaired.changes == 1
    assert filters.invalid(repaired) is None
    roles.repair(repaired)
    assert repaired.changes == 1


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
         {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "assistant", "content": "b"}],
    ],
)  # fmt: skip
def test_turns_as_they_must_be_stay(given: list[dict[str, Any]]) -> None:
    made = item({"messages": given})
    before = made.row
    roles.repair(made)
    assert made.row == before and made.changes == 0


def test_nothing_is_joined_behind_a_call() -> None:
    given = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
             {"role": "assistant", "content": "b"}]  # fmt: skip
    made = item({"messages": given})
    roles.repair(made)
    assert "speaks twice" in str(filters.invalid(made))


def test_a_conversation_without_any_answer_is_left_to_be_dropped() -> None:
    made = chat(("user", "a"), ("user", "b"))
    roles.repair(made)
    assert made.changes == 0 and "speaks twice" in str(filters.invalid(made))


# what drops rows


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": "text"}, "messages: must be a list, got text"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages: turn 1, the last, is from user"),
        (
            {"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "b"}]},
            "messages: turn 1 content must be text",
        ),
        ({"text": "a"}, "the row is text, and the file is messages"),
    ],
)
def test_what_training_would_refuse_is_dropped(values: dict[str, Any], reason: str) -> None:
    assert str(filters.invalid(item(values))).startswith(reason)


def test_a_sound_row_is_valid() -> None:
    assert filters.invalid(talk("a", "b")) is None


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7QWERTYU",
        "ghp_" + "a1B2" * 9,
        "-----BEGIN RSA PRIVATE KEY-----",
        "password = 'q8Zr2LmX0vTn5KpW'",
    ],
)
def test_secrets_are_dropped_and_not_shown(text: str) -> None:
    reason = filters.secret(talk("What is it?", f"It is {text}, keep it."))
    assert reason is not None and text not in reason
    call = {"type": "function", "function": {"name": "f", "arguments": {"key": text}}}
    hidden = item(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    )
    assert filters.secret(hidden) is not None


@pytest.mark.parametrize("text", ["password = your-password-here", "the AKIA prefix", "a private key", "token: none"])
def test_talk_about_secrets_stays(text: str) -> None:
    assert filters.secret(talk("What is it?", text)) is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("refusals", "I'm sorry, but I can't help with that."),
        ("teachers", "I am ChatGPT, and I was trained by OpenAI."),
        ("placeholders", "TODO"),
        ("phrases", "As an AI language model I like tea."),
    ],
)
def test_boilerplate_is_dropped_by_its_kind(kind: str, answer: str) -> None:
    assert filters.boilerplate([kind])(talk("Tea or coffee?", answer)) is not None
    others = [name for name in filters.BOILERPLATE if name != kind]
    assert filters.boilerplate(others)(talk("Tea or coffee?", answer)) is None
    assert filters.boilerplate([kind])(talk(answer, "Tea.")) is None


ENGLISH = "The weather is fine today, and it will be even better in the week that is to come."
GERMAN = "Das Wetter ist heute schön, und es wird in der nächsten Woche noch besser werden."


def test_answers_in_other_languages_are_dropped() -> None:
    keep = filters.languages(["en"])
    assert keep(talk("?", GERMAN)) == "the answers are in German (de)"
    assert keep(talk(GERMAN, ENGLISH)) is None
    assert filters.languages(["de", "en"])(talk("?", GERMAN)) is None


def test_an_answer_whose_language_nobody_can_tell_stays() -> None:
    assert filters.languages(["en"])(talk("?", "42")) is None


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    row = talk("今天天气怎么样？", "今天天气很好，适合出去散步。")
    drops = filters.length(LengthConfig(high=18), None)
    assert (
        drops(row) == "19 words, over clean.length.high=18" and filters.length(LengthConfig(high=19), None)(row) is None
    )


@pytest.mark.parametrize(
    ("unit", "of", "length"),
    [("words", "row", 5), ("words", "answers", 3), ("characters", "row", 18), ("characters", "answers", 11)],
)
def test_lengths_are_measured_and_bounded(unit: str, of: str, length: int) -> None:
    row = talk("two one", "three by me")
    for low, high, stays in (
        (None, length, True),
        (length, None, True),
        (length + 1, None, False),
        (None, length - 1, False),
    ):
        reason = filters.length(LengthConfig(unit, of, low, high), None)(row)
        assert (reason is None) == stays
        assert stays or f"{length} {unit}" in str(reason)


# personal data


def masked(question: str, answer: str, kinds: tuple[str, ...] = PERSONAL) -> list[str]:
    made = talk(question, answer)
    personal.mask(made, kinds)
    return [content for _, content in turns(made)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "ada@lovelace.org"),
        ("phone", "+47 22 33 44 55"),
        ("card", "4111 1111 1111 1111"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("ip", "8.8.8.8"),
        ("ssn", "536-22-1234"),
    ],
)
def test_personal_data_becomes_a_placeholder_of_its_kind(kind: str, value: str) -> None:
    assert masked("Which?", f"It is {value}.") == ["Which?", f"It is [{kind.upper()}_1]."]
    others = tuple(name for name in PERSONAL if name != kind)
    assert value in masked("Which?", f"It is {value}.", others)[1] or kind in ("phone", "ssn", "card")


def test_the_same_thing_has_the_same_placeholder_in_a_row() -> None:
    found = masked("Ask ada@lovelace.org or ben@lovelace.org", "Ada@Lovelace.org it is, not ben@lovelace.org")
    assert found == ["Ask [EMAIL_1] or [EMAIL_2]", "[EMAIL_1] it is, not [EMAIL_2]"]


def test_placeholders_that_are_there_already_keep_their_meaning() -> None:
    assert masked("Not [EMAIL_3]", "but ada@lovelace.org") == ["Not [EMAIL_3]", "but [EMAIL_4]"]


def test_masking_twice_changes_nothing() -> None:
    made = talk("ada@lovelace.org", "+47 22 33 44 55")
    for _ in range(2):
        personal.mask(made, PERSONAL)
    assert made.changes == 1


@pytest.mark.parametrize(
    "text", ["version 1.2.3.4.5", "ada@example.com", "4111 1111 1111 1112", "at 12:30 on 2026-01-31", "a 1,234,567 b"]
)
def test_what_is_nobodys_stays(text: str) -> None:
    assert masked("Which?", text)[1] == text


def test_arguments_of_calls_are_masked_too() -> None:
    call = {
        "type": "function",
        "function": {"name": "mail", "arguments": {"to": ["ada@lovelace.org"], "ada@lovelace.org": 1}},
    }
    made = item(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    )
    personal.mask(made, PERSONAL)
    arguments = made.row.messages[1]["tool_calls"][0]["function"]["arguments"]  # type: ignore[union-attr]
    assert arguments == {"to": ["[EMAIL_1]"], "ada@lovelace.org": 1}
