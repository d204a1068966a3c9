"""Datasets in the layouts of others, written to their public descriptions, load without configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune.data.encode import MASKED, Encoded, Encoder
from finetune.data.formats import LAYOUTS, BadRow, convert, detect
from finetune.data.prepare import PreparedData, open_rows, read_rows
from finetune.data.rows import LEARNED, Chat, unrolled
from finetune.errors import UserError

Run = Callable[..., PreparedData]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


def call(**more: Any) -> dict[str, Any]:
    """A call of the tool."""
    return {**more, "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


ASK, SAY, RAINS = say("user", "Is it raining in Oslo?"), say("assistant", "Yes."), '{"rain": true}'
QA = Chat((ASK, SAY))
TERSE = say("system", "Be terse.")
TOLD = Chat((TERSE, ASK, SAY))
CALLED = (ASK, say("assistant", "", tool_calls=[call()]), say("tool", RAINS, name="weather"), SAY)
NUMBERED = (ASK, say("assistant", "", tool_calls=[call(id="c1")]), say("tool", RAINS, tool_call_id="c1"), SAY)
FUNCTION = {"name": "weather", "description": "Weather.", "parameters": SCHEMA}
AS_TEXT = {"name": "weather", "arguments": '{"city": "Oslo"}'}
SECOND = (say("user", "And in Bergen?"), say("assistant", "Always."))


def asks(text: str) -> Chat:
    """A question that is answered as above."""
    return Chat((say("user", text), SAY))


FOREIGN: dict[str, tuple[dict[str, Any], Chat]] = {
    "openai": ({"messages": [TERSE, ASK, SAY]}, TOLD),
    "openai, weights": (
        {"messages": [ASK, {**SAY, "weight": 0}, SECOND[0], {**SECOND[1], "weight": 1}]},
        Chat((ASK, SAY, *SECOND), unlearned=(1,)),
    ),
    "openai, tools": (
        {
            "messages": [
                ASK,
                {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": AS_TEXT}]},
                {"role": "tool", "tool_call_id": "c1", "content": RAINS},
                SAY,
            ],
            "parallel_tool_calls": False,
            "tools": [TOOL],
        },
        Chat(NUMBERED, (TOOL,)),
    ),
    "openai, functions": (
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": None, "function_call": AS_TEXT},
                {"role": "function", "name": "weather", "content": RAINS},
                SAY,
            ],
            "functions": [FUNCTION],
        },
        Chat(CALLED, (TOOL,)),
    ),
    "together, messages": ({"messages": [TERSE, ASK, {**SAY, "weight": 1}]}, TOLD),
    "together, prompt and completion": (
        {"prompt": ASK["content"], "completion": "Yes."},
        Chat((ASK, SAY), plain=True),
    ),
    "fireworks": (
        {"messages": [ASK, {**SAY, "weight": 0, "reasoning_content": None}, *SECOND], "tools": None},
        Chat((ASK, SAY, *SECOND), unlearned=(1,)),
    ),
    "mistral": (
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": AS_TEXT}]},
                {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": RAINS},
                {**SAY, "prefix": False},
            ],
            "tools": [TOOL],
        },
        Chat((*NUMBERED[:2], say("tool", RAINS, name="weather", tool_call_id="c1"), SAY), (TOOL,)),
    ),
    "bedrock": (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "Be terse."}],
            "messages": [
                {"role": "user", "content": [{"text": "Is it raining in Oslo?"}]},
                {"role": "assistant", "content": [{"text": "Yes."}]},
            ],
        },
        TOLD,
    ),
    "anthropic": (
        {
            "system": "Be terse.",
            "tools": [{"name": "weather", "description": "Weather.", "input_schema": SCHEMA}],
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": RAINS}]},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "It is."}, {"type": "text", "text": "Yes."}],
                },
            ],
        },
        Chat((TERSE, *NUMBERED[:3], say("assistant", "Yes.", reasoning_content="It is.")), (TOOL,)),
    ),
    "vertex": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be terse."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Is it raining "}, {"text": "in Oslo?"}]},
                {"role": "model", "parts": [{"text": "Yes."}]},
            ],
        },
        TOLD,
    ),
    "gemini, functions": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "Is it raining in Oslo?"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Oslo"}}}]},
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": "weather", "response": {"rain": True}}}],
                },
                {"role": "model", "parts": [{"text": "Yes."}]},
            ],
            "tools": [{"functionDeclarations": [FUNCTION]}],
        },
        Chat(CALLED, (TOOL,)),
    ),
    "dolly": (
        {
            "instruction": "Is it raining?",
            "context": "It rains in Oslo.",
            "response": "Yes.",
            "category": "closed_qa",
        },
        asks("Is it raining?\nIt rains in Oslo."),
    ),
    "dolly without context": (
        {"instruction": ASK["content"], "context": "", "response": "Yes.", "category": "open_qa"},
        QA,
    ),
    "llama-factory, alpaca with history": (
        {
            "instruction": "And in Bergen?",
            "input": "",
            "output": "Always.",
            "system": "Be terse.",
            "history": [[ASK["content"], "Yes."]],
        },
        Chat((TERSE, ASK, SAY, *SECOND)),
    ),
    "llama-factory, sharegpt with tools": (
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"from": "observation", "value": RAINS},
                {"from": "gpt", "value": "Yes."},
            ],
            "tools": '[{"name": "weather", "description": "Weather.", "parameters": '
            '{"type": "object", "properties": {"city": {"type": "string"}}}}]',
        },
        Chat((ASK, CALLED[1], say("tool", RAINS), SAY), (TOOL,)),
    ),
    "lima": ({"conversations": [ASK["content"], "Yes."], "source": "stackexchange"}, QA),
    "openorca": (
        {"id": "niv.1", "system_prompt": "Be terse.", "question": ASK["content"], "response": "Yes."},
        TOLD,
    ),
    "openorca without a system prompt": (
        {"id": "niv.1", "system_prompt": "", "question": ASK["content"], "response": "Yes."},
        QA,
    ),
    "gsm8k": ({"question": ASK["content"], "answer": "Yes."}, QA),
    "metamath": (
        {"query": ASK["content"], "response": "Yes.", "type": "GSM_AnsAug", "original_question": "Rain?"},
        QA,
    ),
    "open-r1": ({"problem": ASK["content"], "solution": "Yes.", "answer": "yes"}, QA),
    "prompt and response": ({"prompt": ASK["content"], "response": "Yes."}, QA),
    "input and output": ({"input": ASK["content"], "output": "Yes."}, QA),
    "axolotl, train": (
        {"messages": [ASK, {**SAY, "train": False}, SECOND[0], {**SECOND[1], "train": True}]},
        Chat((ASK, SAY, *SECOND), unlearned=(1,)),
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_dataset_loads_without_configuration(
    name: str, write_rows: Callable[..., str], run_prepare: Run, family: Callable[[str], Any]
) -> None:
    record, row = FOREIGN[name]
    prepared = run_prepare(write_rows([record]), tokenizer=family("qwen3"), eval_share=0, max_length=4096)
    kept = list(read_rows(prepared.train))
    assert kept in ([row], unrolled(row))
    assert prepared.train.supervised_tokens > 0


def test_every_layout_has_a_dataset_here() -> None:
    learned = {name for name, layout in LAYOUTS.items() if layout.shape in LEARNED}
    assert {*(detect(record) for record, _ in FOREIGN.values()), "text"} == learned


# A record that fits several layouts is what comes first in the order of the documentation.
BOTH = {
    "messages": {"messages": [ASK, SAY], "prompt": "x", "completion": "y", "conversations": ["x", "y"]},
    "sharegpt": {"conversations": ["x", "y"], "question": "x", "answer": "y"},
    "alpaca": {"instruction": "x", "input": "z", "output": "y", "text": "x z y"},
    "openorca": {"system_prompt": "s", "question": "x", "response": "y", "answer": "z"},
    "problem_solution": {"problem": "x", "solution": "y", "answer": "z", "text": "t"},
    "prompt_completion": {"prompt": "x", "completion": "y", "response": "z"},
}


@pytest.mark.parametrize("name", BOTH)
def test_a_record_that_fits_two_layouts_is_the_first_of_them(name: str) -> None:
    assert detect(BOTH[name]) == name


@pytest.mark.parametrize("more", ["documents", "choices", "options"])
def test_questions_of_another_kind_are_no_question_and_answer(more: str) -> None:
    assert detect({"question": "x", "answer": "y", more: []}) is None


def test_messages_of_a_tree_are_refused(write_rows: Callable[..., str], run_prepare: Run) -> None:
    rows = [{"message_id": "1", "parent_id": None, "role": "prompter", "text": "Hello"}]
    with pytest.raises(UserError, match="single messages of a tree of conversations"):
        run_prepare(write_rows(rows))


@pytest.mark.parametrize(
    ("layout", "record", "said"),
    [
        ("messages", {"messages": [ASK, {**SAY, "weight": 0.5}]}, "turn 2 weight must be 0 or 1, got 0.5"),
        ("messages", {"messages": [ASK, {**SAY, "train": "no"}]}, "turn 2 train must be False or True, got 'no'"),
        ("messages", {"messages": [ASK, {**SAY, "weight": 0}]}, "every answer has the weight 0"),
        ("contents", {"contents": "x"}, "must be a list, got text"),
        ("contents", {"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]}, "a list with an object"),
        ("contents", {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "systemInstruction": 5}, "a number"),
        ("messages", {"messages": [ASK, SAY], "system": 5}, "must be text, got a number"),
    ],
)
def test_what_does_not_fit_is_told(layout: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow) as caught:
        convert(layout, record)
    assert said in caught.value.what


def test_an_answer_of_weight_nothing_is_read_and_not_learned(family: Callable[[str], Any]) -> None:
    tokenizer = family("smollm2")
    record = {"messages": [ASK, {**SAY, "weight": 0}, *SECOND]}
    row, whole = convert("messages", record), Chat((ASK, SAY, *SECOND))
    one, other = Encoder(tokenizer).encode([row, whole])
    assert isinstance(one, Encoded) and isinstance(other, Encoded)
    assert one.input_ids == other.input_ids
    learned = tokenizer.decode([token for token in one.labels if token != MASKED])
    assert learned == "Always.<|im_end|>" and "Yes." in tokenizer.decode([t for t in other.labels if t != MASKED])


def test_a_conversation_ends_with_its_last_answer_that_is_learned() -> None:
    row = convert("messages", {"messages": [ASK, SAY, SECOND[0], {**SECOND[1], "weight": 0}]})
    assert row == QA


def test_weights_hold_for_completions_too(write_rows: Callable[..., str], run_prepare: Run) -> None:
    record = {"prompt": [ASK, {**SAY, "weight": 0}, SECOND[0]], "completion": [SECOND[1]]}
    prepared = run_prepare(write_rows([record]), eval_share=0)
    (kept,) = read_rows(prepared.train)
    assert kept == Chat((ASK, SAY, *SECOND), unlearned=(1,))
    labels = open_rows(prepared.train)[0]["labels"]
    assert sum(label != MASKED for label in labels) == prepared.train.supervised_tokens
