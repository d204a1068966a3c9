"""Texts to compare: sentences of words that are as frequent as in real text, and edits that make copies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

SYLLABLES = [onset + vowel + coda for onset in "bcdfghklmnprstvw" for vowel in "aeiou" for coda in ("", "n", "r", "st")]


class Writer:
    """Writes texts, always the same for a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        made = ("".join(self.dice.choices(SYLLABLES, k=self.dice.choice((1, 1, 2, 2, 3, 4)))) for _ in range(12_000))
        self._words = list(dict.fromkeys(made))
        self._weights = list(accumulate(1 / (rank + 2.7) for rank in range(len(self._words))))

    def words(self, count: int) -> list[str]:
        """So many words."""
        return self.dice.choices(self._words, cum_weights=self._weights, k=count)

    def rare_word(self) -> str:
        """A word that hardly stands elsewhere."""
        return self.dice.choice(self._words[2000:]) + self.dice.choice(SYLLABLES)

    def sentences(self, count: int) -> list[str]:
        """Sentences with about `count` words together."""
        found = []
        while count > 0:
            size = min(self.dice.randint(8, 20), count)
            found.append(" ".join(self.words(size)).capitalize() + self.dice.choice(".....?!"))
            count -= size
        return found

    def text(self, count: int) -> str:
        """A text of `count` words."""
        return " ".join(self.sentences(count))

    def changed(self, text: str, count: int) -> str:
        """The text with so many words replaced."""
        words = text.split(" ")
        for place in self.dice.sample(range(len(words)), count):
            words[place] = self.rare_word()
        return " ".join(words)

    def punctuated(self, text: str) -> str:
        """The text with other punctuation and layout."""
        marks = {".": "!", "?": " …", "!": "."}
        words = [word[:-1] + marks.get(word[-1], word[-1]) for word in text.split(" ")]
        return self.dice.choice((" ", "  ", "\n", "\n\n- ")).join(words).replace(" b", " «b")

    def swapped(self, text: str) -> str:
        """The text with its last sentence put first."""
        sentences = text.replace("? ", ".|").replace("! ", ".|").replace(". ", ".|").split("|")
        return " ".join([sentences[-1], *sentences[:-1]])


def jaccard(one: Sequence[str], other: Sequence[str], size: int) -> float:
    """The share of runs of `size` that two sequences have in common, worked out plainly."""
    first, second = ({tuple(part[at : at + size]) for at in range(len(part) - size + 1)} for part in (one, other))
    return len(first & second) / len(first | second)
