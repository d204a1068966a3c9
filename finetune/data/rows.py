"""The row shapes that everything foreign is turned into, and their canonical JSON.

A message is a dict as chat templates want it: `role` and `content` (always text), and where they apply
`reasoning_content`, `tool_calls` ([{type, function: {name, arguments}}], arguments as an object), `name` and
`tool_call_id`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Chat:
    """A conversation that ends in an answer."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    plain: bool = False  # came as a prompt and a completion, so it needs no chat template where there is none
    unlearned: tuple[int, ...] = ()  # places of answers that are not learned
    last: bool = False  # only the last answer is learned: the part of a conversation up to one of its answers

    shape = "chat"


@dataclass(frozen=True)
class Text:
    """Plain text, learned from the first token to the last."""

    text: str

    shape = "text"


@dataclass(frozen=True)
class Pair:
    """Two conversations that differ in their last answer alone, of which one is better."""

    chosen: Chat
    rejected: Chat
    margin: float | None = None  # by how much the first is better, where that is known

    shape = "pair"


@dataclass(frozen=True)
class Vote:
    """A conversation whose last answer was found good or bad."""

    chat: Chat
    label: bool  # whether it was found good

    shape = "vote"


@dataclass(frozen=True)
class Task:
    """A conversation that ends where an answer is asked for, and what is known about a good one."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)  # the record's others, as values of JSON, for rewards
    plain: bool = False  # as of a conversation

    shape = "task"


Row = Chat | Text | Pair | Vote | Task

LEARNED = ("chat", "text")  # shapes that are learned as they are
SHAPES = (*LEARNED, "pair", "vote", "task")

# Columns of a task that may hold the answer that is wanted, in the order in which they are looked for.
REFERENCES = ("answer", "reference_answer", "reference", "solution", "target", "ground_truth")


def chats(row: Row) -> tuple[Chat, ...]:
    """The conversations of a row; none for plain text."""
    if isinstance(row, Chat):
        return (row,)
    if isinstance(row, Pair):
        return (row.chosen, row.rejected)
    if isinstance(row, Vote):
        return (row.chat,)
    return (Chat(row.messages, row.tools, row.plain),) if isinstance(row, Task) else ()


def with_chats(row: Row, given: Sequence[Chat]) -> Row:
    """The row with other conversations in the place of its own."""
    if isinstance(row, Chat):
        return given[0]
    if isinstance(row, Pair):
        return replace(row, chosen=given[0], rejected=given[1])
    if isinstance(row, Vote):
        return replace(row, chat=given[0])
    return replace(row, messages=given[0].messages, tools=given[0].tools) if isinstance(row, Task) else row


def every_turn(row: Row) -> tuple[Message, ...]:
    """Every turn of a row once: of a pair the rejected answer comes last."""
    if isinstance(row, Pair):
        return (*row.chosen.messages, *row.rejected.messages[shared(row) :])
    return next((chat.messages for chat in chats(row)), ())


def shared(row: Pair) -> int:
    """With how many turns both conversations begin."""
    turns = zip(row.chosen.messages, row.rejected.messages, strict=False)
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], turns))


def is_plain(row: Row) -> bool:
    """Whether a row needs no chat template where there is none."""
    return row.plain if isinstance(row, Chat) else all(chat.plain for chat in chats(row))


def to_json(row: Row) -> str:
    """The row as canonical JSON: equal rows give equal text. The order of keys in tool arguments is kept."""
    if isinstance(row, Chat):
        content = _chat_content(row)
    elif isinstance(row, Text):
        content = {"text": row.text}
    elif isinstance(row, Vote):
        content = {**_chat_content(row.chat), "vote": row.label}
    elif isinstance(row, Task):
        content = {"asked": _chat_content(chats(row)[0]), "columns": row.columns}
    else:
        begun = shared(row)
        content = _chat_content(replace(row.chosen, messages=row.chosen.messages[:begun]))
        content |= {"chosen": row.chosen.messages[begun:], "rejected": row.rejected.messages[begun:]}
        content |= {} if row.margin is None else {"margin": row.margin}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _chat_content(row: Chat) -> dict[str, Any]:
    content: dict[str, Any] = {"messages": row.messages}
    if row.tools:
        content["tools"] = row.tools
    if row.unlearned:
        content["unlearned"] = row.unlearned
    for flag in ("plain", "last"):
        if getattr(row, flag):
            content[flag] = True
    return content


def from_json(text: str) -> Row:
    """The row that `to_json` wrote."""
    content = json.loads(text)
    if "text" in content:
        return Text(content["text"])
    if "asked" in content:
        asked = _chat(content["asked"])
        return Task(asked.messages, asked.tools, content["columns"], asked.plain)
    chat = _chat(content)
    if "vote" in content:
        return Vote(chat, content["vote"])
    if "chosen" in content:
        chosen, rejected = (replace(chat, messages=(*chat.messages, *content[side])) for side in ("chosen", "rejected"))
        return Pair(chosen, rejected, content.get("margin"))
    return chat


def _chat(content: dict[str, Any]) -> Chat:
    flags = {flag: content.get(flag, False) for flag in ("plain", "last")}
    unlearned = tuple(content.get("unlearned", ()))
    return Chat(tuple(content["messages"]), tuple(content.get("tools", ())), unlearned=unlearned, **flags)


def unrolled(row: Chat) -> list[Chat]:
    """The conversation as one row for each answer that is learned, each to be learned as the last of its row."""
    answers = [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]
    ends = [index + 1 for index in answers if index not in row.unlearned]
    return [replace(row, messages=row.messages[:end], unlearned=(), last=True) for end in ends]


def question(row: Row) -> str:
    """What is asked: everything before the last answer but the system's words; nothing for plain text."""
    if isinstance(row, Text):
        return ""
    asked = row.messages if isinstance(row, Task) else chats(row)[0].messages[:-1]
    return "\n".join(message["content"] for message in asked if message["role"] != "system")


def answer(row: Row) -> str:
    """The last answer, of a pair the better one; for plain text the text; for a task what it should be, if known."""
    if isinstance(row, Text):
        return row.text
    if isinstance(row, Task):
        found = next((row.columns[name] for name in REFERENCES if row.columns.get(name) is not None), "")
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return str(chats(row)[0].messages[-1]["content"])


def compared(row: Row) -> str:
    """The text by which rows are compared: what is asked and answered, without the system's words."""
    if isinstance(row, Text):
        return row.text
    both = f"{question(row)}\n{answer(row)}"
    return f"{both}\n{row.rejected.messages[-1]['content']}" if isinstance(row, Pair) else both


def hashed(text: str) -> int:
    """A 64-bit hash of a text, never 0, and the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1
