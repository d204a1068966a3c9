"""How many words answer and reference share: in any order, in the same order, in runs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST_RUN = 4  # words of the longest runs that `bleu` counts

# A token is a word, or one sign of a script that is written without spaces.
_SIGN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+")
_TOKEN_OR_MARK = re.compile(rf"[{_SIGN}]|[^\W{_SIGN}]+|[^\w\s]")


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of words that answer and reference have in common, in any order."""
    given, wanted = (_words(text) for text in (answer, reference))
    if not given or not wanted:
        return _same(answer, reference)
    return 2 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: harmonic mean of the shares of words in the longest sequence of words that both have in this order."""
    given, wanted = (_words(text) for text in (answer, reference))
    if not given or not wanted:
        return _same(answer, reference)
    return 2 * _longest_common(given, wanted) / (len(given) + len(wanted))


def bleu(answer: str, reference: str) -> float:
    """BLEU of one answer, runs of up to four words; 1 is added to the counts of runs of two and more.

    That is the smoothing of Lin and Och (2004). Words keep their case, and punctuation marks count as words.
    """
    given, wanted = (_TOKEN_OR_MARK.findall(text) for text in (answer, reference))
    if not given or not wanted:
        return _same(answer, reference)
    logs = 0.0
    for length in range(1, LONGEST_RUN + 1):
        runs, expected = _runs(given, length), _runs(wanted, length)
        added = int(length > 1)
        found = (runs & expected).total() + added
        if not found:
            return 0.0
        logs += math.log(found / (runs.total() + added))
    # an answer shorter than the reference would else be right too easily
    return math.exp(logs / LONGEST_RUN + min(0.0, 1 - len(wanted) / len(given)))


def spaced(text: str) -> str:
    """The text with one space wherever there is whitespace."""
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _same(answer: str, reference: str) -> float:
    """What is left to compare where one of them has no words."""
    return float(spaced(answer) == spaced(reference))


def _runs(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence: a bit for each word of the first, all moved at once."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    every = open_places = (1 << len(first)) - 1
    for word in second:
        met = open_places & places.get(word, 0)
        open_places = ((open_places + met) | (open_places - met)) & every
    return len(first) - open_places.bit_count()
