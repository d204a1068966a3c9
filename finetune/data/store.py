"""Prepared rows on disk: Arrow files of a fixed number of rows each, memory-mapped by whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data import arrow
from finetune.data.encode import MASKED, Encoded
from finetune.data.rows import Row, from_json
from finetune.data.sides import Sided
from finetune.errors import UserError

if TYPE_CHECKING:
    import datasets

STORE_VERSION = 2  # raised whenever the files have other columns


# The columns of tokens in the files of a split, by the shape of its rows, and what is beside them.
SPANS = ("input_ids", "labels")
TOKENS = {
    "pair": ("prompt_ids", "chosen_ids", "rejected_ids"),
    "vote": ("prompt_ids", "completion_ids"),
    "task": ("prompt_ids",),
}
ASIDE = {"pair": {"margin": "float64"}, "vote": {"label": "bool"}}
KEPT = {"length": "int32", "row": "string", "group": "int64"}
READ = {"task": ("row",)}  # what is handed out besides: rewards read the other columns of the record


class _Writer:
    """Writes one file of a split as `datasets.Dataset.save_to_disk` would, without importing datasets."""

    def __init__(self, path: Path, shape: str) -> None:
        import pyarrow as pa

        path.parent.mkdir(parents=True, exist_ok=True)
        self._pa, self._shape = pa, shape
        kinds = {"string": pa.string(), "bool": pa.bool_(), "float64": pa.float64()}
        fields = [(name, pa.list_(pa.int32())) for name in TOKENS.get(shape, SPANS)]
        others = {**ASIDE.get(shape, {}), **KEPT}
        fields += [(name, kinds.get(kind) or getattr(pa, kind)()) for name, kind in others.items()]
        self._schema = pa.schema(fields)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)
        self.rows = self.tokens = self.supervised = self.longest = 0

    def _write(self, columns: Sequence[Any], sizes: Sequence[int], rows: Sequence[tuple[Any, str, int]]) -> None:
        """Add a batch: its first columns, the lengths of its rows, their canonical JSON and groups."""
        lengths, texts = arrow.numbers(np.array(sizes, dtype=np.int32)), arrow.texts([text for _, text, _ in rows])
        groups = arrow.numbers(np.array([group for *_, group in rows], dtype=np.int64))
        self._writer.write_batch(self._pa.record_batch([*columns, lengths, texts, groups], schema=self._schema))
        self.rows += len(rows)
        self.longest = max(self.longest, *sizes)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
        self._sink.close()


class SpanWriter(_Writer):
    """Writes rows of which spans are learned."""

    def write(self, rows: Sequence[tuple[Encoded, str, int]]) -> None:
        """Add rows: encoded, canonical JSON, group."""
        if not rows:
            return
        sizes = [len(row.input_ids) for row, _, _ in rows]
        ids = np.fromiter(chain.from_iterable(row.input_ids for row, _, _ in rows), dtype=np.int32)
        labels = np.full_like(ids, MASKED)
        for place, (row, _, _) in zip(accumulate(sizes, initial=0), rows, strict=False):
            for begin, end in row.learned:
                labels[place + begin : place + end] = ids[place + begin : place + end]
        self._write([arrow.lists(arrow.numbers(values), sizes) for values in (ids, labels)], sizes, rows)
        self.tokens += len(ids)
        self.supervised += int((labels != MASKED).sum())


class SideWriter(_Writer):
    """Writes rows of which each has a question and answers."""

    def write(self, rows: Sequence[tuple[Sided, str, int]]) -> None:
        """Add rows: encoded, canonical JSON, group."""
        if not rows:
            return
        sided = [row for row, _, _ in rows]
        parts = zip(*((row.prompt, *row.answers) for row in sided), strict=True)
        columns = [self._list(part) for part in parts]
        for name in ASIDE.get(self._shape, {}):
            columns.append(self._pa.array([getattr(row, name) for row in sided], self._schema.field(name).type))
        self._write(columns, [row.longest for row in sided], rows)
        self.tokens += sum(row.tokens for row in sided)
        self.supervised += sum(row.supervised for row in sided)

    def _list(self, part: Sequence[list[int]]) -> Any:
        ids = np.fromiter(chain.from_iterable(part), dtype=np.int32)
        return arrow.lists(arrow.numbers(ids), [len(one) for one in part])


def shard_name(number: int, count: int) -> str:
    """The name of a file of a split, as datasets gives it."""
    return f"data-{number:05d}-of-{count:05d}.arrow"


def describe(folder: Path, fingerprint: str, count: int, shape: str) -> None:
    """Write what `datasets` reads beside the files of a split."""
    tokens = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
    others = {**ASIDE.get(shape, {}), **KEPT}
    features: dict[str, Any] = {name: tokens for name in TOKENS.get(shape, SPANS)}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in others.items()}
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
    """The tokens of a split for training, memory-mapped.

    A dataset with the columns input_ids and labels; of pairs prompt_ids, chosen_ids, rejected_ids and margin, which
    may be null; of votes prompt_ids, completion_ids and label; of tasks prompt_ids and row, as rows.from_json reads it.
    """
    import datasets

    rows = datasets.load_from_disk(path)
    assert isinstance(rows, datasets.Dataset)
    shape = _shape(rows.column_names)
    return rows.select_columns([*TOKENS.get(shape, SPANS), *ASIDE.get(shape, {}), *READ.get(shape, ())])


def _shape(columns: Sequence[str]) -> str:
    """The shape of the rows that have these columns; nothing for rows of which spans are learned."""
    return next((shape for shape, names in TOKENS.items() if set(names) <= set(columns)), "")


def _batches(path: str) -> Iterator[Any]:
    import pyarrow as pa

    for file in sorted(Path(path).glob("data-*.arrow")):
        with pa.memory_map(str(file)) as source:
            yield from pa.ipc.open_stream(source)


def lengths(path: str) -> NDArray[np.int32]:
    """The number of tokens of every row of a split; of a pair those of its longer side."""
    parts = [arrow.values(batch.column("length")) for batch in _batches(path)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def tokens(path: str) -> NDArray[np.int64]:
    """The number of tokens that every row of a split has on all its sides."""
    parts = []
    for batch in _batches(path):
        shape = _shape(batch.schema.names)
        if not shape:
            parts.append(arrow.values(batch.column("length")).astype(np.int64))
            continue
        asked, *answers = (_sizes(batch.column(name)) for name in TOKENS[shape])
        parts.append(asked * max(1, len(answers)) + sum(answers))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def sizes(path: str, column: str) -> NDArray[np.int64]:
    """The number of tokens that every row of a split has in a column."""
    parts = [_sizes(batch.column(column)) for batch in _batches(path)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def labels(path: str) -> NDArray[np.bool_]:
    """Which votes of a split are up."""
    parts = [np.array(batch.column("label").to_pylist(), dtype=bool) for batch in _batches(path)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=bool)


def _sizes(lists: Any) -> NDArray[np.int64]:
    offsets = np.frombuffer(lists.buffers()[1], dtype=np.int32, count=len(lists) + 1, offset=lists.offset * 4)
    return np.diff(offsets).astype(np.int64)


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


class Block(NamedTuple):
    """Tokens that are read one after the other, and their labels."""

    name: str  # of what they are a part of a row; nothing for a whole one
    ids: list[int]
    labels: list[int]


def read_tokens(path: str, limit: int) -> Iterator[list[Block]]:
    """Ids and labels of the first rows of a split: of a pair each side, of a task what is asked."""
    rows = (row for batch in _batches(path) for row in batch.drop_columns(["row"]).to_pylist())
    for row in islice(rows, limit):
        shape = _shape(list(row))
        if not shape:
            yield [Block("", row["input_ids"], row["labels"])]
            continue
        asked = row["prompt_ids"]
        masked = [MASKED] * len(asked)
        sides = [name for name in TOKENS[shape] if name != "prompt_ids"]
        blocks = [Block(_name(row, side), asked + row[side], masked + row[side]) for side in sides]
        yield blocks or [Block("what is asked", asked, masked)]


def _name(row: Mapping[str, Any], side: str) -> str:
    if side == "completion_ids":
        return "voted up" if row["label"] else "voted down"
    return side.removesuffix("_ids")
