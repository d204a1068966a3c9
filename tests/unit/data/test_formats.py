"""Every layout, in every kind of file, becomes the same canonical rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.formats import convert, detect
from finetune.data.prepare import PreparedData, read_rows
from finetune.data.rows import Chat, Row, Text, from_json, to_json

Run = Callable[..., PreparedData]

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A canonical message."""
    return {"role": role, "content": content, **more}


ASK, SAY = say("user", "Norway?"), say("assistant", "Oslo")

RECORDS: dict[str, tuple[str, dict[str, Any], Row]] = {
    "openai": ("messages", {"messages": [ASK, SAY]}, Chat((ASK, SAY))),
    "text parts": (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Nor"}, {"type": "text", "text": "way?"}],
                },
                SAY,
            ]
        },
        Chat((ASK, SAY)),
    ),
    "developer": (
        "messages",
        {"messages": [{"role": "developer", "content": "Be terse."}, ASK, SAY]},
        Chat((say("system", "Be terse."), ASK, SAY)),
    ),
    "tool calls": (
        "messages",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "7"},
                SAY,
            ],
            "tools": [{"name": "weather", "parameters": {"type": "object"}}],
        },
        Chat(
            (
                ASK,
                say("assistant", "", tool_calls=[{"id": "c1", **CALL}]),
                say("tool", "7", name="weather", tool_call_id="c1"),
                SAY,
            ),
            (TOOL,),
        ),
    ),
    "function_call": (
        "messages",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                },
                {"role": "function", "name": "weather", "content": "7"},
                SAY,
            ]
        },
        Chat((ASK, say("assistant", "", tool_calls=[CALL]), say("tool", "7", name="weather"), SAY)),
    ),
    "reasoning": (
        "messages",
        {"messages": [ASK, {**SAY, "thinking": "hm"}]},
        Chat((ASK, say("assistant", "Oslo", reasoning_content="hm"))),
    ),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": "Norway?"}, {"from": "gpt", "value": "Oslo"}],
            "system": "Be terse.",
        },
        Chat((say("system", "Be terse."), ASK, SAY)),
    ),
    "sharegpt tools": (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "Norway?"},
                {"from": "gpt", "value": "Let me see."},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "Oslo"},
            ],
            "tools": '[{"name": "weather", "parameters": {"type": "object"}}]',
        },
        Chat((ASK, say("assistant", "Let me see.", tool_calls=[CALL]), say("tool", "7"), SAY), (TOOL,)),
    ),
    "conversations with roles": ("sharegpt", {"conversations": [ASK, SAY]}, Chat((ASK, SAY))),
    "alpaca": (
        "alpaca",
        {
            "instruction": "Name the capital.",
            "input": "Norway?",
            "output": "Oslo",
            "system": "Be terse.",
            "history": [["Hi", "Hello."]],
        },
        Chat(
            (
                say("system", "Be terse."),
                say("user", "Hi"),
                say("assistant", "Hello."),
                say("user", "Name the capital.\nNorway?"),
                SAY,
            )
        ),
    ),
    "alpaca without input": (
        "alpaca",
        {"instruction": "Norway?", "input": "", "output": "Oslo"},
        Chat((ASK, SAY)),
    ),
    "prompt and completion": (
        "prompt_completion",
        {"prompt": "Norway?", "completion": "Oslo"},
        Chat((ASK, SAY), plain=True),
    ),
    "weights": (
        "messages",
        {"messages": [ASK, {**SAY, "weight": 0}, ASK, {**SAY, "weight": 1}]},
        Chat((ASK, SAY, ASK, SAY), unlearned=(1,)),
    ),
    "weights of all": ("messages", {"messages": [ASK, {**SAY, "weight": 1}]}, Chat((ASK, SAY))),
    "prompt with answers": (
        "prompt_completion",
        {"prompt": [ASK, SAY, ASK], "completion": [SAY]},
        Chat((ASK, SAY, ASK, SAY), unlearned=(1,)),
    ),
    "prompt messages": ("prompt_completion", {"prompt": [ASK], "completion": [SAY]}, Chat((ASK, SAY))),
    "prompt messages, text completion": (
        "prompt_completion",
        {"prompt": [ASK], "completion": "Oslo"},
        Chat((ASK, SAY)),
    ),
    "text": ("text", {"text": "Oslo"}, Text("Oslo")),
}


@pytest.mark.parametrize("name", RECORDS)
def test_layout_is_found_and_converted(name: str) -> None:
    layout, record, row = RECORDS[name]
    assert detect(record) == layout
    assert convert(layout, record) == row


@pytest.mark.parametrize("name", RECORDS)
def test_canonical_json_gives_the_row_back(name: str) -> None:
    _, _, row = RECORDS[name]
    assert from_json(to_json(row)) == row
    assert to_json(from_json(to_json(row))) == to_json(row)


def only_row(prepared: PreparedData) -> Row:
    """The single row of a prepared split."""
    (row,) = read_rows(prepared.train)
    return row


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", b'{"prompt": "Norway?", "completion": "Oslo"}\n'),
        ("t.jsonl", b'\xef\xbb\xbf{"prompt": "Norway?", "completion": "Oslo"}\r\n\r\n'),
        ("t.jsonl", b'{"prompt": "Norway?", "completion": "Oslo"}'),
        ("t.ndjson", b'{"prompt": "Norway?", "completion": "Oslo"}\n'),
        ("t.jsonl", b'[{"prompt": "Norway?", "completion": "Oslo"}]'),
        ("t.json", b'\xef\xbb\xbf [\n {"prompt": "Norway?",\n "completion": "Oslo"}\n]\n'),
        ("t.json", b'{"prompt": "Norway?", "completion": "Oslo"}\n'),
        ("T.JSON", b'{\n"prompt": "Norway?", "completion": "Oslo"}\n'),
        ("t.csv", b"prompt,completion\nNorway?,Oslo\n"),
        ("t.csv", b'\xef\xbb\xbf"prompt","completion"\r\n"Norway?","Oslo"\r\n\r\n'),
        ("t.tsv", b"prompt\tcompletion\nNorway?\tOslo\n"),
    ],
)
def test_kinds_of_files(name: str, content: bytes, tmp_path: Path, run_prepare: Run) -> None:
    (tmp_path / name).write_bytes(content)
    assert only_row(run_prepare(str(tmp_path / name), eval_share=0)) == Chat((ASK, SAY), plain=True)


def test_json_lines_under_a_json_name_are_read_as_lines(tmp_path: Path, run_prepare: Run) -> None:
    (tmp_path / "t.json").write_bytes(b'{"text": "Oslo"}\n{"text": "Paris"}\n')
    assert list(read_rows(run_prepare(str(tmp_path / "t.json"), eval_share=0).train)) == [
        Text("Oslo"),
        Text("Paris"),
    ]


def test_conversations_in_csv_and_parquet(tmp_path: Path, run_prepare: Run) -> None:
    cell = json.dumps([ASK, SAY]).replace('"', '""')
    (tmp_path / "t.csv").write_text(f'messages\n"{cell}"\n')
    pq.write_table(pa.table({"messages": [[ASK, SAY]], "image": [b"x"]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert only_row(run_prepare(str(tmp_path / name), eval_share=0)) == Chat((ASK, SAY))


def test_parquet_gives_null_where_a_message_has_no_such_part(
    tmp_path: Path, run_prepare: Run, family: Callable[[str], Any]
) -> None:
    record = RECORDS["tool calls"][1]
    pq.write_table(pa.Table.from_pylist([record, {"messages": [ASK, SAY]}]), tmp_path / "t.parquet")
    prepared = run_prepare(str(tmp_path / "t.parquet"), eval_share=0, tokenizer=family("llama3"))
    assert list(read_rows(prepared.train)) == [RECORDS["tool calls"][2], Chat((ASK, SAY))]


def test_columns_with_other_names(write_rows: Callable[..., str], run_prepare: Run) -> None:
    path = write_rows([{"question": "Norway?", "answer": "Oslo", "id": 7}])
    prepared = run_prepare(path, eval_share=0, columns={"prompt": "question", "completion": "answer"})
    assert only_row(prepared) == Chat((ASK, SAY), plain=True)


def test_columns_may_trade_their_names(write_rows: Callable[..., str], run_prepare: Run) -> None:
    path = write_rows([{"completion": "Norway?", "prompt": "Oslo"}])
    prepared = run_prepare(path, eval_share=0, columns={"prompt": "completion", "completion": "prompt"})
    assert only_row(prepared) == Chat((ASK, SAY), plain=True)


def test_folder_pattern_and_home(
    tmp_path: Path, write_rows: Callable[..., str], run_prepare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "README.md"):
        (folder / name).write_text(json.dumps({"text": f"of {name}"}) + "\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = [Text("of a.jsonl"), Text("of b.jsonl")]
    for given in (str(folder), str(folder / "*.jsonl"), "~/rows", "~/rows/?.jsonl"):
        assert list(read_rows(run_prepare(given, eval_share=0).train)) == expected


def test_several_files_may_have_several_layouts(write_rows: Callable[..., str], run_prepare: Run) -> None:
    paths = [write_rows([{"text": "Oslo"}], "a.jsonl"), write_rows([{"messages": [ASK, SAY]}], "b.jsonl")]
    prepared = run_prepare(paths, eval_share=0)
    assert list(read_rows(prepared.train)) == [Text("Oslo"), Chat((ASK, SAY))]
    assert prepared.shape == "chat"


def test_odd_names_of_files(tmp_path: Path, run_prepare: Run) -> None:
    for name in ("x(1).jsonl", "a=b.jsonl", "a,b.jsonl", "[1].jsonl", "å ä.jsonl"):
        (tmp_path / name).write_text('{"text": "Oslo"}\n')
        assert only_row(run_prepare(str(tmp_path / name), eval_share=0)) == Text("Oslo")


def test_limit_takes_the_first_rows_of_each_source(write_rows: Callable[..., str], run_prepare: Run) -> None:
    paths = [write_rows([{"text": f"{name}{i}"} for i in range(5)], f"{name}.jsonl") for name in "ab"]
    prepared = run_prepare(paths, eval_share=0, limit=2)
    assert list(read_rows(prepared.train)) == [Text("a0"), Text("a1"), Text("b0"), Text("b1")]
