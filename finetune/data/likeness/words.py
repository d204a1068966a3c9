"""Texts as they are compared: normalised, cut into words, hashed.

Many texts are handled at once, as one array of code points, because a call of numpy for each would cost more than the
work. A word is a run of letters, digits and marks. A symbol is a word of its own, and so is each character of a
script that writes no spaces (Chinese, Japanese, Thai and others); punctuation and layout vanish.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

BATCH_CHARACTERS = 100_000  # arrays of this length stay in the processor's cache

# What a character does to the text that is compared.
_DROP, _SPACE, _FOLD, _QUIET, _WORD, _ALONE, _MARK, _OPERATOR, _END = range(9)

_OPERATORS = "-*/#"
_OTHER_SIGNS = {"-": "\u2010\u2011\u2012\u2013\u2014\u2212", "*": "\u00d7", "/": "\u00f7\u2215"}
_QUIET_MARKS = (
    "'\u2018\u2019\u02bc\u0640"  # apostrophes, however they are typed, and the Arabic line that stretches words
)
_KEPT_PUNCTUATION = "%&@"
_FOLDED_SYMBOLS = "`|~\u00a8\u00af\u00b4\u00b8"  # Markdown, and accents that stand alone
_INVISIBLE_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_LINES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85"
# Scripts without spaces between words: first and last code point.
_SPACELESS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x3005, 0x3007),
    (0x3040, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA48F),
    (0xF900, 0xFAFF), (0x16FE0, 0x18DFF), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip
_SPACELESS_LETTER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _SPACELESS) + "]")
_WIDE_PUNCTUATION = re.compile("[\u3001-\u3003\u3008-\u3020\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")
_ASSIGNED = ((0, 0x323B0), (0xE0000, 0xE0200))  # beyond these nothing is assigned but private characters


def count_words(text: str) -> int:
    """How many words a person would count: those between spaces, and each character of a script that writes none."""
    if text.isascii():
        return len(text.split())
    rest, alone = _SPACELESS_LETTER.subn(" ", text)
    return len(_WIDE_PUNCTUATION.sub(" ", rest).split() if alone else rest.split()) + alone


@dataclass(frozen=True)
class Folded:
    """Texts after normalising, one after another, as hashes of their words and of their characters."""

    texts: tuple[str, ...]  # normalised
    words: Hashes
    word_bounds: Places  # the words of text i are words[word_bounds[i] : word_bounds[i + 1]]
    characters: Hashes  # without spaces
    character_bounds: Places


def normalise(text: str) -> str:
    """The text for comparing only: copies that differ in case, layout, punctuation or encoding give equal results.

    A text of nothing but punctuation keeps it, and so do arithmetic signs between digits: 3-4 is not 3*4.
    """
    return fold([text]).texts[0]


def key(text: str) -> int:
    """A 64-bit hash of the normalised text, the same in every process and version."""
    return int(keys(normalise(text) for text in (text,))[0])


def keys(normalised: Iterator[str] | Sequence[str]) -> Hashes:
    """The 64-bit hashes of texts that are normalised already."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in normalised]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Folded]]:
    """The texts, folded in batches of bounded size, each with the index of its first text."""
    batch: list[str] = []
    size, first = 0, 0
    for index in range(0, len(texts), 64):
        for text in texts[index : index + 64]:
            batch.append(text)
            size += len(text)
            if size >= BATCH_CHARACTERS:
                yield first, fold(batch)
                first, size, batch = first + len(batch), 0, []
    if batch:
        yield first, fold(batch)


def fold(texts: Sequence[str]) -> Folded:
    """Normalise the texts and hash their words and characters."""
    codes, kinds = _kept(texts)
    is_end = kinds == _END
    inside = kinds >= _WORD
    inside &= ~is_end
    starts = _starts(kinds, inside)
    characters = codes[inside]
    at = np.flatnonzero(starts[inside])
    # How many characters and words there are up to the end of each text.
    ends = np.flatnonzero(is_end)
    character_bounds = _with_zero(np.cumsum(inside, dtype=np.int64)[ends])
    word_bounds = _with_zero(np.cumsum(starts, dtype=np.int64)[ends])
    hashed = _mixed(characters.astype(np.uint64) * _ODD[0] + _ODD[1])
    return Folded(
        _strings(characters, at, character_bounds, word_bounds),
        _word_hashes(hashed, at),
        word_bounds,
        hashed,
        character_bounds,
    )


def windows(values: Hashes, bounds: Places, size: int) -> tuple[Hashes, Places]:
    """The hashes of all runs of `size` values within a text, in order, and their bounds.

    A text with fewer values has none.
    """
    total = len(values) - size + 1
    if total <= 0:
        return np.empty(0, dtype=np.uint64), np.zeros(len(bounds), dtype=np.int64)
    mixed = values[:total] * _ODD[2]
    factor = _ODD[2]
    with np.errstate(over="ignore"):
        for place in range(1, size):
            factor = factor * _ODD[3]
            mixed += values[place : place + total] * factor
    counts = np.maximum(np.diff(bounds) - size + 1, 0)
    found = _with_zero(np.cumsum(counts))
    inside = np.arange(found[-1]) + np.repeat(bounds[:-1] - found[:-1], counts)
    return _mixed(mixed[inside]), found


def distinct(values: Hashes) -> Hashes:
    """The values in order, each once: for integers far faster than the hash table of numpy.unique."""
    values = np.sort(values)
    is_first = np.concatenate((np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1]))
    return np.asarray(values[is_first])


# Odd constants from the fractional parts of square roots of primes, so that nobody chose them.
_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1, 0x510E527FADE682D1,
     0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179],
    dtype=np.uint64,
)  # fmt: skip


def _mixed(values: Hashes) -> Hashes:
    """Every bit of each value spread over all of them (the values are overwritten)."""
    shift = np.uint64(32)
    with np.errstate(over="ignore"):
        for factor in (_ODD[4], _ODD[5]):
            values ^= values >> shift
            values *= factor
    values ^= values >> np.uint64(29)
    return values


def _with_zero(counts: Places) -> Places:
    return np.concatenate((np.zeros(1, dtype=np.int64), counts))


def _word_hashes(characters: Hashes, starts: Places) -> Hashes:
    if not len(starts):
        return np.empty(0, dtype=np.uint64)
    lengths = np.diff(starts, append=len(characters))
    place = (np.arange(len(characters)) - np.repeat(starts, lengths)).astype(np.uint64)
    with np.errstate(over="ignore"):
        # The place in the word decides what a character adds, so that anagrams differ.
        place *= _ODD[6]
        place += characters
    return _mixed(np.add.reduceat(_mixed(place), starts))


def _strings(
    characters: NDArray[np.uint32], starts: Places, character_bounds: Places, word_bounds: Places
) -> tuple[str, ...]:
    """The normalised texts: words with one space between them."""
    is_start = np.zeros(len(characters), dtype=np.int64)
    is_start[starts] = 1
    spaced = np.full(len(characters) + len(starts), 32, dtype="<u4")
    spaced[np.arange(len(characters)) + np.cumsum(is_start)] = characters
    whole = spaced.tobytes().decode("utf-32-le")
    bounds = (character_bounds + word_bounds).tolist()
    return tuple(whole[begin + 1 : end] for begin, end in pairwise(bounds))


def _kept(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """The code points of the texts, each text with an end, and what each does; what vanishes has gone."""
    whole = "\0".join([_folded_case(text) for text in texts]) + "\0" if texts else ""
    codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)
    kinds = _kinds()[codes]
    _restore_bare(kinds)
    _settle_operators(codes, kinds)
    vanishing = (kinds == _DROP) | (kinds == _QUIET)
    if vanishing.any():
        codes, kinds = codes[~vanishing], kinds[~vanishing]
    return codes, kinds


def _folded_case(text: str) -> str:
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return text.replace("\0", "") if "\0" in text else text


def _restore_bare(kinds: NDArray[np.uint8]) -> None:
    """Let texts of nothing but punctuation keep it: `?` is not `!`."""
    ends = np.flatnonzero(kinds == _END)
    if not len(ends):
        return
    begins = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1] + 1))
    has_words = np.logical_or.reduceat((kinds >= _WORD) & (kinds <= _MARK), begins)
    # An end alone is its own segment, so an empty text has no words and nothing to keep.
    for text in np.flatnonzero(~has_words):
        part = kinds[begins[text] : ends[text]]
        part[(part == _FOLD) | (part == _QUIET) | (part == _OPERATOR)] = _ALONE


def _settle_operators(codes: NDArray[np.uint32], kinds: NDArray[np.uint8]) -> None:
    """Keep a sign between two digits, a minus before a number, the sharp of C#; elsewhere it is layout."""
    at = np.flatnonzero(kinds == _OPERATOR)
    if not len(at):
        return
    for plain, others in _OTHER_SIGNS.items():
        codes[at[np.isin(codes[at], [ord(other) for other in others])]] = ord(plain)
    last = len(codes) - 1  # always an end, so that looking one further stays inside
    before, after = np.maximum(at - 1, 0), np.minimum(at + 1, last)
    touches = (at > 0) & ((kinds[before] == _WORD) | (kinds[before] == _MARK))
    sharp = touches & (codes[at] == ord("#"))
    minus = ~touches & (codes[at] == ord("-")) & _is_digit(codes[after])
    before = np.where(codes[before] == 32, np.maximum(before - 1, 0), before)
    after = np.where(codes[after] == 32, np.minimum(after + 1, last), after)
    between = _is_digit(codes[before]) & _is_digit(codes[after])
    kinds[at] = np.where(between | sharp | minus, _ALONE, _FOLD)


def _is_digit(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (codes >= ord("0")) & (codes <= ord("9"))


def _starts(kinds: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where words begin."""
    previous = kinds
    marks = kinds == _MARK
    if marks.any():  # a mark belongs to the letter before it
        own = np.where(marks, 0, np.arange(len(kinds)))
        previous = kinds[np.maximum.accumulate(own)]
    previous = np.concatenate((np.array([_SPACE], dtype=np.uint8), previous[:-1]))
    begins = (kinds == _ALONE) | (previous != _WORD)
    begins &= inside
    begins &= ~(marks & (previous == _ALONE))
    return np.asarray(begins)


@cache
def _kinds() -> NDArray[np.uint8]:
    """What each code point does."""
    kinds = np.full(0x110000, _WORD, dtype=np.uint8)
    for first, end in _ASSIGNED:
        kinds[first:end] = [_KIND_OF_CATEGORY[unicodedata.category(chr(code))] for code in range(first, end)]
    for first, last in _SPACELESS:
        part = kinds[first : last + 1]
        letters = [unicodedata.category(chr(code)) in ("Lo", "Lm", "Nl") for code in range(first, last + 1)]
        part[np.array(letters)] = _ALONE
    kinds[0xD800:0xE000] = _DROP
    kinds[0xFE00:0xFE10] = _DROP
    kinds[0xE0000:0xE0200] = _DROP  # variation selectors and tags
    for characters, kind in _EXCEPTIONS:
        kinds[[ord(character) for character in characters]] = kind
    return kinds


_KIND_OF_CATEGORY = {
    "Lu": _WORD, "Ll": _WORD, "Lt": _WORD, "Lm": _WORD, "Lo": _WORD, "Nd": _WORD, "Nl": _WORD, "No": _WORD,
    "Co": _WORD, "Cn": _WORD, "Mn": _MARK, "Mc": _MARK, "Me": _MARK, "Zs": _SPACE, "Zl": _SPACE, "Zp": _SPACE,
    "Pc": _FOLD, "Pd": _FOLD, "Ps": _FOLD, "Pe": _FOLD, "Pi": _FOLD, "Pf": _FOLD, "Po": _FOLD, "Sm": _ALONE,
    "Sc": _ALONE, "Sk": _ALONE, "So": _ALONE, "Cc": _DROP, "Cf": _DROP, "Cs": _DROP,
}  # fmt: skip

_EXCEPTIONS = (
    (_LINES, _SPACE),
    (_KEPT_PUNCTUATION, _ALONE),
    (_FOLDED_SYMBOLS, _FOLD),
    (_INVISIBLE_LETTERS, _DROP),
    (_QUIET_MARKS, _QUIET),
    (_OPERATORS + "".join(_OTHER_SIGNS.values()), _OPERATOR),
    ("\0", _END),
)
