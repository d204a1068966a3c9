"""Questions that the embedded model knows some answers to, and a short run on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import counted_row, write_rows


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions with their answers."""
    return write_rows(tmp_path_factory.mktemp("tasks") / "tasks.jsonl", [counted_row(number) for number in range(40)])


@pytest.fixture
def command(tasks: Path) -> tuple[str, ...]:
    """A short run of grpo on a CPU."""
    return (
        "model=tiny", "method=grpo", "method.rewards=[exact]", f"data.train={tasks}", "method.generations=4",
        "method.max_new_tokens=6", "training.batch_size=8", "training.learning_rate=1e-3", "training.log_every=1",
        "tuning.rank=4", "training.scheduler=constant", "method.most_dead=1",
    )  # fmt: skip
