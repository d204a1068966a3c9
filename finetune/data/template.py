"""A model's chat template: the text that it makes of a conversation, and what has to be adapted for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from finetune.data.rows import Message
from finetune.data.sandbox import MAX_RENDERED, TemplateFault, check_source, guarded

Span = tuple[int, int]

# The day that templates which write a date are told: the one that Llama's own falls back to. With the real
# day the same rows would give other tokens tomorrow, and a run could not continue with what it began with.
DAY = {
    "%Y": "2024",
    "%y": "24",
    "%m": "07",
    "%d": "26",
    "%B": "July",
    "%b": "Jul",
    "%A": "Friday",
    "%a": "Fri",
}
CLOCK = {"%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM"}

ANOTHER_TEMPLATE = "give another template with model.chat_template=FILE"


class Template:
    """The chat template of a tokenizer, rendered within limits."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        if not tokenizer.chat_template:
            what = "the tokenizer has none, and the rows are conversations"
            raise TemplateFault(what, "set model.chat_template=FILE, or use a model that was made for chat")
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens_map)
        self._sources: dict[bool, str] = {}
        self._merges_system: bool | None = None
        self._arguments_as_text: bool | None = None
        self.is_marked = bool(re.search(r"\{%-?\s*generation\b", self._source(False)))
        self.stop_tokens = self._find_stop_tokens(stop_ids)

    def _source(self, tools: bool) -> str:
        """The Jinja source, with a fixed day where it asks for today's."""
        if tools not in self._sources:
            source: str = self._tokenizer.get_chat_template(None, tools=[{}] if tools else None)
            check_source(source)
            self._sources[tools] = (_fixed_day() if "strftime_now" in source else "") + source
        return self._sources[tools]

    def render(self, messages: Sequence[Message], tools: Any = (), prompt: bool = False) -> str:
        """One conversation as text, exactly as given; `prompt` adds what asks for the next answer."""
        return self._render([messages], tools, prompt)[0]

    def render_many(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Each conversation's text, or None where the template raises."""
        try:
            return list(self._render(conversations, (), False)) if conversations else []
        except TemplateFault:
            if len(conversations) == 1:
                return [None]
        middle = len(conversations) // 2
        return [*self.render_many(conversations[:middle]), *self.render_many(conversations[middle:])]

    def render_marked(self, messages: Sequence[Message], tools: Any) -> tuple[str, list[Span]]:
        """One conversation's text, and the spans that the template itself marks as generated."""
        texts, spans = self._call([messages], tools, False, True)
        return texts[0], _joined(cast("list[list[Span]]", spans)[0])

    def _render(self, conversations: Sequence[Sequence[Message]], tools: Any, prompt: bool) -> list[str]:
        texts, _ = self._call(conversations, tools, prompt, False)
        return texts

    def _call(
        self, conversations: Sequence[Sequence[Message]], tools: Any, prompt: bool, marks: bool
    ) -> tuple[list[str], Any]:
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self._source(bool(tools))
        with guarded():
            texts, spans = cast(
                "tuple[list[str], Any]",
                render_jinja_template(
                    conversations=[list(messages) for messages in conversations],
                    tools=list(tools) or None,
                    chat_template=source,
                    return_assistant_tokens_mask=marks,
                    add_generation_prompt=prompt,
                    **self._special,
                ),
            )
        for text in texts:
            if len(text) > MAX_RENDERED:
                what = f"the chat template makes {len(text):,} characters of the conversation"
                raise TemplateFault(f"{what}, over the limit of {MAX_RENDERED:,}", ANOTHER_TEMPLATE)
        return texts, spans

    def fit(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation in the form that the template takes: a system turn merged, arguments as text."""
        fitted = list(messages)
        if len(fitted) > 1 and fitted[0]["role"] == "system" and self.merges_system:
            first = fitted[1]
            merged = {**first, "content": f"{fitted[0]['content']}\n\n{first['content']}"}
            fitted = [merged, *fitted[2:]]
        if any("tool_calls" in message for message in fitted) and self._wants_text():
            fitted = [_with_text_arguments(message) for message in fitted]
        return fitted

    @property
    def merges_system(self) -> bool:
        """Whether a system turn must be merged into the first user turn, being refused or left out."""
        if self._merges_system is None:
            probe = [say("system", "Zs0Z"), say("user", "Zu1Z"), say("assistant", "Za2Z")]
            try:
                self._merges_system = "Zs0Z" not in self.render(probe)
            except TemplateFault:
                self._merges_system = True
        return self._merges_system

    def _wants_text(self) -> bool:
        """Whether the arguments of tool calls must be JSON text, which some templates take as it is."""
        if self._arguments_as_text is None:
            function = {"name": "Zf0Z", "arguments": {"Zk1Z": "Zv2Z"}}
            calls = [{"id": "000000001", "type": "function", "function": function}]
            call = {**say("assistant", ""), "tool_calls": calls}
            question = say("user", "Zu3Z")
            as_text = [question, _with_text_arguments(call)]
            self._arguments_as_text = not self._takes([question, call]) and self._takes(as_text)
        return self._arguments_as_text

    def _takes(self, messages: Sequence[Message]) -> bool:
        try:
            self.render(messages)
        except TemplateFault:
            return False
        return True

    def _find_stop_tokens(self, stop_ids: Sequence[int]) -> dict[str, int]:
        """The tokens that end an answer: those given, the tokenizer's own, those that the template writes."""
        names = {index: token.content for index, token in self._tokenizer.added_tokens_decoder.items()}
        eos = self._tokenizer.eos_token_id
        known = (*stop_ids, *([] if eos is None else [eos]))
        found = {names[index]: index for index in known if index in names}
        contents = ("Zu0Z", "Za1Z", "Zu2Z", "Za3Z")
        roles = ("user", "assistant", "user", "assistant")
        text = self.render([say(role, content) for role, content in zip(roles, contents, strict=True)])
        earlier, tail = text.partition("Za1Z")[2].partition("Zu2Z")[0], text.partition("Za3Z")[2]
        if any(name in earlier and name in tail for name in found):
            return found
        places = [(tail.find(name), -len(name), index) for index, name in names.items() if name in tail]
        if places:
            index = min(places)[2]
            found[names[index]] = index
        return found


def say(role: str, content: str) -> Message:
    """A message with nothing but a content."""
    return {"role": role, "content": content}


def _fixed_day() -> str:
    filters = "".join(f"|replace('{key}','{value}')" for key, value in {**DAY, **CLOCK}.items())
    return "{%- macro strftime_now(format) -%}{{- format" + filters + " -}}{%- endmacro -%}"


def _with_text_arguments(message: Message) -> Message:
    calls = []
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls} if calls else message


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans with those that touch made one, and empty ones left out."""
    joined: list[Span] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        elif end > begin:
            joined.append((begin, end))
    return joined
