"""Answers that name a class: whether it is the right one, and which classes are taken for which."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LONGEST_NAME = 64  # characters of the name of a class
ROWS_A_CLASS = 2  # rows that a class has on average, or else the references are no classes
AROUND = " \t\n\"'`*_.,;:!?()[]“”‘’«»"  # what may stand around the name of a class


@dataclass(frozen=True)
class OfClass:
    """The rows of one class: how many are found, how many taken for it wrongly, and what was answered."""

    label: str
    rows: int
    precision: float | None  # none when no answer names the class
    recall: float
    f1: float
    answers: tuple[tuple[str | None, int], ...]  # each class that was answered (none: no class) and how often


def choice(answer: str, reference: str) -> float:
    """1 when the answer is the label of the reference, but for case, spaces and marks around it."""
    return float(label(answer) == label(reference))


def label(text: str) -> str:
    """A name of a class as it is compared."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(AROUND) or plain


def are_classes(references: Sequence[str]) -> bool:
    """Whether references are short names, several of them, that come again and again."""
    names = {label(text) for text in references}
    short = all(len(name) <= LONGEST_NAME and not name.startswith("{") for name in names)
    return short and 2 <= len(names) <= len(references) // ROWS_A_CLASS


def by_class(answers: Sequence[str], references: Sequence[str]) -> list[OfClass]:
    """What became of the rows of each class, the largest first."""
    names: dict[str, str] = {}
    for text in references:
        names.setdefault(label(text), text.strip())
    pairs = Counter(zip(map(label, references), map(label, answers), strict=True))
    wanted, given = Counter[str](), Counter[str]()
    for (right, said), count in pairs.items():
        wanted[right] += count
        given[said] += count
    return [_of_class(name, names, pairs, wanted, given) for name, _ in wanted.most_common()]


def _of_class(
    name: str, names: dict[str, str], pairs: Counter[tuple[str, str]], wanted: Counter[str], given: Counter[str]
) -> OfClass:
    hits, said = pairs[name, name], Counter[str | None]()
    for (right, answer), count in pairs.items():
        if right == name:
            said[names.get(answer)] += count
    return OfClass(
        names[name],
        wanted[name],
        hits / given[name] if given[name] else None,
        hits / wanted[name],
        2 * hits / (given[name] + wanted[name]),
        tuple(said.most_common()),
    )


def macro_f1(table: Sequence[OfClass]) -> float:
    """The mean F1 of the classes, whatever their size."""
    return fmean(one.f1 for one in table)


def no_class(table: Sequence[OfClass]) -> int:
    """How many answers name none of the classes."""
    return sum(count for one in table for said, count in one.answers if said is None)
