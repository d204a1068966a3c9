"""Layouts of conversations: a list of turns in one column."""

from __future__ import annotations

from typing import Any

from finetune.data.faults import kind_of
from finetune.data.formats.layout import BadRow, Values
from finetune.data.formats.parts import from_gemini
from finetune.data.formats.turns import chat, tools_of
from finetune.data.rows import Row


def from_messages(values: Values) -> Row:
    """OpenAI's messages, which others write too; Anthropic's and Bedrock's have `system` beside them."""
    name = "tools" if values.get("tools") else "functions"
    return chat(values["messages"], "messages", tools_of(values.get(name), name), values.get("system"))


def from_sharegpt(values: Values) -> Row:
    """ShareGPT's conversations, with `system` and `tools` beside them; as a list of texts they take turns."""
    turns = values["conversations"]
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        turns = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return chat(turns, "conversations", tools_of(values.get("tools")), values.get("system"))


def from_contents(values: Values) -> Row:
    """Gemini's contents, with a system instruction and declarations of functions."""
    name = "systemInstruction" if "systemInstruction" in values else "system_instruction"
    system = values.get(name)
    contents = values["contents"]
    turns = [from_gemini(turn) for turn in contents] if isinstance(contents, list) else contents
    said = system if system is None or isinstance(system, str) else _parts(system, name)
    return chat(turns, "contents", tools_of(_declarations(values.get("tools"))), said, name)


def _parts(system: Any, field: str) -> Any:
    if not isinstance(system, dict) or not isinstance(system.get("parts"), list):
        what = f"must be an object with parts, got {kind_of(system)}"
        raise BadRow(field, what, 'write {"parts": [{"text": "…"}]}')
    return system["parts"]


def _declarations(tools: Any) -> Any:
    """The functions of Gemini's tools, which are gathered in lists."""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return tools
    names = ("functionDeclarations", "function_declarations")
    lists = [tool[name] for tool in tools for name in names if isinstance(tool.get(name), list)]
    return [function for functions in lists for function in functions] if lists else tools
