"""Layouts of one question and its answer, each in columns of its own; and plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.data.faults import kind_of
from finetune.data.formats.layout import BadRow, Values
from finetune.data.formats.turns import as_chat, messages_of, pair, text, tools_of
from finetune.data.rows import Chat, Message, Row, Text


def from_alpaca(values: Values) -> Row:
    """Alpaca's instruction, input and output, with an optional system text and history of pairs."""
    instruction, given = text(values["instruction"], "instruction"), values.get("input")
    prompt = f"{instruction}\n{text(given, 'input')}" if given else instruction
    messages: list[Message] = []
    if values.get("system"):
        messages.append({"role": "system", "content": text(values["system"], "system")})
    history, pairs = values.get("history") or [], "write it as [[question, answer], …]"
    if not isinstance(history, list):
        raise BadRow("history", f"must be a list of pairs, got {kind_of(history)}", pairs, "history-shape")
    for number, turn in enumerate(history, 1):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadRow(
                "history", f"entry {number} must be a pair of texts, got {kind_of(turn)}", pairs, "history-shape"
            )
        messages += pair(text(turn[0], "history"), text(turn[1], "history"))
    return Chat((*messages, *pair(prompt, text(values["output"], "output"))))


def from_dolly(values: Values) -> Row:
    """Dolly's instruction, context and response; the context follows the instruction."""
    instruction, context = text(values["instruction"], "instruction"), values.get("context")
    asked = f"{instruction}\n{text(context, 'context')}" if context else instruction
    return Chat(pair(asked, text(values["response"], "response")))


def from_openorca(values: Values) -> Row:
    """OpenOrca's system prompt, question and response."""
    system, asked = values["system_prompt"], text(values["question"], "question")
    turns = pair(asked, text(values["response"], "response"))
    return Chat(({"role": "system", "content": text(system, "system_prompt")}, *turns) if system else turns)


def from_prompt_completion(values: Values) -> Row:
    """A prompt and a completion: two texts, or two lists of messages.

    Two texts become a question and its answer in the model's chat template; only a model without a template
    sees them as they are, one after the other.
    """
    prompt, completion, tools = values["prompt"], values["completion"], tools_of(values.get("tools"))
    if isinstance(prompt, list) or isinstance(completion, list):
        asked = _given(prompt) if isinstance(prompt, list) else pair(text(prompt, "prompt"), "")[:1]
        if isinstance(completion, list):
            return as_chat((*asked, *messages_of(completion, "completion")), "completion", tools)
        said = pair("", text(completion, "completion"))[1:]
        return as_chat((*asked, *said), "completion", tools)
    return Chat(pair(text(prompt, "prompt"), text(completion, "completion")), tools, plain=True)


def asked_turns(prompt: Any) -> int:
    """How many turns a question in a column of its own becomes."""
    return len(messages_of(prompt, "prompt")) if isinstance(prompt, list) else 1


def _given(prompt: list[Any]) -> tuple[Message, ...]:
    """The turns of a prompt, whose answers are no part of what is learned."""
    messages = messages_of(prompt, "prompt")
    return tuple({**one, "learned": False} if one["role"] == "assistant" else one for one in messages)


def from_two(question: str, answer: str) -> Callable[[Values], Row]:
    """A question and an answer under these names."""

    def convert(values: Values) -> Row:
        return Chat(pair(text(values[question], question), text(values[answer], answer)))

    return convert


def from_text(values: Values) -> Row:
    """Plain text."""
    return Text(text(values["text"], "text"))
