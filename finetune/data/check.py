"""The faults of one row that a layout has accepted."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.rows import Chat, Message, Row, Text

Found = tuple[str, str, str]  # field, what, mend


def check(row: Row) -> Iterator[Found]:
    """What is wrong with a row."""
    if isinstance(row, Text):
        if not row.text or row.text.isspace():
            yield "text", "is empty", "delete the row"
        return
    if not row.messages:
        yield "messages", "is empty", "delete the row"
        return
    yield from _contents(row)
    yield from _roles(row)


def _contents(row: Chat) -> Iterator[Found]:
    for number, message in enumerate(row.messages, 1):
        content = message["content"]
        if (not content or content.isspace()) and not message.get("tool_calls"):
            yield "messages", f"turn {number} ({message['role']}) is empty", "fill it in, or delete the row"


def _roles(row: Chat) -> Iterator[Found]:
    before: Message | None = None
    for number, message in enumerate(row.messages, 1):
        fault = _misplaced(message, before, number)
        if fault:
            yield "messages", f"turn {number}: {fault[0]}", fault[1]
            return
        before = message
    if before is not None and before["role"] != "assistant":
        mend = "end with the answer to be learned, or delete the row"
        yield (
            "messages",
            f"turn {len(row.messages)}, the last, is from {before['role']}, not from assistant",
            mend,
        )


def _misplaced(message: Message, before: Message | None, number: int) -> tuple[str, str] | None:
    role, earlier = message["role"], before["role"] if before else None
    if role == "system":
        return ("a system turn that is not the first", "put it first") if number > 1 else None
    if role == "tool":
        calls = earlier == "tool" or (before is not None and "tool_calls" in before)
        return None if calls else ("a tool answers, but nothing called it", "add the assistant's tool_calls before it")
    if role == "assistant" and earlier in (None, "system"):
        return "the assistant speaks before the user", "begin with a user turn"
    if role == earlier:
        return f"{role} speaks twice in a row", "join the two turns"
    return None
