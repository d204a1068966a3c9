"""Text → tokens, each word only once: most of what a tokenizer does, it does again for words that it has seen.

A byte-level BPE tokenises each piece of a text (a word with the space before it, a number, a run of marks) by itself.
So the text is cut here with the tokenizer's own pattern, and the tokens of a piece, which the tokenizers library makes,
are remembered. Only tokenizers whose cutting is understood are handled, and nothing is taken on trust: every character
is tried in all kinds of neighbourhood when it first occurs, where the library must cut in the same places; some texts
are tokenised in both ways, and each piece is cut once more by itself. Whatever differs is left to the library.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, pairwise, product
from typing import Any, Protocol

import numpy as np

# How GPT-2 cuts text, which is what `ByteLevel` does where it cuts by itself.
BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS = {True: r"\p{N}|[^\p{N}]+", False: r"\p{N}+|[^\p{N}]+"}

# What a pattern is made of, as far as it is the same for Python's engine and the library's.
SYNTAX = re.compile(r"\\p\{([LMNPSZC][a-z]?)\}|\\[sS]|\\[rnt\W]|[^\\]", re.DOTALL)
SETS_OF_SETS = ("[[", "&&", "--", "||", "~~")  # not all engines read them alike
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Python's own has four more

MOST_PIECES, LONGEST_PIECE = 200_000, 64  # that are remembered
ID_BYTES = np.dtype(np.int32).itemsize
FIRST = 500  # texts, after which it pays to find out how a tokenizer cuts
UNUSUAL = re.compile(r"[^ -~\n\r\t]")
# Neighbourhoods in which a character is tried.
PROBE = "a{0}b {0}c1{0}2 {0}{0}.{0}! '{0}s'{0} \n{0}\n {0}  {0}A{0}\t{0}'S \n\n{0}a\r\n{0}1 {0}"
USUAL = "".join(map(chr, range(32, 127))) + "\n\r\t"


class Tokens(Protocol):
    """The tokens of one text."""

    @property
    def ids(self) -> list[int]:
        """What the model is given."""

    def at(self, place: int) -> int | None:
        """The token that begins exactly at a character, or None when one lies across it."""

    def place(self, token: int) -> int | None:
        """The character that a token begins with, where that is known."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The tokens of a text that the library has tokenised as a whole."""

    encoding: Any
    length: int  # of the text

    @property
    def ids(self) -> list[int]:
        """What the model is given."""
        return list(self.encoding.ids)

    def at(self, place: int) -> int | None:
        """The token that begins exactly at a character, or None when one lies across it."""
        if place >= self.length:
            return len(self.encoding.ids)
        token: int | None = self.encoding.char_to_token(place)
        if token is None or self.encoding.token_to_chars(token)[0] != place:
            return None
        before = self.encoding.token_to_chars(token - 1) if token else (0, place)
        return token if before is not None and before[1] == place else None

    def place(self, token: int) -> int | None:
        """The character that a token begins with."""
        span = self.encoding.token_to_chars(token)
        return None if span is None else int(span[0])


@dataclass(frozen=True, slots=True)
class Joined:
    """The tokens of a text, put together from those of its pieces."""

    ids: list[int]
    text: str
    places: list[int]  # the characters with which pieces begin, at least those with added tokens, and the length
    tokens: list[int]  # the token that begins at each of these characters

    def at(self, place: int) -> int | None:
        """The token that begins exactly at a character, where that is known; None beside spaces.

        At spaces the library's places may be trimmed: it shall be asked itself, so that all rows are treated alike.
        """
        index = bisect_left(self.places, place)
        beside_space = " " in self.text[max(place - 1, 0) : place + 1]
        return None if beside_space or self.places[index] != place else self.tokens[index]

    def place(self, token: int) -> int | None:
        """The character that a token begins with, where that is known."""
        index = bisect_left(self.tokens, token)
        return self.places[index] if self.tokens[index] == token else None


class _Unstable(Exception):
    """A piece is cut otherwise where it stands alone."""


class _Known(dict[str, bytes]):
    """The tokens of the pieces that were met, as numbers of ID_BYTES bytes: these are joined fastest."""

    def __init__(self, make: Callable[[str], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, piece: str) -> bytes:
        tokens = self._make(piece)
        if len(piece) <= LONGEST_PIECE:
            self[piece] = tokens
        return tokens


class Pieces:
    """Tokenises texts for one tokenizer."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._seen = 0
        self._understood: bool | None = None
        self._known = _Known(self._alone)
        self._trusted: set[str] = set()
        self._untrusted: set[str] = set()
        self._cuts: list[re.Pattern[str]] = []
        self._added: Any = None
        self._composes = False

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, without those that a tokenizer adds at its ends."""
        self._seen += len(texts)
        if self._seen > FIRST and self._understood is None:
            probes = [PROBE.format(mark) for mark in USUAL]
            self._understood = self._understand() and self._pass(probes) and self._agree(self._sure(texts))
        if not self._understood:
            return self.whole(texts)
        if len(self._known) > MOST_PIECES:
            self._known.clear()
        try:
            return [self._join(text) if self._is_sure(text) else self.whole([text])[0] for text in texts]
        except _Unstable:
            self._understood = False
            return self.whole(texts)

    def whole(self, texts: Sequence[str]) -> list[Tokens]:
        """The same as the library does it."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False) if texts else ()
        return [Whole(encoding, len(text)) for encoding, text in zip(encodings, texts, strict=True)]

    def _understand(self) -> bool:
        """Whether the tokenizer cuts text in a way that is known here; notes how."""
        normalizer, first = _described(self._backend.normalizer), _described(self._backend.pre_tokenizer)
        self._composes = normalizer == {"type": "NFC"}
        steps = first.get("pretokenizers", [first])
        patterns = [_pattern(step) for step in steps]
        known = patterns[: patterns.index(None)] if None in patterns else patterns
        added = self._backend.get_added_tokens_decoder().values()
        model = self._backend.model
        if type(model).__name__ != "BPE" or model.dropout or not (self._composes or not normalizer):
            return False
        if any(token.lstrip or token.rstrip or token.single_word for token in added):
            return False
        early, late = ([token.content for token in added if token.normalized is flag] for flag in (False, True))
        if not any(known) or steps[-1]["type"] != "ByteLevel" or any(_overlap(*pair) for pair in product(early, late)):
            return False
        if any(step.get("add_prefix_space") for step in steps):
            return False
        names = sorted((token.content for token in added), key=len, reverse=True)  # the longest is taken
        self._added = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        cuts = [_compiled(pattern) for pattern in known if pattern]
        self._cuts = [cut for cut in cuts if cut is not None]
        return len(self._cuts) == len(cuts)

    def _pass(self, probes: Sequence[str]) -> bool:
        """Whether probes are cut alike, which does not always show in their tokens, and have the same tokens."""
        return all(map(self._cuts_alike, probes)) and self._agree(probes)

    def _cuts_alike(self, text: str) -> bool:
        ends = [0, *accumulate(map(len, self._cut_plain(text)))]
        return list(pairwise(ends)) == [span for _, span in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def _agree(self, texts: Sequence[str]) -> bool:
        """Whether both ways give the same tokens."""
        try:
            joined = [self._join(text).ids for text in texts]
        except _Unstable:
            return False
        return joined == [tokens.ids for tokens in self.whole(texts)]

    def _sure(self, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if self._is_sure(text)]

    def _is_sure(self, text: str) -> bool:
        """Whether a text holds only characters that are cut here as they are in the library."""
        unusual = set(UNUSUAL.findall(text))
        if not unusual:
            return True
        for mark in unusual - self._trusted - self._untrusted:
            (self._trusted if self._pass([PROBE.format(mark)]) else self._untrusted).add(mark)
        return unusual <= self._trusted and (not self._composes or unicodedata.is_normalized("NFC", text))

    def _join(self, text: str) -> Joined:
        places, tokens, joined = [0], [0], []
        for part, is_added in self._parts(text):
            pieces = [part] if is_added else self._cut_plain(part)
            joined.append(b"".join(map(self._known.__getitem__, pieces)))
            places.append(places[-1] + len(part))
            tokens.append(tokens[-1] + len(joined[-1]) // ID_BYTES)
        return Joined(np.frombuffer(b"".join(joined), dtype=np.int32).tolist(), text, places, tokens)

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The added tokens of a text and what lies between them."""
        parts = self._added.split(text) if self._added else [text]
        return ((part, number % 2 == 1) for number, part in enumerate(parts) if part)

    def _alone(self, piece: str) -> bytes:
        """The tokens of a piece as the library makes them."""
        is_added = bool(self._added and self._added.fullmatch(piece))
        if not is_added and self._cut_plain(piece) != [piece]:
            raise _Unstable
        return np.array(self._backend.encode(piece, add_special_tokens=False).ids, dtype=np.int32).tobytes()

    def _cut_plain(self, text: str) -> list[str]:
        pieces = [text] if text else []
        for cut in self._cuts:
            pieces = list(chain.from_iterable(_found(cut, part) for part in pieces))
        return pieces


def _described(part: Any) -> dict[str, Any]:
    """What a part of the tokenizer is; nothing where there is none."""
    return dict(json.loads(part.__getstate__())) if part is not None else {}


def _overlap(one: str, other: str) -> bool:
    """Whether two tokens can share characters of a text; the library then looks for those that it normalises last."""
    lengths = range(1, min(len(one), len(other)) + 1)
    touch = any(one.endswith(other[:length]) or other.endswith(one[:length]) for length in lengths)
    return touch or one in other or other in one


def _found(cut: re.Pattern[str], text: str) -> list[str]:
    """What a pattern finds in a text, and what lies between."""
    found: list[str] = cut.findall(text)
    if "".join(found) == text:
        return found
    ends = [0, *chain.from_iterable(match.span() for match in cut.finditer(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(ends) if begin < end]


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A tokenizer's pattern for Python's own engine, which is the fastest here; None when it cannot say the same."""
    if SYNTAX.sub("", pattern) or any(sign in pattern for sign in SETS_OF_SETS):
        return None
    parts, in_set = [], False
    for found in SYNTAX.finditer(pattern):
        part, kind = found[0], found[1]
        in_set = part == "[" or (in_set and part != "]")
        if part == r"\S":
            if in_set:
                return None
            parts.append(f"[^{SPACE}]")
        elif part == r"\s" or kind:
            characters = _characters(kind) if kind else SPACE
            parts.append(characters if in_set else f"[{characters}]")
        else:
            parts.append(part)
    try:
        cut = re.compile("".join(parts))
    except re.error:
        return None
    return None if cut.groups else cut


@cache
def _characters(kind: str) -> str:
    """The characters of a general category, as a set of a pattern names them.

    Those beyond the first 65,536 are left out, which would take long: texts with such letters go to the library.
    """
    codes = [code for code, category in enumerate(_categories()) if category.startswith(kind)]
    begins = [code for code, before in zip(codes, [-1, *codes], strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -1], strict=True) if code != after - 1]
    return "".join(f"\\u{begin:04x}-\\u{end:04x}" for begin, end in zip(begins, ends, strict=True))


@cache
def _categories() -> list[str]:
    return [unicodedata.category(chr(code)) for code in range(0x10000)]


def _pattern(step: dict[str, Any]) -> str | None:
    """The pattern by which one step cuts text: "" when it cuts nothing, None when it is not known."""
    if step.get("type") == "ByteLevel":
        return BYTE_LEVEL if step["use_regex"] else ""
    if step.get("type") == "Digits":
        return DIGITS[step["individual_digits"]]
    if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        pattern: str | None = step["pattern"].get("Regex")
        return pattern
    return None
