"""The faults of one row that a layout has accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from finetune.data.rows import Chat, Message, Pair, Row, Task, Vote, chats, shared


class Found(NamedTuple):
    """One fault of a row; `code` is its name in `data/codes.py`."""

    turn: int | None  # its place among the messages; none for the row as a whole
    what: str
    mend: str
    code: str


def check(row: Row) -> Iterator[Found]:
    """What is wrong with a row."""
    if isinstance(row, Chat):
        yield from _chat(row)
    elif isinstance(row, Pair):
        yield from _pair(row)
    elif isinstance(row, Vote):
        yield from _chat(row.chat)
    elif isinstance(row, Task):
        yield from _task(chats(row)[0])
    elif not row.text or row.text.isspace():
        yield Found(None, "is empty", "delete the row", "row-empty")


def _chat(row: Chat) -> Iterator[Found]:
    if not row.messages:
        yield Found(None, "is empty", "delete the row", "row-empty")
        return
    yield from _contents(row)
    yield from _roles(row)


def _pair(row: Pair) -> Iterator[Found]:
    chosen, rejected, begun = row.chosen.messages, row.rejected.messages, shared(row)
    if chosen and chosen == rejected:
        yield Found(None, "is the same as the chosen answer", "delete the row, or correct one of the two", "pair-equal")
    elif chosen and rejected and (begun != len(chosen) - 1 or begun != len(rejected) - 1):
        what = f"the two conversations differ from turn {begun + 1} on, before the last turn"
        what = what if begun else "the two conversations have no beginning in common"
        yield Found(None, what, "give both the same turns up to the last answer", "pair-prompt")
    else:
        yield from _chat(row.chosen)
        last = len(rejected) - 1
        for found in _chat(row.rejected):
            if found.turn in (None, last):  # what comes before is that of the other one
                yield found._replace(turn=last + 1, what=f"rejected: {found.what}")


def _task(row: Chat) -> Iterator[Found]:
    if not row.messages:
        yield Found(None, "is empty", "delete the row", "row-empty")
        return
    yield from _contents(row)
    for found in _roles(row):
        if found.code != "last-turn":
            yield found
            return
    last = row.messages[-1]["role"]
    if last not in ("user", "tool"):
        what = f"turn {len(row.messages)}, the last, is from {last}, and there is nothing left to answer"
        mend = "end with what is asked, and put the answer in a column answer"
        yield Found(len(row.messages) - 1, what, mend, "task-answered")


def _contents(row: Chat) -> Iterator[Found]:
    for turn, message in enumerate(row.messages):
        content = message["content"]
        if (not content or content.isspace()) and not message.get("tool_calls"):
            what = f"turn {turn + 1} ({message['role']}) is empty"
            yield Found(turn, what, "fill it in, or delete the row", "turn-empty")


def _roles(row: Chat) -> Iterator[Found]:
    before: Message | None = None
    for number, message in enumerate(row.messages, 1):
        fault = _misplaced(message, before, number)
        if fault:
            what, mend, code = fault
            yield Found(number - 1, f"turn {number}: {what}", mend, code)
            return
        before = message
    if before is not None and before["role"] != "assistant":
        what = f"turn {len(row.messages)}, the last, is from {before['role']}, not from assistant"
        yield Found(len(row.messages) - 1, what, "end with the answer to be learned, or delete the row", "last-turn")


def _misplaced(message: Message, before: Message | None, number: int) -> tuple[str, str, str] | None:
    role, earlier = message["role"], before["role"] if before else None
    if role == "system":
        return ("a system turn that is not the first", "put it first", "late-system") if number > 1 else None
    if role == "tool":
        if earlier == "tool" or (before is not None and "tool_calls" in before):
            return None
        return "a tool answers, but nothing called it", "add the assistant's tool_calls before it", "tool-uncalled"
    if role == "assistant" and earlier in (None, "system"):
        return "the assistant speaks before the user", "begin with a user turn", "assistant-first"
    if role == earlier:
        return f"{role} speaks twice in a row", "join the two turns", "role-repeated"
    return None
