"""Held-out rows as questions: what is asked, what should be answered, which rows are shown as examples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.data.rows import REFERENCES, Chat, Message, Pair, Row, Task, Text, Vote, answer, to_json
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.data.encode import Encoder

T = TypeVar("T")


@dataclass(frozen=True)
class Speech:
    """How a model is spoken to: its tokenizer, and the encoder that training used."""

    tokenizer: Any
    encoder: Encoder  # of `learn="last"`: the last answer alone is supervised
    context: int | None = None


@dataclass(frozen=True)
class Question:
    """A row, cut before its last answer."""

    row: Chat
    prompt: tuple[int, ...]
    reference: str
    reference_ids: tuple[int, ...]  # as they are supervised, with the token that ends the turn


@dataclass(frozen=True)
class Asked(Chat):
    """A pair, vote or task as a conversation that ends in its reference, with what else the row says of answers."""

    origin: Row | None = None
    rejected: Chat | None = None  # of a pair: the same conversation with the worse answer
    liked: bool = True  # of a vote
    columns: dict[str, Any] = field(default_factory=dict)  # of a task


def asked(row: Row, reference: str | None = None) -> Chat | None:
    """The row as a conversation that ends in its reference; none for plain text. `reference` is a task's column."""
    if isinstance(row, Chat):
        return row
    if isinstance(row, Text):
        return None
    if isinstance(row, Task):
        named = row if reference is None else replace(row, columns={REFERENCES[0]: row.columns.get(reference)})
        turns = (*row.messages, {"role": "assistant", "content": answer(named)})
        return Asked(turns, row.tools, row.plain, last=True, origin=row, columns=row.columns)
    chat, rejected = (row.chosen, row.rejected) if isinstance(row, Pair) else (row.chat, None)
    liked = row.label if isinstance(row, Vote) else True
    return Asked(chat.messages, chat.tools, chat.plain, last=True, origin=row, rejected=rejected, liked=liked)


def conversations(rows: Iterable[Row], reference: str | None = None) -> list[Chat]:
    """The rows that can be asked, each as a conversation that ends in its reference."""
    return [chat for row in rows if (chat := asked(row, reference)) is not None]


def ask(row: Chat, speech: Speech) -> Question:
    """The question that a row asks."""
    _, labels = tokens_of(row, speech)
    expected = [label for label in labels if label >= 0]
    prompt = speech.encoder.prompt_ids(row.messages[:-1], row.tools, row.plain)
    answer = row.messages[-1]
    reference = str(answer["content"])
    if answer.get("tool_calls"):
        # only the template knows how a call is written
        reference = decoded(expected, speech)[0]
    return Question(row, tuple(prompt), reference, tuple(expected))


def tokens_of(row: Row, speech: Speech) -> tuple[list[int], list[int]]:
    """Ids and labels of a row as training has them."""
    from finetune.data.encode import Refused

    (encoded,) = speech.encoder.encode([row])
    if isinstance(encoded, Refused):
        raise UserError.at("held-out row", encoded.what, encoded.mend)
    return encoded.input_ids, encoded.labels


def decoded(ids: Sequence[int], speech: Speech) -> tuple[str, int]:
    """The text before the first stop token, and how many tokens it has."""
    stops = speech.encoder.stop_ids
    end = next((at for at, token in enumerate(ids) if token in stops), len(ids))
    return str(speech.tokenizer.decode(ids[:end], skip_special_tokens=True)), end


def choose_rows(rows: Iterable[T], total: int, most: int, seed: int) -> list[T]:
    """At most so many of all rows, drawn by seed (a file may be sorted), in their own order."""
    chosen = set(random.Random(seed).sample(range(total), min(most, total)))
    return [row for index, row in enumerate(rows) if index in chosen]


def choose_examples(training: Sequence[Chat], held_out: Sequence[Chat], count: int, seed: int) -> tuple[int, ...]:
    """Which training rows are shown: drawn by seed, never one that asks what a held-out row asks."""
    taken = {_asked(row) for row in held_out}
    chosen: list[int] = []
    for index in random.Random(seed).sample(range(len(training)), len(training)):
        if len(chosen) == count:
            break
        if _asked(training[index]) not in taken:
            chosen.append(index)
            taken.add(_asked(training[index]))
    return tuple(chosen)


def fingerprint(rows: Sequence[Row]) -> str:
    """Changes when any row does."""
    digest = hashlib.sha256()
    for row in rows:
        given = row.origin if isinstance(row, Asked) and row.origin else row
        digest.update(to_json(given).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def _asked(row: Chat) -> str:
    return to_json(replace(row, messages=row.messages[:-1], last=False))


def shown(own: Sequence[Message], examples: Sequence[Chat], between: str) -> list[Message]:
    """The examples as earlier turns, under the row's own system message."""
    system = [message for message in own[:1] if message["role"] == "system"]
    turns = list(system)
    for example in examples:
        last = example.messages[-1]
        turns += [message for message in example.messages[:-1] if message["role"] != "system"]
        turns.append({**last, "content": last["content"] + between})
    return [*turns, *own[len(system) :]]
