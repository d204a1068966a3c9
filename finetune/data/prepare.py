"""Rows, prepared once before any process trains: checked, split, tokenised, masked, kept as Arrow under a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.config import DataConfig


@dataclass(frozen=True)
class SplitFacts:
    """One prepared split: where it lies and what it holds."""

    path: str  # Arrow dataset (datasets.load_from_disk) with columns input_ids, labels, length, row (canonical JSON)
    rows: int
    tokens: int
    supervised_tokens: int
    longest: int
    truncated: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class PreparedData:
    """The prepared rows of a run. Small: the rows themselves stay on disk."""

    folder: str  # <output_dir>/.prepared/<fingerprint>
    shape: str  # chat or text
    train: SplitFacts
    held_out: SplitFacts | None
    held_out_from: str  # "files" or "split" or "none"
    fingerprint: str  # of everything that decides the tokens: rows, template, tokenizer, settings
    held_out_fingerprint: str | None
    warnings: tuple[str, ...] = ()


def prepare(
    data: DataConfig, *, learn: str, shapes: tuple[str, ...], tokenizer: Any, max_length: int, seed: int, cache: str
) -> PreparedData:
    """Prepare the rows, or find them prepared under the same fingerprint.

    Every fault of the rows is raised at once as a UserError, before anything is written.
    """
    raise NotImplementedError
