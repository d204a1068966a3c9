"""Turns of a conversation as others write them → messages."""

from __future__ import annotations

import json
from typing import Any

from finetune.data.faults import kind_of
from finetune.data.formats.layout import BadRow, Values
from finetune.data.formats.parts import apart
from finetune.data.rows import Chat, Message
from finetune.errors import did_you_mean, listed

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
Tools = tuple[dict[str, Any], ...]

REASONING = ("reasoning_content", "thinking", "reasoning")


def text(value: Any, field: str) -> str:
    """A value that must be text."""
    if isinstance(value, str):
        return value
    raise BadRow(
        field,
        f"must be text, got {kind_of(value)}",
        "put it in quotes" if value is not None else "fill it in",
    )


def pair(user: str, assistant: str) -> tuple[Message, Message]:
    """A question and its answer."""
    return {"role": "user", "content": user}, {"role": "assistant", "content": assistant}


def chat(value: Any, field: str, tools: Tools = (), system: Any = None, beside: str = "system") -> Chat:
    """A conversation: its turns, what stands before them in the column `beside`, and which answers are not learned."""
    messages = messages_of(value, field)
    if system is not None:
        said = _content(system, "", beside) or ""
        messages = ({"role": "system", "content": said}, *messages) if said.strip() else messages
    return as_chat(messages, field, tools)


def as_chat(messages: tuple[Message, ...], field: str, tools: Tools) -> Chat:
    """A conversation of these messages, up to the last answer that is learned."""
    unlearned = [index for index, message in enumerate(messages) if not message.pop("learned", True)]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [index for index in answers if index not in unlearned]
    if answers and not learned:
        raise BadRow(
            field, "every answer has the weight 0", "give one the weight 1, or delete the row", "weight-invalid"
        )
    if answers and answers[-1] == len(messages) - 1:
        messages = messages[: learned[-1] + 1]  # nothing is learned of what follows
    skipped = tuple(index for index in unlearned if index < len(messages))
    return Chat(messages, tools, unlearned=skipped)


def messages_of(value: Any, field: str) -> tuple[Message, ...]:
    """The turns of a list as messages."""
    if not isinstance(value, list):
        raise BadRow(field, f"must be a list, got {kind_of(value)}", 'such as [{"role": "user", "content": "…"}, …]')
    messages: list[Message] = []
    for number, given in enumerate(value, 1):
        for turn in apart(given):
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
    content = _content(turn.get("content", turn.get("value")), f"turn {number} content ", field)
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
        if not _is_learned(turn, number, field):
            message["learned"] = False
    if content is None and "tool_calls" not in message:
        has = "is null" if "content" in turn or "value" in turn else f"is missing (it has: {listed(list(turn))})"
        raise BadRow(field, f"turn {number} content {has}", "fill it in, or delete the turn", "content-missing")
    for key in ("name", "tool_call_id"):
        if role == "tool" and isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def _content(value: Any, what: str, field: str) -> str | None:
    """What is said, as text; `what` begins the message about anything else."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(field, f"{what}must be text, got {kind_of(value)}", "put it in quotes", "content-type")
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind in ("image", "image_url", "input_image", "audio", "input_audio", "video"):
            raise BadRow(
                field, f"{what}holds a part of type {kind!r}", "only text can be learned from", "content-media"
            )
        if not isinstance(part, dict) or kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            found = f"{what}must be text or a list of text parts, got a list with {kind_of(part)}"
            raise BadRow(field, found, 'write parts as {"type": "text", "text": "…"}', "content-type")
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


def _is_learned(turn: Values, number: int, field: str) -> bool:
    """What `weight` (0 or 1) or `train` say of an answer."""
    for key, allowed in (("weight", (0, 1)), ("train", (False, True))):
        value = turn.get(key)
        if value is not None and (isinstance(value, str) or value not in allowed):
            what = f"turn {number} {key} must be {allowed[0]} or {allowed[1]}, got {value!r}"
            raise BadRow(field, what, "0 learns nothing of the answer", "weight-invalid")
        if value is not None:
            return bool(value)
    return True


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


def tools_of(value: Any, field: str = "tools") -> Tools:
    """Descriptions of tools, in one form."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise BadRow(field, "is text that is not JSON", "write a list of tool descriptions", "tool-shape") from None
    if not value:
        return ()
    if not isinstance(value, list):
        mend = 'such as [{"name": …, "parameters": {…}}]'
        raise BadRow(field, f"must be a list, got {kind_of(value)}", mend, "tool-shape")
    tools = []
    for number, tool in enumerate(value, 1):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            mend = 'write {"name": …, "parameters": {…}}'
            raise BadRow(field, f"entry {number} has no name", mend, "tool-shape")
        if "input_schema" in inner:  # as Anthropic writes it
            inner = {"parameters" if key == "input_schema" else key: part for key, part in inner.items()}
        tools.append({"type": "function", "function": inner})
    return tuple(tools)
