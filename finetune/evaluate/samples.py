"""What a model answered while it learned from its own answers, as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LONGEST_TEXT = 600  # characters of a question or an answer


def section(samples: Sequence[Mapping[str, Any]]) -> str:
    """Groups of answers from the beginning and the end of training, each with what it was paid."""
    if not samples:
        return ""
    first, last = samples[0]["step"], samples[-1]["step"]
    parts = [
        "<section><h2>What it answered</h2>",
        f'<p class="soft">Groups of its own answers, and what each was paid; {len(samples):,} are in '
        "completions.jsonl.</p>",
    ]
    for step in dict.fromkeys((first, last)):
        parts.append(f'<p class="soft">{"Before training" if step == 0 else f"Step {step:,}"}</p>')
        parts += [_group(row) for row in samples if row["step"] == step]
    return "".join([*parts, "</section>"])


def _group(row: Mapping[str, Any]) -> str:
    said = "".join(_answer(one) for one in row["answers"])
    return f'<div class="answer"><pre>{_cut(row["question"])}</pre><dl>{said}</dl></div>'


def _answer(one: Mapping[str, Any]) -> str:
    paid = "nothing said" if one["reward"] is None else f"{one['reward']:.3g}"
    several = len(one["rewards"]) > 1
    parts = "".join(f", {name} {'–' if value is None else f'{value:.3g}'}" for name, value in one["rewards"].items())
    cut = "" if one["stopped"] else ", cut off"
    return f"<dt>{escape(paid + (parts if several else '') + cut)}</dt><dd><pre>{_cut(one['text'])}</pre></dd>"


def _cut(text: str) -> str:
    return escape(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …")
