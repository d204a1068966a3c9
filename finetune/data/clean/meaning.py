"""Which of several rows that mean the same in other words is kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.data.clean.copies import SHORT_ANSWER, Drop, Preference, Rank
from finetune.data.clean.item import Item, answered, frame, unpack
from finetune.data.clean.settings import MeaningConfig
from finetune.data.likeness.embedding import Embedder
from finetune.data.likeness.meaning import Meanings, same_as_earlier
from finetune.data.likeness.words import normalise
from finetune.data.rows import Row, Text, hashed, question
from finetune.data.shelf import Shelf


def drop_same(
    items: Iterator[Item],
    preference: Preference,
    config: MeaningConfig,
    embedder: Embedder,
    drop: Drop,
    folder: Path,
) -> Iterator[Item]:
    """The rows that do not mean the same as a better one that is kept."""
    rows = _Rows(folder, config.other_answers)
    for place, item in enumerate(items):
        rows.add(item, preference.rank(item, place))
    order = sorted(range(len(rows.ranks)), key=rows.ranks.__getitem__)
    meanings = rows.meanings(embedder, order, folder)
    same = same_as_earlier(meanings, config.threshold, embedder.device)
    instead = {order[row]: (order[kept], likeness) for row, (kept, likeness) in same.items()}
    for place, text in enumerate(rows.items):
        item = unpack(text)
        if place in instead:
            kept, likeness = instead[place]
            drop(item, f"means the same (cosine {likeness:.3f}) as {unpack(rows.items[kept]).record.where}")
        else:
            yield item


class _Rows:
    """Rows and their texts on the disk, each text once; in memory only numbers."""

    def __init__(self, folder: Path, other_answers: bool) -> None:
        self.items, self._texts = Shelf(folder), Shelf(folder)
        self._known: dict[int, int] = {}
        self._any_answer = other_answers
        self._frame, self._asked, self._given, self._answered = (array("q") for _ in range(4))
        self.ranks: list[Rank] = []

    def add(self, item: Item, rank: Rank) -> None:
        """Add one row; a record that is no row has no text, and is like no other."""
        self.items.add(item.pack())
        self.ranks.append(rank)
        asked, given = ("", "") if item.row is None else (_asked(item.row), answered(item.row))
        words = normalise(given)
        in_other_words = not self._any_answer and len(words.split(" ")) >= SHORT_ANSWER
        self._frame.append(_number(frame(item.row) if item.row is not None else ""))
        self._asked.append(self._place(asked))
        self._given.append(0 if self._any_answer else _number(words))
        self._answered.append(self._place(given) if in_other_words else -1)

    def _place(self, text: str) -> int:
        """Where a text lies; those that differ in white space alone lie there once."""
        text = " ".join(text.split())
        if not text:
            return -1
        place = self._known.setdefault(hashed(text), len(self._texts))
        if place == len(self._texts):
            self._texts.add(text)
        return place

    def meanings(self, embedder: Embedder, order: list[int], folder: Path) -> Meanings:
        """What is compared of the rows, in this order."""
        columns = (
            np.array(part, dtype=np.int64)[order] for part in (self._frame, self._asked, self._given, self._answered)
        )
        return Meanings(embedder.embed(self._texts, folder), *columns)


def _asked(row: Row) -> str:
    """What is asked; plain text is compared as a whole."""
    return row.text if isinstance(row, Text) else question(row)


def _number(text: str) -> int:
    """The hash of a text as a signed number."""
    return hashed(text) - 2**63
