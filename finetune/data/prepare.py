"""Rows, prepared once before any process trains: checked, split, tokenised, masked, kept as Arrow under a fingerprint."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import DataConfig
from finetune.data import store
from finetune.data.encode import ENCODER_VERSION, Encoded, Encoder, Refused
from finetune.data.faults import FaultLog
from finetune.data.load import Loaded, load
from finetune.data.read import Source, find_sources
from finetune.data.rows import Row, from_json
from finetune.data.sandbox import TemplateFault
from finetune.data.split import duplicates, hold_out, refuse_overlap, repeat
from finetune.errors import UserError

if TYPE_CHECKING:
    import datasets

BATCH = 256  # rows that are rendered and tokenised together


@dataclass(frozen=True)
class SplitFacts:
    """One prepared split: where it lies and what it holds."""

    path: str  # Arrow dataset (datasets.load_from_disk) with columns input_ids, labels, length, row (canonical JSON)
    rows: int
    tokens: int
    supervised_tokens: int
    longest: int
    truncated: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class PreparedData:
    """The prepared rows of a run. Small: the rows themselves stay on disk."""

    folder: str  # <output_dir>/.prepared/<fingerprint>
    shape: str  # chat or text
    train: SplitFacts
    held_out: SplitFacts | None
    held_out_from: str  # "files" or "split" or "none"
    fingerprint: str  # of everything that decides the tokens: rows, template, tokenizer, settings
    held_out_fingerprint: str | None
    warnings: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()  # the tokens that end an answer: generation must stop at each of them


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
        """A hash of these settings and whatever else is given."""
        keys = {
            key: value for key, value in dataclasses.asdict(self.data).items() if key not in ("train", "eval")
        }
        own = [
            ENCODER_VERSION,
            keys,
            self.learn,
            self.shapes,
            self.max_length,
            self.seed,
            self.stop_ids,
            self.tokenizer,
        ]
        return hashlib.sha256(json.dumps([own, more], sort_keys=True).encode()).hexdigest()


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

    Every fault of the rows is raised at once as a UserError, before anything is written. `stop_ids` are the ends of
    generation that the model declares besides the tokenizer's own.
    """
    train = find_sources(data.train, "data.train")
    held = find_sources(data.eval, "data.eval") if data.eval is not None else []
    _check_weights(data, train)
    settings = Settings(data, learn, shapes, max_length, seed, tuple(stop_ids), _tokenizer_digest(tokenizer))
    root = Path(cache)
    quick = _quick_key(train, held, settings)
    found = _find(root, quick)
    if found is not None:
        return found
    rows, held_rows = load(train, data, shapes), load(held, data, shapes) if held else []
    fingerprint = settings.digest(_rows_digest(rows), _rows_digest(held_rows))
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{fingerprint}.lock"):
        prepared = _read_prepared(root / fingerprint)
        if prepared is None:
            prepared = _write(root / fingerprint, rows, held_rows, settings, tokenizer)
    if quick:
        _remember(root, quick, fingerprint)
    return prepared


def open_rows(split: SplitFacts) -> datasets.Dataset:
    """The split for training: a memory-mapped dataset with the columns input_ids and labels."""
    return store.open_rows(split.path)


def read_rows(split: SplitFacts, limit: int | None = None) -> Iterator[Row]:
    """The canonical rows of a split, in its order."""
    return store.read_rows(split.path, limit)


def lengths(split: SplitFacts) -> NDArray[np.int32]:
    """The number of tokens of every row of a split."""
    return store.lengths(split.path)


# --- what decides the tokens -----------------------------------------------------------------------------------


def _check_weights(data: DataConfig, sources: Sequence[Source]) -> None:
    if data.weights and len(data.weights) != len(sources):
        what = f"{len(data.weights)} weights for {len(sources)} sources in data.train"
        raise UserError.at("data.weights", what, "give one for each source")
    if any(not 0 < weight <= 1000 for weight in data.weights):
        raise UserError.at("data.weights", f"must be above 0 and at most 1000, got {data.weights}")


def _tokenizer_digest(tokenizer: Any) -> str:
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _rows_digest(rows: Sequence[Loaded]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.source}\0{row.json}\n".encode())
    return digest.hexdigest()


def _quick_key(train: Sequence[Source], held: Sequence[Source], settings: Settings) -> str | None:
    """A hash of the files' bytes, which spares reading them as rows; none for a hub dataset, which may move."""
    digest = hashlib.sha256()
    for source in (*train, *held):
        if source.on_hub:
            return None
        for path in source.files:
            if not path.is_file():
                return None
            with path.open("rb") as file:
                digest.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
        digest.update(b"|")
    return settings.digest(digest.hexdigest(), str(len(train)))


def _find(root: Path, quick: str | None) -> PreparedData | None:
    try:
        fingerprint = (root / f"{quick}.key").read_text(encoding="utf-8") if quick else ""
    except OSError:
        return None
    return _read_prepared(root / fingerprint) if fingerprint.isalnum() else None


def _remember(root: Path, quick: str, fingerprint: str) -> None:
    temporary = root / f".{quick}.{os.getpid()}.tmp"
    temporary.write_text(fingerprint, encoding="utf-8")
    temporary.replace(root / f"{quick}.key")


# --- files -----------------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_prepared(folder: Path) -> PreparedData | None:
    try:
        kept = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        sizes = kept.pop("sizes")
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        splits = {
            key: SplitFacts(**{**kept[key], "path": str(folder / key)}) if kept[key] else None
            for key in ("train", "held_out")
        }
        lists = {"warnings": tuple(kept["warnings"]), "stop_ids": tuple(kept["stop_ids"])}
        return PreparedData(**{**kept, **splits, **lists, "folder": str(folder)})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not whole: it is made anew


def _write(
    folder: Path, rows: list[Loaded], held_rows: list[Loaded], settings: Settings, tokenizer: Any
) -> PreparedData:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        prepared = _write_splits(temporary, folder, rows, held_rows, settings, tokenizer)
        sizes = {str(f.relative_to(temporary)): f.stat().st_size for f in temporary.rglob("*") if f.is_file()}
        kept = json.dumps({**dataclasses.asdict(prepared), "sizes": sizes}, indent=2)
        (temporary / "prepared.json").write_text(kept, encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return prepared


def _write_splits(
    temporary: Path,
    folder: Path,
    rows: list[Loaded],
    held_rows: list[Loaded],
    settings: Settings,
    tokenizer: Any,
) -> PreparedData:
    data, warnings = settings.data, []
    repeated = duplicates(rows)
    if repeated:
        warnings.append(f"data.train: {repeated} of {len(rows)} rows repeat an earlier one word for word")
    kept, held, origin = _split(rows, held_rows, data, settings.seed)
    if origin == "none" and data.eval_share > 0:
        warnings.append("data.train: only one distinct row, so none is held out")
    encoder = Encoder(tokenizer, settings.learn, settings.max_length, settings.stop_ids)
    chat = any(row.shape == "chat" for row in rows)
    _check_template(encoder, [row for row in (*rows, *held_rows) if row.shape == "chat" and not row.plain])
    faults, fingerprint = FaultLog(), folder.name
    train = _Split(temporary / "train", folder / "train", fingerprint)
    train.encode(repeat(kept, data.weights, settings.seed), encoder, data.on_long, faults)
    other = _Split(temporary / "held_out", folder / "held_out", fingerprint) if held else None
    if other:
        other.encode(held, encoder, data.on_long, faults)
    faults.raise_any()
    warnings += _reasoning_warning(train) + (_stop_warning(encoder, tokenizer, settings) if chat else [])
    held_facts = other.facts() if other else None
    return PreparedData(
        folder=str(folder),
        shape="chat" if chat else "text",
        train=train.facts(),
        held_out=held_facts,
        held_out_from=origin,
        fingerprint=fingerprint,
        held_out_fingerprint=_rows_digest(held) if held else None,
        warnings=tuple(warnings),
        stop_ids=encoder.stop_ids,
    )


def _split(
    rows: list[Loaded], held_rows: list[Loaded], data: DataConfig, seed: int
) -> tuple[list[Loaded], list[Loaded], str]:
    if held_rows:
        refuse_overlap(rows, held_rows)
        return rows, held_rows, "files"
    marks = hold_out([row.json for row in rows], data.eval_share, seed)
    held = [row for row, out in zip(rows, marks, strict=True) if out]
    kept = [row for row, out in zip(rows, marks, strict=True) if not out]
    return kept, held, "split" if held else "none"


class _Split:
    """One split while it is written."""

    def __init__(self, temporary: Path, final: Path, fingerprint: str) -> None:
        self._writer = store.SplitWriter(temporary, fingerprint)
        self._final = final
        self.truncated = self.dropped = self.unlearned_reasoning = 0

    def encode(self, rows: Sequence[Loaded], encoder: Encoder, on_long: str, faults: FaultLog) -> None:
        """Encode and write the rows; what cannot be learned from is noted as a fault."""
        for begin in range(0, len(rows), BATCH):
            batch = rows[begin : begin + BATCH]
            results = encoder.encode([from_json(row.json) for row in batch])
            good = []
            for row, result in zip(batch, results, strict=True):
                if self._take(row, result, on_long, faults):
                    assert isinstance(result, Encoded)
                    good.append((result.input_ids, result.labels, row.json))
            self._writer.write(good)
        self._writer.close()
        if rows and not self._writer.rows and not faults.total:
            what = f"all {len(rows)} rows are longer than data.max_length and were dropped"
            faults.add(rows[0].file, what, "raise data.max_length, or set data.on_long=truncate")

    def _take(self, row: Loaded, result: Encoded | Refused, on_long: str, faults: FaultLog) -> bool:
        """Whether the row is kept; counts and notes why not."""
        long = result.length if isinstance(result, Refused) and result.kind == "long" else 0
        if isinstance(result, Encoded):
            self.unlearned_reasoning += result.unlearned_reasoning
            if not result.truncated:
                return True
            long = result.length
            if on_long == "truncate":
                self.truncated += 1
                return True
        if long and on_long == "drop":
            self.dropped += 1
            return False
        if long and on_long == "fail":
            faults.add(
                row.where,
                f"{long} tokens, over data.max_length",
                "raise it, or set data.on_long=truncate or drop",
            )
        elif isinstance(result, Refused):
            faults.add(row.where, result.what, result.mend)
        return False

    def facts(self) -> SplitFacts:
        """What the split holds."""
        w = self._writer
        return SplitFacts(
            str(self._final), w.rows, w.tokens, w.supervised, w.longest, self.truncated, self.dropped
        )


def _check_template(encoder: Encoder, chats: Sequence[Loaded]) -> None:
    """Refuse conversations at once, and not row by row, when the tokenizer has no template that works."""
    if not chats:
        return
    try:
        encoder.template  # noqa: B018  # made, and tried, when first asked for
    except TemplateFault as fault:
        raise UserError.at("model.chat_template", fault.what, fault.mend) from fault


def _reasoning_warning(split: _Split) -> list[str]:
    if not split.unlearned_reasoning:
        return []
    return [
        f"data.train: the chat template leaves out the reasoning of {split.unlearned_reasoning} earlier turns, which are "
        "learned without it; method.learn=last learns only the last turn"
    ]


def _stop_warning(encoder: Encoder, tokenizer: Any, settings: Settings) -> list[str]:
    if not tokenizer.chat_template:
        return []
    known = {*settings.stop_ids, tokenizer.eos_token_id}
    new = [name for name, index in encoder.template.stop_tokens.items() if index not in known]
    if not new:
        return []
    return [
        f"answers end in {new[0]}, which is not the tokenizer's end token: generation must be told to stop there"
    ]


__all__ = ["PreparedData", "SplitFacts", "TemplateFault", "lengths", "open_rows", "prepare", "read_rows"]
