"""Every code of the catalogue is found where it is planted, and none where nothing is wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import GOOD, Content, Run, chat, lines, write_files

from finetune.data import codes
from finetune.data.codes import CODES, GROUPS, SEVERITIES

TINY = "model=tiny"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
    }
]


@dataclass(frozen=True)
class Planted:
    """Files in which a defect is, and what the command is given besides."""

    files: Mapping[str, Content]
    arguments: tuple[str, ...] = ("t.jsonl",)


def among(*rows: Any) -> Planted:
    """Rows among good ones."""
    return Planted({"t.jsonl": lines([*GOOD, *rows])})


def answer(text: str) -> Planted:
    """A row with this answer, among good ones."""
    return among(chat(("user", "What about the other one?"), ("assistant", text)))


def asked(text: str) -> Planted:
    """A row with this question."""
    return among(chat(("user", text), ("assistant", "Yes, that one it is.")))


def only(name: str, content: Content) -> Planted:
    """One file."""
    return Planted({name: content}, (name,))


def measured(text: Content, *arguments: str) -> Planted:
    """Rows that are measured with the embedded model."""
    return Planted({"t.jsonl": text}, ("t.jsonl", TINY, *arguments))


def turn(**more: Any) -> Planted:
    """A conversation whose answer has more keys."""
    return among({"messages": [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "a", **more}]})


def turns(*said: str) -> list[dict[str, str]]:
    """Turns that the user begins."""
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)]


def judged(**more: Any) -> Planted:
    """A pair with more keys."""
    return only("t.jsonl", lines([JUDGED, {**JUDGED, **more}]))


def called(arguments: Any, *, name: str = "weather", tools: Any = TOOLS, after: tuple[Any, ...] = ()) -> Planted:
    """A conversation with one call."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    made = {"role": "assistant", "content": None, "tool_calls": [call]}
    return among({"messages": [{"role": "user", "content": "Is it raining?"}, made, *after], "tools": tools})


def parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def sentences(number: int) -> dict[str, Any]:
    """A row whose answer is a sentence of its own."""
    said = " ".join(f"{word}{number}" for word in ("red", "green", "blue", "white", "black", "brown", "pink", "grey"))
    return chat(("user", f"Which are the colours of house {number}?"), ("assistant", f"They are {said}."))


SENTENCES = [sentences(number) for number in range(20)]
TALES = lines(
    [chat(("user", f"q{n}?"), ("assistant", f"The answer to question {n} is one of many.")) for n in range(20)]
)
ENGLISH = "The cat was on the mat and it was not the one that we have seen there before."
GERMAN = "Die Katze ist auf der Matte und es ist nicht die, die wir mit dem Hund gesehen haben."
LONG = "word " * 3000
CALLED = {"role": "tool", "content": "no", "tool_call_id": "call_1"}
SAID = {"role": "assistant", "content": "It is not."}
OTHER_TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
JUDGED = {"prompt": "Is it so?", "chosen": "yes", "rejected": "no"}
TRIMS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RAISES = "{% if messages[0].content == 'hi' %}{{ raise_exception('no') }}{% endif %}"

PLANTED: dict[str, Planted] = {
    "file-missing": Planted({}),
    "path-invalid": Planted({}, ("data.train=a\0b",)),
    "hub": Planted({}, ("nobody-at-all/no-such-rows",)),
    "file-empty": only("t.jsonl", ""),
    "file-packed": only("t.jsonl.gz", b"\x1f\x8b"),
    "file-kind": only("t.docx", "x"),
    "file-unreadable": only("t.jsonl", ""),
    "file-too-large": only("t.json", "[]"),
    "file-not-rows": only("t.json", json.dumps({"rows": GOOD})),
    "not-utf8": only("t.jsonl", '{"text": "café"}\n'.encode("latin-1")),
    "nul-character": only("t.jsonl", '{"text": "a\\u0000"}\n'),
    "lone-surrogate": only("t.jsonl", '{"text": "\\ud800"}\n'),
    "json-invalid": only("t.jsonl", '{"text": bad}\n'),
    "json-cut": only("t.jsonl", '{"text": "a"}\n{"text": "b'),
    "json-key-twice": only("t.jsonl", '{"text": "a", "text": "b"}\n'),
    "json-nan": only("t.jsonl", '{"text": "a", "score": NaN}\n'),
    "json-nested": only("t.jsonl", "[" * 100_000 + "\n"),
    "json-number": only("t.jsonl", f'{{"text": "a", "n": {"9" * 5000}}}\n'),
    "line-too-long": only("t.jsonl", lines([*GOOD, {"text": "x" * 10_000_001}])),
    "csv-ragged": only("t.csv", "prompt,completion\na,b,c\n"),
    "csv-delimiter": only("t.csv", "prompt;completion\na;b\n"),
    "csv-header": only("t.csv", "prompt,prompt\na,b\n"),
    "csv-quote": only("t.csv", 'prompt,completion\na,"b\n'),
    "parquet-broken": only("t.parquet", b"PAR1"),
    "parquet-type": only("t.parquet", parquet(pa.table({"text": [b"a"]}))),
    "row-not-object": among(5),
    "layout-unknown": only("t.jsonl", lines([{"a": "b"}])),
    "layout-mixed": among({"text": "x"}),
    "other-method": only("t.jsonl", lines([{"message_id": "1", "parent_id": None, "role": "prompter", "text": "a"}])),
    "columns-setting": Planted({"t.jsonl": lines(GOOD)}, ("t.jsonl", "data.columns.prompt=question")),
    "field-missing": among({"id": 1}),
    "field-type": among({"messages": "x"}),
    "history-shape": only("t.jsonl", lines([{"instruction": "a", "output": "b", "history": 5}])),
    "row-empty": only("t.jsonl", lines([{"text": " "}])),
    "turn-shape": among({"messages": ["hi"]}),
    "role-missing": among({"messages": [{"content": "a"}]}),
    "role-unknown": among(chat(("boss", "a"))),
    "content-missing": among({"messages": [{"role": "user"}]}),
    "content-type": among(chat(("user", 5))),
    "content-media": among(chat(("user", [{"type": "image_url"}]))),
    "turn-empty": among(chat(("user", ""), ("assistant", "a"))),
    "late-system": among(chat(("user", "a"), ("system", "b"), ("assistant", "c"))),
    "assistant-first": among(chat(("assistant", "a"))),
    "role-repeated": among(chat(("user", "a"), ("user", "b"), ("assistant", "c"))),
    "last-turn": among(chat(("user", "a"))),
    "weight-invalid": turn(weight=0.5),
    "weight-ignored": among(
        {"messages": [{"role": "user", "content": "q?", "weight": 1}, {"role": "assistant", "content": "a"}]}
    ),
    "key-unread": turn(mood="fine"),
    "call-shape": turn(tool_calls=[{"function": {}}]),
    "tool-shape": among({**GOOD[0], "tools": [5]}),
    "tool-uncalled": among(chat(("user", "a"), ("tool", "b"), ("assistant", "c"))),
    "pair-equal": judged(chosen="b", rejected="b"),
    "pair-prompt": only("t.jsonl", lines([{"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "x", "c", "y")}])),
    "pair-verdict": only("t.jsonl", lines([{"prompt": "a", "response_a": "b", "response_b": "c", "winner": "the first"}])),
    "pair-score": judged(score_chosen=1, score_rejected=2),
    "pair-tie": only("t.jsonl", lines([{"prompt": "a", "completions": ["b", "c"], "scores": [n, 1]} for n in (1, 2)])),
    "pair-contradicts": only("t.jsonl", lines([JUDGED, {**JUDGED, "chosen": "no", "rejected": "yes"}])),
    "pair-length": only("t.jsonl", lines([{**JUDGED, "prompt": f"Is {n} so?", "rejected": "never"} for n in range(20)])),
    "pair-tokens": Planted({"t.jsonl": lines([JUDGED, {**JUDGED, "rejected": "yes "}]), "c.jinja": TRIMS}, ("t.jsonl", TINY, "model.chat_template=c.jinja")),
    "vote-invalid": only("t.jsonl", lines([{"prompt": "a", "completion": "b", "label": vote} for vote in (True, "maybe")])),
    "vote-contradicts": only("t.jsonl", lines([{"prompt": "a", "completion": "b", "label": vote} for vote in (True, False)])),
    "task-answered": only("t.jsonl", lines([{"prompt": turns("a", "b"), "answer": "b"}])),
    "tool-undeclared": called({}, name="wether"),
    "tool-twice": called({"city": "Oslo"}, tools=[*TOOLS, OTHER_TOOL]),
    "tool-name": called({"city": "Oslo"}, tools=[*TOOLS, {"name": "a b"}]),
    "tool-schema": called({"city": "Oslo"}, tools=[*TOOLS, {"name": "b", "parameters": {"type": "string"}}]),
    "call-arguments": called({"city": 5}),
    "call-unanswered": called({"city": "Oslo"}, after=({"role": "user", "content": "well?"}, SAID)),
    "call-id": called({"city": "Oslo"}, after=({**CALLED, "tool_call_id": "other"}, SAID)),
    "mojibake": answer("Itâ€™s fine."),
    "replacement-character": answer("It\ufffds fine."),
    "control-character": answer("It\x1bs fine."),
    "invisible-character": answer("It\u200bs fine."),
    "bidirectional-character": answer("It\u202es fine."),
    "html-entity": answer("This &amp; that."),
    "secret-key": asked("My key is AKIAIOSFODNN7ABCDEFG, is it safe?"),
    "secret-private-key": asked("-----BEGIN RSA PRIVATE KEY-----\nMIIE"),
    "secret-token": asked("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkw.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    "secret-assignment": asked('password = "hG7k2LpQ9xZr4T"'),
    "personal-email": asked("Write to bob.smith@corporate-mail.com, please."),
    "personal-phone": asked("Call +47 912 34 567 now."),
    "personal-iban": asked("Pay to NO93 8601 1117 947."),
    "personal-card": asked("My card is 4111 1111 1111 1111."),
    "personal-ssn": asked("My number is 123-45-6789."),
    "personal-ip": asked("The server is at 8.8.8.8 and is down."),
    "boilerplate": answer("Oslo. I hope this helps!"),
    "teacher-name": answer("I am ChatGPT and know it."),
    "refusal": answer("I'm sorry, but I can't help with that."),
    "answer-placeholder": answer("N/A"),
    "answer-repeats-prompt": answer("What about the other one? It is blue."),
    "answer-cut": Planted({"t.jsonl": lines([*SENTENCES, chat(("user", "Why is it so?"), ("assistant", "Because all of the others were there before we"))])}),
    "fence-open": answer("```python\nprint(1)"),
    "answer-not-json": Planted({"t.jsonl": lines([*[chat(("user", f"q{n}?"), ("assistant", f'{{"a": {n}}}')) for n in range(19)], chat(("user", "q?"), ("assistant", '{"a": '))])}),
    "too-few-rows": Planted({"t.jsonl": lines(GOOD[:5])}),
    "duplicate-row": among(GOOD[3]),
    "near-copy": Planted({"t.jsonl": lines([*SENTENCES, chat(("user", f"{ENGLISH} {ENGLISH} {GERMAN}"), ("assistant", "Yes, it is one of them.")), chat(("user", f"{ENGLISH} {ENGLISH} {GERMAN}"), ("assistant", "Yes, it is one of those."))])}),
    "prompt-conflict": among(chat(("user", GOOD[3]["messages"][0]["content"]), ("assistant", "Never."))),
    "label-imbalance": Planted({"t.jsonl": lines([chat(("user", f"Is {n} good?"), ("assistant", "no" if n % 30 == 1 else "yes")) for n in range(60)])}),
    "length-outlier": answer("many words " * 600),
    "language-minority": Planted({"t.jsonl": lines([*[chat(("user", f"{n}?"), ("assistant", f"{ENGLISH} {n}")) for n in range(20)], chat(("user", "x?"), ("assistant", GERMAN))])}),
    "language-switch": among(chat(("user", ENGLISH), ("assistant", GERMAN))),
    "held-out-trained": Planted({"t.jsonl": lines(GOOD), "e.jsonl": lines(GOOD[3:4])}, ("t.jsonl", "data.eval=e.jsonl")),
    "held-out-shares": Planted({"t.jsonl": lines(SENTENCES), "e.jsonl": lines([chat(("user", f"Quite another question, of many words, all different: {ENGLISH} {GERMAN} {SENTENCES[3]['messages'][1]['content']} Is that one so?"), ("assistant", "no"))])}, ("t.jsonl", "data.eval=e.jsonl", "data.contamination_words=8")),
    "held-out-near-copy": Planted({"t.jsonl": lines([*SENTENCES, chat(("user", "Where is the old red house?"), ("assistant", "On the hill."))]), "e.jsonl": lines([chat(("user", "Where is the old red house?"), ("assistant", "On the hills."))])}, ("t.jsonl", "data.eval=e.jsonl")),
    "template": Planted({"t.jsonl": lines(GOOD), "c.jinja": "{{ messages.foo.bar }}"}, ("t.jsonl", TINY, "model.chat_template=c.jinja")),
    "too-long": measured(lines([*GOOD, chat(("user", "q"), ("assistant", LONG))])),
    "nothing-learned": measured(lines([*GOOD, chat(("user", LONG), ("assistant", "a"))]), "data.on_long=truncate"),
    "answer-truncated": measured(lines([*GOOD, chat(("user", "q"), ("assistant", LONG))]), "data.on_long=truncate"),
    "row-dropped": measured(lines([*GOOD, chat(("user", "q"), ("assistant", LONG))]), "data.on_long=drop"),
    "all-dropped": measured(lines(GOOD), "data.on_long=drop", "data.max_length=3"),
}  # fmt: skip

# Needs more than a file: proved below, each in a test of its own.
APART = {"refused", "file-unreadable", "file-too-large", "stop-not-learned", "reasoning-unlearned", "row-unrolled"}


def found_codes(finetune: Run, arguments: tuple[str, ...]) -> tuple[set[str], str]:
    """The codes that the command finds, and what it says on stderr."""
    _, out, err = finetune("data", "check", *arguments, "--json")
    return {problem["code"] for problem in json.loads(out)["problems"]} if out else set(), err


def test_every_code_has_its_place_in_this_file() -> None:
    assert set(PLANTED) | APART == set(CODES)


@pytest.mark.parametrize("code", [code for code in PLANTED if code not in APART])
def test_a_planted_defect_is_found(code: str, finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    planted = PLANTED[code]
    write_files(tmp_path, planted.files)
    arguments = tuple("gone.jsonl" if not planted.files and name == "t.jsonl" else name for name in planted.arguments)
    found, said = found_codes(finetune, arguments)
    if code in ("file-missing", "path-invalid"):  # nothing can be read, so there is no result
        assert said.startswith("error: data") and CODES[code].severity == "error"
    else:
        assert code in found, said


CLEAN = {
    "conversations": GOOD,
    "sentences": SENTENCES,
    "labels": [chat(("user", f"Is {number} good?"), ("assistant", "no" if number % 3 else "yes")) for number in range(30)],
    "JSON": [chat(("user", f"{number}?"), ("assistant", f'{{"n": {number}}}')) for number in range(20)],
    "text": [{"text": f"{ENGLISH} {number}"} for number in range(20)],
    "German": [chat(("user", f"Wie viele sind es in Haus {number}?"), ("assistant", f"Es sind {number}.")) for number in range(20)],
    "calls": [
        {
            "messages": [
                {"role": "user", "content": f"Is it raining in town {number}?"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": {"city": f"T{number}", "days": 2, "unit": "C"}}}]},
                {"role": "tool", "content": "no", "tool_call_id": "1"},
                {"role": "assistant", "content": f"It is not in {number}."},
            ],
            "tools": TOOLS,
        }
        for number in range(20)
    ],
    "emoji and scripts": [chat(("user", f"{number} 👩‍👩‍👧‍👦 می‌خواهم 🏴\U000e0067\U000e0062\U000e007f?"), ("assistant", f"Ça va très bien, naïve Ånd – “{number}” €")) for number in range(20)],
    "numbers": [chat(("user", f"Order 20260{number:03} of 2024-05-01 12:30:45, version 10.0.0.{number}, 3.14159265, page 123-45?"), ("assistant", f"It is on its way to {number}.")) for number in range(20)],
    "code": [chat(("user", f"Add {number} to x."), ("assistant", f"```python\nx = x + {number}\npassword = get_password()\n```")) for number in range(20)],
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in_clean_rows(name: str, finetune: Run, tmp_path: Path) -> None:
    rows = CLEAN[name]
    write_files(
        tmp_path,
        {
            "t.jsonl": lines(rows),
            "e.jsonl": lines(
                [chat(("user", "Quite new?"), ("assistant", "Yes."))] if name != "text" else [{"text": "Quite new."}]
            ),
        },
    )
    near = ("check.near=false",) if name != "sentences" else ()
    for arguments in (("t.jsonl", *near), ("t.jsonl", TINY, "data.eval=e.jsonl", *near)):
        code, out, err = finetune("data", "check", *arguments, "--json")
        found = [(p["code"], p["samples"]) for p in json.loads(out)["problems"]] if out else err
        if name == "calls" and TINY in arguments:
            continue  # its template shows no tools
        assert (code, found) == (0, [])


def test_the_page_of_the_codes_is_fresh() -> None:
    assert codes.main(["--check"]) == 0


def test_a_stale_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune.data import codes_page

    monkeypatch.setattr(codes_page, "PAGE", tmp_path / "page.md")
    assert codes.main(["--check"]) == 1
    assert "python -m finetune.data.codes" in capsys.readouterr().err
    assert codes.main([]) == 0 and codes.main(["--check"]) == 0
    assert all(f"| `{code}` |" in (tmp_path / "page.md").read_text(encoding="utf-8") for code in CODES)


def test_every_code_is_whole() -> None:
    for code in CODES.values():
        assert code.group in GROUPS and code.severity in SEVERITIES
        assert code.what.endswith(".") and code.mend.endswith("."), code.name
