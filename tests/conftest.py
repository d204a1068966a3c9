"""What all tests share: rows to train on, and runs made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rows import chat_row, worded, write_rows

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """Forty conversations in a file."""
    return write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(40)])


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer. Tests that change files copy it first."""
    from models import save_llama, save_tokenizer

    folder = tmp_path_factory.mktemp("models") / "llama"
    save_llama(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def evaluated_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three evaluated runs under runs/. Tests that change files copy it first.

    `good` has learned the one answer of its rows; `poor` was trained for one step and evaluated on the same held-out
    rows; `other` was evaluated on other ones.
    """
    from finetune.cli import main

    folder = tmp_path_factory.mktemp("evaluated")
    answer = "violet"
    write_rows(folder / "my.jsonl", [worded(number, answer) for number in range(40)])
    write_rows(folder / "held.jsonl", [worded(number, answer) for number in range(60, 72)])
    write_rows(folder / "others.jsonl", [worded(number, answer) for number in range(80, 90)])
    made = {
        "poor": ["data.eval=held.jsonl", "training.max_steps=1"],
        "good": [
            "data.eval=held.jsonl",
            "training.max_steps=30",
            "training.save_every=15",
            "training.learning_rate=0.01",
        ],
        "other": ["data.eval=others.jsonl", "training.max_steps=1"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, settings in made.items():
            assert main(["train", "model=tiny", "data.train=my.jsonl", f"name={name}", *settings]) == 0
            assert main(["evaluate", name, "evaluate.few_shot=1"]) == 0
    return folder


@pytest.fixture
def finetune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in a folder of its own; gives exit code, stdout and stderr."""
    from finetune.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
