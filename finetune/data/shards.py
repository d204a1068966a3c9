"""Spooled rows → the files of a split, each of a fixed number of rows: whoever encodes them, the bytes are the same."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from finetune.config import DataConfig
from finetune.data.encode import Encoded, Encoder, Refused, over_length, tokenizer_digest
from finetune.data.faults import FaultLog
from finetune.data.load import Loaded
from finetune.data.pieces import Piece
from finetune.data.reading import Read, read_part
from finetune.data.rows import LEARNED, Chat, from_json, to_json, unrolled
from finetune.data.sides import Sided, encode_sides
from finetune.data.spool import Indices, Spool
from finetune.data.store import SideWriter, SpanWriter, shard_name
from finetune.data.workers import Crew
from finetune.errors import Fault
from finetune.log import log

SHARD_ROWS = 8192  # a file of some tens of megabytes: several processes have enough of them to share out evenly
MANY_ROWS = 10_000  # from which on starting processes, which takes a second, saves time
BATCH = 256  # rows that are rendered and tokenised together


Results = Iterator[tuple[Loaded, Encoded | Sided | Refused, str, int]]


@dataclass
class Counts:
    """What became of rows, and which of them cannot be learned from."""

    given: int = 0
    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    truncated: int = 0
    dropped: int = 0
    unrolled: int = 0
    unlearned_reasoning: int = 0
    mixture: list[list[int]] = field(default_factory=list)  # rows and tokens of each source
    faults: list[Fault] = field(default_factory=list)
    faulty: int = 0

    def add(self, other: Counts) -> None:
        """Take in what became of the rows that follow."""
        self.longest = max(self.longest, other.longest)
        for name in ("given", "rows", "tokens", "supervised", "truncated", "dropped", "unrolled", "faulty"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.unlearned_reasoning += other.unlearned_reasoning
        pairs = zip_longest(self.mixture, other.mixture, fillvalue=[0, 0])
        self.mixture = [[one[0] + more[0], one[1] + more[1]] for one, more in pairs]
        self.faults += other.faults


@dataclass(frozen=True)
class SplitPlan:
    """A split to be written: the rows of a spool at some places, and the group of each row of the spool."""

    folder: Path
    spool: Spool
    indices: Indices
    groups: Indices

    @property
    def files(self) -> int:
        """In how many files."""
        return math.ceil(len(self.indices) / SHARD_ROWS)

    def tasks(self) -> Iterator[Task]:
        """What to write into each file."""
        for number in range(self.files):
            part = self.indices[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
            yield Task(self.folder / shard_name(number, self.files), self.spool.path, part, self.groups[part])


@dataclass(frozen=True)
class Job:
    """How rows are encoded."""

    learn: str
    max_length: int
    stop_ids: tuple[int, ...]
    on_long: str
    shape: str = "chat"  # of the rows; that of conversations holds for plain text too

    @property
    def is_sided(self) -> bool:
        """Whether a row has a question and answers in columns of their own."""
        return self.shape not in LEARNED

    def writer(self, path: Path) -> SpanWriter | SideWriter:
        """What writes them."""
        return SideWriter(path, self.shape) if self.is_sided else SpanWriter(path, self.shape)

    def encoder(self, tokenizer: Any) -> Encoder:
        """What encodes them."""
        return Encoder(tokenizer, self.learn, self.max_length, self.stop_ids)


@dataclass(frozen=True)
class Task:
    """One file to be written, of the rows of a spool at some places, and the group of each."""

    path: Path
    spool: Path
    indices: Indices
    groups: Indices


@dataclass
class RowWorker:
    """Reads and encodes in another process, which loads the tokenizer from its files when it first encodes."""

    data: DataConfig
    shapes: tuple[str, ...]
    job: Job
    tokenizer: Path
    encoder: Encoder | None = None

    def __call__(self, task: Piece | Task) -> Read | Counts:
        if isinstance(task, Piece):
            return read_part(task, self.data, self.shapes)
        if self.encoder is None:
            from transformers import PreTrainedTokenizerFast

            # Several processes with threads of their own would only stand in each other's way.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            loaded = PreTrainedTokenizerFast.from_pretrained(str(self.tokenizer), local_files_only=True)
            self.encoder = self.job.encoder(loaded)
        return encode_shard(task, Spool(task.spool), self.encoder, self.job)


def encode_splits(
    plans: Sequence[SplitPlan], job: Job, tokenizer: Any, encoder: Encoder, crew: Crew, folder: Path
) -> Iterator[Counts]:
    """Write the files of all splits, in several processes where there are many rows; what became of those of each.

    The crew is of RowWorkers, which look for the tokenizer in `folder`.
    """
    shards = [(task, plan.spool) for plan in plans for task in plan.tasks()]
    rows = sum(len(task.indices) for task, _ in shards)
    if rows >= MANY_ROWS:
        log.info(f"tokenising {rows:,} rows")
    if crew.processes == 1 or len(shards) == 1 or rows < MANY_ROWS or not _loads_alike(tokenizer, folder):
        return (encode_shard(task, spool, encoder, job) for task, spool in shards)
    return crew.mapped(task for task, _ in shards)


def _loads_alike(tokenizer: Any, folder: Path) -> bool:
    """Leave the tokenizer in a folder; whether another process that loads it has the very same."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.save_pretrained(str(folder))
    loaded = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    return tokenizer_digest(loaded) == tokenizer_digest(tokenizer)


def encode_shard(task: Task, spool: Spool, encoder: Encoder, job: Job) -> Counts:
    """Encode the rows of a task and write them; what cannot be learned from is noted as a fault."""
    shard, groups = _Shard(encoder, job.on_long), iter(task.groups.tolist())
    mixture = [[0, 0] for _ in range(int(spool.column("source").max(initial=-1)) + 1)]
    writer = job.writer(task.path)
    for part in spool.parts(task.indices, BATCH):
        kept: list[Any] = []
        results: Results = shard.sided(part, groups) if job.is_sided else shard.results(part, groups)
        for row, item, text, group in results:
            if taken := shard.take(row, item):
                kept.append((taken, text, group))
                mixture[row.source][0] += 1
                mixture[row.source][1] += taken.tokens
        writer.write(kept)
    writer.close()
    counts, faults = shard.counts, shard.faults
    counts.given, counts.faults, counts.faulty = len(task.indices), faults.faults, faults.total
    counts.mixture = mixture
    counts.rows, counts.tokens = writer.rows, writer.tokens
    counts.supervised, counts.longest = writer.supervised, writer.longest
    return counts


class _Shard:
    """The rows of one file while they are encoded."""

    def __init__(self, encoder: Encoder, on_long: str) -> None:
        self._encoder, self._on_long = encoder, on_long
        self.counts, self.faults = Counts(), FaultLog()

    def results(self, batch: Sequence[Loaded], groups: Iterator[int]) -> Results:
        """Each row encoded, with the next group, or in its place the parts of a conversation that is unrolled."""
        rows = [from_json(row.json) for row in batch]
        for place, row, result in zip(batch, rows, self._encoder.encode(rows), strict=True):
            group = next(groups)
            if isinstance(row, Chat) and isinstance(result, Refused) and result.kind == "unrollable":
                self.counts.unrolled += 1
                parts = unrolled(row)
                for part, item in zip(parts, self._encoder.encode(parts), strict=True):
                    yield place, item, to_json(part), group
            else:
                yield place, result, place.json, group

    def sided(self, batch: Sequence[Loaded], groups: Iterator[int]) -> Results:
        """The same for pairs, votes and tasks, of which none is unrolled."""
        results = encode_sides(self._encoder, [from_json(row.json) for row in batch])
        for row, result in zip(batch, results, strict=True):
            yield row, result, row.json, next(groups)

    def take(self, row: Loaded, result: Encoded | Sided | Refused) -> Encoded | Sided | None:
        """The row if it is kept; counts and notes it if not."""
        is_long = result.kind == "long" if isinstance(result, Refused) else result.truncated
        if is_long and self._on_long == "drop":
            self.counts.dropped += 1
        elif is_long and self._on_long == "fail":
            assert self._encoder.max_length is not None
            self.faults.add(row.where, *over_length(result.length, self._encoder.max_length))
        elif isinstance(result, Refused):
            self.faults.add(row.where, result.what, result.mend)
        else:
            self.counts.truncated += is_long
            self.counts.unlearned_reasoning += result.unlearned_reasoning
            return result
        return None
