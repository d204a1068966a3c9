"""Rows → token ids and labels: rendered, tokenised once, and masked.

A conversation is tokenised as one text, so its ids are those that `apply_chat_template(tokenize=True)` gives.
Where the prompt's last tokens would be others if it stood alone (an answer that begins with a line break may
melt into them), the answer is tokenised apart: that is what happens when the model is asked, where the prompt
is a piece of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.rows import Chat, Message, Row, Text, chats
from finetune.data.sandbox import TemplateFault
from finetune.data.spans import Marker, Rendered, Unrollable
from finetune.data.template import Span, Template
from finetune.data.tokens import Pieces, Tokens

ENCODER_VERSION = 3  # raised whenever the same rows would give other tokens or labels
MASKED = -100
LONGEST_TAIL = 32  # tokens after the last added token of a prompt that are worth remembering
MOST_TAILS = 1000
LEARN = ("assistant", "last", "all")


@dataclass(frozen=True)
class Encoded:
    """One row as tokens, and which of them are learned."""

    input_ids: list[int]
    learned: tuple[Span, ...]
    length: int  # before it was cut
    unlearned_reasoning: int = 0  # turns whose reasoning the template leaves out

    @property
    def labels(self) -> list[int]:
        """The ids where they are learned, else -100."""
        labels = [MASKED] * len(self.input_ids)
        for begin, end in self.learned:
            labels[begin:end] = self.input_ids[begin:end]
        return labels

    @property
    def tokens(self) -> int:
        """How many tokens are left of it."""
        return len(self.input_ids)

    @property
    def truncated(self) -> bool:
        """Whether the end was cut off."""
        return self.length > len(self.input_ids)


@dataclass(frozen=True)
class Refused:
    """One row that cannot be learned from as it is."""

    kind: str  # template, long, nothing, same, or unrollable: to be encoded as rows.unrolled gives it
    what: str
    mend: str
    length: int = 0


def over_length(length: int, most: int) -> tuple[str, str]:
    """What is said of a row that is too long, and the mend."""
    what = f"{length:,} tokens, over data.max_length={most:,}"
    return what, "set data.on_long=truncate or data.on_long=drop, or raise it where the model's context allows"


class Encoder:
    """Turns rows into tokens for one tokenizer and one choice of what is learned."""

    def __init__(
        self,
        tokenizer: Any,
        learn: str = "assistant",
        max_length: int | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        if learn not in LEARN:
            raise ValueError(f"learn must be one of {LEARN}, not {learn!r}")
        self._tokenizer, self._learn, self.max_length = tokenizer, learn, max_length
        self._backend = tokenizer.backend_tokenizer
        self._pieces = Pieces(self._backend)
        self._given_stop_ids = tuple(stop_ids)
        self._template: Template | None = None
        self._marker: Marker | None = None
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._tails: dict[str, list[int]] = {}  # what prompts end in, which is much the same in all of them
        self._bos = self._finds_bos()

    @property
    def template(self) -> Template:
        """The chat template; raises TemplateFault when there is none or it cannot be used."""
        if self._template is None:
            self._template = Template(self._tokenizer, self._given_stop_ids)
        return self._template

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens at which an answer ends: those that generation must stop at."""
        eos = self._tokenizer.eos_token_id
        learned = tuple(self.template.stop_tokens.values()) if self._tokenizer.chat_template else ()
        return tuple(dict.fromkeys((*self._given_stop_ids, *([] if eos is None else [eos]), *learned)))

    def _finds_bos(self) -> list[int]:
        """The tokens that the tokenizer puts before a text."""
        bos = self._tokenizer.bos_token_id
        return [bos] if bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos] else []

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), plain: bool = False
    ) -> list[int]:
        """What the model is given before it answers: the messages and the generation prompt."""
        if plain and not self._tokenizer.chat_template:
            return self._bos + self._ids("".join(message["content"] for message in messages))
        text = self.template.render(self.template.fit(messages), tools, prompt=True)
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | Refused]:
        """Each row as tokens, or why not. Some hundred rows at a time are fastest."""
        self._backend.no_padding()
        self._backend.no_truncation()
        marked = self._mark(rows)
        texts = [item.text for item in marked if isinstance(item, Rendered)]
        tokenised = iter(self._pieces.encode(texts))
        results: list[Encoded | Refused] = []
        for row, item in zip(rows, marked, strict=True):
            if isinstance(item, TemplateFault):
                results.append(_refused(item))
                continue
            results.append(self._label(row, item, next(tokenised)))
        return results

    def _mark(self, rows: Sequence[Row]) -> list[Rendered | TemplateFault]:
        bare = [_bare(row) if isinstance(row, Text) or self._is_bare(row) else None for row in rows]
        chats = [row for row, done in zip(rows, bare, strict=True) if done is None and isinstance(row, Chat)]
        marked = iter(self._mark_chats(chats) if chats else [])
        return [done if done is not None else next(marked) for done in bare]

    def _mark_chats(self, chats: Sequence[Chat]) -> Sequence[Rendered | TemplateFault]:
        try:
            if self._marker is None:
                self._marker = Marker(self.template)
            return self._marker.mark(chats, last=self._learn != "assistant")
        except TemplateFault as fault:
            return [fault] * len(chats)

    def _is_bare(self, row: Row) -> bool:
        """A prompt and completion for a model without a template: joined as they are."""
        return isinstance(row, Chat) and row.plain and not self._tokenizer.chat_template

    def _label(self, row: Row, item: Rendered, tokens: Tokens) -> Encoded | Refused:
        if isinstance(row, Text) or self._is_bare(row):
            ids, learned = self._bare_tokens(item, tokens)
        else:
            try:
                ids, learned = self._token_spans(item.text, item.spans, tokens)
            except TemplateFault as fault:
                return _refused(fault)
        if self._learn == "all":
            learned = [(0, len(ids))]
        elif isinstance(row, Chat) and row.unlearned:
            answers = [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]
            pairs = zip(answers[-len(learned) :], learned, strict=True)
            learned = [span for index, span in pairs if index not in row.unlearned]
        return self._cut(ids, learned, item.unlearned_reasoning)

    def _cut(self, ids: list[int], learned: list[Span], unlearned: int) -> Encoded | Refused:
        length = len(ids)
        most = length if self.max_length is None else min(length, self.max_length)
        # The first token is predicted from nothing, so it cannot be all that is learned.
        if not any(max(begin, 1) < min(end, most) for begin, end in learned):
            if most == length:
                return Refused("nothing", "nothing in it is learned", "delete the row", length)
            what = f"{length} tokens, and all that is learned lies beyond data.max_length={most}"
            return Refused("long", what, "raise data.max_length, or set data.on_long=drop", length)
        kept = tuple((begin, min(end, most)) for begin, end in learned if begin < most)
        return Encoded(ids if most == length else ids[:most], kept, length, unlearned)

    def _bare_tokens(self, item: Rendered, tokens: Tokens) -> tuple[list[int], list[Span]]:
        """Plain text: the tokenizer's own beginning, the text, and the end token."""
        ids, first = tokens.ids, 0
        eos = self._tokenizer.eos_token_id
        end = [] if eos is None else [eos]
        if item.spans and item.spans[0][0]:
            prompt = self._ids(item.text[: item.spans[0][0]])
            if ids[: len(prompt)] != prompt:
                ids = prompt + self._piece(item.text[item.spans[0][0] :])
            first = len(self._bos) + len(prompt)
        ids = [*self._bos, *ids, *end]
        return ids, [(first, len(ids))]

    def _token_spans(self, text: str, spans: Sequence[Span], tokens: Tokens) -> tuple[list[int], list[Span]]:
        """The ids of a conversation and which of them are learned."""
        found, ids = [], tokens.ids
        places = [(tokens.at(begin), tokens.at(end)) for begin, end in spans]
        if any(None in place for place in places):
            tokens = self._pieces.whole([text])[0]  # which knows places inside of pieces too
            places = [(tokens.at(begin), tokens.at(end)) for begin, end in spans]
        for (begin, end), (first, last) in zip(spans, places, strict=True):
            if first is not None and last is not None and self._asks_alike(tokens, text, begin, first):
                found.append((first, last))
            elif (begin, end) != spans[-1]:
                raise Unrollable("an answer melts into its prompt")
            else:
                return self._in_pieces(text, begin, end, found)
        return ids, found

    def _asks_alike(self, tokens: Tokens, text: str, begin: int, first: int) -> bool:
        """Whether the tokens before an answer are those that its prompt has when it stands alone.

        Some tokenizers look ahead: they cut two line breaks apart only when a word follows. Text after an
        added token is tokenised by itself, so it is enough to try the prompt from its last added token on.
        """
        ids, place = tokens.ids, first - 1
        while place >= 0 and ids[place] not in self._added:
            place -= 1
        start = tokens.place(place) if place >= 0 else None
        if start is None or first - place > LONGEST_TAIL:
            return bool(self._ids(text[:begin]) == ids[:first])
        tail = text[start:begin]
        if len(self._tails) > MOST_TAILS:
            self._tails.clear()
        if tail not in self._tails:
            self._tails[tail] = self._ids(tail)
        return bool(self._tails[tail] == ids[place:first])

    def _in_pieces(self, text: str, begin: int, end: int, found: list[Span]) -> tuple[list[int], list[Span]]:
        """The same with the last answer tokenised apart from its prompt, as it is when the model is asked."""
        ids = self._ids(text[:begin])
        first = len(ids)
        ids += self._piece(text[begin:end])
        return ids + self._piece(text[end:]), [*found, (first, len(ids))]

    def _piece(self, text: str) -> list[int]:
        """The tokens of a piece from the middle of a text, without the space that some put first."""
        if not text:
            return []
        lead = self._ids("\n")
        ids = self._ids("\n" + text)
        if ids[: len(lead)] == lead:
            return ids[len(lead) :]
        ids = self._ids(text)
        if self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
            raise TemplateFault("the answer's first characters melt into the prompt", "begin the answer with a letter")
        return ids


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of all that a tokenizer and its template do."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _refused(fault: TemplateFault) -> Refused:
    return Refused("unrollable" if isinstance(fault, Unrollable) else "template", fault.what, fault.mend)


def _bare(row: Row) -> Rendered:
    if isinstance(row, Text):
        return Rendered(row.text, ((0, len(row.text)),))
    messages = chats(row)[0].messages
    prompt = "".join(message["content"] for message in messages[:-1])
    text = prompt + messages[-1]["content"]
    return Rendered(text, ((len(prompt), len(text)),))
