"""Every fault and every finding names the column of the file that it lies in, in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import write_rows

from finetune.config import RowsConfig
from finetune.data.convert import Converter
from finetune.data.examine.command import check
from finetune.data.examine.settings import CheckSettings
from finetune.data.faults import FaultLog
from finetune.data.formats import LAYOUTS
from finetune.data.read import Record
from finetune.data.rows import SHAPES

Values = dict[str, Any]
Fill = Callable[[str], Values]


def turns(*said: Any) -> list[Values]:
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)]


def gemini(*said: str) -> list[Values]:
    return [{"role": ("user", "model")[place % 2], "parts": [{"text": one}]} for place, one in enumerate(said)]


def openai(asked: str, better: str, worse: str) -> Values:
    outputs = {"preferred_output": turns("", better)[1:], "non_preferred_output": turns("", worse)[1:]}
    return {"input": {"messages": turns(asked)}, **outputs}


# What a file holds when something stands in one of its columns, and that column.
PLACES: list[tuple[str, str, Fill]] = [
    ("messages", "messages", lambda x: {"messages": turns(x, "b")}),
    ("messages", "messages", lambda x: {"messages": turns("a", x)}),
    ("messages", "messages", lambda x: {"messages": [{"role": "system", "content": x}, *turns("a", "b")]}),
    ("messages", "messages", lambda x: {"system": "s", "messages": turns(x, "b")}),
    ("sharegpt", "conversations", lambda x: {"system": "s", "conversations": [x, "b"]}),
    ("contents", "contents", lambda x: {"contents": gemini(x, "b")}),
    ("alpaca", "instruction", lambda x: {"instruction": x, "output": "b"}),
    ("alpaca", "output", lambda x: {"system": "s", "instruction": "a", "output": x}),
    ("alpaca", "history", lambda x: {"instruction": "a", "output": "b", "history": [["c", x]], "system": "s"}),
    ("alpaca", "system", lambda x: {"instruction": "a", "output": "b", "system": x}),
    ("dolly", "instruction", lambda x: {"instruction": x, "context": "", "response": "b"}),
    ("dolly", "response", lambda x: {"instruction": "a", "context": "c", "response": x}),
    ("openorca", "system_prompt", lambda x: {"system_prompt": x, "question": "a", "response": "b"}),
    ("openorca", "question", lambda x: {"system_prompt": "s", "question": x, "response": "b"}),
    ("openorca", "response", lambda x: {"system_prompt": "s", "question": "a", "response": x}),
    ("prompt_completion", "prompt", lambda x: {"prompt": x, "completion": "b"}),
    ("prompt_completion", "completion", lambda x: {"prompt": "a", "completion": x}),
    ("prompt_completion", "prompt", lambda x: {"prompt": turns("a", "b", x), "completion": "d"}),
    ("prompt_completion", "completion", lambda x: {"prompt": turns("a"), "completion": turns("q", x, "r", "d")[1:]}),
    ("prompt_completion", "completion", lambda x: {"prompt": "a", "completion": turns("q", x, "r", "d")[1:]}),
    ("prompt_response", "prompt", lambda x: {"prompt": x, "response": "b"}),
    ("query_response", "query", lambda x: {"query": x, "response": "b"}),
    ("question_answer", "question", lambda x: {"question": x, "answer": "b"}),
    ("problem_solution", "problem", lambda x: {"problem": x, "solution": "b"}),
    ("input_output", "input", lambda x: {"input": x, "output": "b"}),
    ("text", "text", lambda x: {"text": x}),
    ("prompt_chosen_rejected", "prompt", lambda x: {"prompt": x, "chosen": "b", "rejected": "c"}),
    ("prompt_chosen_rejected", "chosen", lambda x: {"system": "s", "prompt": "a", "chosen": x, "rejected": "c"}),
    ("prompt_chosen_rejected", "rejected", lambda x: {"prompt": "a", "chosen": "b", "rejected": x}),
    ("question_chosen_rejected", "question", lambda x: {"question": x, "chosen": "b", "rejected": "c"}),
    ("instruction_chosen_rejected", "instruction", lambda x: {"instruction": x, "chosen": "b", "rejected": "c"}),
    ("messages_chosen_rejected", "messages", lambda x: {"messages": turns(x), "chosen": "b", "rejected": "c"}),
    ("conversations_chosen_rejected", "rejected", lambda x: {"conversations": turns("a"), "chosen": "b", "rejected": x}),
    ("chosen_rejected", "chosen", lambda x: {"chosen": turns(x, "b"), "rejected": turns(x, "c")}),
    ("chosen_rejected", "rejected", lambda x: {"chosen": turns("a", "b"), "rejected": turns("a", x)}),
    ("preferred_output", "input", lambda x: openai(x, "b", "c")),
    ("preferred_output", "non_preferred_output", lambda x: openai("a", "b", x)),
    ("response_j_k", "response_k", lambda x: {"question": "a", "response_j": "b", "response_k": x}),
    ("response_a_b", "response_a", lambda x: {"prompt": "a", "response_a": x, "response_b": "c", "winner": "b"}),
    ("response_0_1", "response_1", lambda x: {"prompt": "a", "response_0": "b", "response_1": x, "better_response_id": 0}),
    ("conversation_a_b", "conversation_b", lambda x: {"conversation_a": turns("a", "b"), "conversation_b": turns("a", x), "winner": "a"}),
    ("prompt_completions", "completions", lambda x: {"prompt": "a", "completions": ["b", x]}),
    ("prompt_responses", "prompt", lambda x: {"prompt": x, "responses": ["b", "c"]}),
    ("instruction_completions", "completions", lambda x: {"instruction": "a", "completions": [{"text": x, "score": 1}, {"text": "b", "score": 0}]}),
    ("prompt_completion_label", "prompt", lambda x: {"prompt": x, "completion": "b", "label": True}),
    ("prompt_completion_label", "completion", lambda x: {"prompt": "a", "completion": x, "label": False}),
    ("prompt_response_label", "response", lambda x: {"prompt": "a", "response": x, "label": "up"}),
    ("messages_label", "messages", lambda x: {"messages": turns("a", x), "label": True}),
    ("messages_rating", "messages", lambda x: {"messages": turns(x, "b"), "rating": "down"}),
    ("messages_feedback", "messages", lambda x: {"messages": turns("a", x), "feedback": "up"}),
    ("prompt", "prompt", lambda x: {"prompt": x, "reference": "b"}),
    ("problem", "problem", lambda x: {"problem": x, "target": "b"}),
    ("question", "question", lambda x: {"question": x, "ground_truth": "b"}),
]  # fmt: skip
ASKED: list[tuple[str, str, Fill]] = [("asked_messages", "messages", lambda x: {"messages": turns(x), "answer": "b"})]
# Columns that may be blank, so that only what stands in them is found.
MAY_BE_BLANK: list[tuple[str, str, Fill]] = [
    ("messages", "system", lambda x: {"system": x, "messages": turns("a", "b")}),
    ("contents", "systemInstruction", lambda x: {"systemInstruction": {"parts": [{"text": x}]}, "contents": gemini("a", "b")}),
    ("alpaca", "input", lambda x: {"instruction": "a", "input": x, "output": "b"}),
    ("dolly", "context", lambda x: {"instruction": "a", "context": x, "response": "b"}),
]  # fmt: skip


def fault(values: Values, columns: dict[str, str] | None = None, shapes: tuple[str, ...] = SHAPES) -> str:
    """The field that the first fault of a record names."""
    faults = FaultLog()
    assert Converter(RowsConfig(columns=columns or {}), shapes, faults).row(Record("a", 1, values)) is None
    return faults.faults[0].where.removeprefix("a:1 ")


def test_every_layout_has_its_cases() -> None:
    assert {layout for layout, _, _ in (*PLACES, *ASKED)} == set(LAYOUTS)


@pytest.mark.parametrize(("layout", "column", "fill"), PLACES)
def test_a_fault_names_the_column_that_it_lies_in(layout: str, column: str, fill: Fill) -> None:
    assert fault(fill(" ")) == column


def test_a_fault_names_the_column_of_a_task_that_only_tasks_have() -> None:
    ((_, column, fill),) = ASKED
    assert fault(fill(" "), shapes=("task",)) == column


@pytest.mark.parametrize(("layout", "column", "fill"), [*PLACES, *MAY_BE_BLANK])
def test_a_finding_names_the_column_that_it_lies_in(tmp_path: Path, layout: str, column: str, fill: Fill) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [fill("hid\u200bden")])
    (found,) = [one for one in check([str(path)], CheckSettings()).problems if one.code == "invisible-character"]
    assert [sample.field for sample in found.samples] == [column]


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"messages": turns("a", "b"), "system": 7}, "system"),
        ({"messages": turns("a", "b"), "functions": 7}, "functions"),
        ({"contents": gemini("a", "b"), "system_instruction": 7}, "system_instruction"),
        ({"contents": gemini("a", "b"), "systemInstruction": {"parts": [{"image": ""}]}}, "systemInstruction"),
        ({"messages": []}, "messages"),
        ({"prompt": turns("a"), "completion": []}, "completion"),
    ],
)
def test_what_stands_beside_the_turns_is_named_by_its_own_column(values: Values, column: str) -> None:
    assert fault(values) == column


@pytest.mark.parametrize(("values", "column"), [({"frage": " ", "a": "b"}, "frage"), ({"frage": "a", "a": 7}, "a")])
def test_a_renamed_column_is_named_as_the_file_has_it(values: Values, column: str) -> None:
    assert fault(values, {"prompt": "frage", "completion": "a"}) == column


def test_a_call_is_found_in_the_column_of_its_turn(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    tool = {"role": "tool", "content": "c"}
    asked = {"prompt": [*turns("a"), call, tool], "completion": "b"}
    answered = {"prompt": "a", "completion": [call, tool, *turns("q", "b")[1:]]}
    for values, column in ((asked, "prompt"), (answered, "completion")):
        path = write_rows(tmp_path / "rows.jsonl", [values])
        (found,) = [one for one in check([str(path)], CheckSettings()).problems if one.code == "tool-undeclared"]
        assert found.samples[0].field == column
