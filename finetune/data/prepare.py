"""Rows, prepared once before any process trains: checked, split, tokenised, masked, kept by fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import DataConfig
from finetune.data import prepared, store
from finetune.data.benchmarks import Passage, find_benchmarks, read_benchmarks
from finetune.data.clusters import HELD_OUT, LEFT_OUT, TRAIN, Clusters
from finetune.data.encode import ENCODER_VERSION, Encoded, Encoder, Refused
from finetune.data.faults import FaultLog
from finetune.data.leaks import Compared, check_leaks
from finetune.data.load import Loaded, check_groups, check_hub, check_used, load
from finetune.data.order import row_order
from finetune.data.prepared import Allowed, PreparedData, SplitFacts, said_allowed
from finetune.data.read import Source, find_sources
from finetune.data.rows import Chat, Row, compared, from_json, to_json, unrolled
from finetune.data.sandbox import TemplateFault
from finetune.data.split import Splitter, duplicates, repeat
from finetune.errors import UserError

if TYPE_CHECKING:
    import datasets

__all__ = ["PreparedData", "SplitFacts", "lengths", "open_rows", "prepare", "read_rows"]

BATCH = 256  # rows that are rendered and tokenised together


@dataclass(frozen=True)
class Settings:
    """What decides the tokens, besides the rows."""

    data: DataConfig
    learn: str
    shapes: tuple[str, ...]
    max_length: int
    seed: int
    stop_ids: tuple[int, ...]
    tokenizer: str  # hash of tokenizer and template

    def digest(self, *more: str) -> str:
        """A hash of these settings and of whatever else is given."""
        own = dataclasses.asdict(self)
        for where in ("train", "eval", "benchmarks"):  # a file by another name has the same rows
            del own["data"][where]
        return hashlib.sha256(json.dumps([ENCODER_VERSION, own, more], sort_keys=True).encode()).hexdigest()


def prepare(
    data: DataConfig,
    *,
    learn: str,
    shapes: tuple[str, ...],
    tokenizer: Any,
    max_length: int,
    seed: int,
    cache: str,
    stop_ids: Sequence[int] = (),
) -> PreparedData:
    """Prepare the rows, or find them prepared under the same fingerprint.

    Every fault of the rows is raised at once as a UserError, and then no rows are left behind. `stop_ids` are
    the ends of generation that the model declares besides the tokenizer's own.
    """
    train = find_sources(data.train, "data.train")
    held = find_sources(data.eval, "data.eval") if data.eval is not None else []
    benchmarks = find_benchmarks(data.benchmarks)
    _check_settings(data, train, held)
    identity = _tokenizer_digest(tokenizer)
    settings = Settings(data, learn, shapes, max_length, seed, tuple(stop_ids), identity)
    root = Path(cache)
    files = [prepared.files_digest(sources) for sources in (train, held, benchmarks)]
    key = settings.digest(*map(str, files)) if None not in files else None
    found = prepared.find(root, key) if key else None
    if found is not None:
        return found
    used, seen = set[str](), set[str]()
    rows, held_rows = load(train, data, shapes, used, seen), load(held, data, shapes, used, seen)
    check_used(data.columns, used)
    check_groups(data.group_by, seen)
    exams = read_benchmarks(benchmarks)
    folder = root / settings.digest(_rows_digest(rows), _rows_digest(held_rows), _texts_digest(exams))
    result = prepared.read(folder)
    if result is None:
        job = _Job(folder, rows, held_rows, exams, settings, tokenizer)
        result = prepared.write(folder, job.fill)
    if key:
        prepared.remember(root, key, folder.name)
    return result


def open_rows(split: SplitFacts) -> datasets.Dataset:
    """The split for training: a memory-mapped dataset with the columns input_ids and labels."""
    return store.open_rows(split.path)


def ordered_rows(
    split: SplitFacts, *, steps: int, effective_batch: int, seed: int, group_by_length: bool
) -> tuple[datasets.Dataset, NDArray[np.int32]]:
    """All rows of a run in the order in which they are trained, and the number of tokens of each."""
    counts = lengths(split)
    order = row_order(counts, steps=steps, effective_batch=effective_batch, seed=seed, group_by_length=group_by_length)
    return open_rows(split).select(order), counts[order]


def held_out_rows(split: SplitFacts) -> datasets.Dataset:
    """The held-out rows, the longest first: little is padded, and what is too large fails at once."""
    return open_rows(split).select(np.argsort(-lengths(split), kind="stable"))


def read_rows(split: SplitFacts, limit: int | None = None) -> Iterator[Row]:
    """The canonical rows of a split, in its order."""
    return store.read_rows(split.path, limit)


def lengths(split: SplitFacts) -> NDArray[np.int32]:
    """The number of tokens of every row of a split."""
    return store.lengths(split.path)


def _check_settings(data: DataConfig, sources: Sequence[Source], held: Sequence[Source]) -> None:
    check_hub(data, [*sources, *held])
    if data.weights and len(data.weights) != len(sources):
        what = f"{len(data.weights)} weights for {len(sources)} sources in data.train"
        raise UserError.at("data.weights", what, "give one for each source")
    if any(not 0 < weight <= 1000 for weight in data.weights):
        what = f"must be above 0 and at most 1000, got {data.weights}"
        raise UserError.at("data.weights", what, "1 sees every row of a source once an epoch")


def _weighted(rows: Sequence[Loaded], weights: Sequence[float], seed: int) -> list[Loaded]:
    found = repeat(rows, weights, seed)
    lost = sorted({row.source for row in rows} - {row.source for row in found})
    if lost:
        what = f"{weights[lost[0]]} leaves none of the {sum(row.source == lost[0] for row in rows)} rows"
        mend = "use a larger weight, or leave the source out"
        raise UserError.at("data.weights", f"{what} of source {lost[0] + 1} in data.train", mend)
    return found


def _tokenizer_digest(tokenizer: Any) -> str:
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _rows_digest(rows: Sequence[Loaded]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        groups = f"\0{row.groups}" if any(row.groups) else ""
        digest.update(f"{row.source}\0{row.json}{groups}\n".encode())
    return digest.hexdigest()


def _texts_digest(texts: Sequence[Passage]) -> str:
    return hashlib.sha256("\0".join(passage.text for passage in texts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Job:
    """All that is needed to fill a folder with prepared rows."""

    folder: Path
    rows: list[Loaded]
    held_rows: list[Loaded]
    benchmarks: list[Passage]
    settings: Settings
    tokenizer: Any

    def fill(self, temporary: Path) -> PreparedData:
        """Split, encode and write the rows into a temporary folder, which later becomes `folder`."""
        data, seed = self.settings.data, self.settings.seed
        parts = self._split()
        kept, held, origin = parts.train, parts.held_out, parts.origin
        contamination = self._check_leaks(kept)
        encoder = Encoder(self.tokenizer, self.settings.learn, self.settings.max_length, self.settings.stop_ids)
        self._check_template(encoder)
        faults = FaultLog()
        train = _Split(temporary / "train", encoder, data.on_long, faults)
        train.encode(_weighted(kept, data.weights, seed))
        other = _Split(temporary / "held_out", encoder, data.on_long, faults) if held else None
        if other:
            other.encode(held)
        faults.raise_any()
        return PreparedData(
            folder=str(self.folder),
            shape="chat" if any(row.shape == "chat" for row in self.rows) else "text",
            train=train.facts(self.folder),
            held_out=other.facts(self.folder) if other else None,
            held_out_from=origin,
            fingerprint=self.folder.name,
            held_out_fingerprint=_rows_digest(held) if held else None,
            warnings=(*parts.warnings, *self._warnings(contamination, train, encoder)),
            contamination=contamination,
            stop_ids=encoder.stop_ids,
        )

    def _split(self) -> _Parts:
        if self.held_rows:
            return _Parts(self.rows, self.held_rows, "files")
        data = self.settings.data
        if data.eval_share <= 0:
            return _Parts(self.rows, [], "none")
        splitter = Splitter(data.eval_share, self.settings.seed, data.contamination_words, data.group_by)
        for row in self.rows:
            splitter.add(from_json(row.json), row.groups)
        split = splitter.split()
        train, held, out = (
            [row for row, side in zip(self.rows, split.sides, strict=True) if side == wanted]
            for wanted in (TRAIN, HELD_OUT, LEFT_OUT)
        )
        return _Parts(train, held, "split" if held else "none", tuple(_split_warnings(out, split.clusters)))

    def _check_leaks(self, train: Sequence[Loaded]) -> tuple[Allowed, ...]:
        """Refuse rows that are both trained and measured on, or count them where that is allowed."""
        data, exams = self.settings.data, self.benchmarks
        measured = [
            _compared("data.eval", self.held_rows),
            Compared("data.benchmarks", [exam.text for exam in exams], lambda index: exams[index].where),
        ]
        measured = [part for part in measured if part.texts]
        if not measured:
            return ()
        words, allowed = data.contamination_words, data.allow_contamination
        return check_leaks(_compared("data.train", train), measured, words=words, allowed=allowed)

    def _check_template(self, encoder: Encoder) -> None:
        """Refuse conversations at once, and not row by row, when there is no template that works."""
        if any(row.shape == "chat" and not row.plain for row in (*self.rows, *self.held_rows)):
            try:
                encoder.template  # noqa: B018  # read, compiled and tried when first asked for
            except TemplateFault as fault:
                raise UserError.at("model.chat_template", fault.what, fault.mend) from fault

    def _warnings(self, contamination: tuple[Allowed, ...], train: _Split, encoder: Encoder) -> Iterator[str]:
        repeated = duplicates(self.rows)
        if repeated:
            yield f"data.train: {repeated} of {len(self.rows)} rows repeat an earlier one word for word"
        if contamination:
            yield said_allowed(contamination)
        if train.unrolled:
            yield (
                f"data.train: {train.unrolled} conversations became a row for each answer, because the chat "
                "template writes an answer otherwise when more follows; method.learn=last keeps one row each"
            )
        if train.unlearned_reasoning:
            yield (
                f"data.train: the chat template leaves out the reasoning of {train.unlearned_reasoning} "
                "answers, which are learned without it; use a template that writes it"
            )
        if any(row.shape == "chat" for row in self.rows) and self.tokenizer.chat_template:
            known = {*self.settings.stop_ids, self.tokenizer.eos_token_id}
            new = [name for name, index in encoder.template.stop_tokens.items() if index not in known]
            if new:
                yield f"answers end in {new[0]}, not in the tokenizer's end token: generation must stop there"


@dataclass(frozen=True)
class _Parts:
    """Rows to train on, rows held out, and where the latter come from."""

    train: list[Loaded]
    held_out: list[Loaded]
    origin: str
    warnings: tuple[str, ...] = ()


def _compared(key: str, rows: Sequence[Loaded]) -> Compared:
    return Compared(key, [compared(from_json(row.json)) for row in rows], lambda index: rows[index].where)


def _split_warnings(left_out: Sequence[Loaded], clusters: Clusters) -> Iterator[str]:
    if left_out:
        first = left_out[0].where
        what = f"{len(left_out)} rows share something with rows of both sides of the split (the first is {first})"
        yield f"data.train: {what} and are left out; `finetune data split` lists them"
    if not clusters.held_out:
        yield "data.train: all rows belong together (copies, one question or one group), so none is held out"


class _Split:
    """One split while it is written."""

    def __init__(self, folder: Path, encoder: Encoder, on_long: str, faults: FaultLog) -> None:
        self._name, self._encoder, self._on_long, self._faults = folder.name, encoder, on_long, faults
        self._writer = store.SplitWriter(folder)
        self.truncated = self.dropped = self.unrolled = self.unlearned_reasoning = 0

    def encode(self, rows: Sequence[Loaded]) -> None:
        """Encode and write the rows; what cannot be learned from is noted as a fault."""
        for begin in range(0, len(rows), BATCH):
            batch = rows[begin : begin + BATCH]
            kept = [(self._take(row, item), text) for row, item, text in self._results(batch)]
            self._writer.write([(item.input_ids, item.labels, text) for item, text in kept if item])
        self._writer.close()
        if rows and not self._writer.rows and not self._faults.total:
            what = f"all {len(rows)} rows of the split {self._name} are over data.max_length and were dropped"
            self._faults.add(rows[0].file, what, "raise data.max_length, or set data.on_long=truncate")

    def _results(self, batch: Sequence[Loaded]) -> Iterator[tuple[Loaded, Encoded | Refused, str]]:
        """Each row encoded, or in its place the parts of a conversation that had to be unrolled."""
        rows = [from_json(row.json) for row in batch]
        for place, row, result in zip(batch, rows, self._encoder.encode(rows), strict=True):
            if isinstance(row, Chat) and isinstance(result, Refused) and result.kind == "unrollable":
                self.unrolled += 1
                parts = unrolled(row)
                for part, item in zip(parts, self._encoder.encode(parts), strict=True):
                    yield place, item, to_json(part)
            else:
                yield place, result, place.json

    def _take(self, row: Loaded, result: Encoded | Refused) -> Encoded | None:
        """The row if it is kept; counts and notes it if not."""
        is_long = result.kind == "long" if isinstance(result, Refused) else result.truncated
        if is_long and self._on_long == "drop":
            self.dropped += 1
        elif is_long and self._on_long == "fail":
            what = f"{result.length:,} tokens, over data.max_length={self._encoder.max_length:,}"
            self._faults.add(row.where, what, "raise it, or set data.on_long=truncate or data.on_long=drop")
        elif isinstance(result, Refused):
            self._faults.add(row.where, result.what, result.mend)
        else:
            self.truncated += is_long
            self.unlearned_reasoning += result.unlearned_reasoning
            return result
        return None

    def facts(self, folder: Path) -> SplitFacts:
        """What the split holds, and where it will lie."""
        writer = self._writer
        return SplitFacts(
            path=str(folder / self._name),
            rows=writer.rows,
            tokens=writer.tokens,
            supervised_tokens=writer.supervised,
            longest=writer.longest,
            truncated=self.truncated,
            dropped=self.dropped,
        )
