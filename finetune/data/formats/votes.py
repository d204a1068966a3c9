"""Layouts of one answer and what somebody thought of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.data.formats.asked import answered, asked
from finetune.data.formats.layout import BadRow, Values
from finetune.data.rows import Chat, Row, Vote

# What logs write for a thumb up and a thumb down.
UP = ("true", "yes", "up", "thumbs_up", "thumbsup", "thumb_up", "good", "like", "liked", "positive", "desirable", "👍")
DOWN = ("false", "no", "down", "thumbs_down", "thumbsdown", "thumb_down", "bad", "dislike", "disliked", "negative")
WORDS = {**dict.fromkeys(UP, True), **dict.fromkeys((*DOWN, "undesirable", "👎"), False)}
NUMBERS = {"1": True, "+1": True, "1.0": True, "0": False, "-1": False, "0.0": False, "-1.0": False}
MEND = "write true or false, 1 or 0, up or down; delete rows on which nobody voted"


def from_vote(question: str, answer: str, label: str) -> Callable[[Values], Row]:
    """A question, its answer and a vote under these names."""

    def convert(values: Values) -> Row:
        return Vote(answered(asked(values, question), values[answer], answer), _vote(values[label], label))

    return convert


def from_rated(label: str) -> Callable[[Values], Row]:
    """A conversation and a vote on its last answer under this name."""

    def convert(values: Values) -> Row:
        said = asked(values, "messages")
        return Vote(Chat(said.messages, said.tools), _vote(values[label], label))

    return convert


def _vote(given: Any, column: str) -> bool:
    found = vote_of(given)
    if found is None:
        raise BadRow(column, f"{given!r} is no vote", MEND, "vote-invalid")
    return found


def vote_of(given: Any) -> bool | None:
    """What a value says as a vote; None where it is none."""
    said = str(given).strip().lower() if isinstance(given, (str, int, float)) else ""
    words = said.replace("-", "_").replace(" ", "_")
    return NUMBERS.get(said, WORDS.get(words))


def is_said(label: str) -> Callable[[Values], bool]:
    """Whether a column holds a vote that is no number: a number may be anything."""

    def tells(values: Values) -> bool:
        is_word = isinstance(values[label], (str, bool)) and str(values[label]).strip() not in NUMBERS
        return is_word and vote_of(values[label]) is not None

    return tells
