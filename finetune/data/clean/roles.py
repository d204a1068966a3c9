"""Conversations whose turns are not as they must be: odd names of roles, repeated speakers, no last answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from finetune.data.clean.item import Item
from finetune.data.formats import ROLES
from finetune.data.rows import Message, Task, chats, with_chats

# Names that a role goes by besides those that every file may use.
ALIASES = {
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "response": "assistant",
    "prompter": "user",
    "usr": "user",
    "sys": "system",
}
NEAR = 0.85  # of a misspelt role and the one that is meant
TURN_LISTS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")


def repair(item: Item) -> None:
    """Repair roles, and then the order of the turns."""
    if item.row is None:
        values = {name: _turns(value) if name in TURN_LISTS else value for name, value in item.values.items()}
        if values == item.values:
            return
        item.convert(values)
        item.changes += item.row is not None
    if item.row is not None and not isinstance(item.row, Task):  # a task has no answer to end with
        before = item.changes
        mended = [replace(chat, messages=tuple(_repaired(chat.messages))) for chat in chats(item.row)]
        item.change(with_chats(item.row, mended))
        item.changes = min(item.changes, before + 1)


def _turns(value: Any) -> Any:
    return [_turn(turn) for turn in value] if isinstance(value, list) else value


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    key = "role" if "role" in turn else "from"
    given = turn.get(key)
    role = role_of(given) if isinstance(given, str) and given not in ROLES else ""
    return {**turn, key: role} if role else turn


def role_of(name: str) -> str:
    """The role that a name stands for; "" when none is near."""
    word = name.strip().strip(":*#").strip().lower()
    known = {**{name: name for name in ROLES}, **ALIASES}
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, ("system", "user", "human", "assistant"), n=1, cutoff=NEAR)
    return near[0] if near else ""


def _repaired(messages: tuple[Message, ...]) -> list[Message]:
    turns = [*_system(messages), *(message for message in messages if message["role"] != "system")]
    joined = [message for group in _speeches(turns) for message in group]
    while joined and not _answers(joined[-1]):
        joined.pop()
    return joined if any(message["role"] == "user" for message in joined) else list(messages)


def _system(messages: tuple[Message, ...]) -> Iterator[Message]:
    """One system turn of all there are."""
    found = [message for message in messages if message["role"] == "system"]
    texts = dict.fromkeys(message["content"] for message in found if message["content"].strip())
    if found and texts:
        yield found[0] if len(found) == 1 else {**found[0], "content": "\n\n".join(texts)}


def _speeches(turns: list[Message]) -> Iterator[list[Message]]:
    """The turns, those of a speaker that follow each other joined; answers of tools stay apart."""
    for role, group in groupby(turns, key=lambda message: str(message["role"])):
        speech = list(group)
        # A call is answered by a tool before anything else is said, so nothing can be joined behind it.
        joinable = role in ("user", "assistant") and not any("tool_calls" in message for message in speech[:-1])
        yield [_join(speech)] if joinable and len(speech) > 1 else speech


def _join(speech: list[Message]) -> Message:
    found: dict[str, Any] = {**speech[-1]}
    for part in ("content", "reasoning_content"):
        texts = [message[part] for message in speech if message.get(part, "").strip()]
        if texts or part == "content":
            found[part] = "\n\n".join(texts)
    return found


def _answers(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and bool(message["content"].strip() or message.get("tool_calls"))
