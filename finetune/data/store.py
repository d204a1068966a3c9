"""Prepared rows on disk: one Arrow file a split, memory-mapped by whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.rows import Row, from_json

if TYPE_CHECKING:
    import datasets

ARROW_FILE = "data-00000-of-00001.arrow"  # the name that datasets.load_from_disk gives its only file


class SplitWriter:
    """Writes one split as `datasets.Dataset.save_to_disk` would, without importing datasets."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        folder.mkdir(parents=True)
        self._pa, self._folder = pa, folder
        tokens = pa.list_(pa.int32())
        self._schema = pa.schema(
            [("input_ids", tokens), ("labels", tokens), ("length", pa.int32()), ("row", pa.string())]
        )
        self._sink = pa.OSFile(str(folder / ARROW_FILE), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self.rows = self.tokens = self.supervised = self.longest = 0

    def write(self, rows: Sequence[tuple[list[int], list[int], str]]) -> None:
        """Add rows: ids, labels, canonical JSON."""
        if not rows:
            return
        lengths = [len(ids) for ids, _, _ in rows]
        columns: list[Any] = [
            [ids for ids, _, _ in rows],
            [labels for _, labels, _ in rows],
            lengths,
            [r for _, _, r in rows],
        ]
        arrays = [self._pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(self._pa.record_batch(arrays, schema=self._schema))
        self.rows += len(rows)
        self.tokens += sum(lengths)
        self.longest = max(self.longest, *lengths)
        labels = arrays[1].values.to_numpy()
        self.supervised += int((labels != -100).sum())

    def close(self) -> None:
        """Finish the file and write what `datasets` reads beside it."""
        self._writer.close()
        self._sink.close()
        tokens = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
        features = {
            "input_ids": tokens,
            "labels": tokens,
            "length": {"dtype": "int32", "_type": "Value"},
            "row": {"dtype": "string", "_type": "Value"},
        }
        info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        state: dict[str, Any] = {
            "_data_files": [{"filename": ARROW_FILE}],
            "_fingerprint": self._folder.parent.name.strip(".")[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self._folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
        (self._folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def open_rows(path: str) -> datasets.Dataset:
    """The tokens of a split for training: a dataset with the columns input_ids and labels, memory-mapped."""
    import datasets

    rows = datasets.load_from_disk(path)
    assert isinstance(rows, datasets.Dataset)
    return rows.select_columns(["input_ids", "labels"])


def _batches(path: str) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(Path(path) / ARROW_FILE)) as source:
        yield from pa.ipc.open_stream(source)


def lengths(path: str) -> NDArray[np.int32]:
    """The number of tokens of every row of a split."""
    parts = [batch.column("length").to_numpy() for batch in _batches(path)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


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
