"""The preview shows what is learned, and shows it safely."""

from __future__ import annotations

import html.parser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import question

from finetune.data.prepare import PreparedData
from finetune.data.preview import preview_html, preview_text, write_preview

Run = Callable[..., PreparedData]


@pytest.fixture
def prepared(write_rows: Callable[..., str], run_prepare: Run) -> PreparedData:
    """Eight rows, the first of which would be a script if it were not escaped."""
    rows = [question(0, "<script>alert(1)</script> & 'Oslo'"), *(question(number) for number in range(1, 8))]
    return run_prepare(write_rows(rows), eval_share=0)


def test_text_brackets_exactly_what_is_learned(prepared: PreparedData, family: Callable[[str], Any]) -> None:
    text = preview_text(prepared, family("smollm2"), rows=3)
    assert text.count("--- row") == 3
    assert "<|im_start|>user\nQuestion 1?<|im_end|>\n<|im_start|>assistant\n⟦Answer 1.<|im_end|>⟧\n" in text
    assert f"{prepared.train.supervised_tokens:,}" in text.splitlines()[0]


def test_page_is_escaped_and_loads_nothing(prepared: PreparedData, family: Callable[[str], Any]) -> None:
    page = preview_html(prepared, family("smollm2"))
    assert "<script" not in page and "http" not in page and "src=" not in page
    assert "<mark>&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#x27;Oslo&#x27;&lt;|im_end|&gt;</mark>" in page


class Marks(html.parser.HTMLParser):
    """Collects the text of marks, and what is open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.marked: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "mark" in self.stack:
            self.marked.append(data)


def test_page_is_well_formed_and_marks_the_answers(prepared: PreparedData, family: Callable[[str], Any]) -> None:
    parser = Marks()
    parser.feed(preview_html(prepared, family("smollm2"), rows=4))
    assert parser.stack == []
    assert parser.marked[0] == "Example."  # the legend
    assert parser.marked[2:] == [f"Answer {number}.<|im_end|>" for number in (1, 2, 3)]


def test_long_rows_are_shortened_and_say_so(write_rows: Any, run_prepare: Run, family: Callable[[str], Any]) -> None:
    prepared = run_prepare(write_rows([question(0, "Oslo " * 3000)]), max_length=20_000)
    text = preview_text(prepared, family("smollm2"))
    assert len(text) < 6000
    assert "characters…]" in text
    assert text.rstrip().endswith("<|im_end|>⟧")


def test_both_files_are_written(prepared: PreparedData, family: Callable[[str], Any], tmp_path: Path) -> None:
    write_preview(tmp_path, prepared, family("smollm2"), rows=2)
    assert (tmp_path / "preview.txt").read_text(encoding="utf-8") == preview_text(prepared, family("smollm2"), 2)
    assert (tmp_path / "preview.html").read_text(encoding="utf-8") == preview_html(prepared, family("smollm2"), 2)
