"""A reward that was learned: a trained reward model, which gives an answer beside its question one number.

Nothing of it is loaded before the first answer. It reads the tokens that its own training would have made of question
and answer, in its own template.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune.artefact import ADAPTER, MODEL
from finetune.data.encode import Encoded, Encoder
from finetune.data.rows import Chat
from finetune.errors import UserError, counted
from finetune.model_files import ModelFacts, digest_of, inspect_model
from finetune.model_files.scoring import SCORE, with_score
from finetune.rewards.batch import Batch, Paid, finite
from finetune.tokenizer import load_tokenizer, stop_ids

TOKENS = 16384  # with padding, that are scored together


@dataclass(frozen=True)
class Learned:
    """A reward model, ready to be asked."""

    name: str
    path: str
    digest: str  # of its weights
    facts: ModelFacts = field(repr=False)

    def pay(self, batch: Batch) -> Paid:
        """The reward of each answer; nothing for those that it cannot read."""
        texts = [self.tokens(*one) for one in zip(batch.messages, batch.answers, batch.finished, strict=True)]
        there = [at for at, ids in enumerate(texts) if ids is not None]
        values: list[float | None] = [None] * len(texts)
        for at, value in zip(there, self.rewards([ids for ids in texts if ids is not None]), strict=True):
            values[at] = value
        lost = len(texts) - len(there)
        what = f"{counted(lost, 'answer')} did not fit into its context or its chat template" if lost else ""
        return finite(Paid(tuple(values), exceptions=lost, refused=what))

    def tokens(self, messages: Sequence[Mapping[str, Any]], answer: str, finished: bool = True) -> list[int] | None:
        """Question and answer as it was trained on them; an answer that was cut off gets no end."""
        turns = (*map(dict, messages), {"role": "assistant", "content": answer})
        (found,) = self._encoder.encode([Chat(turns, plain=True, last=True)])
        if not isinstance(found, Encoded):
            return None
        ids = found.input_ids[: found.learned[-1][1]]
        if not finished and ids[-1] in self._encoder.stop_ids:
            ids = ids[:-1]
        return ids if len(ids) <= (self.facts.context or len(ids)) else None

    def rewards(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each text, in tokens; texts of like length are scored together."""
        import torch

        found = [0.0] * len(texts)
        for part in _together([len(ids) for ids in texts]):
            longest = max(len(texts[at]) for at in part)
            pad = self.tokenizer.pad_token_id
            ids = torch.tensor([[*texts[at], *[pad] * (longest - len(texts[at]))] for at in part])
            mask = torch.tensor([[1] * len(texts[at]) + [0] * (longest - len(texts[at])) for at in part])
            with torch.inference_mode():
                device = self._model.device
                scores = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
            for at, value in zip(part, scores.squeeze(-1).float().tolist(), strict=True):
                found[at] = value
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """Its own tokenizer, with its template."""
        return load_tokenizer(self.facts)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, "last", stop_ids=stop_ids(self.facts, self.tokenizer))

    @cached_property
    def _model(self) -> Any:
        from finetune import adapter, model
        from finetune.machine import look
        from finetune.plan.table import best_precision

        machine = look()
        read = model.load_model(
            self.facts,
            precision=best_precision(machine)[0],
            attention="sdpa",
            full=False,
            tokenizer=self.tokenizer,
        )
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if machine.device == "cuda" else machine.device
        return adapter.merged(read, self.facts).requires_grad_(False).eval().to(device)


def find(name: str, key: str) -> Learned:
    """The reward model in a folder: a run's directory, or what it made."""
    facts = inspect_model(str(Path(name).expanduser()), scores=True)
    if facts.head != SCORE and not (facts.adapter and facts.adapter.scores):
        what = f"{name} writes text, and gives no score"
        raise UserError.at(key, what, "name a reward model, trained with method=reward")
    folder = Path(facts.adapter.path if facts.adapter else facts.path)
    called = folder.parent if folder.name in (ADAPTER, MODEL) else folder
    return Learned(called.name, str(folder), digest_of(facts), with_score(facts))


def _together(sizes: Sequence[int]) -> list[list[int]]:
    """Places of texts that are scored together, the longest first."""
    parts: list[list[int]] = []
    for at in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        if not parts or (len(parts[-1]) + 1) * sizes[parts[-1][0]] > TOKENS:
            parts.append([])
        parts[-1].append(at)
    return parts
