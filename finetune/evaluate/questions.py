"""Held-out rows as questions: what is asked, what should be answered, which rows are shown as examples."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Speech:
    """How a model is spoken to: its tokenizer, and its chat template as training used it."""

    tokenizer: Any
    prompt_ids: Callable[[Sequence[Message], Any], list[int]]  # messages, tools → ids before the answer
    whole_ids: Callable[[Sequence[Message], Any], list[int]]  # messages, tools → ids with the answer
    stop_ids: tuple[int, ...]
    context: int | None = None


@dataclass(frozen=True)
class Question:
    """A row, cut before its last assistant turn."""

    messages: tuple[Message, ...]
    tools: Any
    answer: Message
    prompt: tuple[int, ...]
    reference: str
    reference_ids: tuple[int, ...]  # with the token that ends the turn


def ask(row: Row, speech: Speech) -> Question:
    """The question that a row asks."""
    earlier, answer = _cut(row)
    tools = row.get("tools")
    prompt = speech.prompt_ids(earlier, tools)
    tail = speech.whole_ids([*earlier, answer], tools)[len(prompt) :]
    end = next((at for at, token in enumerate(tail) if token in speech.stop_ids), len(tail))
    # only the template knows how a call is written; text is taken as it is, without what a template adds
    said = _said(answer)
    text = speech.tokenizer.decode(tail[:end], skip_special_tokens=True) if answer.get("tool_calls") else said
    ids = speech.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Question(earlier, tools, answer, tuple(prompt), text, (*ids, *tail[end : end + 1]))


def with_examples(
    question: Question, examples: Sequence[Question], speech: Speech, room: int
) -> tuple[list[int], int]:
    """The prompt with as many examples before it as the context holds, and how many those are."""
    for count in range(len(examples), 0, -1):
        ids = speech.prompt_ids(_shown(question, examples[:count]), question.tools)
        if speech.context is None or len(ids) + room <= speech.context:
            return ids, count
    return list(question.prompt), 0


def choose_rows(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """At most so many rows, drawn by seed (a file may be sorted), in their own order."""
    if len(rows) <= most:
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), most))]


def choose_examples(
    training: Sequence[Row], held_out: Sequence[Row], count: int, seed: int
) -> tuple[int, ...]:
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
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def _said(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _cut(row: Row) -> tuple[tuple[Message, ...], Message]:
    messages = row["messages"]
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return tuple(messages[:last]), messages[last]


def _asked(row: Row) -> str:
    return json.dumps([[message["role"], message.get("content")] for message in _cut(row)[0]])


def _shown(question: Question, examples: Sequence[Question]) -> list[Message]:
    """The examples as earlier turns, under the row's own system message."""
    system = [message for message in question.messages[:1] if message["role"] == "system"]
    turns: list[Message] = list(system)
    for example in examples:
        turns += [message for message in example.messages if message["role"] != "system"]
        turns.append(example.answer)
    return [*turns, *question.messages[len(system) :]]
