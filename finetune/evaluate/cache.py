"""The keys and values of rows under way, padded on the left so that all rows end in the same column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from torch import Tensor

SPARE = 64  # columns that are set aside at a time


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that has columns to spare: the library's own copies all keys and values for every new token."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Tensor] = []  # what keys and values are the first columns of

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in the keys and values of new tokens; gives those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        seen = self.keys.shape[-2]
        end = seen + key_states.shape[-2]
        # rows or columns may have been taken out since
        same = bool(self._held) and self._held[0].data_ptr() == self.keys.data_ptr()
        if not same or self._held[0].shape[-2] < end:
            self._held = [_spacious(states, end) for states in (self.keys, self.values)]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, seen:end] = new
        self.keys, self.values = (held[:, :, :end] for held in self._held)
        return self.keys, self.values


def _spacious(states: Tensor, end: int) -> Tensor:
    rows, heads, seen, width = states.shape
    held = states.new_empty(rows, heads, end + SPARE, width)
    held[:, :, :seen] = states
    return held


def empty_cache(config: Any) -> DynamicCache:
    """A cache for a model that is plain."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keep(cache: DynamicCache, rows: Sequence[int], length: int) -> None:
    """Only these rows, and only as many last columns."""
    for layer in cache.layers:
        chosen = torch.tensor(rows, device=layer.keys.device)
        _fill(layer, layer.keys[chosen, :, -length:], layer.values[chosen, :, -length:], length)


def join(caches: Sequence[DynamicCache]) -> DynamicCache:
    """The rows of all, padded to the longest; the first one holds them."""
    if len(caches) == 1:
        return caches[0]
    length = max(cache.get_seq_length() for cache in caches)
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        columns = max(layer.keys.shape[-2] for layer in layers)
        keys = torch.cat([_widened(layer.keys, columns) for layer in layers])
        _fill(layers[0], keys, torch.cat([_widened(layer.values, columns) for layer in layers]), length)
    return caches[0]


def _widened(states: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[-2], 0))


def _fill(layer: Any, keys: Tensor, values: Tensor, length: int) -> None:
    """A layer with a window holds fewer columns than it has seen."""
    layer.keys, layer.values = keys, values
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length
