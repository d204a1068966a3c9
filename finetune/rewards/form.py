"""Rewards of the form of an answer, which say nothing of whether it is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

RUN = 3  # words of the runs whose repetition is counted


def format_of(answer: str, tags: Sequence[str]) -> float:
    """1 when the answer is its tags, each once, in this order, each holding something, with nothing around them."""
    return float(_layout(tuple(tags)).fullmatch(answer) is not None)


def inside(answer: str, tags: Sequence[str]) -> str:
    """What stands in the last tag of an answer, or else the whole of it."""
    if not tags:
        return answer
    opening, closing = f"<{tags[-1]}>", f"</{tags[-1]}>"
    end = answer.rfind(closing)
    begin = answer.rfind(opening, 0, max(0, end))
    return answer if begin < 0 else answer[begin + len(opening) : end].strip()


def tagged(answer: str, tags: Sequence[str]) -> str:
    """An answer as the format wants it."""
    return "\n".join([*(f"<{tag}>Let me see.</{tag}>" for tag in tags[:-1]), f"<{tags[-1]}>{answer}</{tags[-1]}>"])


def length(answer: str, least: int | None, most: int | None) -> float:
    """1 within the band of words; outside less by the share of the nearer bound that it is off."""
    from finetune.data.likeness.words import count_words

    words = count_words(answer)
    if least is not None and words < least:
        return words / least
    return max(0.0, 2 - words / most) if most is not None and words > most else 1.0


def repetition(answer: str) -> float:
    """The share of the runs of three words that did not come before; 0 for an empty answer."""
    words = answer.casefold().split()
    runs = [tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
    return len(set(runs)) / len(runs) if runs else float(bool(words))


@cache
def _layout(tags: tuple[str, ...]) -> re.Pattern[str]:
    any_tag = "|".join(map(re.escape, tags))
    parts = (rf"<{tag}>(?!\s*</{tag}>)(?:(?!</?(?:{any_tag})>).)+</{tag}>\s*" for tag in tags)
    return re.compile(rf"\s*{''.join(parts)}", re.DOTALL)
