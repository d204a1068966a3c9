"""What the model sees and what it learns, for some rows: as text for a terminal, as a page for a browser."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data import store
from finetune.data.prepared import PreparedData
from finetune.errors import counted

MOST_CHARACTERS = 4000  # of one row; the middle of a longer one is left out

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #999; border-radius: 4px;
  padding: .75rem; color: #595959; }
mark { background: #cdeccd; color: #0b3d0b; border-bottom: 2px solid #1a7f1a; }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #161616; }
  pre { color: #b0b0b0; border-color: #666; }
  mark { background: #123d12; color: #c8f5c8; border-color: #5fce5f; }
}
"""


def preview_text(prepared: PreparedData, tokenizer: Any, rows: int = 5) -> str:
    """The first rows as the model sees them, with what is learned in ⟦double brackets⟧."""
    lines = [f"{_summary(prepared)} What is learned stands in ⟦double brackets⟧.", ""]
    for number, name, parts in _blocks(prepared, tokenizer, rows):
        lines += [f"--- row {number}{name and f', {name}'}", _bracketed(parts), ""]
    return "\n".join(lines)


def sample(prepared: PreparedData, tokenizer: Any, most: int = 600) -> str:
    """The first row as preview_text shows it, its middle left out where it is long; of a pair its better side."""
    _, _, parts = next(_blocks(prepared, tokenizer, 1))
    marked = _bracketed(parts)
    return marked if len(marked) <= most else f"{marked[: most // 2]} … {marked[-most // 2 :]}"


def preview_html(prepared: PreparedData, tokenizer: Any, rows: int = 5) -> str:
    """The same as a page of its own, which loads nothing from elsewhere."""
    blocks = []
    for number, name, parts in _blocks(prepared, tokenizer, rows):
        marked = "".join(_html_part(text, learned) for text, learned in parts)
        place, said = f"row-{number}{name and '-' + name.replace(' ', '-')}", f"Row {number}{name and f', {name}'}"
        blocks.append(f'<h2 id="{place}">{said}</h2>\n<pre>{marked}</pre>')
    body = "\n".join(blocks)
    legend = "Underlined on green: learned. Grey: seen by the model, but not learned."
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>What is learned</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>What is learned</h1>\n"
        f"<p>{html.escape(_summary(prepared))}</p>\n<p><mark>Example.</mark> {legend}</p>\n{body}\n"
        "</body>\n</html>\n"
    )


def write_preview(folder: str | Path, prepared: PreparedData, tokenizer: Any, rows: int = 5) -> None:
    """Write `preview.txt` and `preview.html` into a folder."""
    Path(folder, "preview.txt").write_text(preview_text(prepared, tokenizer, rows), encoding="utf-8")
    Path(folder, "preview.html").write_text(preview_html(prepared, tokenizer, rows), encoding="utf-8")


def _summary(prepared: PreparedData) -> str:
    train = prepared.train
    share = 100 * train.supervised_tokens / max(train.tokens, 1)
    learned = f"{train.supervised_tokens:,} ({share:.0f} %)"
    size = f"{counted(train.rows, 'row')}, {counted(train.tokens, 'token')}"
    if prepared.shape == "task":
        return f"{size} in what is asked; the model writes the answers while it learns."
    said = f"{size}, of which {learned} are learned."
    return f"The first window of a stream: {said}" if prepared.is_partial else said


def _html_part(text: str, learned: bool) -> str:
    escaped = html.escape(text)
    return f"<mark>{escaped}</mark>" if learned else escaped


def _bracketed(parts: list[tuple[str, bool]]) -> str:
    return "".join(f"⟦{text}⟧" if learned else text for text, learned in parts)


def _blocks(prepared: PreparedData, tokenizer: Any, rows: int) -> Iterator[tuple[int, str, list[tuple[str, bool]]]]:
    """The number of each row, the name of each block of it, and its text in parts."""
    for number, blocks in enumerate(store.read_tokens(prepared.train.path, rows), 1):
        for name, ids, labels in blocks:
            yield number, name, _shortened(_runs(ids, labels, tokenizer))


def _runs(ids: list[int], labels: list[int], tokenizer: Any) -> list[tuple[str, bool]]:
    """The text of one row in runs of learned and of masked tokens."""
    runs: list[tuple[list[int], bool]] = []
    for token, label in zip(ids, labels, strict=True):
        learned = label != -100
        if runs and runs[-1][1] == learned:
            runs[-1][0].append(token)
        else:
            runs.append(([token], learned))
    return [(str(tokenizer.decode(tokens, skip_special_tokens=False)), learned) for tokens, learned in runs]


def _shortened(parts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Long runs without their middle, so that a row stays readable and its answer in sight."""
    most = MOST_CHARACTERS // max(len(parts), 1)
    half = max(most // 2, 100)
    return [
        (f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}", learned)
        if len(text) > 2 * half + 40
        else (text, learned)
        for text, learned in parts
    ]
