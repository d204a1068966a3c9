"""Layouts: how foreign records become rows. A layout is found by its columns; each is an entry in LAYOUTS."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.data.faults import kind_of
from finetune.data.rows import Chat, Message, Row, Text
from finetune.errors import did_you_mean, listed

Values = Mapping[str, Any]


class BadRow(Exception):
    """A record that cannot become a row: the field, what is wrong with it, the mend, and the code of the defect."""

    def __init__(self, field: str, what: str, mend: str, code: str = "field-type") -> None:
        super().__init__(what)
        self.field, self.what, self.mend, self.code = field, what, mend, code


@dataclass(frozen=True)
class Layout:
    """One way of writing rows."""

    needs: tuple[str, ...]  # columns that every record has
    may: tuple[str, ...]  # columns that are used where they are
    convert: Callable[[Values], Row]


# Every name that a role goes by → ours.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_call": "function_call",
}
REASONING = ("reasoning_content", "thinking", "reasoning")

# Columns of preference data: rows that have one are not for learning answers.
PREFERENCES = ("chosen", "rejected")


def from_messages(values: Values) -> Row:
    """OpenAI's messages."""
    return Chat(_messages(values["messages"], "messages"), _tools(values.get("tools")))


def from_sharegpt(values: Values) -> Row:
    """ShareGPT's conversations, with `system` and `tools` beside them."""
    messages = _messages(values["conversations"], "conversations")
    system = values.get("system")
    if system is not None and _text(system, "system").strip():
        messages = ({"role": "system", "content": system}, *messages)
    return Chat(messages, _tools(values.get("tools")))


def from_alpaca(values: Values) -> Row:
    """Alpaca's instruction, input and output, with an optional system text and history of pairs."""
    instruction, given = _text(values["instruction"], "instruction"), values.get("input")
    prompt = f"{instruction}\n{_text(given, 'input')}" if given else instruction
    messages: list[Message] = []
    if values.get("system"):
        messages.append({"role": "system", "content": _text(values["system"], "system")})
    history, pairs = values.get("history") or [], "write it as [[question, answer], …]"
    if not isinstance(history, list):
        raise BadRow("history", f"must be a list of pairs, got {kind_of(history)}", pairs, "history-shape")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRow(
                "history", f"entry {number} must be a pair of texts, got {kind_of(pair)}", pairs, "history-shape"
            )
        messages += _turns(_text(pair[0], "history"), _text(pair[1], "history"))
    return Chat((*messages, *_turns(prompt, _text(values["output"], "output"))))


def from_prompt_completion(values: Values) -> Row:
    """A prompt and a completion: two texts, or two lists of messages.

    Two texts become a question and its answer in the model's chat template; only a model without a template
    sees them as they are, one after the other.
    """
    prompt, completion = values["prompt"], values["completion"]
    tools = _tools(values.get("tools"))
    if isinstance(prompt, list) or isinstance(completion, list):
        asked = _messages(prompt, "prompt") if isinstance(prompt, list) else _turns(_text(prompt, "prompt"), "")[:1]
        if isinstance(completion, list):
            return Chat((*asked, *_messages(completion, "completion")), tools)
        return Chat((*asked, {"role": "assistant", "content": _text(completion, "completion")}), tools)
    return Chat(_turns(_text(prompt, "prompt"), _text(completion, "completion")), tools, plain=True)


def from_text(values: Values) -> Row:
    """Plain text."""
    return Text(_text(values["text"], "text"))


LAYOUTS: dict[str, Layout] = {
    "messages": Layout(("messages",), ("tools",), from_messages),
    "sharegpt": Layout(("conversations",), ("system", "tools"), from_sharegpt),
    "alpaca": Layout(("instruction", "output"), ("input", "system", "history"), from_alpaca),
    "prompt_completion": Layout(("prompt", "completion"), ("tools",), from_prompt_completion),
    "text": Layout(("text",), (), from_text),
}

COLUMNS = frozenset(name for layout in LAYOUTS.values() for name in (*layout.needs, *layout.may))


def detect(values: Values) -> str | None:
    """The layout of a record, or None."""
    return next((name for name, layout in LAYOUTS.items() if all(key in values for key in layout.needs)), None)


def other_method(values: Values) -> str | None:
    """What a record is made for when not for learning answers: a bad answer must not be learned."""
    if any(values.get(column) is not None for column in PREFERENCES):
        return "preference pairs (chosen, rejected)"
    if isinstance(values.get("label"), bool) and "text" not in values:
        return "votes (label)"
    return None


def wanted_text() -> str:
    """The columns that each layout needs, for an error message."""
    return " or ".join("+".join(layout.needs) for layout in LAYOUTS.values())


def missing(layout: str, values: Values) -> list[str]:
    """The columns that a layout needs and a record lacks."""
    return [key for key in LAYOUTS[layout].needs if key not in values]


def convert(layout: str, values: Values) -> Row:
    """The record as a row; raises BadRow."""
    lacking = missing(layout, values)
    if lacking:
        what = f"missing (row has: {listed(list(values))})"
        raise BadRow(lacking[0], what, "add it, or delete the row", "field-missing")
    return LAYOUTS[layout].convert(values)


def _text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    raise BadRow(
        field,
        f"must be text, got {kind_of(value)}",
        "put it in quotes" if value is not None else "fill it in",
    )


def _turns(user: str, assistant: str) -> tuple[Message, Message]:
    return {"role": "user", "content": user}, {"role": "assistant", "content": assistant}


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise BadRow(field, f"must be a list, got {kind_of(value)}", 'such as [{"role": "user", "content": "…"}, …]')
    messages: list[Message] = []
    for number, turn in enumerate(value, 1):
        message = _message(turn, number, field)
        if message.pop("merge", False) and messages and messages[-1]["role"] == "assistant":
            calls = messages[-1].get("tool_calls", [])
            messages[-1] = {**messages[-1], "tool_calls": [*calls, *message["tool_calls"]]}
        else:
            messages.append(message)
    return tuple(messages)


def _message(turn: Any, number: int, field: str) -> Message:
    if not isinstance(turn, dict):
        mend = 'write it as {"role": "user", "content": "…"}'
        raise BadRow(field, f"turn {number} must be an object, got {kind_of(turn)}", mend, "turn-shape")
    given = turn.get("role", turn.get("from"))
    if not isinstance(given, str):
        what = f"turn {number} has no role (it has: {listed(list(turn))})"
        raise BadRow(field, what, "add role and content", "role-missing")
    role = ROLES.get(given)
    if role is None:
        mend = did_you_mean(given, ROLES) or "use system, user, assistant or tool"
        raise BadRow(field, f"turn {number} has the unknown role {given!r}", mend, "role-unknown")
    content = _content(turn.get("content", turn.get("value")), number, field)
    if role == "function_call":
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": _called(content, number, field),
            "merge": True,
        }
    message: Message = {"role": role, "content": content or ""}
    if role == "assistant":
        _add_answer_parts(message, turn, number, field)
    if content is None and "tool_calls" not in message:
        has = "is null" if "content" in turn or "value" in turn else f"is missing (it has: {listed(list(turn))})"
        raise BadRow(field, f"turn {number} content {has}", "fill it in, or delete the turn", "content-missing")
    for key in ("name", "tool_call_id"):
        if role == "tool" and isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def _content(value: Any, number: int, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        what = f"turn {number} content must be text, got {kind_of(value)}"
        raise BadRow(field, what, "put it in quotes", "content-type")
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind in ("image", "image_url", "input_image", "audio", "input_audio", "video"):
            what = f"turn {number} content holds a part of type {kind!r}"
            raise BadRow(field, what, "only text can be learned from", "content-media")
        if not isinstance(part, dict) or kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            what = f"turn {number} content must be text or a list of text parts, got a list with {kind_of(part)}"
            raise BadRow(field, what, 'write parts as {"type": "text", "text": "…"}', "content-type")
        texts.append(part["text"])
    return "".join(texts)


def _add_answer_parts(message: Message, turn: Values, number: int, field: str) -> None:
    for key in REASONING:
        if turn.get(key) is not None:
            message["reasoning_content"] = _part_text(turn[key], f"turn {number} {key}", field)
            break
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        calls = [turn["function_call"]]
    if calls is not None and not isinstance(calls, list):
        mend = 'such as [{"function": {"name": …, "arguments": {…}}}]'
        raise BadRow(field, f"turn {number} tool_calls must be a list, got {kind_of(calls)}", mend, "call-shape")
    if calls:
        message["tool_calls"] = [_call(call, number, field) for call in calls]


def _part_text(value: Any, what: str, field: str) -> str:
    if isinstance(value, str):
        return value
    what = f"{what} must be text, got {kind_of(value)}"
    raise BadRow(field, what, "put it in quotes, or leave it out", "content-type")


def _called(content: str | None, number: int, field: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(content or "")
    except ValueError:
        mend = 'write {"name": …, "arguments": {…}}'
        raise BadRow(field, f"turn {number} (function_call) is not JSON", mend, "call-shape") from None
    return [_call(call, number, field) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any, number: int, field: str) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        mend = 'write {"name": …, "arguments": {…}}'
        raise BadRow(field, f"turn {number} has a tool call without a name", mend, "call-shape")
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = None
    if arguments is None and inner.get("arguments") is None:
        arguments = {}
    if not isinstance(arguments, dict):
        what = f"turn {number}: the arguments of the call of {inner['name']!r} are not a JSON object"
        raise BadRow(field, what, 'such as {"city": "Oslo"}', "call-shape")
    found: dict[str, Any] = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    return {"id": call["id"], **found} if isinstance(call.get("id"), str) else found


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise BadRow(
                "tools", "is text that is not JSON", "write a list of tool descriptions", "tool-shape"
            ) from None
    if not value:
        return ()
    if not isinstance(value, list):
        mend = 'such as [{"name": …, "parameters": {…}}]'
        raise BadRow("tools", f"must be a list, got {kind_of(value)}", mend, "tool-shape")
    tools = []
    for number, tool in enumerate(value, 1):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            mend = 'write {"name": …, "parameters": {…}}'
            raise BadRow("tools", f"entry {number} has no name", mend, "tool-shape")
        tools.append({"type": "function", "function": inner})
    return tuple(tools)
