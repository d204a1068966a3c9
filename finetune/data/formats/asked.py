"""What is asked in a column of its own, and what is answered in others: texts, transcripts, messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.faults import kind_of
from finetune.data.formats.layout import BadRow, Values
from finetune.data.formats.turns import Tools, messages_of, pair, text, tools_of
from finetune.data.rows import Chat, Message

# The system's words beside a question.
SYSTEM = ("system", "system_prompt")

# Columns that hold turns and nothing else.
TURNS = ("messages", "conversations")

SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Asked:
    """The turns before an answer."""

    messages: tuple[Message, ...]
    tools: Tools = ()
    plain: bool = False  # one text, which an answer may follow as it is


def asked(values: Values, column: str) -> Asked:
    """What stands in the column of the question, with the system's words and the tools beside it."""
    given, tools = values[column], tools_of(values.get("tools"))
    if isinstance(given, list) or column in TURNS:
        turns = turns_of(given, column)
    elif is_transcript(text(given, column)):
        turns = transcript(given, column)
        turns = turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
    else:
        turns = pair(given, "")[:1]
    system = next((text(values[name], name) for name in SYSTEM if values.get(name)), "")
    if system.strip():
        turns = ({"role": "system", "content": system}, *turns)
    plain = isinstance(given, str) and len(turns) == 1
    return Asked(turns, tools, plain)


def turns_of(given: Any, column: str) -> tuple[Message, ...]:
    """A list of turns as messages, whatever it says of what is learned."""
    return tuple(_without(message) for message in messages_of(given, column))


def _without(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "learned"}


def answered(before: Asked, given: Any, column: str) -> Chat:
    """The conversation that an answer makes of what is asked.

    An answer is a text, a message, or some of them. Where it is a whole conversation, it must begin with the question.
    """
    if isinstance(given, str):
        plain = before.plain
        return Chat((*before.messages, pair("", given)[1]), before.tools, plain)
    turns = turns_of(given if isinstance(given, list) else [_message(given, column)], column)
    if turns and turns[0]["role"] in ("system", "user"):
        own = turns if turns[0]["role"] == "system" else (*_system(before.messages), *turns)
        if not _alike(own[: len(before.messages)], before.messages):
            what = "is a whole conversation that does not begin with what is asked beside it"
            raise BadRow(column, what, "keep one of the two, or correct it", "pair-prompt")
        return Chat(own, before.tools)
    return Chat((*before.messages, *turns), before.tools)


def _message(given: Any, column: str) -> Any:
    if isinstance(given, dict):
        return given
    raise BadRow(column, f"must be text or messages, got {kind_of(given)}", "write the answer as text")


def _system(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(message for message in messages[:1] if message["role"] == "system")


def _alike(one: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether two lists of turns say the same but for white space at either end."""
    words = [[(message["role"], message["content"].strip()) for message in turns] for turns in (one, other)]
    return words[0] == words[1]


def is_transcript(given: str) -> bool:
    """Whether a text is a conversation whose speakers are called Human and Assistant."""
    return given.startswith(("\n\nHuman:", "Human:")) and "\n\nAssistant:" in given


def transcript(given: str, column: str) -> tuple[Message, ...]:
    """The turns of a text in which `Human:` and `Assistant:` begin paragraphs."""
    before, *parts = SPEAKER.split(given)
    if before.strip() or not parts:
        what = "is no conversation: nothing tells the question from the answer"
        raise BadRow(column, what, "put the question in a column prompt, or write messages", "pair-prompt")
    said = zip(parts[::2], parts[1::2], strict=True)
    return tuple({"role": SPEAKERS[speaker], "content": words.strip()} for speaker, words in said)
