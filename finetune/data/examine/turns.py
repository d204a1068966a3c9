"""The turns as the file has them: what providers of tuning read in them, and nobody else does."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.formats import REASONING, ROLES, Values

READ = frozenset(
    (
        "role",
        "from",
        "content",
        "value",
        "name",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "weight",
        "train",
        *REASONING,
    )
)
LISTS = ("messages", "conversations", "prompt", "completion")


def turn_findings(values: Values) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the keys of the turns that no layout looks at: code, words and column."""
    column = next((name for name in LISTS if isinstance(values.get(name), list)), "")
    unread: dict[str, None] = {}
    for number, turn in enumerate(values[column] if column else (), 1):
        if len(turn) <= 2:
            continue
        if "weight" in turn:
            yield from _weight(turn, number, column)
        unread.update((key, None) for key in turn if key not in READ)
    if unread:
        yield "key-unread", f"nothing reads {', '.join(sorted(unread))}", column


def _weight(turn: Values, number: int, column: str) -> Iterator[tuple[str, str, str]]:
    weight, role = turn["weight"], ROLES.get(str(turn.get("role", turn.get("from"))), "")
    if weight is not None and role != "assistant":
        what = f"turn {number} is {role}'s, and only the assistant's turns have a weight"
        yield "weight-ignored", what, column
