"""Layouts: how foreign records become rows. A layout is found by its columns; each is an entry in LAYOUTS."""

from __future__ import annotations

from finetune.data.formats.chats import from_contents, from_messages, from_sharegpt
from finetune.data.formats.layout import BadRow, Layout, Values
from finetune.data.formats.pairs import (
    asked_turns,
    from_alpaca,
    from_dolly,
    from_openorca,
    from_prompt_completion,
    from_text,
    from_two,
)
from finetune.data.formats.turns import REASONING, ROLES
from finetune.data.rows import Row, Text
from finetune.errors import listed

__all__ = [
    "COLUMNS",
    "LAYOUTS",
    "PREFERENCES",
    "REASONING",
    "ROLES",
    "TELLING",
    "BadRow",
    "Layout",
    "Values",
    "column",
    "convert",
    "detect",
]

# Columns of preference data: rows that have one are not for learning answers.
PREFERENCES = ("chosen", "rejected")

# Columns of the system's words, in layouts that have one.
SYSTEM_COLUMNS = ("system", "system_prompt", "systemInstruction", "system_instruction")

# Columns of what follows the question in its turn.
MORE_COLUMNS = ("input", "context")

# In the order in which they are tried: a record that fits several is what comes first.
LAYOUTS: dict[str, Layout] = {
    "messages": Layout(("messages",), ("tools", "functions", "system"), from_messages, common=True),
    "sharegpt": Layout(("conversations",), ("system", "tools"), from_sharegpt, common=True),
    "contents": Layout(("contents",), ("systemInstruction", "system_instruction", "tools"), from_contents),
    "alpaca": Layout(("instruction", "output"), ("input", "system", "history"), from_alpaca, common=True),
    "dolly": Layout(("instruction", "response"), ("context",), from_dolly),
    "openorca": Layout(("system_prompt", "question", "response"), (), from_openorca),
    "prompt_completion": Layout(("prompt", "completion"), ("tools",), from_prompt_completion, common=True),
    "prompt_response": Layout(("prompt", "response"), (), from_two("prompt", "response")),
    "query_response": Layout(("query", "response"), (), from_two("query", "response")),
    "question_answer": Layout(
        ("question", "answer"), (), from_two("question", "answer"), unless=("documents", "choices", "options")
    ),
    "problem_solution": Layout(("problem", "solution"), (), from_two("problem", "solution")),
    "input_output": Layout(("input", "output"), (), from_two("input", "output")),
    "text": Layout(("text",), (), from_text, common=True),
}

COLUMNS = frozenset(name for layout in LAYOUTS.values() for name in (*layout.needs, *layout.may))


# Columns that are not read, but tell what a record is for.
TELLING = frozenset((*PREFERENCES, "label", "parent_id", *(name for each in LAYOUTS.values() for name in each.unless)))


def detect(values: Values) -> str | None:
    """The layout of a record, or None: the first of LAYOUTS that it fits."""
    return next((name for name, layout in LAYOUTS.items() if _fits(layout, values)), None)


def _fits(layout: Layout, values: Values) -> bool:
    return all(key in values for key in layout.needs) and not any(key in values for key in layout.unless)


def other_method(values: Values) -> str | None:
    """What a record is made for when not for learning answers: a bad answer must not be learned."""
    if any(values.get(column) is not None for column in PREFERENCES):
        return "preference pairs (chosen, rejected)"
    if isinstance(values.get("label"), bool) and "text" not in values:
        return "votes (label)"
    if "parent_id" in values and "text" in values:
        return "single messages of a tree of conversations (parent_id)"
    return None


def wanted_text() -> str:
    """The columns that the common layouts need, for an error message."""
    return " or ".join("+".join(layout.needs) for layout in LAYOUTS.values() if layout.common)


def missing(layout: str, values: Values) -> list[str]:
    """The columns that a layout needs and a record lacks."""
    return [key for key in LAYOUTS[layout].needs if key not in values]


def convert(layout: str, values: Values) -> Row:
    """The record as a row; raises BadRow."""
    lacking = missing(layout, values)
    if lacking:
        what = f"missing (row has: {listed(list(values))})"
        raise BadRow(lacking[0], what, "add it, or delete the row", "field-missing")
    return LAYOUTS[layout].convert(values)


def column(layout: str, values: Values, row: Row, turn: int | None = None, at: int = 0) -> str:
    """The column that a turn of a row came from, by its place; `at` is a place in its text, of which two may be part.

    Without a turn it is the column of the last.
    """
    own = LAYOUTS[layout]
    if isinstance(row, Text) or turn is None or turn == len(row.messages) - 1:
        return own.needs[-1]
    if turn == 0 and row.messages[0]["role"] == "system" and (beside := _system_column(own, values)):
        return beside
    if len(own.needs) == 1:
        return own.needs[0]
    if "history" in own.may and turn < len(row.messages) - 2:
        return "history"
    question, answer = own.needs[-2:]
    if any(isinstance(values[name], list) for name in (question, answer)):
        return answer if turn >= asked_turns(values[question]) else question
    more = [name for name in MORE_COLUMNS if name in own.may and values.get(name)]
    return more[0] if more and at > len(values[question]) else question


def _system_column(layout: Layout, values: Values) -> str:
    """The column beside the others that the system's words came from, if they did."""
    named = [name for name in SYSTEM_COLUMNS if name in (*layout.needs, *layout.may) and values.get(name)]
    # Among messages blank words are passed over.
    blank = len(layout.needs) == 1 and named and not str(values[named[0]]).strip()
    return named[0] if named and not blank else ""
