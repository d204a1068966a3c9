"""Personal data → placeholders such as [EMAIL_1], the same in a row wherever the same thing stood."""

from __future__ import annotations

import re
from collections.abc import Collection

from finetune.data.clean.item import Item, edited
from finetune.data.examine.private import Span, spans

PLACEHOLDER = re.compile(r"\[([A-Z]{2,6})_(\d{1,6})\]")


class Masking:
    """The placeholders of one row."""

    def __init__(self, kinds: Collection[str]) -> None:
        self._kinds = kinds
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}

    def know(self, text: str) -> str:
        """Note placeholders that the row has already, so that none gets a second meaning."""
        for kind, number in PLACEHOLDER.findall(text):
            self._numbers[kind] = max(self._numbers.get(kind, 0), int(number))
        return text

    def mask(self, text: str) -> str:
        """The text with placeholders."""
        found, end = "", 0
        for span in self._apart(text):
            found += text[end : span.begin] + self._placeholder(span, text[span.begin : span.end])
            end = span.end
        return found + text[end:]

    def _apart(self, text: str) -> list[Span]:
        """What is masked, in order; of two that overlap the one that begins first, or else the longer."""
        kept: list[Span] = []
        mine = (span for span in spans(text) if span.code.removeprefix("personal-") in self._kinds)
        for span in sorted(mine, key=lambda span: (span.begin, -span.end)):
            if not kept or span.begin >= kept[-1].end:
                kept.append(span)
        return kept

    def _placeholder(self, span: Span, value: str) -> str:
        kind = span.code.removeprefix("personal-").upper()
        same = value.lower() if kind == "EMAIL" else re.sub(r"[\s().-]", "", value)
        if (kind, same) not in self._names:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            self._names[kind, same] = f"[{kind}_{self._numbers[kind]}]"
        return self._names[kind, same]


def mask(item: Item, kinds: Collection[str]) -> None:
    """Mask what is personal in everything that a row says."""
    if item.row is None:
        return
    masking = Masking(kinds)
    edited(item.row, masking.know)
    item.change(edited(item.row, masking.mask))
