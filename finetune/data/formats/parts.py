"""Contents in parts, of Anthropic and of Gemini → turns as OpenAI writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

CALL_PARTS = ("tool_use", "tool_result", "thinking", "redacted_thinking")


def apart(turn: Any) -> Sequence[Any]:
    """The turn, or the turns that it becomes: answers of tools stand in a user turn of Anthropic's."""
    parts = turn.get("content") if isinstance(turn, dict) else None
    if not isinstance(parts, list) or not any(_kind(part) in CALL_PARTS for part in parts):
        return [turn]
    rest = [part for part in parts if _kind(part) not in CALL_PARTS]
    results = [_result(part) for part in parts if _kind(part) == "tool_result"]
    calls = [_call(part) for part in parts if _kind(part) == "tool_use"]
    thoughts = [part.get("thinking") for part in parts if _kind(part) == "thinking"]
    said: dict[str, Any] = {**turn, "content": rest}
    if calls:
        said |= {"tool_calls": calls, "content": rest or None}
    if thoughts and all(isinstance(thought, str) for thought in thoughts):
        said["reasoning_content"] = "\n".join(thoughts)
    return [*results, *([said] if rest or calls or not results else [])]


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _result(part: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": part.get("content")}


def _call(part: dict[str, Any]) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": part.get("name"), "arguments": part.get("input")}}
    return {"id": part["id"], **call} if "id" in part else call


def from_gemini(turn: Any) -> Any:
    """A turn of Gemini's: its role and parts, of which some call functions or answer them."""
    parts = turn.get("parts") if isinstance(turn, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return turn
    called = [part["functionCall"] for part in parts if isinstance(part.get("functionCall"), dict)]
    answered = [part["functionResponse"] for part in parts if isinstance(part.get("functionResponse"), dict)]
    # A part without a text is no text, and shall be told as what it is.
    texts = [
        {"type": "text", "text": part["text"]} if "text" in part else {"type": next(iter(part), "nothing")}
        for part in parts
        if "functionCall" not in part and "functionResponse" not in part
    ]
    if answered:
        response = answered[0].get("response")
        content = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
        return {"role": "tool", "name": answered[0].get("name"), "content": content}
    said: dict[str, Any] = {"role": turn.get("role", "user"), "content": texts}
    if called:
        calls = [{"function": {"name": call.get("name"), "arguments": call.get("args") or {}}} for call in called]
        said |= {"tool_calls": calls, "content": texts or None}
    return said
