"""A row on its way through the steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.data import formats
from finetune.data.check import check
from finetune.data.formats import BadRow
from finetune.data.read import Record
from finetune.data.records import plain
from finetune.data.rows import (
    Chat,
    Message,
    Row,
    Task,
    Text,
    Vote,
    answer,
    chats,
    every_turn,
    from_json,
    to_json,
    with_chats,
)

Edit = Callable[[str], str]


@dataclass(slots=True)
class Item:
    """A record, and the row that it is by now."""

    record: Record
    layout: str
    values: Mapping[str, Any]  # under our names of the columns
    row: Row | None = None  # none while the values are none
    fault: str = ""  # why not
    changes: int = 0  # how many steps changed it

    def convert(self, values: Mapping[str, Any]) -> None:
        """Make the row anew from values."""
        self.values = values
        try:
            self.row, self.fault = formats.convert(self.layout, values), ""
        except BadRow as bad:
            other = formats.mixed_in(self.layout, values)
            mixed = f"the row is {other}, and the file is {self.layout}" if other else ""
            self.row, self.fault = None, mixed or f"{bad.field}: {bad.what}"

    def refused(self) -> str:
        """Why `train` would refuse the row, with the column; nothing when it would not."""
        if self.row is None:
            return self.fault
        for turn, what, _, _ in check(self.row):
            return f"{formats.column(self.layout, self.values, self.row, turn)}: {what}"
        return ""

    def change(self, row: Row) -> None:
        """Give the item another row, if it is another."""
        if row != self.row:
            self.row = row
            self.changes += 1

    def pack(self) -> str:
        """The item as a line of JSON, for keeping it on the disk meanwhile."""
        row = None if self.row is None else to_json(self.row)
        record = self.record
        values = None if row else plain(self.values, record.where)
        parts = [record.file, record.row, plain(record.values, record.where), self.layout, row, self.fault]
        return json.dumps([*parts, self.changes, values], ensure_ascii=False)


def unpack(text: str) -> Item:
    """The item that `pack` wrote."""
    file, number, record, layout, row, fault, changes, values = json.loads(text)
    record = Record(file, number, record)
    return Item(record, layout, values or record.values, from_json(row) if row else None, fault, changes)


def edited(row: Row, edit: Edit) -> Row:
    """The row with every text edited: contents, reasoning, and the texts in the arguments of calls."""
    if isinstance(row, Text):
        return Text(edit(row.text))
    if isinstance(row, Task):
        row = replace(row, columns={name: edited_value(value, edit) for name, value in row.columns.items()})
    return with_chats(row, [_edited_chat(chat, edit) for chat in chats(row)])


def _edited_chat(chat: Chat, edit: Edit) -> Chat:
    return replace(chat, messages=tuple(_edited_message(message, edit) for message in chat.messages))


def _edited_message(message: Message, edit: Edit) -> Message:
    found = {**message, "content": edit(message["content"])}
    if "reasoning_content" in message:
        found["reasoning_content"] = edit(message["reasoning_content"])
    if "tool_calls" in message:
        found["tool_calls"] = [_edited_call(call, edit) for call in message["tool_calls"]]
    return found


def _edited_call(call: dict[str, Any], edit: Edit) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": edited_value(function["arguments"], edit)}}


def edited_value(value: Any, edit: Edit) -> Any:
    """A value of JSON with every text in it edited, but no key."""
    if isinstance(value, str):
        return edit(value)
    if isinstance(value, list):
        return [edited_value(item, edit) for item in value]
    if isinstance(value, dict):
        return {key: edited_value(item, edit) for key, item in value.items()}
    return value


def said(row: Row) -> list[str]:
    """Every text of a row."""
    if isinstance(row, Text):
        return [row.text]
    found = []
    for message in every_turn(row):
        found += [message[part] for part in ("reasoning_content", "content") if message.get(part)]
    return found


def answers(row: Row) -> list[str]:
    """What the assistant says, in a pair on both sides; for plain text the text."""
    if isinstance(row, Text):
        return [row.text]
    return [message["content"] for message in every_turn(row) if message["role"] == "assistant" and message["content"]]


def answered(row: Row) -> str:
    """What is answered in the end, with the calls that are made; nothing for plain text."""
    if isinstance(row, (Text, Task)):
        return answer(row) if isinstance(row, Task) else ""
    given = "\n".join(_given(chat.messages[-1]) for chat in chats(row))
    return f"{given}\n{row.label}" if isinstance(row, Vote) else given


def _given(message: Message) -> str:
    calls = message.get("tool_calls")
    return f"{message['content']}\n{json.dumps(calls, sort_keys=True)}" if calls else str(message["content"])


def frame(row: Row) -> str:
    """What a row has besides what is asked and answered: the system's words and the tools."""
    for chat in chats(row):
        system = [" ".join(message["content"].split()) for message in chat.messages if message["role"] == "system"]
        return json.dumps([system, chat.tools], sort_keys=True) if system or chat.tools else ""
    return ""
