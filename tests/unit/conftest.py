"""Models that several tests share, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import save_llama, save_tokenizer


@pytest.fixture(scope="session")
def random_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer. Tests that change files copy it first."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_llama(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tied_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one matrix for input and output embeddings."""
    folder = tmp_path_factory.mktemp("models") / "tied"
    save_llama(folder, tied=True)
    save_tokenizer(folder)
    return folder
