"""Steps that drop rows: each says why it drops one, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from finetune.data.clean.item import Item, answers, said
from finetune.data.clean.settings import LengthConfig
from finetune.data.examine.answers import answer_hits
from finetune.data.examine.languages import NAMES, language
from finetune.data.examine.private import spans
from finetune.data.examine.view import view
from finetune.data.likeness.words import count_words
from finetune.data.rows import Row

Reason = str | None  # why a row is dropped; none when it stays
Filter = Callable[[Item], Reason]

# What `clean.boilerplate.kinds` names → the codes of the checks.
BOILERPLATE = {
    "refusals": "refusal",
    "teachers": "teacher-name",
    "placeholders": "answer-placeholder",
    "phrases": "boilerplate",
}


def invalid(item: Item) -> Reason:
    """Whatever `train` would refuse in a row."""
    return item.refused() or None


def secret(item: Item) -> Reason:
    """Passwords, keys and tokens; they are named by their shape and never shown."""
    if item.row is None:
        return None
    found = {span.what for text in texts(item.row) for span in spans(text) if span.code.startswith("secret-")}
    return f"holds {' and '.join(sorted(found))}" if found else None


def texts(row: Row) -> list[str]:
    """Every text of a row, with those in the arguments of calls."""
    return [part.text for part in view(row, {}).parts]


def boilerplate(kinds: Collection[str]) -> Filter:
    """Answers that a chat model gives and nobody means to teach."""
    codes = {BOILERPLATE[kind] for kind in kinds}

    def drops(item: Item) -> Reason:
        if item.row is None:
            return None
        hits = (hit for hit in answer_hits(view(item.row, item.values)) if hit.code in codes)
        return next((f"an answer {hit.what}" for hit in hits), None)

    return drops


def languages(keep: Collection[str]) -> Filter:
    """Answers in another language; those whose language cannot be told stay."""

    def drops(item: Item) -> Reason:
        found = language("\n".join(answers(item.row))) if item.row is not None else ""
        return f"the answers are in {NAMES[found]} ({found})" if found and found not in keep else None

    return drops


def length(config: LengthConfig, tokenizer: Any) -> Filter:
    """Rows that are too short or too long; the tokens of a chat template are not counted."""

    def drops(item: Item) -> Reason:
        if item.row is None:
            return None
        found = sum(map(measure, answers(item.row) if config.of == "answers" else said(item.row)))
        if config.low is not None and found < config.low:
            return f"{found:,} {config.unit}, under clean.length.low={config.low:,}"
        if config.high is not None and found > config.high:
            return f"{found:,} {config.unit}, over clean.length.high={config.high:,}"
        return None

    def measure(text: str) -> int:
        if config.unit == "tokens":
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])
        return len(text) if config.unit == "characters" else count_words(text)

    return drops
