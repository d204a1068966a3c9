"""A model's chat template: the text of a conversation, and which parts of it the assistant says.

What is learned of a turn is what the model would have to generate: from the end of the generation prompt to the stop
token. The spans are found on a copy of the conversation in which the other speakers' words are masked by placeholders.
Where the template marks its generation, the marks are taken, after a check. Where it does not, the copy is rendered up to
each turn with the generation prompt: the whole must go on from there, and the turn ends with the first stop token. No
placeholder may lie in what is learned. Filling the placeholders in must then give, letter by letter, what the template
makes of the conversation itself. What fails is refused, never guessed.

The assistant's words can be masked as well, unless they have parts besides the content. Then the spans depend on the
sequence of roles alone and are worked out once for each sequence, so that most rows are rendered a single time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.rows import Chat, Message
from finetune.data.sandbox import MAX_RENDERED, TemplateFault, check_source, guarded

Span = tuple[int, int]
Anchor = tuple[int, int]  # a literal of a skeleton, and a place in it

# The day that templates which write a date are told: the one that Llama's own falls back to. With the real day, the same
# rows would give other tokens tomorrow, and an interrupted run could not continue with what it began with.
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

NOT_THIS_TEMPLATE = "give another template with model.chat_template=FILE"


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it."""

    text: str
    spans: tuple[Span, ...]  # what each assistant turn has to generate, in order
    unlearned_reasoning: int = 0  # turns whose reasoning the template leaves out


@dataclass(frozen=True)
class Skeleton:
    """The text of a conversation apart from the contents of some messages."""

    literals: tuple[str, ...]  # one more than there are contents
    order: tuple[int, ...]  # which message's content follows each literal
    spans: tuple[tuple[Anchor, Anchor], ...]  # begin and end of what each assistant turn has to generate

    def fill(self, messages: Sequence[Message], text: str) -> Rendered | None:
        """The spans in `text`, if it is this skeleton with the contents of these messages."""
        contents = [messages[index]["content"] for index in self.order]
        if "".join(_interleave(self.literals, contents)) != text:
            found = self._find(contents, text)
            if found is None:
                return None
            contents = found
        begins, position = [], 0
        for index, literal in enumerate(self.literals):
            begins.append(position)
            position += len(literal) + (len(contents[index]) if index < len(contents) else 0)
        return Rendered(text, tuple((begins[a] + x, begins[b] + y) for (a, x), (b, y) in self.spans))

    def _find(self, contents: list[str], text: str) -> list[str] | None:
        """The contents as the template writes them: as they are, trimmed, or as JSON."""
        if not text.startswith(self.literals[0]):
            return None
        position, found = len(self.literals[0]), []
        for content, literal in zip(contents, self.literals[1:], strict=True):
            forms = (content, content.strip(), _escaped(content, False), _escaped(content, True))
            form = next((form for form in forms if text.startswith(form + literal, position)), None)
            if form is None:
                return None
            found.append(form)
            position += len(form) + len(literal)
        return found if position == len(text) else None


class Template:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise TemplateFault("the tokenizer has no chat template", "set model.chat_template=FILE")
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens_map)
        self._skeletons: dict[tuple[str, ...], Skeleton | None] = {}
        self._sources: dict[bool, str] = {}
        self._merges_system: bool | None = None
        self._arguments_as_text: bool | None = None
        self.marked = bool(re.search(r"\{%-?\s*generation\b", self._source(False)))
        self.stop_tokens = self._find_stop_tokens(stop_ids)

    def _source(self, tools: bool) -> str:
        """The Jinja source, with a fixed day where it asks for today's."""
        if tools not in self._sources:
            source = self._tokenizer.get_chat_template(None, tools=[{}] if tools else None)
            check_source(source)
            self._sources[tools] = (_fixed_day() if "strftime_now" in source else "") + source
        return self._sources[tools]

    def _render(
        self, conversations: Sequence[Sequence[Message]], tools: Any, prompt: bool, marks: bool = False
    ) -> tuple[list[str], list[list[Span]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        with guarded():
            texts, indices = render_jinja_template(
                conversations=[list(messages) for messages in conversations],
                tools=list(tools) or None,
                chat_template=self._source(bool(tools)),
                return_assistant_tokens_mask=marks,
                add_generation_prompt=prompt,
                **self._special,
            )
        for text in texts:
            if len(text) > MAX_RENDERED:
                what = f"the chat template makes {len(text):,} characters of the conversation"
                raise TemplateFault(f"{what}, over the limit of {MAX_RENDERED:,}", NOT_THIS_TEMPLATE)
        return texts, indices

    def render(self, messages: Sequence[Message], tools: Any = (), prompt: bool = False) -> str:
        """One conversation as text, exactly as given."""
        return self._render([messages], tools, prompt)[0][0]

    # --- what is adapted to the template -----------------------------------------------------------------------

    def fit(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation in the form that the template takes: a system turn merged, arguments as text."""
        fitted = list(messages)
        if len(fitted) > 1 and fitted[0]["role"] == "system" and self.merges_system:
            first = fitted[1]
            fitted = [{**first, "content": f"{fitted[0]['content']}\n\n{first['content']}"}, *fitted[2:]]
        if any("tool_calls" in message for message in fitted) and self._wants_text():
            fitted = [_with_text_arguments(message) for message in fitted]
        return fitted

    @property
    def merges_system(self) -> bool:
        """Whether a system turn has to be merged into the first user turn."""
        if self._merges_system is None:
            probe = [_say("system", "Zs0Z"), _say("user", "Zu1Z"), _say("assistant", "Za2Z")]
            try:
                self._merges_system = "Zs0Z" not in self.render(probe)
            except TemplateFault:
                self._merges_system = True
        return self._merges_system

    def _wants_text(self) -> bool:
        """Whether the arguments of tool calls must be JSON text: some templates add them to text as they are."""
        if self._arguments_as_text is None:
            function = {"name": "Zf0Z", "arguments": {"Zk1Z": "Zv2Z"}}
            call = {
                **_say("assistant", ""),
                "tool_calls": [{"id": "000000001", "type": "function", "function": function}],
            }
            probe = [_say("user", "Zu3Z"), call]
            try:
                self.render(probe)
                self._arguments_as_text = False
            except TemplateFault:
                try:
                    self.render([probe[0], _with_text_arguments(call)])
                    self._arguments_as_text = True
                except TemplateFault:
                    self._arguments_as_text = False
        return self._arguments_as_text

    def _find_stop_tokens(self, stop_ids: Sequence[int]) -> dict[str, int]:
        """The tokens that end an answer: those given, the tokenizer's own, and those that the template writes."""
        added = {token.content: index for index, token in self._tokenizer.added_tokens_decoder.items()}
        names = {index: name for name, index in added.items()}
        eos = self._tokenizer.eos_token_id
        known = [index for index in (*stop_ids, *([] if eos is None else [eos])) if index in names]
        found = {names[index]: index for index in known}
        probe = [
            _say("user", "Zu0Z"),
            _say("assistant", "Za1Z"),
            _say("user", "Zu2Z"),
            _say("assistant", "Za3Z"),
        ]
        text = self.render(probe)
        for content in ("Za1Z", "Za3Z"):
            tail = text[text.find(content) + 4 :] if content in text else ""
            token = _first_token(tail.split("Zu2Z")[0], added)
            if token:
                found[token] = added[token]
        return found

    # --- which parts are the assistant's -----------------------------------------------------------------------

    def mark(self, rows: Sequence[Chat]) -> list[Rendered | TemplateFault]:
        """Each conversation's text and spans, or why it is refused."""
        fitted = [self._fit_or_fault(row) for row in rows]
        plain = {i: m for i, m in enumerate(fitted) if not isinstance(m, TemplateFault) and not rows[i].tools}
        texts = dict(zip(plain, self._render_many(list(plain.values())), strict=True))
        return [
            messages
            if isinstance(messages, TemplateFault)
            else self._mark_one(messages, row.tools, texts.get(index))
            for index, (messages, row) in enumerate(zip(fitted, rows, strict=True))
        ]

    def _fit_or_fault(self, row: Chat) -> list[Message] | TemplateFault:
        try:
            return self.fit(row.messages)
        except TemplateFault as fault:
            return fault

    def _render_many(self, conversations: list[list[Message]]) -> list[str | None]:
        """Each conversation's text, or None where the template raises: the long way then says why."""
        try:
            return list(self._render(conversations, (), False)[0]) if conversations else []
        except TemplateFault:
            if len(conversations) == 1:
                return [None]
        middle = len(conversations) // 2
        return [*self._render_many(conversations[:middle]), *self._render_many(conversations[middle:])]

    def _mark_one(self, messages: list[Message], tools: Any, text: str | None) -> Rendered | TemplateFault:
        try:
            quick = self._by_roles(messages, text) if text is not None else None
            return quick or self._by_masking(messages, tools)
        except TemplateFault as fault:
            return fault

    def _by_roles(self, messages: list[Message], text: str) -> Rendered | None:
        """The spans by the sequence of roles alone, which is worked out once."""
        if any(len(message) > 2 for message in messages):  # tool calls, reasoning, names
            return None
        roles = tuple(message["role"] for message in messages)
        if roles not in self._skeletons:
            masks = {index: f"Z{role[0]}{index}Z" for index, role in enumerate(roles)}
            try:
                self._skeletons[roles] = self._learn([_say(role, "") for role in roles], (), masks)
            except TemplateFault:
                self._skeletons[roles] = None
        skeleton = self._skeletons[roles]
        if skeleton is None:
            return None
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                self._refuse_stop_inside(message, index)
        return skeleton.fill(messages, text)

    def _by_masking(self, messages: list[Message], tools: Any) -> Rendered:
        """The spans of one conversation, with the other speakers' words masked."""
        text = self.render(messages, tools)
        for tool in tools:
            if tool["function"]["name"] not in text:
                raise TemplateFault(
                    "the chat template does not show the tools", f"leave them out, or {NOT_THIS_TEMPLATE}"
                )
        others = {
            index: f"Zx{index}Z" for index, message in enumerate(messages) if message["role"] != "assistant"
        }
        # Some templates read the system text and act on it, so it gets a second chance as it is.
        unsystem = {index: mask for index, mask in others.items() if messages[index]["role"] != "system"}
        for masks in (others, unsystem):
            rendered = self._learn(messages, tools, masks).fill(messages, text)
            if rendered is not None:
                return self._count_reasoning(messages, rendered)
        what = "what the chat template writes depends on the words of the conversation in a way that cannot be followed"
        raise TemplateFault(what, NOT_THIS_TEMPLATE)

    def _learn(self, messages: Sequence[Message], tools: Any, masks: dict[int, str]) -> Skeleton:
        """The skeleton of a conversation in which the contents of some messages are masked."""
        masked = [{**m, "content": masks[i]} if i in masks else m for i, m in enumerate(messages)]
        text, spans = self._spans(masked, tools, masks)
        for index, mask in masks.items():
            if text.count(mask) != 1:
                what = f"turn {index + 1} ({messages[index]['role']}) is dropped or repeated by the chat template"
                raise TemplateFault(what, NOT_THIS_TEMPLATE)
        order = sorted(masks, key=lambda index: text.index(masks[index]))
        literals = re.split("|".join(masks[index] for index in order), text)
        others = [mask for index, mask in masks.items() if messages[index]["role"] != "assistant"]
        if any(other in text[begin:end] for begin, end in spans for other in others):
            raise TemplateFault("the words of another speaker would be learned", NOT_THIS_TEMPLATE)
        places = [(_anchor(a, literals, order, masks), _anchor(b, literals, order, masks)) for a, b in spans]
        return Skeleton(tuple(literals), tuple(order), tuple(places))

    def _spans(self, messages: list[Message], tools: Any, masks: dict[int, str]) -> tuple[str, list[Span]]:
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for index in turns:
            self._refuse_stop_inside(messages[index], index)
        if self.marked:
            texts, marks = self._render([messages], tools, False, marks=True)
            spans = _joined(marks[0])
            answers = [messages[index] for index in turns]
            if len(spans) == len(turns) and all(
                map(self._is_whole, answers, (texts[0][a:b] for a, b in spans))
            ):
                return texts[0], spans
        text = self.render(messages, tools)
        spans = [self._span(messages, tools, text, index, masks) for index in turns]
        for index, (begin, end) in zip(turns, spans, strict=True):
            if not self._is_whole(messages[index], text[begin:end]):
                raise TemplateFault(
                    f"turn {index + 1}: the chat template drops or changes the answer", NOT_THIS_TEMPLATE
                )
        return text, spans

    def _span(
        self, messages: list[Message], tools: Any, text: str, index: int, masks: dict[int, str]
    ) -> Span:
        before = self.render(messages[:index], tools, prompt=True)
        begin = len(before)
        if not text.startswith(before):
            # Where earlier text differs (Mistral moves the system text), the prompt must agree from the last turn on.
            asked = masks.get(index - 1, "")
            tail = before[before.rfind(asked) + len(asked) :] if asked in before else before
            begin = text.find(asked) + len(asked) + len(tail) if asked else 0
            if not asked or not text.startswith(tail, begin - len(tail)):
                what = f"turn {index + 1}: the chat template asks for the answer with {tail[-40:]!r}, but then writes"
                raise TemplateFault(f"{what} the answer after something else", NOT_THIS_TEMPLATE)
        ends = [(place, -len(token)) for token in self.stop_tokens if (place := text.find(token, begin)) >= 0]
        if not ends:
            raise TemplateFault(
                f"turn {index + 1}: the answer does not end in a stop token", NOT_THIS_TEMPLATE
            )
        place, length = min(ends)
        return begin, place - length

    def _is_whole(self, message: Message, learned: str) -> bool:
        """Whether what is learned of a turn holds all that it says, up to a stop token."""
        calls = message.get("tool_calls", ())
        names = all(call["function"]["name"] in learned for call in calls)
        return names and _spoken(message) in learned and learned.rstrip().endswith(tuple(self.stop_tokens))

    def _refuse_stop_inside(self, message: Message, index: int) -> None:
        text = message["content"] if len(message) == 2 else _all_text(message)
        inside = next((token for token in self.stop_tokens if token in text), None)
        if inside:
            what = f"turn {index + 1} holds the text of the stop token {inside!r}"
            raise TemplateFault(what, "remove it: the template writes it where it belongs")

    def _count_reasoning(self, messages: list[Message], rendered: Rendered) -> Rendered:
        answers = [message for message in messages if message["role"] == "assistant"]
        pairs = zip(answers, rendered.spans, strict=True)
        lost = [
            message for message, (begin, end) in pairs if _reasoning(message) not in rendered.text[begin:end]
        ]
        return Rendered(rendered.text, rendered.spans, len(lost))


def _fixed_day() -> str:
    directives = {**DAY, **CLOCK}
    filters = "".join(f"|replace('{key}','{value}')" for key, value in directives.items())
    return "{%- macro strftime_now(format) -%}{{- format" + filters + " -}}{%- endmacro -%}"


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _with_text_arguments(message: Message) -> Message:
    calls = []
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls} if calls else message


def _first_token(text: str, tokens: dict[str, int]) -> str | None:
    places = [(place, -len(token), token) for token in tokens if (place := text.find(token)) >= 0]
    return min(places)[2] if places else None


def _interleave(literals: Sequence[str], contents: Sequence[str]) -> list[str]:
    parts = [literals[0]]
    for content, literal in zip(contents, literals[1:], strict=True):
        parts += (content, literal)
    return parts


def _escaped(text: str, ascii_only: bool) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]


def _anchor(place: int, literals: Sequence[str], order: Sequence[int], masks: dict[int, str]) -> Anchor:
    """A place in a masked text, told as a place in one of its literals."""
    position = 0
    for number, literal in enumerate(literals):
        if place <= position + len(literal):
            if place < position:
                break
            return number, place - position
        position += len(literal) + (len(masks[order[number]]) if number < len(order) else 0)
    raise TemplateFault("what is learned would begin or end inside a turn's words", NOT_THIS_TEMPLATE)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans with those that touch made one, and empty ones left out."""
    joined: list[Span] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        elif end > begin:
            joined.append((begin, end))
    return joined


def _spoken(message: Message) -> str:
    """The part of an answer that every template keeps: some drop the reasoning of earlier turns."""
    content: str = message["content"]
    return content.split("</think>")[-1].strip()


def _reasoning(message: Message) -> str:
    if "reasoning_content" in message:
        return str(message["reasoning_content"]).strip()
    content: str = message["content"]
    return content.split("</think>")[0].split("<think>")[-1].strip() if "</think>" in content else ""


def _all_text(message: Message) -> str:
    calls = json.dumps(message["tool_calls"], ensure_ascii=False) if "tool_calls" in message else ""
    return f"{message['content']}\n{message.get('reasoning_content', '')}\n{calls}"
