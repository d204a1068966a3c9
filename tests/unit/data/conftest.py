"""Tokenizers of every template family: one small byte-level BPE, with each family's special tokens and template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune.config import DataConfig
from finetune.data import prepare as prepare_module
from finetune.data.prepare import PreparedData, prepare
from finetune.data.workers import Crew

TEMPLATES = Path(__file__).parents[2] / "fixtures" / "templates"

# How Llama 3, Qwen and others cut text into words: line breaks are a word of their own.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CORPUS = [
    "Paris is the capital of France. What is the capital of Norway? Oslo is.",
    "You are a terse assistant. Answer with one word. Hello there, how are you today?",
    "the quick brown fox jumps over the lazy dog, and then it is the weather in Oslo: rain, 7 degrees",
    'user assistant system model tool {"name": "weather", "arguments": {"city": "Oslo"}}\n\n',
    "Paris\n\nOslo\n\nNorway\n\nFrance\n\nHello",
] * 20


@pytest.fixture(scope="session")
def bare_backend() -> str:
    """A small byte-level BPE, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


@pytest.fixture(scope="session")
def make_tokenizer(bare_backend: str) -> Callable[..., PreTrainedTokenizerFast]:
    """A tokenizer with the given special tokens and template."""

    def make(tokens: tuple[str, ...], eos: str | None, bos: str | None = None, template: str | None = None) -> Any:
        backend = Tokenizer.from_str(bare_backend)
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, bos_token=bos)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def family(make_tokenizer: Callable[..., Any]) -> Callable[[str], Any]:
    """The tokenizer of a family, made once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            facts = FAMILIES[name]
            template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")
            made[name] = make_tokenizer(facts.tokens, facts.eos, facts.bos, template)
        return made[name]

    return get


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSON lines and give the path."""

    def write(rows: list[Any], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def run_prepare(tmp_path: Path, family: Callable[[str], Any]) -> Callable[..., PreparedData]:
    """Prepare files with the settings given, for a ChatML tokenizer unless another is given."""

    def run(
        train: Any,
        *,
        tokenizer: Any = None,
        max_length: int = 512,
        learn: str = "assistant",
        shapes: tuple[str, ...] = ("chat", "text"),
        **data: Any,
    ) -> Any:
        config = DataConfig(train=train, **data)
        return prepare(
            config,
            learn=learn,
            shapes=shapes,
            tokenizer=tokenizer or family("smollm2"),
            max_length=max_length,
            seed=42,
            cache=str(tmp_path / "cache"),
        )

    return run


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two cores may be used; gives how many processes each preparation started."""
    started: list[int] = []

    class Counted(Crew):
        def end(self) -> None:
            started.append(len(self.workers))
            super().end()

    monkeypatch.setattr(prepare_module, "cores", lambda: 2)
    monkeypatch.setattr(prepare_module, "Crew", Counted)
    return started
