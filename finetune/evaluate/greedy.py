"""Greedy decoding of many rows: a row that is complete makes room for the next one.

The library's `generate` keeps a batch together until its last row is complete. Here rows leave and join: their keys
and values are padded on the left, so that all rows end in the same column and grow by one column a step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.evaluate.prefix import Group, Prefix, last_logits

if TYPE_CHECKING:
    from transformers import DynamicCache

READ_AT_ONCE = 2048  # tokens of prompts in one pass: more is not faster, and takes memory
LEFT = 4  # rows are let go and taken in when one in so many is complete: each time the cache is copied


@dataclass
class Row:
    """A prompt on its way to its answer."""

    index: int
    ids: list[int]  # the prompt and what was said
    prompt: int  # tokens of the prompt
    room: int  # most tokens of the answer
    group: Group
    seconds: float = 0.0  # its share of the time of the passes that it was in
    done: bool = False

    @property
    def said(self) -> list[int]:
        """The ids of the answer, with the stop token."""
        return self.ids[self.prompt :]


@dataclass
class _Batch:
    """Rows under way. All but the last token of each is in the cache, which ends where they end."""

    rows: list[Row]
    cache: DynamicCache


class Greedy:
    """Answers rows with a model that is plain."""

    def __init__(self, model: Any, pad_id: int, stop_ids: Collection[int]) -> None:
        self._model, self._pad, self._stops = model, pad_id, frozenset(stop_ids)
        self._last = last_logits(model, 1)
        self._prefix: tuple[Group, Prefix] | None = None

    def answer(self, rows: Sequence[Row], size: int) -> Iterator[Row]:
        """Every row as soon as it is complete, at most `size` under way at once; rows of a group follow each other."""
        waiting = deque(rows)
        batch: _Batch | None = None
        while waiting or batch:
            if batch and LEFT * len([row for row in batch.rows if row.done]) < len(batch.rows):
                yield from self._step(batch)
                continue
            kept = _kept(batch) if batch else None
            parts = [kept] if kept else []
            while waiting and (free := size - sum(len(part.rows) for part in parts)):
                parts.append(self._start(waiting, free))
                yield from (row for row in parts[-1].rows if row.done)
            batch = _joined(parts) if parts else None

    def _start(self, waiting: deque[Row], free: int) -> _Batch:
        """Read the prompts of the next rows that begin with the same prefix, and say their first tokens."""
        began, group, width = time.perf_counter(), waiting[0].group, len(waiting[0].ids)
        if self._prefix is None or self._prefix[0] is not group:
            self._prefix = None  # before the next one takes memory
            self._prefix = group, Prefix(self._model, waiting[0].ids[: group.shared])
        columns = min(group.shared, width - 1)
        most, rows = min(free, max(1, READ_AT_ONCE // (width - columns))), list[Row]()
        while waiting and len(rows) < most and waiting[0].group is group:
            rows.append(waiting.popleft())
        batch = _Batch(rows, self._prefix[1].cache([width - len(row.ids) for row in rows], columns))
        self._say(batch, width - columns, began)
        return batch

    def _step(self, batch: _Batch) -> list[Row]:
        """One more token for each row; the rows that this completes."""
        under_way = [row for row in batch.rows if not row.done]
        self._say(batch, 1, time.perf_counter())
        return [row for row in under_way if row.done]

    def _say(self, batch: _Batch, taken: int, began: float) -> None:
        """Put the last tokens of every row into the cache, and say the likeliest next one."""
        import torch

        device, columns = self._model.device, batch.cache.get_seq_length() + taken
        under_way = [row for row in batch.rows if not row.done]
        ids = torch.tensor([self._padded(row.ids[-taken:], taken) for row in batch.rows], device=device)
        pads = torch.tensor([[columns - len(row.ids)] for row in batch.rows], device=device)
        places = torch.arange(columns, device=device) - pads
        given = {"input_ids": ids, "attention_mask": (places >= 0).long(), "past_key_values": batch.cache}
        given |= {"position_ids": places[:, -taken:].clamp(min=0), "use_cache": True, **self._last}
        tokens = self._model(**given).logits[:, -1].float().argmax(dim=-1).tolist()
        share = (time.perf_counter() - began) / len(under_way)
        for row, token in zip(batch.rows, tokens, strict=True):
            if not row.done:
                row.ids.append(token)
                row.seconds += share
                row.done = token in self._stops or len(row.ids) - row.prompt == row.room

    def _padded(self, ids: list[int], width: int) -> list[int]:
        return [self._pad] * (width - len(ids)) + ids


def _kept(batch: _Batch) -> _Batch | None:
    """The rows that are not complete, without the columns that only the others needed."""
    from finetune.evaluate.cache import keep

    places = [place for place, row in enumerate(batch.rows) if not row.done]
    if not places:
        return None
    rows = [batch.rows[place] for place in places]
    keep(batch.cache, places, max(len(row.ids) for row in rows) - 1)
    return _Batch(rows, batch.cache)


def _joined(parts: list[_Batch]) -> _Batch:
    """The rows of all parts."""
    from finetune.evaluate.cache import join

    return _Batch([row for part in parts for row in part.rows], join([part.cache for part in parts]))
