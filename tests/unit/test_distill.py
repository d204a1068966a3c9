"""Distillation: what is learned of a row, what settings mean, and that a student moves towards its teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import save_llama, save_tokenizer
from rows import chat_row, write_rows

from finetune.methods.answers import answered

Run = Callable[..., tuple[int, str, str]]
STEPS = (
    "training.max_steps=6",
    "training.batch_size=4",
    "training.learning_rate=1e-3",
    "name=x",
    "training.log_every=1",
)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow random model."""
    folder = tmp_path_factory.mktemp("student")
    save_llama(folder, hidden=32)
    save_tokenizer(folder)
    return folder


def plan_of(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "plan.json").read_text()))


def test_a_row_is_cut_where_its_answer_begins() -> None:
    row = answered([1, 2, 3, 4, 5], [-100, -100, 3, 4, -100])
    assert (row.prompt, row.answer, row.learned, row.asked) == ([1, 2], [3, 4], [1, 1], [1, 2])


def test_of_several_turns_all_are_learned_and_the_last_is_asked() -> None:
    row = answered([1, 2, 3, 4, 5, 6], [-100, 2, -100, -100, 5, 6])
    assert (row.prompt, row.answer, row.learned) == ([1], [2, 3, 4, 5, 6], [1, 0, 0, 1, 1])
    assert row.asked == [1, 2, 3, 4]


def test_the_first_token_of_plain_text_is_foretold_by_nothing() -> None:
    row = answered([7, 8, 9], [7, 8, 9])
    assert (row.prompt, row.answer, row.learned) == ([7], [8, 9], [1, 1])
