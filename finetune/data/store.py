"""Prepared rows on disk: Arrow files of a fixed number of rows each, memory-mapped by whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.data import arrow
from finetune.data.encode import MASKED
from finetune.data.rows import Row, from_json
from finetune.errors import UserError

if TYPE_CHECKING:
    import datasets

STORE_VERSION = 2  # raised whenever the files have other columns


class ShardWriter:
    """Writes one file of a split as `datasets.Dataset.save_to_disk` would, without importing datasets."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        path.parent.mkdir(parents=True, exist_ok=True)
        self._pa, tokens = pa, pa.list_(pa.int32())
        fields = [("input_ids", tokens), ("labels", tokens), ("length", pa.int32()), ("row", pa.string())]
        self._schema = pa.schema([*fields, ("group", pa.int64())])
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self.rows = self.tokens = self.supervised = self.longest = 0

    def write(self, rows: Sequence[tuple[list[int], Sequence[tuple[int, int]], str, int]]) -> None:
        """Add rows: ids, spans of them that are learned, canonical JSON, group."""
        if not rows:
            return
        sizes = [len(ids) for ids, *_ in rows]
        ids = np.fromiter(chain.from_iterable(ids for ids, *_ in rows), dtype=np.int32)
        labels = np.full_like(ids, MASKED)
        for place, (_, learned, _, _) in zip(accumulate(sizes, initial=0), rows, strict=False):
            for begin, end in learned:
                labels[place + begin : place + end] = ids[place + begin : place + end]
        lists = [arrow.lists(arrow.numbers(values), sizes) for values in (ids, labels)]
        lengths, texts = arrow.numbers(np.array(sizes, dtype=np.int32)), arrow.texts([row[2] for row in rows])
        groups = arrow.numbers(np.array([row[3] for row in rows], dtype=np.int64))
        self._writer.write_batch(self._pa.record_batch([*lists, lengths, texts, groups], schema=self._schema))
        self.rows += len(rows)
        self.tokens += len(ids)
        self.longest = max(self.longest, *sizes)
        self.supervised += int((labels != MASKED).sum())

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
        self._sink.close()


def shard_name(number: int, count: int) -> str:
    """The name of a file of a split, as datasets gives it."""
    return f"data-{number:05d}-of-{count:05d}.arrow"


def describe(folder: Path, fingerprint: str, count: int) -> None:
    """Write what `datasets` reads beside the files of a split."""
    tokens = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
    features = {
        "input_ids": tokens,
        "labels": tokens,
        "length": {"dtype": "int32", "_type": "Value"},
        "row": {"dtype": "string", "_type": "Value"},
        "group": {"dtype": "int64", "_type": "Value"},
    }
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard_name(number, count)} for number in range(count)],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def open_rows(path: str) -> datasets.Dataset:
    """The tokens of a split for training: a dataset with the columns input_ids and labels, memory-mapped."""
    import datasets

    rows = datasets.load_from_disk(path)
    assert isinstance(rows, datasets.Dataset)
    return rows.select_columns(["input_ids", "labels"])


def _batches(path: str) -> Iterator[Any]:
    import pyarrow as pa

    for file in sorted(Path(path).glob("data-*.arrow")):
        with pa.memory_map(str(file)) as source:
            yield from pa.ipc.open_stream(source)


def lengths(path: str) -> NDArray[np.int32]:
    """The number of tokens of every row of a split."""
    parts = [arrow.values(batch.column("length")) for batch in _batches(path)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def groups(path: str) -> NDArray[np.int64]:
    """The group of every row of a split: rows of one group depend on each other."""
    batches = list(_batches(path))
    if any("group" not in batch.schema.names for batch in batches):
        what = "its rows were prepared by an earlier version, which did not note which of them belong together"
        raise UserError.at(path, what, "train the run again under another name")
    parts = [arrow.values(batch.column("group")) for batch in batches]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def read_rows(path: str, limit: int | None = None) -> Iterator[Row]:
    """The rows of a split as they were before they became tokens."""
    count = 0
    for batch in _batches(path):
        for text in batch.column("row").to_pylist():
            if count == limit:
                return
            yield from_json(text)
            count += 1


def read_tokens(path: str, limit: int) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of the first rows of a split."""
    count = 0
    for batch in _batches(path):
        for ids, labels in zip(batch.column("input_ids").to_pylist(), batch.column("labels").to_pylist(), strict=True):
            if count == limit:
                return
            yield ids, labels
            count += 1
