"""Pairs, votes and tasks → tokens: what is asked once, and each answer from its first token to its stop token.

A pair has two sides, which both begin with the tokens of what is asked. Their answers are encoded as the last answer
of a conversation is, and nothing else of it is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune.data.encode import Encoded, Encoder, Refused
from finetune.data.rows import Pair, Row, Task, Vote, chats
from finetune.data.sandbox import TemplateFault


@dataclass(frozen=True)
class Sided:
    """One row as tokens: what is asked, and one answer, two or none."""

    prompt: list[int]
    answers: tuple[list[int], ...]
    length: int  # of the longest side, before it was cut
    truncated: bool = False  # whether an answer was cut
    unlearned_reasoning: int = 0  # answers whose reasoning the template leaves out
    margin: float | None = None
    label: bool | None = None

    @property
    def tokens(self) -> int:
        """The tokens of all sides."""
        return max(1, len(self.answers)) * len(self.prompt) + self.supervised

    @property
    def supervised(self) -> int:
        """The tokens of all answers."""
        return sum(map(len, self.answers))

    @property
    def longest(self) -> int:
        """The tokens of the longest side."""
        return len(self.prompt) + max(map(len, self.answers), default=0)


def encode_sides(encoder: Encoder, rows: Sequence[Row]) -> list[Sided | Refused]:
    """Each pair, vote or task as tokens, or why not."""
    given = [replace(chat, last=True) for row in rows if not isinstance(row, Task) for chat in chats(row)]
    encoded = iter(encoder.encode(given))
    return [_asked(encoder, row) if isinstance(row, Task) else _answered(row, encoded) for row in rows]


def _asked(encoder: Encoder, row: Task) -> Sided | Refused:
    try:
        ids = encoder.prompt_ids(row.messages, row.tools, row.plain)
    except TemplateFault as fault:
        return Refused("template", fault.what, fault.mend)
    if encoder.max_length is not None and len(ids) > encoder.max_length:
        what = f"the question has {len(ids):,} tokens, over data.max_length={encoder.max_length:,}"
        return Refused("long", what, "raise data.max_length, or set data.on_long=drop", len(ids))
    return Sided(ids, (), len(ids))


def _answered(row: Row, encoded: Iterator[Encoded | Refused]) -> Sided | Refused:
    sides = [next(encoded) for _ in chats(row)]
    refused = [side for side in sides if isinstance(side, Refused)]
    if refused:
        worst = next((side for side in refused if side.kind != "long"), refused[0])
        return replace(worst, length=max(side.length for side in sides))
    parts = [_parts(side) for side in sides if isinstance(side, Encoded)]
    prompt, answers = parts[0][0], tuple(answer for _, answer in parts)
    if any(other != prompt for other, _ in parts):
        what = "the chat template writes what is asked in two ways, one before each answer"
        return Refused("template", what, "give another template with model.chat_template=FILE")
    sided = Sided(
        prompt,
        answers,
        max(side.length for side in sides),
        any(isinstance(side, Encoded) and side.truncated for side in sides),
        sum(side.unlearned_reasoning for side in sides if isinstance(side, Encoded)),
        row.margin if isinstance(row, Pair) else None,
        row.label if isinstance(row, Vote) else None,
    )
    return _same(sided) if len(answers) == 2 and answers[0] == answers[1] else sided


def _same(sided: Sided) -> Refused:
    """What is said of a pair whose answers are the same tokens."""
    if sided.truncated:
        what, mend = "the two answers differ only beyond data.max_length", "raise it, or set data.on_long=drop"
        return Refused("long", what, mend, sided.length)
    what = "the two answers become the same tokens"
    return Refused("same", what, "delete the row: they differ in nothing that is learned", sided.length)


def _parts(side: Encoded) -> tuple[list[int], list[int]]:
    """The tokens before an answer, and those of the answer; what a template writes after it belongs to neither."""
    begin, end = side.learned[-1]
    return side.input_ids[:begin], side.input_ids[begin:end]
