"""Rows, prepared once before any process trains: checked, split, tokenised, masked, kept by fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import DataConfig
from finetune.data import prepared, store
from finetune.data.benchmarks import Passage, as_compared, find_benchmarks, whole_benchmarks
from finetune.data.bias import said_bias
from finetune.data.clusters import HELD_OUT, LEFT_OUT, TRAIN
from finetune.data.encode import ENCODER_VERSION, Encoder, tokenizer_digest
from finetune.data.faults import FaultLog
from finetune.data.formats import SAID
from finetune.data.groups import check_columns_held_out, row_groups, shared_groups
from finetune.data.leaks import Compared, check_leaks
from finetune.data.load import check_groups, check_hub, check_used
from finetune.data.order import row_order
from finetune.data.pieces import pieces
from finetune.data.prepared import START, Allowed, Place, PreparedData, SplitFacts, Window, said_allowed
from finetune.data.read import Source, find_sources
from finetune.data.reading import Reading, read_part
from finetune.data.rows import LEARNED, SHAPES, Row, compared, from_json
from finetune.data.sandbox import TemplateFault
from finetune.data.shards import Counts, Job, RowWorker, SplitPlan, encode_splits
from finetune.data.split import Split, Splitter, duplicates, repeat
from finetune.data.spool import Indices, Spool, SpoolWriter
from finetune.data.stream import LEAVE_ALONE, WindowReader, stream_digest
from finetune.data.workers import Crew, cores
from finetune.errors import UserError, counted

if TYPE_CHECKING:
    import datasets

__all__ = ["PreparedData", "SplitFacts", "lengths", "open_rows", "prepare", "read_groups", "read_rows"]


Span = tuple[Place, Place]

MOST_COUNTED = 100_000_000  # rows of one source in an epoch
LARGE_BYTES = 16_000_000  # of all files, from which on starting processes to read them saves time
TOKENIZER = "tokenizer"  # the folder in which other processes find it


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

    @property
    def job(self) -> Job:
        """How the rows are encoded."""
        return Job(self.learn, self.max_length, self.stop_ids, self.data.on_long, self.shapes[0])

    def digest(self, *more: str) -> str:
        """A hash of these settings and of whatever else is given."""
        own = dataclasses.asdict(self)
        for where in ("train", "eval", "benchmarks"):  # a file by another name has the same rows
            del own["data"][where]
        versions = [ENCODER_VERSION, store.STORE_VERSION]
        return hashlib.sha256(json.dumps([versions, own, more], sort_keys=True).encode()).hexdigest()


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
    _check_shapes(data, shapes, learn)
    settings = Settings(data, learn, shapes, max_length, seed, tuple(stop_ids), tokenizer_digest(tokenizer))
    root = Path(cache)
    stream = stream_digest(train, data) if data.streaming else None
    files = [stream or prepared.files_digest(train), *map(prepared.files_digest, (held, benchmarks))]
    key = settings.digest(*map(str, files)) if None not in files else None
    found = prepared.find(root, key) if key else None
    if found is not None:
        return found
    encoder = settings.job.encoder(tokenizer)
    with prepared.scratch(root) as folder, crew_of(settings, folder) as crew:
        reading, span = _reading(settings, [*train, *held], crew), None
        if data.streaming:
            rows, span = _first_window(folder, train, reading)
        else:
            rows = spooled(folder, "train", train, reading)
        held_rows = spooled(folder, "held_out", held, reading)
        notes = _check_columns(reading, span)
        exams = whole_benchmarks(benchmarks)
        work = Filling(
            folder,
            rows,
            held_rows,
            exams,
            settings,
            tokenizer,
            encoder,
            crew,
            root,
            stream,
            span,
            notes=notes,
            ties=reading.ties,
        )
        result = prepared.read(work.folder) or prepared.write(work.folder, work.fill)
    if key:
        prepared.remember(root, key, work.folder.name)
    return result


def crew_of(settings: Settings, scratch: Path) -> Crew:
    """The processes that read and encode, of which none is started before there are many rows."""
    return Crew(RowWorker(settings.data, settings.shapes, settings.job, scratch / TOKENIZER), cores())


def _reading(settings: Settings, sources: Sequence[Source], crew: Crew) -> Reading:
    data, shapes = settings.data, settings.shapes
    is_large = sum(path.stat().st_size for source in sources for path in source.files) >= LARGE_BYTES
    return Reading(
        data, shapes, crew.mapped if is_large else partial(map, partial(read_part, data=data, shapes=shapes))
    )


def spooled(folder: Path, name: str, sources: Sequence[Source], reading: Reading) -> Spool:
    """The checked rows of some sources in a file."""
    writer = SpoolWriter(folder / f"{name}.rows")
    reading.spool(pieces(name, sources, reading.data), writer)
    return writer.close()


def _first_window(folder: Path, train: Sequence[Source], reading: Reading) -> tuple[Spool, Span]:
    """The rows of the first window of a stream, and where it begins and ends."""
    reader, writer = WindowReader(train, reading.data, reading), SpoolWriter(folder / "train.rows")
    ends = reader.read(START, writer)
    reader.check_beginnings(after=ends)
    return writer.close(), (START, ends)


def _check_columns(reading: Reading, span: Span | None) -> tuple[str, ...]:
    """Refuse names of columns that no row has; of a stream whose rows are not all known they are only told."""
    data = reading.data
    try:
        check_used(data.columns, reading.used)
        check_groups(data.group_by, reading.seen)
    except UserError as error:
        if span is None or span[1] == START:
            raise
        return tuple(f"{fault.where}: {fault.what}, as far as the rows are read" for fault in error.faults)
    return ()


def open_rows(split: SplitFacts) -> datasets.Dataset:
    """The split for training, memory-mapped; `store.open_rows` says which columns it has for each shape."""
    return store.open_rows(split.path)


def ordered_rows(
    split: SplitFacts, *, steps: int, effective_batch: int, seed: int, group_by_length: bool
) -> tuple[datasets.Dataset, Callable[[int], int]]:
    """All rows of a run in the order in which they are trained, and how many tokens the first so many of them have."""
    counts = lengths(split)
    order = row_order(counts, steps=steps, effective_batch=effective_batch, seed=seed, group_by_length=group_by_length)
    tokens = np.concatenate([[0], np.cumsum(store.tokens(split.path)[order])])
    return open_rows(split).select(order), lambda rows: int(tokens[rows])


def held_out_rows(split: SplitFacts) -> datasets.Dataset:
    """The held-out rows, the longest first: little is padded, and what is too large fails at once."""
    return open_rows(split).select(np.argsort(-lengths(split), kind="stable"))


def read_rows(split: SplitFacts, limit: int | None = None) -> Iterator[Row]:
    """The canonical rows of a split, in its order."""
    return store.read_rows(split.path, limit)


def read_groups(split: SplitFacts) -> list[int]:
    """The group of every row of a split: rows of one group depend on each other."""
    found: list[int] = store.groups(split.path).tolist()
    return found


def lengths(split: SplitFacts) -> NDArray[np.int32]:
    """The number of tokens of every row of a split; of a pair those of its longer side."""
    return store.lengths(split.path)


def _check_settings(data: DataConfig, sources: Sequence[Source], held: Sequence[Source]) -> None:
    check_hub(data, [*sources, *held])
    if data.weights and data.counts:
        raise UserError.at("data.counts", "is set together with data.weights", "keep one of them")
    for key, values in (("weights", data.weights), ("counts", data.counts)):
        if values and len(values) != len(sources):
            what = f"{len(values)} {key} for {len(sources)} sources in data.train"
            raise UserError.at(f"data.{key}", what, "give one for each source")
    if any(not 0 < weight <= 1000 for weight in data.weights):
        what = f"must be above 0 and at most 1000, got {data.weights}"
        raise UserError.at("data.weights", what, "1 sees every row of a source once an epoch")
    if any(not 0 < count <= MOST_COUNTED for count in data.counts):
        what = f"must be above 0 and at most {MOST_COUNTED:,}, got {data.counts}"
        raise UserError.at("data.counts", what, "give the rows of each source in one epoch, or leave the source out")


def _check_shapes(data: DataConfig, shapes: Sequence[str], learn: str) -> None:
    """Refuse a stream of rows that have columns of their own for each answer."""
    if set(shapes) <= set(LEARNED):
        return
    if len(shapes) > 1 or learn == "all":
        raise ValueError(f"rows of {shapes} are learned alone, and their last answers only, not {learn!r}")
    if data.streaming:
        what = f"this method learns from {SAID[shapes[0]]}, which are prepared whole"
        raise UserError.at("data.streaming", what, "leave it out")


def _mixed(rows: Spool, kept: Indices, data: DataConfig, seed: int) -> Indices:
    """The rows of one epoch, by their places."""
    if not data.weights and not data.counts:
        return kept
    sources = len(data.weights or data.counts)
    there = np.bincount(rows.column("source")[kept], minlength=sources).tolist()
    counts = data.counts or [int(w) * own + round(w % 1.0 * own) for w, own in zip(data.weights, there, strict=True)]
    for source, (count, own) in enumerate(zip(counts, there, strict=True)):
        if own and not count:
            what = (
                f"{data.weights[source]} leaves none of the {counted(own, 'row')} of source {source + 1} in data.train"
            )
            raise UserError.at("data.weights", what, "use a larger weight, or leave the source out")
        if data.counts and not own:
            what = f"source {source + 1} in data.train has no rows left to take {count} of: all are held out"
            raise UserError.at("data.counts", what, "leave the source out, or lower data.eval_share")
    return repeat(rows, kept, counts, seed)


def _rows_digest(rows: Spool, indices: Indices) -> str:
    digest = hashlib.sha256()
    for part in rows.parts(indices):
        for row in part:
            digest.update(f"{row.source}\0{row.json}\0{row.groups}\n".encode())
    return digest.hexdigest()


def _texts_digest(texts: Sequence[Passage]) -> str:
    return hashlib.sha256("\0".join(passage.text for passage in texts).encode("utf-8", "surrogatepass")).hexdigest()


def _facts(counts: Counts, written: Path, path: Path) -> SplitFacts:
    """What a split holds, where it was written, and where it will lie."""
    names = ("rows", "tokens", "supervised", "longest", "truncated", "dropped")
    rows, tokens, supervised, longest, truncated, dropped = (getattr(counts, name) for name in names)
    groups = len(np.unique(store.groups(str(written))))
    return SplitFacts(str(path), rows, tokens, supervised, longest, truncated, dropped, groups)


@dataclass(frozen=True)
class Filling:
    """All that is needed to fill a folder with prepared rows."""

    scratch: Path
    rows: Spool
    held_rows: Spool
    benchmarks: list[Passage]
    settings: Settings
    tokenizer: Any
    encoder: Encoder
    crew: Crew
    root: Path
    stream: str | None = None  # the digest of the stream of which the rows are a window
    span: Span | None = None  # where that begins and ends
    name: str | None = None  # of a later window's folder
    expected: Window | None = None  # what it was when it was made before
    notes: tuple[str, ...] = ()  # further warnings
    ties: int = 0  # records of which no pair could be made

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the tokens."""
        rows = self.stream or self.rows.digest
        return self.settings.digest(rows, self.held_rows.digest, _texts_digest(self.benchmarks))

    @property
    def folder(self) -> Path:
        """Where the prepared rows will lie."""
        return self.root / (self.name or self.fingerprint)

    def fill(self, temporary: Path) -> PreparedData:
        """Split, encode and write the rows into a temporary folder, which later becomes `folder`."""
        parts = self._split()
        contamination = () if self.expected else self._check_leaks(parts.train)
        self._check_template(self.encoder)
        mixed, held = _mixed(self.rows, parts.train, self.settings.data, self.settings.seed), parts.held_out
        columns = self.settings.data.group_by
        train, other = self._encoded(
            SplitPlan(temporary / "train", self.rows, mixed, row_groups(self.rows, columns)),
            SplitPlan(temporary / "held_out", parts.held_rows, held, row_groups(parts.held_rows, columns)),
        )
        window = Window(*self.span, train.rows, train.tokens, self.rows.digest) if self.span else None
        if self.expected not in (None, window):
            raise UserError.at(self.rows[0].where, "this row, or one after it, is not what it was", LEAVE_ALONE)
        return PreparedData(
            folder=str(self.folder),
            shape=next((shape for shape in SHAPES if shape in self.rows.shapes), "text"),
            train=_facts(train, temporary / "train", self.folder / "train"),
            held_out=_facts(other, temporary / "held_out", self.folder / "held_out") if len(held) else None,
            held_out_from=parts.origin,
            fingerprint=self.fingerprint,
            held_out_fingerprint=_rows_digest(parts.held_rows, held) if len(held) else None,
            warnings=(
                *parts.warnings,
                *self.notes,
                *self._warnings(contamination, train, self.encoder, temporary / "train"),
            ),
            contamination=contamination,
            mixture=tuple((rows, tokens) for rows, tokens in train.mixture),
            stop_ids=self.encoder.stop_ids,
            window=window,
        )

    def _encoded(self, *plans: SplitPlan) -> list[Counts]:
        """The splits written, and what became of the rows of each; every fault of theirs is raised at once."""
        tokenizer = self.scratch / TOKENIZER
        shards = encode_splits(plans, self.settings.job, self.tokenizer, self.encoder, self.crew, tokenizer)
        faults, results = FaultLog(), []
        for plan in plans:
            total = Counts()
            for counts in islice(shards, plan.files):
                total.add(counts)
            faults.extend(total.faults, total.faulty)
            if len(plan.indices) and not total.rows and not faults.total:
                all_rows = f"every row of the split {plan.folder.name} ({len(plan.indices)})"
                mend = "raise data.max_length, or set data.on_long=truncate"
                what = f"{all_rows} is over data.max_length and was dropped"
                faults.add(plan.spool[int(plan.indices[0])].file, what, mend)
            if plan.files:
                store.describe(plan.folder, self.fingerprint, plan.files, self.settings.job.shape)
            results.append(total)
        faults.raise_any()
        return results

    def _split(self) -> _Parts:
        every = np.arange(len(self.rows))
        if len(self.held_rows):
            held = np.arange(0 if self.name else len(self.held_rows))  # a later window leaves them to the first one
            return _Parts(every, self.held_rows, held, "files")
        data = self.settings.data
        if data.eval_share <= 0:
            return _Parts(every, self.rows, every[:0], "none")
        splitter = Splitter(data.eval_share, self.settings.seed, data.contamination_words, data.group_by)
        for row in self.rows:
            splitter.add(from_json(row.json), row.groups)
        split = splitter.split()
        train, held, out = (np.flatnonzero(split.sides == side) for side in (TRAIN, HELD_OUT, LEFT_OUT))
        warnings = tuple(_split_warnings(self.rows, out, split))
        return _Parts(train, self.rows, held, "split" if len(held) else "none", warnings)

    def _check_leaks(self, train: Indices) -> tuple[Allowed, ...]:
        """Refuse rows that are both trained and measured on, or count them where that is allowed."""
        data = self.settings.data
        measured = [
            _compared("data.eval", self.held_rows, np.arange(len(self.held_rows))),
            as_compared(self.benchmarks),
        ]
        measured = [part for part in measured if part.texts]
        if not measured:
            return ()
        words, allowed = data.contamination_words, data.allow_contamination
        overlaps = check_leaks(_compared("data.train", self.rows, train), measured, words=words, allowed=allowed)
        return (*overlaps, *self._check_groups())

    def _check_groups(self) -> Iterator[Allowed]:
        """The same for the groups of held-out rows that have a file of their own."""
        columns = self.settings.data.group_by
        if columns and len(self.held_rows):
            check_columns_held_out(self.held_rows, columns)
            allowed = self.settings.data.allow_contamination
            if rows := shared_groups(self.rows, self.held_rows, columns, allowed=allowed):
                yield Allowed("data.eval", prepared.GROUP, rows)

    def _check_template(self, encoder: Encoder) -> None:
        """Refuse conversations at once, and not row by row, when there is no template that works."""
        if self.rows.needs_template or self.held_rows.needs_template:
            try:
                encoder.template  # noqa: B018  # read, compiled and tried when first asked for
            except TemplateFault as fault:
                raise UserError.at("model.chat_template", fault.what, fault.mend) from fault

    def _warnings(
        self, contamination: tuple[Allowed, ...], train: Counts, encoder: Encoder, written: Path
    ) -> Iterator[str]:
        if self.span == (START, START):
            yield f"data.streaming: all {len(self.rows)} rows are in one window, so the run is the same without it"
        if self.ties:
            what = "say that no answer is better than another, and give no pair"
            yield f"data.train: {counted(self.ties, 'row')} {what}: they are passed over"
        if written.exists():
            yield from said_bias(self.settings.job.shape, str(written))
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
        if set(self.rows.shapes) != {"text"} and self.tokenizer.chat_template:
            known = {*self.settings.stop_ids, self.tokenizer.eos_token_id}
            new = [name for name, index in encoder.template.stop_tokens.items() if index not in known]
            if new:
                yield f"answers end in {new[0]}, not in the tokenizer's end token: generation must stop there"


@dataclass(frozen=True)
class _Parts:
    """Rows to train on, by their places; rows held out, and in which file they lie; where the latter come from."""

    train: Indices
    held_rows: Spool
    held_out: Indices
    origin: str
    warnings: tuple[str, ...] = ()


def _compared(key: str, rows: Spool, places: Indices) -> Compared:
    texts = rows.texts(lambda text: compared(from_json(text)), places)
    return Compared(key, texts, lambda index: rows[int(places[index])].where)


def _split_warnings(rows: Spool, left_out: Indices, split: Split) -> Iterator[str]:
    if len(left_out):
        first = rows[int(left_out[0])].where
        what = f"{counted(len(left_out), 'row')} left out, which would tie both sides of the split together"
        yield f"data.train: {what} (the first is {first}); `finetune data split` lists them"
    if not split.clusters.held_out:
        why = f"all rows belong together ({', '.join(split.joined)})" if split.joined else "there is only one row"
        yield f"data.train: {why}, so none is held out; give data.eval, or say data.eval_share=0"
