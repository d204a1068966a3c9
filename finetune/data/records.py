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
from finetune.data.rows import Row, Text
from finetune.errors import UserError

# Layouts that a changed row keeps.
OWN_LAYOUT = ("messages", "text", "prompt_completion")


def rewritten(values: Mapping[str, Any], layout: str, columns: Mapping[str, str], row: Row) -> dict[str, Any]:
    """A record whose row is written as messages, text, or prompt and completion; its other columns stay."""
    shape = formats.LAYOUTS[layout]
    used = {columns.get(name, name) for name in (*shape.needs, *shape.may)}
    return {**_own(row), **{name: value for name, value in values.items() if name not in used}}


def _own(row: Row) -> dict[str, Any]:
    if isinstance(row, Text):
        return {"text": row.text}
    tools = {"tools": list(row.tools)} if row.tools else {}
    if row.plain and len(row.messages) == 2 and "tool_calls" not in row.messages[-1]:
        return {"prompt": row.messages[0]["content"], "completion": row.messages[1]["content"], **tools}
    return {"messages": list(row.messages), **tools}


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
