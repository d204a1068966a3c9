"""Answers of a model, greedy and many at once, and how well it predicts the references."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune.evaluate.greedy import Greedy, Row
from finetune.evaluate.prefix import Group, Prefix, groups, is_plain, last_logits
from finetune.log import log

IGNORED = -100  # label of a token that is not supervised
LOGITS = 2**27  # numbers of one batch's logits: half a gigabyte in fp32

T = TypeVar("T")
Choose = Callable[[Sequence[int]], Any]
Said = tuple[int, Sequence[int], float]  # which row, the ids of its answer, seconds


@dataclass(frozen=True)
class Answer:
    """What the model said to one prompt."""

    text: str
    tokens: int  # the stop token is not counted
    stopped: bool  # ended by itself rather than by the limit
    seconds: float  # its share of the time of the batches that it was in
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
    choose: Choose | None = None,
) -> list[Answer]:
    """The most likely answer to each prompt, in their order; in fp32 batching does not change it.

    `choose` gives for the prompts of a batch what changes the likelihoods before the most likely token is taken.
    Where memory does not suffice for a batch, smaller ones are taken.
    """
    import torch

    def room(prompt: int) -> int:
        return max_new_tokens if context is None else max(1, min(max_new_tokens, context - prompt))

    found: dict[int, Answer] = {}
    with evaluating(model) as inner, torch.inference_mode():
        plain = is_plain(inner)
        shared = groups(prompts) if plain else _unshared(prompts)
        if plain and choose is None:
            answered = _greedy(Greedy(inner, tokenizer.pad_token_id, stop_ids), prompts, shared, room, batch_size)
        else:
            library = _Library(inner, tokenizer.pad_token_id, stop_ids, choose)
            answered = library.answer(prompts, shared, room, batch_size)
        for index, ids, seconds in answered:
            end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
            text = tokenizer.decode(ids[:end], skip_special_tokens=True)
            found[index] = Answer(text, end, end < len(ids), seconds, tuple(ids[: end + 1]))
    return [found[index] for index in range(len(prompts))]


def likelihoods(
    model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int, pad_id: int
) -> list[Likelihood]:
    """Negative log-likelihood of each row's supervised tokens; a row is its ids and its labels."""
    import torch

    # the token before the first one that counts predicts it, so it is read in the row's own batch
    heads = [ids[: max(0, _first(labels) - 1)] for ids, labels in sequences]
    size, found = _Size(batch_size), dict[int, Likelihood]()
    with evaluating(model) as inner, torch.inference_mode():
        vocabulary = inner.config.get_text_config().vocab_size
        for group in groups(heads) if is_plain(inner) else _unshared(heads):
            prefix = Prefix(inner, heads[group.rows[0]][: group.shared])

            def losses(batch: list[int], prefix: Prefix = prefix) -> list[Likelihood]:
                return _losses(inner, [sequences[index] for index in batch], prefix, pad_id)

            order = sorted(group.rows, key=lambda index: len(sequences[index][0]), reverse=True)
            found.update(size.each(logit_batches(sequences, order, batch_size, vocabulary), losses))
    return [found[index] for index in range(len(sequences))]


@dataclass
class _Size:
    """How many rows fit into memory at once, as far as is known."""

    rows: int

    def each(self, batches: Iterable[list[int]], run: Callable[[list[int]], Sequence[T]]) -> Iterator[tuple[int, T]]:
        """What comes of every row of every batch; a batch that does not fit is halved."""
        import torch

        waiting = deque(batches)
        while waiting:
            batch = waiting.popleft()
            if len(batch) > self.rows:
                waiting.extendleft([batch[self.rows :], batch[: self.rows]])
                continue
            try:
                results = run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                results = None
            if results is None:  # only now is the memory free that the error held
                self.halve(len(batch))
                waiting.appendleft(batch)
            else:
                yield from zip(batch, results, strict=True)

    def halve(self, tried: int) -> None:
        """So many rows did not fit."""
        self.rows = tried // 2
        log.info(f"{tried} rows at once do not fit into memory; going on with {self.rows}")


def _greedy(
    decoder: Greedy, prompts: Sequence[Sequence[int]], shared: list[Group], room: Callable[[int], int], batch_size: int
) -> Iterator[Said]:
    """The answers in our own way, each as soon as it is complete."""
    import torch

    size = _Size(batch_size)
    waiting = [(index, group) for group in shared for index in group.rows]
    while waiting:
        tried, done = min(size.rows, len(waiting)), set[int]()
        rows = [Row(at, list(prompts[at]), len(prompts[at]), room(len(prompts[at])), group) for at, group in waiting]
        try:
            for row in decoder.answer(rows, tried):
                done.add(row.index)
                yield row.index, row.said, row.seconds
        except torch.OutOfMemoryError:
            if tried == 1:
                raise
        waiting = [(index, group) for index, group in waiting if index not in done]
        if waiting:
            size.halve(tried)


class _Library:
    """Answers through the model's own `generate`: whatever it does beside reading and choosing is done."""

    def __init__(self, model: Any, pad_id: int, stop_ids: Sequence[int], choose: Choose | None) -> None:
        self._model, self._pad, self._stops, self._choose = model, pad_id, stop_ids, choose

    def answer(
        self, prompts: Sequence[Sequence[int]], shared: list[Group], room: Callable[[int], int], batch_size: int
    ) -> Iterator[Said]:
        """The answers, batch by batch."""
        size = _Size(batch_size)
        for group in shared:
            began = time.perf_counter()
            prefix = Prefix(self._model, prompts[group.rows[0]][: group.shared])
            reading = (time.perf_counter() - began) / len(group.rows)

            def run(batch: list[int], prefix: Prefix = prefix) -> list[tuple[Sequence[int], float]]:
                began = time.perf_counter()
                given = [prompts[index] for index in batch]
                new = self._continue(given, prefix, room(max(map(len, given))), batch)
                share = (time.perf_counter() - began) / len(batch)
                return [(ids, share) for ids in new]

            batches = _batches(prompts, group.rows, batch_size, room)
            yield from ((index, ids, reading + seconds) for index, (ids, seconds) in size.each(batches, run))

    def _continue(self, prompts: list[Sequence[int]], prefix: Prefix, room: int, batch: list[int]) -> list[list[int]]:
        """The new ids of one batch, padded on the left so that all prompts end at the same place."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        width, device = max(map(len, prompts)), self._model.device
        pads = [width - len(prompt) for prompt in prompts]
        ids = [[self._pad] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        columns = min(prefix.length, width - 1)
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=room,
            eos_token_id=list(self._stops),
            pad_token_id=self._pad,
            use_cache=True,
        )
        out = self._model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            past_key_values=prefix.cache(pads, columns) if columns else None,
            generation_config=greedy,
            logits_processor=LogitsProcessorList([self._choose(batch)] if self._choose else []),
        )
        new: list[list[int]] = out[:, width:].tolist()
        return new


def _losses(
    model: Any, rows: list[tuple[Sequence[int], Sequence[int]]], prefix: Prefix, pad_id: int
) -> list[Likelihood]:
    """One forward pass after the prefix; logits are made only from the first supervised token on."""
    import torch

    known, (width, first) = prefix.length, _extent(rows)
    ids = torch.tensor([[*ids[known:], *[pad_id] * (width - len(ids))] for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows], device=model.device)
    labels = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for _, row in rows], device=model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": known > 0}
    if known:
        places = torch.arange(known, width, device=model.device).expand(len(rows), -1)
        inputs |= {"past_key_values": prefix.cache([0] * len(rows), known), "position_ids": places}
    # the last position predicts nothing that is there
    logits = model(**inputs, **last_logits(model, width - first)).logits[:, first - width : -1].float()
    targets = labels[:, first + 1 :]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    counts = (targets != IGNORED).sum(dim=1)
    return [Likelihood(float(nll), int(n)) for nll, n in zip(losses.double().sum(dim=1), counts, strict=True)]


def _first(labels: Sequence[int]) -> int:
    """The first place that is supervised."""
    return next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))


def _extent(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[int, int]:
    """Width of a batch, and the first position whose prediction counts."""
    return max(len(ids) for ids, _ in rows), max(0, min(_first(labels) for _, labels in rows) - 1)


def _unshared(prompts: Sequence[Sequence[int]]) -> list[Group]:
    """All rows, the longest first, as if they had nothing in common."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    return [Group(tuple(order), 0)] if order else []


def _batches(
    prompts: Sequence[Sequence[int]], order: Sequence[int], size: int, room: Callable[[int], int]
) -> Iterator[list[int]]:
    """Indices of prompts of similar length; one that nearly fills the context has less room: alone."""
    most = max(room(len(prompts[index])) for index in order)
    tight = [index for index in order if room(len(prompts[index])) < most]
    yield from ([index] for index in tight)
    rest = order[len(tight) :]
    yield from (list(rest[start : start + size]) for start in range(0, len(rest), size))


def logit_batches(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], order: Sequence[int], size: int, vocabulary: int
) -> Iterator[list[int]]:
    """Indices of rows of similar length, so many at once that their logits stay small."""
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
def evaluating(model: Any) -> Iterator[Any]:
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
