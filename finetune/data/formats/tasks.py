"""Layouts of questions that the model answers itself while it learns; the other columns are for rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from finetune.data.faults import kind_of
from finetune.data.formats.asked import SYSTEM, asked
from finetune.data.formats.layout import BadRow, Values
from finetune.data.rows import REFERENCES, Row, Task


def from_question(column: str) -> Callable[[Values], Row]:
    """What is asked in a column of this name; every other column goes along."""

    def convert(values: Values) -> Row:
        given, used = asked(values, column), {column, "tools", *SYSTEM}
        columns = {name: _plain(value, name) for name, value in values.items() if name not in used}
        return Task(given.messages, given.tools, columns, given.plain)

    return convert


def is_task(column: str) -> Callable[[Values], bool]:
    """Whether a record holds a question and what is wanted, or a question alone."""

    def tells(values: Values) -> bool:
        others = {name for name, value in values.items() if value is not None} - {column, "tools", *SYSTEM}
        return not others or any(name in others for name in REFERENCES)

    return tells


def _plain(value: Any, column: str) -> Any:
    """The value in what JSON has: dates and other kinds of a table become text."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value

    def text(inner: Any) -> str:
        if isinstance(inner, bytes):
            raise BadRow(column, f"holds {kind_of(inner)}, which no reward can read", "leave the column out")
        return str(inner)

    return json.loads(json.dumps(value, ensure_ascii=False, default=text))
