"""`finetune data clean`: the story from the arguments to the files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import MISSING

from finetune import __version__
from finetune.data.build.origin import passed_on
from finetune.data.clean.copies import Preference
from finetune.data.clean.faults import check_settings
from finetune.data.clean.item import Item, unpack
from finetune.data.clean.reading import read_items
from finetune.data.clean.settings import CleanConfig, CleanSettings
from finetune.data.clean.steps import Run, Tally
from finetune.data.faults import FaultLog
from finetune.data.likeness.embedding import Embedder
from finetune.data.load import check_hub
from finetune.data.output import Output, fingerprint
from finetune.data.read import Source, find_sources, shorten
from finetune.data.records import OWN_LAYOUT, line, rewritten
from finetune.data.shelf import Shelf
from finetune.errors import GateRefused, UserError, counted
from finetune.failures import explained
from finetune.settings.verb import read_verb

ROWS, REJECTS, RECORD = "clean.jsonl", "rejects.jsonl", "clean.json"


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry the command out."""
    files, settings = read_verb("data clean", CleanSettings(), arguments)
    if not files:
        raise UserError.at("data clean", "no rows are given", "name a file, such as my.jsonl")
    record = clean(files, settings)
    print(json.dumps(record, ensure_ascii=False) if json_output else "\n".join(describe(record)), flush=True)
    if not record["rows"]["kept"]:
        raise GateRefused(f"no row is kept; {record['output']}/{REJECTS} says why")
    return 0


def clean(files: Sequence[str], settings: CleanSettings) -> dict[str, Any]:
    """Clean the rows of the files; gives what clean.json holds."""
    check_settings(settings)
    sources = find_sources(list(files), "data clean")
    check_hub(settings.data, sources)
    tokenizer, embedder = _tokenizer(settings), _embedder(settings.clean)
    output = Output(settings.output, [ROWS, REJECTS], RECORD)
    output.check_free(path for source in sources for path in source.files)
    with explained(output.folder), output:
        work = _Work(output, settings, tokenizer, embedder)
        work.take(sources)
        work.write()
        record = output.publish(work.record(sources))
    return {**record, "output": str(output.folder)}


class _Work:
    """The rows on their way from the files to the output."""

    def __init__(self, output: Output, settings: CleanSettings, tokenizer: Any, embedder: Embedder | None) -> None:
        self._output, self._settings, self._embedder = output, settings, embedder
        preference = Preference(settings.clean.keep, settings.clean.keep_by)
        self._run = Run(settings.clean, tokenizer, output.folder, self._reject, preference, embedder)
        self._kept = Shelf(output.folder)
        self._layouts: set[str] = set()
        self._faults = FaultLog()
        self._read: dict[str, int] = {}
        self._changed = self._rejected = self._broken = 0

    def take(self, sources: Sequence[Source]) -> None:
        """Read all rows, and let them go through the steps."""
        drops_invalid = "invalid" in self._settings.clean.steps
        items = read_items(sources, self._settings.data, self._reject_line if drops_invalid else None)
        for item in self._run.apply(self._counting(items)):
            self._keep(item, drops_invalid)
        self._faults.raise_any()
        preference = self._run.preference
        if preference.keep == "highest" and not preference.used and self._read:
            what = f"no row has a column {self._settings.clean.keep_by!r}, so it has no effect"
            raise UserError.at("clean.keep_by", what, "correct it, or leave it out")

    def _counting(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self._read[item.record.file] = self._read.get(item.record.file, 0) + 1
            yield item

    def _keep(self, item: Item, drops_invalid: bool) -> None:
        """Keep a row, unless the steps behind `invalid` have left something that `train` refuses."""
        wrong = item.refused()
        if wrong and drops_invalid:
            tally = self._run.tallies["invalid"]
            tally.kept -= 1
            self._run.drop("invalid", item, f"{wrong} (after the other steps)")
        elif wrong:
            self._faults.add(item.record.where, wrong, "mend it, or add invalid to clean.steps")
        else:
            self._layouts.add(item.layout)
            self._changed += item.changes > 0
            self._kept.add(item.pack())

    def _reject(self, item: Item, step: str, reason: str) -> None:
        self._rejected += 1
        record = item.record
        values = {"file": record.file, "row": record.row, "step": step, "reason": reason, "record": record.values}
        self._output.write(REJECTS, line(values, record.where))

    def _reject_line(self, file: str, row: int, reason: str, text: str) -> None:
        self._read[file] = self._read.get(file, 0) + 1
        self._broken += 1
        self._run.tallies["invalid"].dropped += 1
        values = {"file": file, "row": row, "step": "invalid", "reason": reason, "line": text}
        self._output.write(REJECTS, line(values, f"{file}:{row}"))

    def write(self) -> None:
        """Write the rows that are kept, all in one layout."""
        columns = self._settings.data.columns
        own = len(self._layouts) == 1 and self._layouts <= set(OWN_LAYOUT) and not columns
        as_they_were = own or (len(self._layouts) == 1 and not self._changed)
        for text in self._kept:
            item = unpack(text)
            values = item.record.values
            if item.row is not None and (item.changes or not as_they_were):
                values = rewritten(values, item.layout, columns, item.row)
            self._output.write(ROWS, line(values, item.record.where))
        read, out = sum(self._read.values()), len(self._kept) + self._rejected + self._broken
        if read != out:
            raise AssertionError(f"{read} rows were read, and {out} are accounted for")

    def record(self, sources: Sequence[Source]) -> dict[str, Any]:
        """What clean.json holds, but for the fingerprints of the output."""
        prints = {shorten(path): fingerprint(path) for source in sources for path in source.files}
        rows = {"read": sum(self._read.values()), "kept": len(self._kept), "changed": self._changed}
        settings = asdict(self._settings)
        return {
            "version": __version__,
            "inputs": [{"file": file, "rows": rows, "sha256": prints.get(file)} for file, rows in self._read.items()],
            "rows": {**rows, "rejected": self._rejected + self._broken},
            "teachers": passed_on(path for source in sources for path in source.files),
            "steps": [asdict(self._run.tallies[name]) for name in self._settings.clean.steps],
            "embedder": self._embedder.record() if self._embedder else None,
            "settings": {"data": settings["data"], "clean": settings["clean"], "model": _model_name(self._settings)},
        }


def _model_name(settings: CleanSettings) -> str | None:
    return None if settings.model.name == MISSING else settings.model.name


def _tokenizer(settings: CleanSettings) -> Any:
    if settings.clean.length.unit != "tokens" or "length" not in settings.clean.steps:
        return None
    from finetune.model_files import inspect_model
    from finetune.tokenizer import load_tokenizer

    model = settings.model
    facts = inspect_model(model.name, model.revision, model.trust_remote_code)
    return load_tokenizer(facts, model.chat_template, ())


def _embedder(clean: CleanConfig) -> Embedder | None:
    if "meaning" not in clean.steps or clean.meaning.model is None:
        return None
    return Embedder(clean.meaning.model, clean.meaning.revision)


def describe(record: dict[str, Any]) -> Iterator[str]:
    """The result as a person reads it."""
    rows, steps = record["rows"], [Tally(**step) for step in record["steps"]]
    width = max(len(step.step) for step in steps)
    yield f"{'step':<{width}}  {'kept':>9}  {'changed':>9}  {'dropped':>9}"
    for step in steps:
        yield f"{step.step:<{width}}  {step.kept:>9,}  {step.changed:>9,}  {step.dropped:>9,}"
    folder = record["output"]
    yield f"{folder}/{ROWS}: {rows['kept']:,} of {counted(rows['read'], 'row')}, {rows['changed']:,} of them changed"
    if rows["rejected"]:
        yield f"{folder}/{REJECTS}: {counted(rows['rejected'], 'row')}, with step and reason"
