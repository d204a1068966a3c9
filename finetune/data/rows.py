"""The row shapes that everything foreign is turned into, and their canonical JSON.

A message is a dict as chat templates want it: `role` and `content` (always text), and where they apply
`reasoning_content`, `tool_calls` ([{type, function: {name, arguments}}], arguments as an object), `name` and
`tool_call_id`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
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


Row = Chat | Text

SHAPES = ("chat", "text")


def to_json(row: Row) -> str:
    """The row as canonical JSON: equal rows give equal text. The order of keys in tool arguments is kept."""
    if isinstance(row, Text):
        content: dict[str, Any] = {"text": row.text}
    else:
        content = {"messages": row.messages}
        if row.tools:
            content["tools"] = row.tools
        if row.unlearned:
            content["unlearned"] = row.unlearned
        for flag in ("plain", "last"):
            if getattr(row, flag):
                content[flag] = True
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Row:
    """The row that `to_json` wrote."""
    content = json.loads(text)
    if "text" in content:
        return Text(content["text"])
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
    return "\n".join(message["content"] for message in row.messages[:-1] if message["role"] != "system")


def answer(row: Row) -> str:
    """The last answer; for plain text the text."""
    return row.text if isinstance(row, Text) else str(row.messages[-1]["content"])


def compared(row: Row) -> str:
    """The text by which rows are compared: what is asked and answered, without the system's words."""
    return row.text if isinstance(row, Text) else f"{question(row)}\n{answer(row)}"


def hashed(text: str) -> int:
    """A 64-bit hash of a text, never 0, and the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1
