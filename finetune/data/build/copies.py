"""Examples that are there already: in the rows to train on, among those just made, or held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.config import DataConfig


@dataclass(frozen=True)
class Known:
    """The texts that new examples are compared with."""

    train: Sequence[str]
    held_out: Sequence[str]
    near: float

    def judge(self, texts: Sequence[str], made: Sequence[str]) -> dict[int, tuple[str, str]]:
        """Which of the texts are refused, by their index: the gate and the reason."""
        return {}


def known_texts(given: Any, key: str, settings: DataConfig) -> list[str]:
    """The texts of rows, as they are compared; none when nothing is given."""
    if given is None:
        return []
    from finetune.data.load import load
    from finetune.data.read import find_sources
    from finetune.data.rows import SHAPES, compared, from_json

    loaded = load(find_sources(given, key), replace(settings, train=given), SHAPES, set())
    return [compared(from_json(row.json)) for row in loaded]
