"""From a teacher's answer to examples."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.build.sources import Item
from finetune.data.jsonl import SURROGATE
from finetune.data.rows import Chat, Message, compared
from finetune.endpoint.asked import Reply
from finetune.evaluate.score import visible

FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
OPENING = re.compile(r"[\[{]")


@dataclass(frozen=True)
class Candidate:
    """An example that is still to be judged."""

    item: Item
    key: str  # of the request that it came from
    messages: tuple[Message, ...]
    quote: str | None = None

    @property
    def question(self) -> str:
        """What is asked last."""
        return str(self.messages[-2]["content"])

    @property
    def answer(self) -> str:
        """What is answered."""
        return str(self.messages[-1]["content"])

    @property
    def text(self) -> str:
        """What it is compared with others by."""
        return compared(Chat(self.messages))

    def as_row(self) -> dict[str, Any]:
        """The row of the file."""
        row: dict[str, Any] = {"messages": list(self.messages)}
        if self.item.tools:
            row["tools"] = list(self.item.tools)
        return {**row, "source": self.item.group}


@dataclass(frozen=True)
class Reject:
    """What did not become a row, and why."""

    gate: str
    reason: str
    where: str
    key: str
    content: dict[str, Any]

    def as_row(self) -> dict[str, Any]:
        """The line of the file."""
        return {"gate": self.gate, "reason": self.reason, "where": self.where, "request": self.key, **self.content}


def reject(candidate: Candidate, gate: str, reason: str) -> Reject:
    """A candidate that a gate refuses, whole."""
    content = {**candidate.as_row(), **({"quote": candidate.quote} if candidate.quote is not None else {})}
    return Reject(gate, reason, candidate.item.where, candidate.key, content)


def candidates_of(item: Item, key: str, reply: Reply, kind: str, reasoning: bool) -> list[Candidate | Reject]:
    """The examples that an answer holds; what cannot be read is a reject."""

    def unread(reason: str) -> Reject:
        return Reject("parses", reason, item.where, key, {"answer": reply.text})

    if SURROGATE.search(reply.text) or "\0" in reply.text:
        return [unread("holds characters that are none")]
    if reply.finished == "length":
        return [unread("cut off by teacher.max_tokens")]
    if reply.finished == "content_filter":
        return [Reject("refusal", "held back by the endpoint's filter", item.where, key, {"answer": reply.text})]
    text = visible(reply.text).strip()
    if kind == "answer":
        said: Message = {"role": "assistant", "content": text}
        thought = reply.reasoning or _thought(reply.text)
        if reasoning and thought:
            said["reasoning_content"] = thought
        return [Candidate(item, key, (*item.conversation, said))]
    try:
        entries = _entries(text)
    except ValueError as error:
        return [unread(str(error))]
    return [_pair(item, key, entry) for entry in entries] or [unread("an empty list")]


def _thought(text: str) -> str:
    """The reasoning that stands in front of an answer."""
    found = re.match(r"\s*<think>(.*?)</think>", text, re.DOTALL)
    return found[1].strip() if found else ""


def _entries(text: str) -> Sequence[Any]:
    """The list in an answer, with or without a fence and words around it."""
    fenced = FENCE.search(text)
    inner = fenced[1] if fenced else text
    opening = OPENING.search(inner)
    if opening is None:
        raise ValueError("holds no JSON")
    try:
        found, _ = json.JSONDecoder().raw_decode(inner, opening.start())
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg.lower()} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(found, list):
        return found
    lists = [value for value in found.values() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 else [found]


def _pair(item: Item, key: str, entry: Any) -> Candidate | Reject:
    """A question and its answer, with the quote where there is one."""
    values = entry if isinstance(entry, dict) else {}
    question, answer, quote = (values.get(name) for name in ("question", "answer", "quote"))
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(question, str) or not isinstance(answer, str):
        return Reject("parses", "no question and answer in text", item.where, key, {"answer": entry})
    if any(SURROGATE.search(text) or "\0" in text for text in (question, answer)):
        return Reject("parses", "holds characters that are none", item.where, key, {"answer": entry})
    turns: tuple[Message, ...] = (
        {"role": "user", "content": question.strip()},
        {"role": "assistant", "content": answer.strip()},
    )
    made = Candidate(item, key, (*item.conversation, *turns))
    return replace(made, quote=quote if isinstance(quote, str) else "") if item.document is not None else made
