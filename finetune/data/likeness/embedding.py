"""Texts as vectors: the mean of what the last layer of a model makes of their tokens."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.log import log
from finetune.model_files import inspect_model
from finetune.tokenizer import load_tokenizer

Vectors = NDArray[np.float16]

WINDOW = 512  # tokens that are read together; of a longer text all windows count
CHUNK_TEXTS, CHUNK_CHARACTERS = 4096, 4_000_000  # texts that are tokenised and sorted by length together
BATCH_TOKENS = {"cuda": 2**16}  # of one forward pass, with padding
BATCH_TOKENS_ELSEWHERE = 2**13
TELL_EVERY = 10.0  # seconds


class Embedder:
    """A model that turns texts into vectors; its weights are loaded when there is something to read."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self._facts = inspect_model(name, revision, any_text=True)
        what = "is an adapter" if self._facts.adapter else ""
        what = what or (f"has quantized weights ({self._facts.quantization})" if self._facts.quantization else "")
        if what:
            raise UserError.at(name, f"{what}, which no embeddings are made with", "name a whole, unquantized model")
        self._tokenizer = load_tokenizer(self._facts)
        self._window = min(WINDOW, self._facts.context or WINDOW, self._tokenizer.model_max_length)
        self._model: Any = None
        self._device = ""

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self._device

    def record(self) -> dict[str, Any]:
        """Which model it is."""
        facts = self._facts
        return {"model": facts.name, "revision": facts.revision, "fingerprint": facts.fingerprint}

    def embed(self, texts: Sequence[str], folder: Path) -> Vectors:
        """A vector of length 1 for each text, of length 0 where it has no tokens.

        They lie in a file without a name, and in memory only as far as they are looked at.
        """
        self._load()
        size = (len(texts), self._facts.hidden_size)
        with tempfile.TemporaryFile(dir=folder) as file:
            vectors = np.memmap(file, dtype=np.float16, mode="w+", shape=size) if texts else np.zeros(size, np.float16)
        told = time.monotonic()
        for begin, part in _chunks(texts):
            vectors[begin : begin + len(part)] = self._embedded(part)
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                log.info(f"{begin + len(part):,} of {len(texts):,} texts embedded")
        return vectors

    def _load(self) -> None:
        if self._model is None:
            from finetune.machine import look
            from finetune.model import load_reader
            from finetune.plan.table import best_precision

            machine = look()
            self._device = machine.device
            self._model = load_reader(self._facts, precision=best_precision(machine)[0], device=machine.device)

    def _embedded(self, texts: list[str]) -> NDArray[np.float32]:
        """The mean over all real tokens of each text, in windows of like length, at length 1."""
        encoded = self._tokenizer(texts, truncation=True, max_length=self._window, return_overflowing_tokens=True)
        windows, owner = encoded["input_ids"], np.array(encoded["overflow_to_sample_mapping"])
        sums = np.zeros((len(texts), self._facts.hidden_size), dtype=np.float32)
        order = sorted((at for at in range(len(windows)) if windows[at]), key=lambda at: -len(windows[at]))
        limit = BATCH_TOKENS.get(self._device, BATCH_TOKENS_ELSEWHERE)
        while order:
            count = max(1, limit // len(windows[order[0]]))
            batch, order = order[:count], order[count:]
            np.add.at(sums, owner[batch], self._summed([windows[at] for at in batch]))
        # The mean and the sum point the same way.
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return sums

    def _summed(self, windows: list[list[int]]) -> NDArray[np.float32]:
        """The last hidden states of each window, summed over its tokens but not its padding."""
        import torch

        width = max(map(len, windows))
        ids = torch.tensor([[*window, *[0] * (width - len(window))] for window in windows], device=self._device)
        mask = torch.tensor([[1] * len(window) + [0] * (width - len(window)) for window in windows]).to(self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            summed: NDArray[np.float32] = (states * mask.unsqueeze(-1)).sum(dim=1).cpu().numpy()
        return summed


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The texts in parts that fit into memory, each with the place of its first."""
    begin, part, size = 0, list[str](), 0
    for place, text in enumerate(texts):
        part.append(text)
        size += len(text)
        if len(part) == CHUNK_TEXTS or size >= CHUNK_CHARACTERS or place + 1 == len(texts):
            yield begin, part
            begin, part, size = place + 1, [], 0
