"""What prompts begin with in common, a system prompt or examples: put through the model once for all of them.

Rows of a batch are padded on the left. The keys and values of a prefix are moved to where each row has it, so that
a batch lies in the cache as if the model had read all of it: windows and distances of attention stay what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import DynamicCache

WORTH = 256  # tokens that must be saved: one more pass through the model costs about as much


@dataclass(frozen=True)
class Group:
    """Rows, the longest first, and how many of their first tokens are the same."""

    rows: tuple[int, ...]
    shared: int


def groups(prompts: Sequence[Sequence[int]]) -> list[Group]:
    """All rows, by what they begin with; every prefix saves more than it costs."""
    listed = [list(prompt) for prompt in prompts]
    order = sorted(range(len(listed)), key=listed.__getitem__)
    return _split(listed, order) if order else []


def _split(prompts: list[list[int]], order: list[int]) -> list[Group]:
    """Those that have much more in common than all have become a group; `order` is the alphabetical one."""
    shared, own, rest = _common(prompts, order), list[Group](), list[int]()
    for _, same in groupby(order, key=lambda index: prompts[index][shared : shared + 1]):
        run = list(same)
        if (len(run) - 1) * (_common(prompts, run) - shared) > WORTH:
            own += _split(prompts, run)
        else:
            rest += run
    if not rest:
        return own
    shared = _common(prompts, rest)
    longest_first = sorted(rest, key=lambda index: len(prompts[index]), reverse=True)
    return [*own, Group(tuple(longest_first), shared if (len(rest) - 1) * shared > WORTH else 0)]


def _common(prompts: list[list[int]], order: list[int]) -> int:
    """How many first tokens are the same in all; in alphabetical order first and last differ most."""
    first, last = prompts[order[0]], prompts[order[-1]]
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return next(differ, min(len(first), len(last)))


class Prefix:
    """The keys and values of tokens that many rows begin with; there may be none."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        self._config, self._device, self.length = model.config, model.device, len(ids)
        cache = DynamicCache()  # not told of windows, it keeps every token
        if ids:
            given = torch.tensor([list(ids)], device=model.device)
            model(input_ids=given, past_key_values=cache, use_cache=True, **last_logits(model, 1))
        self._layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def cache(self, pads: Sequence[int], columns: int) -> DynamicCache:
        """A cache for rows that begin after so many pads, filled up to a column; the rest is for the model to read."""
        import torch

        from finetune.evaluate.cache import empty_cache

        cache = empty_cache(self._config)
        if columns:
            places = torch.arange(columns, device=self._device)
            source = (places - torch.tensor(pads, device=self._device)[:, None]).clamp(min=0)
            for index, (keys, values) in enumerate(self._layers):
                cache.update(keys[:, source].transpose(0, 1), values[:, source].transpose(0, 1), index)
        return cache


def is_plain(model: Any) -> bool:
    """Whether tokens, mask, positions and an ordinary cache are all that decides what the model says."""
    from transformers import DynamicCache, GenerationMixin
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kind = type(model)
    if not kind.__module__.startswith("transformers."):
        return False  # code of a stranger
    if kind.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation:
        return False
    if '"longrope"' in model.config.to_json_string():
        return False  # the longest row of a batch would decide how all are read
    taken = inspect.signature(model.forward).parameters
    layers = DynamicCache(config=model.config).layers
    ordinary = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return ordinary and {"position_ids", "past_key_values"} <= taken.keys()


def last_logits(model: Any, count: int) -> dict[str, int]:
    """The argument that makes the model leave out the logits of all but so many last tokens, if it has one."""
    return {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
