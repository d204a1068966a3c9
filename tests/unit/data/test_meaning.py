"""Rows of the same meaning: vectors of texts, and which rows say the same as an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from models import save_tokenizer
from numpy.typing import NDArray

from finetune import tiny
from finetune.data.likeness import embedding, meaning
from finetune.data.likeness.embedding import Embedder
from finetune.data.likeness.meaning import Meanings, same_as_earlier
from finetune.errors import UserError

LONG = "The ferry to the island leaves at nine, and the last one comes back before it is dark. " * 60


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(str(tiny.PATH))


def cosines(embedder: Embedder, texts: Sequence[str], folder: Path) -> NDArray[np.float32]:
    vectors = embedder.embed(texts, folder).astype(np.float32)
    assert vectors.shape[0] == len(texts)
    return np.asarray(vectors @ vectors.T)


def brute_force(rows: Meanings, threshold: float) -> dict[int, tuple[int, float]]:
    vectors, same = rows.vectors.astype(np.float32), dict[int, tuple[int, float]]()
    for row in range(len(rows.asked)):
        for other in range(row):
            answers = float(rows.given[row] == rows.given[other])
            if not answers and min(rows.answered[row], rows.answered[other]) >= 0:
                answers = float(vectors[rows.answered[row]] @ vectors[rows.answered[other]])
            asked = vectors[rows.asked[row]] @ vectors[rows.asked[other]]
            likeness = min(float(asked) if min(rows.asked[row], rows.asked[other]) >= 0 else 0, answers)
            if other not in same and rows.frame[row] == rows.frame[other] and likeness >= threshold:
                same[row] = (other, min(likeness, 1.0))
                break
    return same


def random_rows(count: int, seed: int = 0) -> Meanings:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count + 1, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked, answered = draw.integers(-1, count, size=(2, count))
    frame, given = draw.integers(0, 2, count), draw.integers(0, 5, count)
    return Meanings(vectors.astype(np.float16), frame, asked, given, np.where(draw.random(count) < 0.3, -1, answered))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_blocks_find_what_every_pair_shows(count: int, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning, "KEPT", 7)
    for seed in range(5):
        rows = random_rows(count, seed)
        found, wanted = same_as_earlier(rows, threshold, block=16), brute_force(rows, threshold)
        assert {row: kept for row, (kept, _) in found.items()} == {row: kept for row, (kept, _) in wanted.items()}
        assert all(found[row][1] == pytest.approx(wanted[row][1], abs=1e-6) for row in wanted)
    assert count < 33 or wanted


@pytest.mark.parametrize("count", [meaning.BLOCK, meaning.BLOCK + 1])
def test_the_first_and_the_last_row_of_a_block_and_one_more_are_compared(count: int) -> None:
    vector, zeros = np.ones((1, 1), np.float16), np.zeros(count, dtype=np.int64)
    frame = np.arange(count)
    frame[-1] = 0
    assert same_as_earlier(Meanings(vector, frame, zeros, zeros, zeros), 0.9) == {count - 1: (0, 1.0)}


def test_no_rows_and_rows_without_a_text_are_like_none() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert same_as_earlier(Meanings(np.zeros((0, 3), np.float16), none, none, none, none), 0.5) == {}
    zeros = np.zeros(2, dtype=np.int64)
    assert same_as_earlier(Meanings(np.ones((1, 3), np.float16), zeros, zeros - 1, zeros, zeros), 0.5) == {}


def test_padding_and_neighbours_do_not_count(embedder: Embedder, tmp_path: Path) -> None:
    texts = ["What is the capital of Norway?", LONG, "How does one bake bread with rye?"]
    together = embedder.embed(texts, tmp_path)
    alone = np.concatenate([embedder.embed([text], tmp_path) for text in texts])
    np.testing.assert_allclose(together.astype(float), alone.astype(float), atol=2e-3)


def test_parts_of_many_texts_are_embedded_as_the_whole(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{word} is a word for number {number}" for number, word in enumerate("abcdefgh")]
    whole = embedder.embed(texts, tmp_path)
    monkeypatch.setattr(embedding, "CHUNK_TEXTS", 3)
    np.testing.assert_allclose(embedder.embed(texts, tmp_path).astype(float), whole.astype(float), atol=2e-3)
    assert not list(tmp_path.iterdir())


def test_nothing_of_a_long_text_is_cut(embedder: Embedder, tmp_path: Path) -> None:
    found = cosines(embedder, [LONG, LONG + LONG, f"{LONG} {'1 + 1 = 2; x = [y]; ' * 300}", ""], tmp_path)
    assert found[0, 1] > 0.99 and found[0, 2] < 0.9 and not found[3].any()


def test_copies_are_nearer_than_other_texts(embedder: Embedder, tmp_path: Path) -> None:
    asked = "What is the capital of Norway, and how many people live there?"
    found = cosines(embedder, [asked, asked.replace("how", "so how"), "Bake bread."], tmp_path)
    assert found[0, 1] > 0.97 and found[0, 2] < 0.9


def test_an_encoder_embeds_texts(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    folder = tmp_path / "bert"
    BertForMaskedLM(BertConfig(vocab_size=320, max_position_embeddings=64, **sizes)).save_pretrained(str(folder))
    save_tokenizer(folder)
    found = cosines(Embedder(str(folder)), ["a fox", "a fox", "0123456789", LONG], tmp_path)
    assert found[0, 1] == pytest.approx(1, abs=1e-3) and found[0, 2] < 0.99 and np.isfinite(found).all()


def test_an_adapter_is_no_embedding_model(llama: Path, tmp_path: Path) -> None:
    from models import save_random_adapter

    save_random_adapter(llama, tmp_path / "adapter")
    with pytest.raises(UserError, match="is an adapter, which no embeddings are made with; name a whole"):
        Embedder(str(tmp_path / "adapter"))
