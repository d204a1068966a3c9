"""The fault table, rows 36–50 and 57–60: rows that cannot be learned from, and what the user sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models import CHAT_TEMPLATE
from refusals import GOOD, Refused, Run, chat, lines, refuse, second, write_files

GIVEN = ("model=tiny", "data.train=t.jsonl", "training.batch_size=2")
USER, ANSWER = ("user", "hi"), ("assistant", "yes")
LONG = "word " * 3000
OTHER = "give another with model.chat_template=FILE"


def row(number: int, case: str, said: str, value: Any, *more: str) -> Refused:
    return Refused(number, case, f"t.jsonl:2{said}", (*GIVEN, *more), {"t.jsonl": second(value)})


def all_rows(number: int, case: str, said: str, value: Any, *more: str) -> Refused:
    return Refused(number, case, said, (*GIVEN, *more), {"t.jsonl": lines([value] * 5)})


def template(case: str, said: str, text: str) -> Refused:
    arguments = (*GIVEN, "model.chat_template=c.jinja")
    return Refused(59, case, said, arguments, {"t.jsonl": lines(GOOD), "c.jinja": text})


def called(value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": value}]}


CALL = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Oslo"}'}}]
ROLES = "t.jsonl:2 messages: turn"

CASES = [
    row(36, "text", " messages: must be a list, got text; such as [{", {"messages": "hi"}),
    row(36, "object", " messages: must be a list, got an object; such as [{", {"messages": {"role": "user"}}),
    row(36, "list of texts", " messages: turn 1 must be an object, got text; write it as {", {"messages": ["hi", "yes"]}),
    row(37, "missing", " messages: missing (row has: other); add it, or delete the row", {"other": "x"}),
    row(37, "empty", " messages: missing (row has: ", {}),
    row(38, "null", " messages: must be a list, got null; such as [{", {"messages": None}),
    row(38, "null in a turn", " messages: turn 1 content is null; fill it in, or delete the turn", chat(("user", None), ANSWER)),
    row(38, "no content", " messages: turn 1 content is missing (it has: role); fill it in", {"messages": [{"role": "user"}]}),
    row(39, "no turns", " messages: is empty; delete the row", {"messages": []}),
    row(39, "nothing said", " messages: turn 2 (assistant) is empty; fill it in, or delete the row", chat(USER, ("assistant", ""))),
    row(39, "white space", " messages: turn 2 (assistant) is empty; fill it in", chat(USER, ("assistant", " \n\t"))),
    row(40, "unknown role", " messages: turn 2 has the unknown role 'assistent'; did you mean assistant?", chat(USER, ("assistent", "x"))),
    row(40, "role of another case", " messages: turn 1 has the unknown role 'User'; did you mean user?", chat(("User", "x"), ANSWER)),
    row(40, "role as a number", " messages: turn 1 has no role (it has: role, content); add role and content", chat((1, "x"), ANSWER)),
    row(41, "last from the user", " messages: turn 3, the last, is from user, not from assistant; end with the answer", chat(USER, ANSWER, USER)),
    row(41, "twice the same", " messages: turn 2: user speaks twice in a row; join the two turns", chat(USER, USER, ANSWER)),
    row(41, "late system", " messages: turn 3: a system turn that is not the first; put it first", chat(USER, ANSWER, ("system", "x"), USER, ANSWER)),
    row(41, "assistant first", " messages: turn 1: the assistant speaks before the user; begin with a user turn", chat(ANSWER, USER, ANSWER)),
    row(41, "tool out of nowhere", " messages: turn 2: a tool answers, but nothing called it; add the assistant's tool_calls", chat(USER, ("tool", "5"), ANSWER)),
    row(42, "number", " messages: turn 2 content must be text, got a number; put it in quotes", chat(USER, ("assistant", 5))),
    row(42, "list", " messages: turn 2 content must be text or a list of text parts, got a list with text; write parts as {", chat(USER, ("assistant", ["x"]))),
    row(42, "image", " messages: turn 1 content holds a part of type 'image_url'; only text can be learned from", chat(("user", [{"type": "image_url"}]), ANSWER)),
    row(42, "tool calls as text", " messages: turn 2 tool_calls must be a list, got text; such as [{", called(json.dumps(CALL))),
    row(42, "arguments that are no object", " messages: turn 2: the arguments of the call of 'look' are not a JSON object; such as {", called([{"function": {"name": "look", "arguments": "[1]"}}])),
    row(42, "call without a name", " messages: turn 2 has a tool call without a name; write {", called([{"function": {}}])),
    row(43, "other columns", ": the row is prompt_completion, but row 1 of the file is messages; keep one layout in a file", {"prompt": "a", "completion": "b"}),
    row(43, "text among conversations", ": the row is text, but row 1 of the file is messages; keep one layout in a file", {"text": "x"}),
    all_rows(44, "prompt alone", "t.jsonl:1: columns fit no layout (found: prompt; wanted: messages or conversations or ", {"prompt": "x"}),
    all_rows(44, "other names", "t.jsonl:1: columns fit no layout (found: question, reply; wanted: messages or conversations or instruction+output or prompt+completion or text); name them, such as data.columns.prompt=question", {"question": "x", "reply": "y"}),
    all_rows(44, "mapping to nothing", "t.jsonl:1 data.columns.prompt: the row has no column 'qestion' (it has: question, reply); did you mean question?", {"question": "x", "reply": "y"}, "data.columns.prompt=qestion", "data.columns.completion=reply"),
    all_rows(44, "unknown column of ours", "data.columns.promt: no layout has a column of that name; did you mean prompt?", {"a": "x"}, "data.columns.promt=a"),
    Refused(44, "mapping that no row has", "data.columns.messages: no row has a column 'conversation', so it has no effect; correct it, or leave it out", (*GIVEN, "data.columns.messages=conversation"), {"t.jsonl": lines(GOOD)}),
    all_rows(44, "two names for one", "data.columns.completion: names the column 'a', as data.columns.prompt does; give each its own column", {"a": "x"}, "data.columns.prompt=a", "data.columns.completion=a"),
    all_rows(44, "history that is no list", "t.jsonl:1 history: must be a list of pairs, got a number; write it as [[question, answer], …]", {"instruction": "a", "output": "b", "history": 5}),
    all_rows(44, "numbers", "t.jsonl:1 prompt: must be text, got a number; put it in quotes", {"prompt": 1, "completion": 2}),
    all_rows(45, "preference pairs", "t.jsonl:1: the rows are preference pairs (chosen, rejected), which this method does not learn from; use method=dpo or method=reward", {"prompt": "x", "chosen": "a", "rejected": "a"}),
    all_rows(45, "votes", "t.jsonl:1: the rows are votes (label), which this method does not learn from; use method=kto", {"prompt": "x", "completion": "a", "label": True}),
    row(49, "too long", ": 3,006 tokens, over data.max_length=2,048; set data.on_long=truncate or data.on_long=drop, or raise it where the model's context allows", chat(USER, ("assistant", LONG))),
    row(50, "answer beyond the cut", ": 3007 tokens, and all that is learned lies beyond data.max_length=2048; raise data.max_length, or set data.on_long=drop", chat(("user", LONG), ANSWER), "data.on_long=truncate"),
    Refused(50, "all dropped", "t.jsonl: every row of the split train (20) is over data.max_length and was dropped; raise data.max_length", (*GIVEN, "data.eval_share=0", "data.max_length=3", "data.on_long=drop"), {"t.jsonl": lines(GOOD)}),
    Refused(48, "trained on and held out", "e.jsonl:1: this held-out row is trained on too, at t.jsonl:4; delete it in one of them", (*GIVEN, "data.eval=e.jsonl"), {"t.jsonl": lines(GOOD), "e.jsonl": lines(GOOD[3:5])}),
    Refused(48, "the same file twice", "t.jsonl:1: this held-out row is trained on too, at t.jsonl:1; delete it", (*GIVEN, "data.eval=t.jsonl"), {"t.jsonl": lines(GOOD)}),
    Refused(57, "one row", "training.batch_size: 1 row in 1 epoch cannot fill one batch of 8 × 1 × 1 = 8 rows; use a smaller batch, more epochs or more rows", ("model=tiny", "data.train=t.jsonl", "training.epochs=1", "data.eval_share=0"), {"t.jsonl": lines(GOOD[:1])}, keeps=True),
    Refused(57, "a weight that leaves none", "data.weights: 0.001 leaves none of the 19 rows of source 1 in data.train; use a larger weight, or leave the source out", (*GIVEN, "data.weights=[0.001]"), {"t.jsonl": lines(GOOD)}),
    row(58, "NaN", " score: holds the literal NaN, which is not JSON; write null, or leave the field out", {**GOOD[1], "score": float("nan")}),
    row(58, "infinity deep inside", " meta.scores.1: holds the literal -Infinity, which is not JSON; write null", {**GOOD[1], "meta": {"scores": [1, float("-inf")]}}),
    Refused(58, "in a list", "t.json:2 score: holds the literal NaN, which is not JSON; write null", ("model=tiny", "data.train=t.json"), {"t.json": json.dumps([GOOD[0], {**GOOD[1], "score": float("nan")}])}),
    template("raises", f"model.chat_template: the chat template raises at line 2: no user; {OTHER}", "{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}"),
    template("drops the answer", "t.jsonl:1: turn 2: the chat template asks for the answer with '>', but then writes the answer after something else; give another template", "{% for m in messages %}{% if loop.first %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"),
    template("never stops", "t.jsonl:1: the answer in turn 2 does not end in a stop token; give another template with model.chat_template=FILE", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"),
    template("is not Jinja", "model.chat_template c.jinja:1: unexpected '}'; correct it", "{% for m in messages %}{{ m.content }"),
    template("asks for what is not there", f"model.chat_template: the chat template raises at line 1: 'str object' has no attribute 'foo'; {OTHER}", "{% for m in messages %}{{ m.content.foo.bar }}{% endfor %}"),
    template("reads a file", "model.chat_template: the chat template raises at line 1: no loader for this environment specified", "{% include '/etc/passwd' %}"),
    template("never ends", "model.chat_template: the chat template raises at line 1: Range too big.", "{% for a in range(10**9) %}x{% endfor %}"),
    template("eats memory", f"model.chat_template: the chat template needs more than 2048 MiB; {OTHER}", "{{ 'a' * 10**10 }}"),
    template("is empty", "model.chat_template: the tokenizer has none, and the rows are conversations; set model.chat_template=FILE", ""),
    Refused(59, "is missing", "model.chat_template c.jinja: no such file; give the path of a Jinja file", (*GIVEN, "model.chat_template=c.jinja"), {"t.jsonl": lines(GOOD)}),
    Refused(59, "is a folder", "model.chat_template .: is not a file; give the path of a Jinja file", (*GIVEN, "model.chat_template=."), {"t.jsonl": lines(GOOD)}),
    Refused(60, "11 MB", "t.jsonl:6: one line of 11,000,013 bytes, over the limit of 10,000,000; split the row, or find the line break", GIVEN, {"t.jsonl": lines([*GOOD[:5], {"text": "x" * 11_000_000}])}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_that_cannot_be_learned_from_is_refused(case: Refused, finetune: Run, tmp_path: Path) -> None:
    refuse(case, finetune, tmp_path)


def test_row_59_a_template_that_refuses_one_row_names_it(finetune: Run, tmp_path: Path, llama: Path) -> None:
    no_greeting = "{% if messages[0].content == 'hi' %}\n{{ raise_exception('no greeting') }}{% endif %}"
    arguments = (f"model.name={llama}", *GIVEN[1:], "model.chat_template=c.jinja")
    files = {"t.jsonl": second(chat(USER, ANSWER)), "c.jinja": no_greeting + CHAT_TEMPLATE}
    said = f"t.jsonl:2: the chat template raises at line 2: no greeting; {OTHER}"
    refuse(Refused(59, "", said, arguments, files), finetune, tmp_path)


def test_twenty_faults_are_shown_and_all_are_counted(finetune: Run, tmp_path: Path) -> None:
    case = Refused(37, "", "t.jsonl:20 messages: missing", GIVEN, {"t.jsonl": lines([GOOD[0], *[{"a": 1}] * 1000])})
    said = refuse(case, finetune, tmp_path).splitlines()
    assert len(said) == 21
    assert said[-1] == "error: 980 more of the same kind, 1000 in all"


def accepted(finetune: Run, *arguments: str) -> str:
    code, out, err = finetune("plan", *arguments)
    assert code == 0, err
    return out


def test_row_38_no_content_beside_tool_calls_is_sound(finetune: Run, tmp_path: Path) -> None:
    turns = called(CALL)["messages"]
    rest = [{"role": "tool", "content": "5", "tool_call_id": "1"}, {"role": "assistant", "content": "5 degrees"}]
    write_files(tmp_path, {"t.jsonl": second({"messages": [*turns, *rest]})})
    assert "19 chat rows" in accepted(finetune, *GIVEN)


def test_row_48_rows_given_twice_are_counted(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, *GOOD[:3]])})
    assert "warning: data.train: 3 of 23 rows repeat an earlier one word for word" in accepted(finetune, *GIVEN)


@pytest.mark.parametrize(
    ("on_long", "said"), [("truncate", "1 truncated, 0 dropped"), ("drop", "0 truncated, 1 dropped")]
)
def test_row_49_long_rows_are_cut_or_dropped_when_asked(on_long: str, said: str, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": second(chat(USER, ("assistant", LONG)))})
    assert said in accepted(finetune, *GIVEN, f"data.on_long={on_long}", "data.eval_share=0")


def test_row_60_a_line_within_the_limit_is_read(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, chat(USER, ("assistant", "ab " * 300_000))])})
    assert "1 truncated" in accepted(finetune, *GIVEN, "data.on_long=truncate", "data.eval_share=0")


SOUND: dict[str, Any] = {
    "emoji": lambda number: chat(("user", f"hi 👩‍👩‍👧‍👦 {number}"), ("assistant", "🇳🇴" * 3)),
    "line separators": lambda number: chat(("user", f"a\u2028b\x85c{number}"), ANSWER),
    "parts": lambda number: chat(("user", [{"type": "text", "text": f"a{number}"}]), ("assistant", [{"type": "text", "text": "b"}])),
    "sharegpt": lambda number: {"conversations": [{"from": "human", "value": f"a{number}"}, {"from": "gpt", "value": "b"}]},
    "alpaca without input": lambda number: {"instruction": f"a{number}", "input": None, "output": "b"},
    "unused columns": lambda number: {**chat(("user", f"a{number}"), ANSWER), "id": 10**300, "extra": {"a": [None]}},
    "the model's own tokens": lambda number: chat(("user", f"a{number} <|im_end|> <|endoftext|>"), ("assistant", "<|im_end|>\nb")),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_odd_but_sound_rows_are_taken(name: str, finetune: Run, tmp_path: Path) -> None:
    for escaped in (True, False):
        text = "".join(json.dumps(SOUND[name](number), ensure_ascii=escaped) + "\n" for number in range(20))
        write_files(tmp_path, {"t.jsonl": text})
        assert "20 chat rows" in accepted(finetune, *GIVEN, "data.eval_share=0")


def test_a_table_may_hold_conversations_as_json(finetune: Run, tmp_path: Path) -> None:
    cells = [json.dumps(row["messages"]).replace('"', '""') for row in GOOD]
    write_files(tmp_path, {"t.csv": "messages\n" + "".join(f'"{cell}"\n' for cell in cells)})
    assert "20 chat rows" in accepted(finetune, "model=tiny", "data.train=t.csv", "data.eval_share=0")
