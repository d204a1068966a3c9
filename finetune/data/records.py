"""Rows written back to files: records as they were, or in the layout of their shape."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping
from typing import Any

from finetune.data import formats
from finetune.data.faults import kind_of
from finetune.data.rows import Chat, Message, Pair, Row, Task, Text, Vote, chats, is_plain, shared
from finetune.errors import UserError

# Layouts that a changed row keeps.
OWN_LAYOUT = ("messages", "text", "prompt_completion", "prompt_chosen_rejected", "prompt_completion_label", "prompt")


def rewritten(values: Mapping[str, Any], layout: str, columns: Mapping[str, str], row: Row) -> dict[str, Any]:
    """A record whose row is written in the layout of its shape; its other columns stay."""
    if isinstance(row, Task):
        return _own(row)
    shape = formats.LAYOUTS[layout]
    used = {columns.get(name, name) for name in (*shape.needs, *shape.may)}
    return {**_own(row), **{name: value for name, value in values.items() if name not in used}}


def _own(row: Row) -> dict[str, Any]:
    if isinstance(row, Text):
        return {"text": row.text}
    first = chats(row)[0]
    tools = {"tools": list(first.tools)} if first.tools else {}
    if isinstance(row, Task):
        return {"prompt": _said(first.messages, row.plain), **tools, **row.columns}
    is_text = is_plain(row) and len(first.messages) == 2 and "tool_calls" not in first.messages[-1]
    if isinstance(row, Pair):
        begun = shared(row)
        parts = (first.messages[:begun], first.messages[begun:], row.rejected.messages[begun:])
        named = zip(("prompt", "chosen", "rejected"), parts, strict=True)
        margin = {} if row.margin is None else {"margin": row.margin}
        return {**{name: _said(part, is_text) for name, part in named}, **margin, **tools}
    if isinstance(row, Chat) and not is_text:
        return {"messages": list(row.messages), **tools}
    both = {"prompt": _said(first.messages[:-1], is_text), "completion": _said(first.messages[-1:], is_text)}
    return {**both, **({"label": row.label} if isinstance(row, Vote) else {}), **tools}


def _said(messages: tuple[Message, ...], is_text: bool) -> Any:
    return messages[0]["content"] if is_text and len(messages) == 1 else list(messages)


def line(values: Mapping[str, Any], where: str) -> str:
    """A record as a line of JSON."""
    return json.dumps(plain(values, where), ensure_ascii=False) + "\n"


def plain(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record in what JSON has: a table's other kinds are written as text, and binary data is refused."""
    return {name: _plain(value, f"{where} {name}") for name, value in values.items()}


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise UserError.at(where, f"is {value}, which JSON does not know", "clear the cell")
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item, where) for name, item in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, decimal.Decimal)):
        return str(value)
    raise UserError.at(where, f"holds {kind_of(value)}, which JSON does not know", "leave the column out")
