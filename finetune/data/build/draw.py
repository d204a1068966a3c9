"""Drawing words by chance, each answer by a seed of its own.

Greedy decoding over log-likelihoods with Gumbel noise draws from exactly the distribution that sampling draws from.
The noise of an answer depends on its seed alone, so that it is the same whatever else stands in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from finetune.endpoint.asked import Sampling

SMALLEST = 1e-30  # of a number whose logarithm is taken


class Draw:
    """What transformers' generation calls with the likelihoods of the next token of each answer."""

    def __init__(self, temperature: float, top_p: float | None, seeds: Sequence[int]) -> None:
        self._temperature, self._top_p, self._seeds = temperature, top_p, seeds
        self._sources: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The likelihoods with noise: the highest is the token that is drawn."""
        import torch

        if not self._sources:
            self._sources = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        scores = scores.float() / self._temperature
        if self._top_p is not None:
            scores = _likeliest(scores, self._top_p)
        for row, source in zip(scores, self._sources, strict=True):
            row -= torch.empty_like(row).exponential_(generator=source).clamp_min(SMALLEST).log()
        return scores


def drawing(sampling: Sampling, seeds: Sequence[int]) -> Callable[[Sequence[int]], Draw] | None:
    """How the words of a batch are drawn; none for always the likeliest."""
    if sampling.temperature == 0:
        return None
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    return lambda batch: Draw(temperature, sampling.top_p, [seeds[index] for index in batch])


def _likeliest(scores: torch.Tensor, share: float) -> torch.Tensor:
    """The scores of the fewest tokens that have this share of the likelihood together; the others are ruled out."""
    ordered, places = scores.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    beyond = chances.cumsum(dim=-1) - chances >= share
    return scores.masked_fill(beyond.scatter(-1, places, beyond), float("-inf"))
