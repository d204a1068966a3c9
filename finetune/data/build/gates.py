"""The gates that look at one example at a time; each gives the reason why it is refused, or nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal

from finetune.data.build.candidates import Candidate
from finetune.data.build.settings import GateSettings
from finetune.data.check import check
from finetune.data.likeness.words import count_words
from finetune.data.rows import Chat
from finetune.errors import counted
from finetune.evaluate.overlap import f1
from finetune.evaluate.score import SCORERS, contains, exact

Gate = Callable[[Candidate, GateSettings], str]

OPENING = 300  # characters in which a refusal would stand
# How answers begin that answer nothing.
REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately|i regret)\b[^.!?]{0,120}"
    r"\b(can['’]?t|cannot|can not|unable|not able|won['’]?t|don['’]?t have|do not have)\b"
    r"|^\W*(i['’]?m sorry|i am sorry|sorry|i apologi[sz]e)\W*(but\b.*)?$"
    r"|^\W*i (can['’]?t|cannot|can not|won['’]?t|will not|am unable to|am not able to)"
    r" (help|assist|answer|provide|fulfil|comply|create|write|discuss|do that|engage|support)"
    r"|^\W*i['’]?m (unable|not able) to ",
    re.IGNORECASE,
)
# What assistants say about themselves, or about the document that the reader does not have.
BOILERPLATE = re.compile(
    r"\bas an? (ai|artificial intelligence|(large )?language model)\b|\bi['’]?m (just |only )?an ai\b"
    r"|\bi am (just |only )?an ai\b|\bmy (knowledge|training)( data)? (cut-?off|only goes|ends)\b"
    r"|\bi (don['’]?t|do not) have (access to )?(real-time|personal opinions|personal experiences)\b",
    re.IGNORECASE,
)
OF_DOCUMENT = re.compile(
    r"\b(according to|in|from|of|by) (the|this) (given |provided |above )?(document|text|passage|excerpt)\b"
    r"|\b(the|this) (document|text|passage|excerpt) (says?|states?|mentions?|describes?|explains?|tells?)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")
SAME_SIGN = str.maketrans({"“": '"', "”": '"', "„": '"', "’": "'", "‘": "'", "–": "-", "—": "-", "\u00a0": " "})
SHORTEST_QUOTE = 3  # words, or as many times three characters where words are not parted


def judge(candidate: Candidate, settings: GateSettings) -> tuple[str, str] | None:
    """The first gate that refuses an example, and its reason."""
    for name, gate in GATES.items():
        if reason := gate(candidate, settings):
            return name, reason
    return None


def _shape(candidate: Candidate, settings: GateSettings) -> str:
    return next((found.what for found in check(Chat(candidate.messages))), "")


def _length(candidate: Candidate, settings: GateSettings) -> str:
    words = count_words(candidate.answer)
    if words < settings.min_words:
        return f"{counted(words, 'word')}, under gates.min_words={settings.min_words}"
    if words > settings.max_words:
        return f"{counted(words, 'word')}, over gates.max_words={settings.max_words}"
    return ""


def _refusal(candidate: Candidate, settings: GateSettings) -> str:
    if not settings.refusals:
        return ""
    if REFUSAL.search(candidate.answer[:OPENING]):
        return "refuses to answer"
    if found := BOILERPLATE.search(candidate.answer):
        return f"speaks of itself: {found[0]!r}"
    if candidate.item.document is not None and (found := OF_DOCUMENT.search(candidate.question)):
        return f"asks about a document that the reader does not have: {found[0]!r}"
    return ""


def _quote(candidate: Candidate, settings: GateSettings) -> str:
    if not settings.quote or candidate.item.document is None:
        return ""
    quote = _plain(candidate.quote or "").strip(" .…\"'")
    if not quote:
        return "has no quote"
    if len(quote.split()) < SHORTEST_QUOTE and len(quote) < 3 * SHORTEST_QUOTE:
        return "the quote is too short to prove anything"
    return "" if quote in _plain(candidate.item.document) else "the quote does not stand in the document"


def _plain(text: str) -> str:
    """The text without differences of typing."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(SAME_SIGN).casefold().split())


def _reference(candidate: Candidate, settings: GateSettings) -> str:
    reference, way = candidate.item.reference, settings.verify
    if reference is None or way == "off":
        return ""
    if way == "auto":
        way = "number" if NUMBER.fullmatch(reference.strip()) else "contains"
    if way == "number":
        right = numbers(candidate.answer)[-1:] == numbers(reference)[-1:] != []
    else:
        right = SCORERS[way](candidate.answer, reference) == 1.0
    return "" if right else f"is not the reference {reference!r:.60} (gates.verify={way})"


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, in order."""
    return [Decimal(found.replace(",", "")) for found in NUMBER.findall(text)]


GATES: dict[str, Gate] = {
    "shape": _shape,
    "length": _length,
    "refusal": _refusal,
    "quote": _quote,
    "reference": _reference,
}


def agree(first: str, second: str, share: float) -> bool:
    """Whether two answers say the same, by their words: the shorter may be a part of the longer."""
    if exact(first, second):
        return True
    shorter, longer = sorted((first, second), key=len)
    if not set(numbers(shorter)) <= set(numbers(longer)):
        return False
    return bool(contains(_plain(longer), _plain(shorter))) or f1(first, second) >= share


def said_yes(text: str) -> bool:
    """Whether an answer of one word is yes."""
    return next(_words(text), "") == "yes"


def _words(text: str) -> Iterator[str]:
    return (found[0].casefold() for found in re.finditer(r"[^\W\d_]+", text))
