"""`finetune data split`: files → train.jsonl and heldout.jsonl, with whole clusters on either side."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.config import GroupedRowsConfig, setting
from finetune.data.build.origin import passed_on
from finetune.data.clusters import HELD_OUT, LEFT_OUT, TRAIN, Tie
from finetune.data.faults import FaultLog
from finetune.data.load import Checked, check_groups, check_hub, check_used, groups_of, read_rows
from finetune.data.output import Output, fingerprint
from finetune.data.read import Source, find_sources
from finetune.data.records import line, rewritten
from finetune.data.rows import SHAPES, to_json
from finetune.data.split import Split, Splitter, same_value
from finetune.errors import UserError, counted
from finetune.failures import explained
from finetune.log import log
from finetune.settings.verb import read_verb

TRAIN_FILE, HELD_OUT_FILE, LEFT_OUT_FILE, RECORD = "train.jsonl", "heldout.jsonl", "left_out.jsonl", "split.json"
FILES = {TRAIN: TRAIN_FILE, HELD_OUT: HELD_OUT_FILE, LEFT_OUT: LEFT_OUT_FILE}
SIDES = {TRAIN: "trained on", HELD_OUT: "held out", LEFT_OUT: "left out too"}


@dataclass
class SplitConfig:
    """How rows are split."""

    share: float = setting(0.1, "Share of the rows that is held out.", above=0, below=1)
    seed: int = setting(42, "Seed of the hash that decides; `train` uses its own `seed`.", low=0, high=2**32 - 1)
    words: int = setting(13, "Words in a row that no row of one side shares with one of the other.", low=5)
    overwrite: bool = setting(False, "Replace a split that was made with other settings or of other rows.")


@dataclass
class SplitSettings:
    """What `finetune data split` can be told."""

    data: GroupedRowsConfig = field(default_factory=GroupedRowsConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    output: str = setting("split", "Folder that the files are written to.")


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry the command out."""
    files, settings = read_verb("data split", SplitSettings(), arguments)
    if not files:
        raise UserError.at("data split", "no rows are given", "name a file, such as my.jsonl")
    record = split_files(files, settings)
    print(json.dumps(record) if json_output else "\n".join(describe(record, settings)))
    return 0


def split_files(files: Sequence[str], settings: SplitSettings) -> dict[str, Any]:
    """Split the rows of the files; gives what split.json holds."""
    sources = find_sources(list(files), "data split")
    check_hub(settings.data, sources)
    output = Output(settings.output, list(FILES.values()), RECORD)
    output.check_free(path for source in sources for path in source.files)
    earlier = None if settings.split.overwrite else _earlier(output.folder, settings)
    taken = _take(sources, settings)
    split = taken.splitter.split()
    if not split.clusters.held_out:
        raise _together(taken, settings, split.joined)
    with explained(output.folder), output:
        order = _write(output, sources, settings, taken, split, earlier)
        teachers = passed_on(path for source in sources for path in source.files)
        record = output.publish(_record(settings, taken, split, order, teachers))
    return {**record, "output": str(output.folder)}


def _together(taken: _Taken, settings: SplitSettings, joined: Sequence[str]) -> UserError:
    what, mend = "is the only row, so none can be held out", "give more rows"
    if len(taken.rows) > 1:
        what = f"all {len(taken.rows):,} rows belong together ({', '.join(joined)}), so none can be held out"
        if any(same_value(column) in joined for column in settings.data.group_by):
            mend += ", or leave data.group_by out"
    return UserError.at(taken.where(0), what, mend)


@dataclass
class _Taken:
    """The rows, as far as they are kept in memory."""

    splitter: Splitter
    files: list[str] = field(default_factory=list)
    file: array[int] = field(default_factory=lambda: array("l"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    layouts: set[str] = field(default_factory=set)

    def where(self, index: int) -> str:
        """The place of a row."""
        return f"{self.files[self.file[index]]}:{self.rows[index]}"


def _read(sources: Sequence[Source], settings: SplitSettings, faults: FaultLog) -> Iterator[Checked]:
    """The rows, with all their columns; raises the faults of all at the end."""
    data = settings.data
    used, seen = set[str](), set[str]()
    yield from read_rows(sources, data, SHAPES, used, seen, faults, also=data.group_by, others=True)
    faults.raise_any()
    check_used(data.columns, used)
    check_groups(data.group_by, seen)


def _take(sources: Sequence[Source], settings: SplitSettings) -> _Taken:
    """Read the rows for what they can have in common."""
    data, split = settings.data, settings.split
    taken = _Taken(Splitter(split.share, split.seed, split.words, data.group_by))
    shape, faults = "", FaultLog()
    for item in _read(sources, settings, faults):
        if shape and item.row.shape != shape:
            what = f"the row is {item.row.shape}, and those before it are {shape}: one file cannot hold both"
            raise UserError.at(item.record.where, what, "split them by two commands")
        shape = item.row.shape
        if not taken.files or taken.files[-1] != item.record.file:
            taken.files.append(item.record.file)
        taken.file.append(len(taken.files) - 1)
        taken.rows.append(item.record.row)
        taken.layouts.add(item.layout)
        taken.splitter.add(item.row, groups_of(item.record, data.group_by))
    if faults.ties:
        log.warning(f"{counted(faults.ties, 'row')} in which no answer is better than another: left out of both sides")
    return taken


def _write(
    output: Output,
    sources: Sequence[Source],
    settings: SplitSettings,
    taken: _Taken,
    split: Split,
    earlier: dict[str, Any] | None,
) -> str:
    """Write every row to the file of its side; gives a hash of all rows and sides."""
    digest, count = hashlib.sha256(), 0
    for count, item in enumerate(_read(sources, settings, FaultLog()), 1):
        if count > len(taken.rows):
            break
        row, side = item.record, int(split.sides[count - 1])
        groups = groups_of(row, settings.data.group_by)
        digest.update(f"{to_json(item.row)}\0{groups}\0{side}\n".encode("utf-8", "surrogatepass"))
        if earlier and count == earlier["rows"]["read"] and digest.hexdigest() != earlier["order"]:
            raise _moved(output.folder)
        values = row.values
        if len(taken.layouts) > 1:
            values = rewritten(values, item.layout, settings.data.columns, item.row)
        if side == LEFT_OUT:
            reason = _reason(split.ties[count - 1], taken)
            values = {"file": row.file, "row": row.row, "reason": reason, "record": row.values}
        output.write(FILES[side], line(values, row.where))
    if count != len(taken.rows):
        raise UserError.at(taken.where(0), "the rows changed while they were read", "run the command again")
    if earlier and earlier["rows"]["read"] > count:
        raise _moved(output.folder)
    return digest.hexdigest()


def _reason(ties: tuple[Tie, Tie], taken: _Taken) -> str:
    first, second = (f"{tie.kind} as {taken.where(tie.row)}, which is {SIDES[tie.side]}" for tie in ties)
    return f"has {first}, and {second}"


def _moved(folder: Path) -> UserError:
    what = f"the rows of the split in {folder} are no longer the first ones, so some would change sides"
    return UserError.at(f"output {folder}", what, "add rows at the end, or set split.overwrite=true to split anew")


def _settings(settings: SplitSettings) -> dict[str, Any]:
    """The settings that decide the sides."""
    return {
        "share": settings.split.share,
        "seed": settings.split.seed,
        "words": settings.split.words,
        **asdict(settings.data),
    }


def _earlier(folder: Path, settings: SplitSettings) -> dict[str, Any] | None:
    """The record of the split that the folder holds; refused when it was made otherwise or changed since."""
    path = folder / RECORD
    if not path.exists():
        return None
    where, anew = f"output {folder}", "choose another output, or set split.overwrite=true to split anew"
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        known, prints = dict(record["settings"]), dict(record["fingerprints"])
        _ = record["order"], record["rows"]["read"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError.at(where, f"its {RECORD} cannot be read", anew) from None
    given = _settings(settings)
    other = sorted(name for name in given.keys() | known.keys() if given.get(name) != known.get(name))
    if other:
        what = f"holds a split made with another {other[0]} ({known.get(other[0])}, now {given.get(other[0])})"
        raise UserError.at(where, what, anew)
    for name, known_print in prints.items():
        if not (folder / name).is_file() or fingerprint(folder / name) != known_print:
            raise UserError.at(where, f"{name} was changed after it was written", anew)
    return record


def _record(
    settings: SplitSettings, taken: _Taken, split: Split, order: str, teachers: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = {"train": split.count(TRAIN), "held_out": split.count(HELD_OUT), "left_out": split.count(LEFT_OUT)}
    return {
        "version": __version__,
        "inputs": taken.files,
        "teachers": teachers,
        "rows": {"read": len(taken.rows), **rows},
        "clusters": asdict(split.clusters),
        "settings": _settings(settings),
        "written_as": "messages" if len(taken.layouts) > 1 else "records",
        "order": order,
    }


def describe(record: dict[str, Any], settings: SplitSettings) -> Iterator[str]:
    """The result as a person reads it."""
    rows, clusters = record["rows"], record["clusters"]
    for side, name in ((TRAIN, "train"), (HELD_OUT, "held_out")):
        share = f"{rows[name] / rows['read']:.1%}"
        both = f"{counted(rows[name], 'row')} ({share}) in {counted(clusters[name], 'cluster')}"
        yield f"{record['output']}/{FILES[side]}: {both}"
    if rows["left_out"]:
        yield f"{record['output']}/{LEFT_OUT_FILE}: {counted(rows['left_out'], 'row')} that would tie the two together"
    got = rows["held_out"] / rows["read"]
    if not settings.split.share / 2 <= got <= settings.split.share * 2 and rows["read"] >= 50:
        asked = f"{settings.split.share:.0%} was asked for"
        yield f"note: {asked}; whole clusters are moved, and the largest has {clusters['largest']:,} rows"
