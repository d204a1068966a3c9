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

Values = dict[str, Any]
Fill = Callable[[str], Values]


def turns(*said: Any) -> list[Values]:
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)]


def gemini(*said: str) -> list[Values]:
    return [{"role": ("user", "model")[place % 2], "parts": [{"text": one}]} for place, one in enumerate(said)]


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
]
# Columns that may be blank, so that only what stands in them is found.
MAY_BE_BLANK: list[tuple[str, str, Fill]] = [
    ("messages", "system", lambda x: {"system": x, "messages": turns("a", "b")}),
    ("contents", "systemInstruction", lambda x: {"systemInstruction": {"parts": [{"text": x}]}, "contents": gemini("a", "b")}),
    ("alpaca", "input", lambda x: {"instruction": "a", "input": x, "output": "b"}),
    ("dolly", "context", lambda x: {"instruction": "a", "context": x, "response": "b"}),
]  # fmt: skip


def fault(values: Values, columns: dict[str, str] | None = None) -> str:
    """The field that the first fault of a record names."""
    faults = FaultLog()
    assert Converter(RowsConfig(columns=columns or {}), ("chat", "text"), faults).row(Record("a", 1, values)) is None
    return faults.faults[0].where.removeprefix("a:1 ")


def test_every_layout_has_its_cases() -> None:
    assert {layout for layout, _, _ in PLACES} == set(LAYOUTS)


@pytest.mark.parametrize(("layout", "column", "fill"), PLACES)
def test_a_fault_names_the_column_that_it_lies_in(layout: str, column: str, fill: Fill) -> None:
    assert fault(fill(" ")) == column


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
