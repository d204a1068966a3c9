"""Answers of a model, greedy and in batches, and how well it predicts the references."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

IGNORED = -100  # label of a token that is not supervised
LOGITS = 2**27  # numbers of one batch's logits: half a gigabyte in fp32


@dataclass(frozen=True)
class Answer:
    """What the model said to one prompt."""

    text: str
    tokens: int  # the stop token is not counted
    stopped: bool  # ended by itself rather than by the limit
    seconds: float  # its share of the batch's time
    ids: tuple[int, ...] = ()  # its tokens, with the one that it stopped at


@dataclass(frozen=True)
class Likelihood:
    """How well the supervised tokens of one row were predicted."""

    nll: float  # sum over the tokens, in nats
    tokens: int


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    context: int | None = None,
    choose: Callable[[Sequence[int]], Any] | None = None,
) -> list[Answer]:
    """The most likely answer to each prompt, in their order; in fp32 batching does not change it.

    `choose` gives for the prompts of a batch what changes the likelihoods before the most likely token is taken.
    """
    import torch

    answers: list[Answer | None] = [None] * len(prompts)
    with _evaluating(model) as inner, torch.inference_mode():
        for batch in _batches(prompts, batch_size, context, max_new_tokens):
            longest = max(len(prompts[index]) for index in batch)
            room = max_new_tokens if context is None else max(1, min(max_new_tokens, context - longest))
            began = time.perf_counter()
            processors = [choose(batch)] if choose else []
            given = [prompts[index] for index in batch]
            new = _continue(inner, given, tokenizer.pad_token_id, stop_ids, room, processors)
            share = (time.perf_counter() - began) / len(batch)
            for index, ids in zip(batch, new, strict=True):
                end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
                text = tokenizer.decode(ids[:end], skip_special_tokens=True)
                answers[index] = Answer(text, end, end < len(ids), share, tuple(ids[: end + 1]))
    return [answer for answer in answers if answer is not None]


def likelihoods(
    model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int, pad_id: int
) -> list[Likelihood]:
    """Negative log-likelihood of each row's supervised tokens; a row is its ids and its labels."""
    import torch

    results: list[Likelihood | None] = [None] * len(sequences)
    with _evaluating(model) as inner, torch.inference_mode():
        for batch in _logit_batches(sequences, batch_size, inner.config.get_text_config().vocab_size):
            losses = _losses(inner, [sequences[index] for index in batch], pad_id)
            for index, row in zip(batch, losses, strict=True):
                results[index] = row
    return [result for result in results if result is not None]


def _continue(
    model: Any, prompts: list[Sequence[int]], pad_id: int, stop_ids: Sequence[int], room: int, processors: list[Any]
) -> list[list[int]]:
    """The new ids of one batch, padded on the left so that all prompts end at the same place."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    greedy = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=room,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )
    out = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=greedy, logits_processor=LogitsProcessorList(processors)
    )
    new: list[list[int]] = out[:, width:].tolist()
    return new


def _losses(model: Any, rows: list[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> list[Likelihood]:
    """One forward pass; logits are made only from the first supervised token on."""
    import torch

    width, first = _extent(rows)
    ids = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows], device=model.device)
    labels = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for _, row in rows], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = width - first
    # the last position predicts nothing that is there
    logits, targets = model(**inputs).logits[:, first - width : -1].float(), labels[:, first + 1 :]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    counts = (targets != IGNORED).sum(dim=1)
    return [Likelihood(float(nll), int(n)) for nll, n in zip(losses.double().sum(dim=1), counts, strict=True)]


def _extent(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[int, int]:
    """Width of a batch, and the first position whose prediction counts."""
    starts = [next((at for at, label in enumerate(row) if label != IGNORED), len(row)) for _, row in rows]
    return max(len(ids) for ids, _ in rows), max(0, min(starts) - 1)


def _batches(prompts: Sequence[Sequence[int]], size: int, context: int | None, room: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length; one that nearly fills the context has less room: alone."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    tight = [index for index in order if context is not None and len(prompts[index]) + room > context]
    yield from ([index] for index in tight)
    rest = order[len(tight) :]
    yield from (rest[start : start + size] for start in range(0, len(rest), size))


def _logit_batches(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], size: int, vocabulary: int
) -> Iterator[list[int]]:
    """Indices of rows of similar length, so many at once that their logits stay small."""
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index][0]), reverse=True)
    batch: list[int] = []
    for index in order:
        width, first = _extent([sequences[at] for at in [*batch, index]])
        if batch and (len(batch) == size or (len(batch) + 1) * (width - first) * vocabulary > LOGITS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """The model itself, inside its adapter, without dropout and without its own habits of sampling.

    A model's own generation settings (a repetition penalty, say) fill in whatever a call leaves open.
    """
    from peft import PeftModel
    from transformers import GenerationConfig

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    training, habits = model.training, inner.generation_config
    model.eval()
    inner.generation_config = GenerationConfig()
    try:
        yield inner
    finally:
        inner.generation_config = habits
        model.train(training)
