"""One way of writing the same text: composed characters, line breaks, and nothing that cannot be seen.

What has a meaning stays: the indentation of lines, joiners between letters of scripts that need them, marks of
direction in text that is written from right to left.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from finetune.data.clean.item import Item, edited_value
from finetune.data.rows import Chat, Message, Row, Text, chats, with_chats

BREAKS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,40}[A-Za-z]")  # colours and cursor movements of a terminal
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
INVISIBLE = re.compile("[\u200b\u2060-\u2064\ufeff\u180e]")
JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")
DIRECTIONS = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
TAGS = re.compile("(\U0001f3f4[\U000e0030-\U000e007a]{1,8}\U000e007f)|[\U000e0000-\U000e007f]")  # but those of flags
TRAILING = re.compile("[ \t]+(?=\n)")


def text(given: str, *, end: bool = True) -> str:
    """The text, normalised; without `end` the space at its end stays."""
    found = given
    if not (found.isascii() and found.isprintable()):
        found = BREAKS.sub("\n", found)
        found = CONTROLS.sub("", ESCAPES.sub("", found))
    if not found.isascii():
        found = JOINERS.sub("", TAGS.sub(r"\1", INVISIBLE.sub("", found)))
        if not RIGHT_TO_LEFT.search(found):
            found = DIRECTIONS.sub("", found)
        found = unicodedata.normalize("NFC", found)
    found = TRAILING.sub("", found)
    return found.rstrip(" \t\n") if end else found


def normalise(item: Item) -> None:
    """Normalise what is said in a row; a record that is no row yet is normalised in every text that it has."""
    if item.row is not None:
        item.change(_row(item.row))
        return
    values = {name: edited_value(value, text) for name, value in item.values.items()}
    if values != item.values:
        item.convert(values)
        item.changes += 1


def _row(row: Row) -> Row:
    if isinstance(row, Text):
        return Text(text(row.text))
    return with_chats(row, [_chat(chat) for chat in chats(row)])


def _chat(row: Chat) -> Chat:
    # A prompt that is joined to its completion may end in a space that belongs between the two.
    ends = [not (row.plain and message["role"] == "user") for message in row.messages]
    return replace(row, messages=tuple(_message(message, end) for message, end in zip(row.messages, ends, strict=True)))


def _message(message: Message, end: bool) -> Message:
    found = {**message, "content": text(message["content"], end=end)}
    if "reasoning_content" in message:
        found["reasoning_content"] = text(message["reasoning_content"])
    return found
