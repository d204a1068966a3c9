"""Which parts of a conversation's text the assistant says, found out from the chat template and proved.

What is learned of a turn is what the model would have to generate: from the end of the generation prompt to
the stop token. The spans are found on a copy of the conversation in which the other speakers' words are
masked by placeholders. The copy is rendered up to each turn with the generation prompt: the whole must go on
from there, and the turn ends with the first stop token. Where the template marks its generation itself, the
marks decide, less the generation prompt where they cover it. No placeholder may lie in what is learned, and
filling the placeholders in must give, letter by letter, what the template makes of the conversation itself.
What fails is refused, never guessed.

Some templates write an answer in one way when it is the last and in another when more follows (without its
reasoning, say). The model has to generate the first, so such a conversation is unrolled: one row for each
answer.

The assistant's words can be masked as well, unless they have parts besides the content. Then the spans depend
on the sequence of roles alone and are worked out once for each, so that most rows are rendered a single time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.rows import Chat, Message
from finetune.data.sandbox import TemplateFault
from finetune.data.template import ANOTHER_TEMPLATE, Span, Template, say

Anchor = tuple[int, int]  # a literal of a skeleton, and a place in it
Masks = Mapping[int, str]  # the placeholder of each masked message


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
        contents: list[str] | None = [messages[index]["content"] for index in self.order]
        parts = [self.literals[0]]
        for content, literal in zip(contents or (), self.literals[1:], strict=True):
            parts += (content, literal)
        if "".join(parts) != text:
            contents = self._find(contents or [], text)
        if contents is None:
            return None
        begins, position = [0], 0
        for content, literal in zip(contents, self.literals, strict=False):
            position += len(literal) + len(content)
            begins.append(position)
        return Rendered(text, tuple((begins[a] + x, begins[b] + y) for (a, x), (b, y) in self.spans))

    def _find(self, contents: Sequence[str], text: str) -> list[str] | None:
        """The contents as the template writes them: as they are, trimmed, or as JSON."""
        if not text.startswith(self.literals[0]):
            return None
        position, found = len(self.literals[0]), []
        for content, literal in zip(contents, self.literals[1:], strict=True):
            form = next((form for form in _forms(content) if text.startswith(form + literal, position)), None)
            if form is None:
                return None
            found.append(form)
            position += len(form) + len(literal)
        return found if position == len(text) else None


class Unrollable(TemplateFault):
    """Earlier answers are not written as they are asked for: each has to be learned as the last of a row."""


class Marker:
    """Finds what is learned in conversations rendered by one template."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._skeletons: dict[tuple[bool, tuple[str, ...]], Skeleton | TemplateFault] = {}

    def mark(self, rows: Sequence[Chat], last: bool = False) -> list[Rendered | TemplateFault]:
        """Each conversation's text and spans, or why it is refused; `last` asks for the last answer only."""
        fitted = [self._template.fit(row.messages) for row in rows]
        plain = [index for index, row in enumerate(rows) if not row.tools]
        texts = dict(zip(plain, self._template.render_many([fitted[i] for i in plain]), strict=True))
        marked = zip(fitted, rows, range(len(rows)), strict=True)
        return [self._mark(messages, row.tools, last or row.last, texts.get(i)) for messages, row, i in marked]

    def _mark(self, messages: list[Message], tools: Any, last: bool, text: str | None) -> Rendered | TemplateFault:
        try:
            quick = self._by_roles(messages, last, text) if text is not None else None
            return quick or self._by_masking(messages, tools, last)
        except TemplateFault as fault:
            return fault

    def _by_roles(self, messages: list[Message], last: bool, text: str) -> Rendered | None:
        """The spans by the sequence of roles alone, which is worked out once."""
        if any(len(message) > 2 for message in messages):  # tool calls, reasoning, names
            return None
        roles = tuple(message["role"] for message in messages)
        skeleton = self._skeletons.get((last, roles))
        if skeleton is None:
            masks = {index: f"Z{role[0]}{index}Z" for index, role in enumerate(roles)}
            try:
                skeleton = self._learn([say(role, "") for role in roles], (), last, masks)
            except TemplateFault as fault:
                skeleton = fault
            self._skeletons[last, roles] = skeleton
        if isinstance(skeleton, Unrollable):
            raise skeleton
        if isinstance(skeleton, TemplateFault):
            return None
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                self._refuse_stop_inside(message, index)
        return skeleton.fill(messages, text)

    def _by_masking(self, messages: list[Message], tools: Any, last: bool) -> Rendered:
        """The spans of one conversation, with all words masked that the template does not look into."""
        text = self._template.render(messages, tools)
        hidden = next((tool for tool in tools if tool["function"]["name"] not in text), None)
        if hidden:
            raise TemplateFault("the chat template does not show the tools", f"leave them out, or {ANOTHER_TEMPLATE}")
        masks = {i: f"Zx{i}Z" for i, message in enumerate(messages) if _can_be_masked(message)}
        # Some templates read the system text and act on it, so it gets a second chance as it is.
        unsystem = {i: mask for i, mask in masks.items() if messages[i]["role"] != "system"}
        rendered = self._learn(messages, tools, last, masks).fill(messages, text)
        if rendered is None and unsystem != masks:
            rendered = self._learn(messages, tools, last, unsystem).fill(messages, text)
        if rendered is None:
            what = "the chat template changes a turn's words in a way that cannot be followed"
            raise TemplateFault(what, ANOTHER_TEMPLATE)
        return _count_reasoning(messages, rendered)

    def _learn(self, messages: Sequence[Message], tools: Any, last: bool, masks: Masks) -> Skeleton:
        """The skeleton of a conversation in which the contents of some messages are masked."""
        masked = [{**m, "content": masks[i]} if i in masks else m for i, m in enumerate(messages)]
        text, spans = self._spans(masked, tools, last, masks)
        for index, mask in masks.items():
            if text.count(mask) != 1:
                done = "drops" if mask not in text else "repeats"
                what = f"the chat template {done} turn {index + 1} ({messages[index]['role']})"
                raise TemplateFault(what, ANOTHER_TEMPLATE)
        order = sorted(masks, key=lambda index: text.index(masks[index]))
        literals = re.split("|".join(masks[index] for index in order), text)
        others = [mask for index, mask in masks.items() if messages[index]["role"] != "assistant"]
        if any(other in text[begin:end] for begin, end in spans for other in others):
            raise TemplateFault("the words of another speaker would be learned", ANOTHER_TEMPLATE)
        gaps = [len(masks[index]) for index in order]
        places = [(_anchor(begin, literals, gaps), _anchor(end, literals, gaps)) for begin, end in spans]
        return Skeleton(tuple(literals), tuple(order), tuple(places))

    def _spans(self, messages: list[Message], tools: Any, last: bool, masks: Masks) -> tuple[str, list[Span]]:
        """The text and the spans of every answer, or of the last one."""
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for index in turns:
            self._refuse_stop_inside(messages[index], index)
        text, end = self._last_span(messages, tools, masks)
        if last or len(turns) == 1:
            return text, [end]
        spans = self._earlier_spans(messages, tools, turns[:-1], text, masks)
        return text, [*spans, end]

    def _last_span(self, messages: list[Message], tools: Any, masks: Masks) -> tuple[str, Span]:
        index = len(messages) - 1
        if self._template.is_marked:
            text, spans = self._marked_spans(messages, tools, masks)
            if spans:
                return text, spans[-1]
        text = self._template.render(messages, tools)
        span = self._span(messages, tools, text, index, masks)
        if not self._is_whole(messages[index], text[slice(*span)]):
            what = f"the chat template drops or changes the answer in turn {index + 1}"
            raise TemplateFault(what, ANOTHER_TEMPLATE)
        return text, span

    def _earlier_spans(
        self, messages: list[Message], tools: Any, turns: list[int], text: str, masks: Masks
    ) -> list[Span]:
        """The spans of all answers but the last: each must be written as it would be if it were the last."""
        marked = self._marked_spans(messages, tools, masks)[1] if self._template.is_marked else []
        spans = []
        for number, index in enumerate(turns):
            alone, (begin, end) = self._last_span(messages[: index + 1], tools, masks)
            try:
                span = marked[number] if marked else self._span(messages, tools, text, index, masks)
            except TemplateFault as fault:
                raise Unrollable(fault.what, fault.mend) from fault
            # Behind the stop token the two may differ: some end a finished conversation with one more token.
            if not alone[begin:end].startswith(text[slice(*span)].rstrip()):
                raise Unrollable(f"the chat template writes the answer in turn {index + 1} in two ways")
            spans.append(span)
        return spans

    def _marked_spans(self, messages: list[Message], tools: Any, masks: Masks) -> tuple[str, list[Span]]:
        """What the template marks, less the generation prompt; no spans when they do not fit the answers."""
        text, spans = self._template.render_marked(messages, tools)
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if len(spans) != len(turns):
            return text, []
        for number, index in enumerate(turns):
            begin, end = spans[number]
            before = self._template.render(messages[:index], tools, prompt=True)
            begin = max(begin, _shared(before, text))
            with suppress(TemplateFault):  # where the prompt asks otherwise, only the marks can tell
                begin = max(begin, self._begin(messages, tools, text, index, masks))
            if not self._is_whole(messages[index], text[begin:end]):
                return text, []
            spans[number] = (begin, end)
        return text, spans

    def _begin(self, messages: list[Message], tools: Any, text: str, index: int, masks: Masks) -> int:
        """Where the generation prompt of a turn ends in the whole text."""
        before = self._template.render(messages[:index], tools, prompt=True)
        if text.startswith(before):
            return len(before)
        # Where earlier text differs (Mistral moves the system text), both must agree from the last turn on.
        asked = masks.get(index - 1, "")
        tail = before.rpartition(asked)[2] if asked and asked in before else before
        begin = text.find(asked) + len(asked)
        if asked and asked in text and text.startswith(tail, begin):
            return begin + len(tail)
        what = f"turn {index + 1}: the chat template asks for the answer with {tail[-40:]!r}"
        raise TemplateFault(f"{what}, but then writes the answer after something else", ANOTHER_TEMPLATE)

    def _span(self, messages: list[Message], tools: Any, text: str, index: int, masks: Masks) -> Span:
        begin = self._begin(messages, tools, text, index, masks)
        # A stop token before the words of the answer only parts them from its reasoning.
        names = [call["function"]["name"] for call in messages[index].get("tool_calls", ())]
        said = max(begin, *(text.find(word, begin) for word in (masks.get(index, ""), *names)))
        stops = self._template.stop_tokens
        ends = [(at, -len(token)) for token in stops if (at := text.find(token, said)) >= 0]
        if not ends:
            raise TemplateFault(f"the answer in turn {index + 1} does not end in a stop token", ANOTHER_TEMPLATE)
        place, length = min(ends)
        return begin, place - length

    def _is_whole(self, message: Message, learned: str) -> bool:
        """Whether what is learned of a turn holds all that it says, up to a stop token."""
        names = [call["function"]["name"] for call in message.get("tool_calls", ())]
        says = _spoken(message) in learned and all(name in learned for name in names)
        return says and learned.rstrip().endswith(tuple(self._template.stop_tokens))

    def _refuse_stop_inside(self, message: Message, index: int) -> None:
        text = message["content"] if len(message) == 2 else _all_text(message)
        inside = next((token for token in self._template.stop_tokens if token in text), None)
        if inside:
            what = f"turn {index + 1} holds the text of the stop token {inside!r}"
            raise TemplateFault(what, "remove it: the template writes it where it belongs")


def _can_be_masked(message: Message) -> bool:
    """Whether a template will not look into the content: answers may hold their reasoning, or nothing."""
    content = message["content"]
    return message["role"] != "assistant" or ("</think>" not in content and not content.isspace() and content != "")


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _forms(content: str) -> tuple[str, ...]:
    trimmed = (content, content.strip(), content.rstrip(), content.lstrip())
    return (*trimmed, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1])


def _anchor(place: int, literals: Sequence[str], gaps: Sequence[int]) -> Anchor:
    """A place in a masked text, told as a place in one of its literals."""
    position = 0
    for number, literal in enumerate(literals):
        if position <= place <= position + len(literal):
            return number, place - position
        position += len(literal) + (gaps[number] if number < len(gaps) else 0)
    raise TemplateFault("what is learned would begin or end inside a turn's words", ANOTHER_TEMPLATE)


def _spoken(message: Message) -> str:
    """The part of an answer that every template keeps: some drop the reasoning of earlier turns."""
    content: str = message["content"]
    return content.split("</think>")[-1].strip()


def _reasoning(message: Message) -> str:
    if "reasoning_content" in message:
        return str(message["reasoning_content"]).strip()
    content: str = message["content"]
    return content.split("</think>")[0].split("<think>")[-1].strip() if "</think>" in content else ""


def _count_reasoning(messages: Sequence[Message], rendered: Rendered) -> Rendered:
    answers = [message for message in messages if message["role"] == "assistant"][-len(rendered.spans) :]
    learned = [rendered.text[begin:end] for begin, end in rendered.spans]
    lost = [answer for answer, text in zip(answers, learned, strict=True) if _reasoning(answer) not in text]
    return replace(rendered, unlearned_reasoning=len(lost))


def _all_text(message: Message) -> str:
    calls = json.dumps(message["tool_calls"], ensure_ascii=False) if "tool_calls" in message else ""
    return f"{message['content']}\n{message.get('reasoning_content', '')}\n{calls}"
