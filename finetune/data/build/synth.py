"""`finetune data build synth`: prompts, documents or examples → rows that a teacher wrote and gates let through."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from finetune.config import DataConfig
from finetune.data.build import sources
from finetune.data.build.candidates import Candidate, Reject, candidates_of, reject
from finetune.data.build.copies import Known, known_texts
from finetune.data.build.gates import judge
from finetune.data.build.origin import SYNTH
from finetune.data.build.report import diversity, table
from finetune.data.build.settings import SynthSettings
from finetune.data.build.sources import Item
from finetune.data.build.teacher import Teacher, open_teacher
from finetune.data.build.templates import Template, find_template
from finetune.data.build.trip import round_trip
from finetune.data.load import check_used
from finetune.data.sandbox import TemplateFault
from finetune.endpoint.asked import Asked, Outcome, Request, Sampling, open_asked
from finetune.errors import Fault, GateRefused, Interrupted, StoppedEarly, UserError, counted
from finetune.log import log
from finetune.rundir import claimed, write_json, write_text

ASKED, ROWS, REJECTS = "asked.jsonl", "rows.jsonl", "rejects.jsonl"
# What rows are made from → the template for it.
KINDS = {"prompts": "answer", "documents": "pairs", "examples": "vary"}
T = TypeVar("T")
LEAST_YIELD = 0.1  # rows that a request is taken to give when hardly any has given one


@dataclass(frozen=True)
class Call:
    """A request, and what it is about."""

    item: Item
    request: Request


@dataclass(frozen=True)
class Work:
    """All that is decided before the teacher is asked anything."""

    settings: SynthSettings
    source: str  # prompts, documents or examples
    given: str
    template: Template
    sampling: Sampling
    teacher: Teacher
    calls: Sequence[Call]
    known: Known


@dataclass
class Made:
    """What has come of it so far."""

    rows: list[Candidate] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    answered: int = 0
    examples: int = 0
    unasked: int = 0
    over: bool = False  # the ceiling is reached


def command(arguments: Sequence[str], json_output: bool) -> int:
    """Make the rows, and say what became of them."""
    settings = read_settings(arguments)
    result = build(settings)
    folder = Path(settings.output)
    if json_output:
        print(json.dumps({"output": settings.output, **result}, ensure_ascii=False))
    else:
        print(table(result))
        print(f"\n{folder / ROWS}\n{folder / REJECTS}\n{folder / SYNTH}")
    sys.stdout.flush()
    if result["status"] == "ceiling":
        what = f"stopped at the ceiling, {counted(result['counts']['unasked'], 'request')} unasked"
        raise StoppedEarly(f"{what}; raise it, and the same command continues")
    if not result["counts"]["rows"]:
        raise GateRefused(f"no example passed the gates; {folder / REJECTS} says why")
    if not json_output:
        print(f"\nnext:\n  finetune train data.train={folder / ROWS} …")
    return 0


def read_settings(arguments: Sequence[str]) -> SynthSettings:
    """The settings on the command line; what cannot go together is refused, all at once."""
    from finetune.settings.verb import read_verb

    paths, settings = read_verb("data build synth", SynthSettings(), arguments)
    faults = [
        Fault(path, "is given without what it holds", f"write prompts={path}, documents={path} or examples={path}")
        for path in paths
    ]
    faults += _without_effect(settings)
    if faults:
        raise UserError(faults)
    return settings


def _without_effect(settings: SynthSettings) -> list[Fault]:
    given = [name for name in KINDS if vars(settings)[name] is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "nothing to make rows from is given"
        return [
            Fault(given[0] if given else "prompts", what, f"give one of {', '.join(f'{name}=…' for name in KINDS)}")
        ]
    (source,), standard, gates = given, SynthSettings(), settings.gates
    faults = []
    for name, needs in (("pairs", ("documents", "examples")), ("shots", ("examples",)), ("chunk", ("documents",))):
        if source not in needs and vars(settings)[name] != vars(standard)[name]:
            faults.append(Fault(name, f"has no effect on {source}", "leave it out"))
    if source != "documents" and not gates.quote:
        faults.append(Fault("gates.quote", f"has no effect on {source}, which have no document", "leave it out"))
    if source != "documents" and gates.round_trip == "document":
        faults.append(Fault("gates.round_trip", f"{source} have no document", "use gates.round_trip=question"))
    if source != "prompts" and gates.verify != standard.gates.verify:
        faults.append(Fault("gates.verify", "only prompts have a reference", "leave it out"))
    for name in ("equivalent", "agreement"):
        if gates.round_trip == "off" and vars(gates)[name] != vars(standard.gates)[name]:
            faults.append(Fault(f"gates.{name}", "nothing is compared", "set gates.round_trip, or leave it out"))
    if gates.round_trip != "off" and gates.equivalent == "teacher" and gates.agreement != standard.gates.agreement:
        faults.append(Fault("gates.agreement", "has no effect with gates.equivalent=teacher", "leave it out"))
    if gates.min_words > gates.max_words:
        faults.append(Fault("gates.min_words", f"is over gates.max_words={gates.max_words}", "lower it"))
    if settings.data.columns and source == "documents":
        faults.append(Fault("data.columns", "has no effect on documents", "leave it out"))
    if source != "prompts" and settings.teacher.reasoning:
        faults.append(Fault("teacher.reasoning", f"has no effect on {source}", "leave it out"))
    return faults


def build(settings: SynthSettings) -> dict[str, Any]:
    """Ask, judge and write; the result is what synth.json holds."""
    work, folder = prepare(settings), Path(settings.output).expanduser()
    _check_folder(folder, work)
    if work.teacher.license is None:
        mend = "read them, and record them with teacher.license=…"
        log.warning(f"the terms of many teachers restrict training on their output; {mend}")
    with claimed(folder), open_asked(folder / ASKED) as asked:
        try:
            made = _make(work, asked)
        except KeyboardInterrupt:
            kept = f"{counted(asked.requests, 'answer')} kept in {folder / ASKED}"
            raise Interrupted(f"interrupted; {kept}; the same command continues") from None
        return _write(folder, work, made, asked)


def prepare(settings: SynthSettings) -> Work:
    """Read and check everything that asking stands on; the faults of all of it are raised at once."""
    source = next(name for name in KINDS if vars(settings)[name] is not None)
    given = str(vars(settings)[source])
    faults, used = list[Fault](), set[str]()
    template = _or_fault(lambda: find_template(settings.template or KINDS[source]), faults)
    items = _or_fault(lambda: _items(settings, source, given, used), faults)
    teacher = _or_fault(lambda: open_teacher(settings.teacher, settings.model), faults)
    known = _or_fault(lambda: _known(settings, used), faults)
    if faults or template is None or items is None or teacher is None or known is None:
        raise UserError(faults)
    check_used(settings.data.columns, used)
    asking = settings.teacher
    sampling = Sampling(asking.temperature, asking.top_p, asking.max_tokens)
    ordered = sources.chosen(items, settings.rows, settings.seed)
    calls = list(_calls(ordered, template, sampling, settings))
    return Work(settings, source, given, template, sampling, teacher, calls, known)


def _or_fault(read: Callable[[], T], faults: list[Fault]) -> T | None:
    try:
        return read()
    except UserError as error:
        faults += error.faults
        return None


def _items(settings: SynthSettings, source: str, given: str, used: set[str]) -> list[Item]:
    columns = settings.data.columns
    if source == "prompts":
        return sources.read_prompts(given, columns, used)
    if source == "documents":
        return sources.read_documents(given, settings.chunk, settings.pairs)
    return sources.read_examples(given, columns, used, settings.shots, settings.pairs, settings.seed)


def _known(settings: SynthSettings, used: set[str]) -> Known:
    near, columns = settings.gates.near, settings.data.columns
    train = known_texts(settings.data.train, "data.train", DataConfig(columns=columns), used)
    held_out = known_texts(settings.held_out, "held_out", DataConfig(columns=columns), used)
    return Known(train, held_out, near)


def _calls(items: Sequence[Item], template: Template, sampling: Sampling, settings: SynthSettings) -> Iterator[Call]:
    """Every request, in order. Its seed hangs on what it asks, so that other rows beside it change nothing."""
    faults: list[Fault] = []
    for sample in range(settings.samples):
        for item in items:
            try:
                messages = template.render(item.variables, item.conversation)
            except TemplateFault as fault:
                columns = ", ".join(map(str, item.variables))
                faults.append(Fault(item.where, fault.what, f"{fault.mend} (there are: {columns})"))
                continue
            text = json.dumps([settings.seed, sample, messages], ensure_ascii=False, sort_keys=True)
            seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4]) >> 1
            yield Call(item, Request(messages, sampling, seed, item.where))
    if faults:
        raise UserError(faults)


def _make(work: Work, asked: Asked) -> Made:
    """Ask in waves, no more than are needed for the rows wanted, and let each through the gates."""
    made, wanted, place = Made(), work.settings.rows, 0
    while place < len(work.calls) and not made.over and (wanted is None or len(made.rows) < wanted):
        size = _wave(work, made, place)
        wave = work.calls[place : place + size]
        place += size
        outcome = work.teacher.ask([call.request for call in wave], asked)
        made.over = outcome.ceiling
        _judge(work, made, wave, outcome, asked)
    made.unasked += max(0, len(work.calls) - place) if made.over else 0
    return made


def _wave(work: Work, made: Made, place: int) -> int:
    """How many requests are likely to give what is still wanted, by what the earlier ones gave."""
    wanted = work.settings.rows
    if wanted is None:
        return len(work.calls)
    hoped = 1 if work.source == "prompts" else work.settings.pairs
    given = len(made.rows) / place if place else hoped
    return max(work.settings.teacher.concurrency, math.ceil((wanted - len(made.rows)) / max(given, LEAST_YIELD)))


def _judge(work: Work, made: Made, wave: Sequence[Call], outcome: Outcome, asked: Asked) -> None:
    """Candidates and rejects of a wave, in the order of its requests."""
    found: list[Candidate | Reject] = []
    kind, teacher = ("answer" if work.source == "prompts" else "pairs"), work.teacher
    for call in wave:
        key = call.request.key(teacher.identity)
        reply = asked.reply(key)
        if reply is not None:
            made.answered += 1
            found += candidates_of(call.item, key, reply, kind, work.settings.teacher.reasoning)
        elif key in outcome.failed:
            content = {"asked": call.request.messages[-1]["content"]}
            found.append(Reject("no_answer", outcome.failed[key], call.item.where, key, content))
        else:
            made.unasked += 1
    for index, entry in enumerate(found):
        if isinstance(entry, Candidate) and (refused := judge(entry, work.settings.gates)):
            found[index] = reject(entry, *refused)
    _compare(work, made, found)
    if work.settings.gates.round_trip != "off":
        _again(work, made, found, asked)
    made.examples += len(found)
    made.rows += [entry for entry in found if isinstance(entry, Candidate)]
    made.rejects += [entry for entry in found if isinstance(entry, Reject)]


def _compare(work: Work, made: Made, found: list[Candidate | Reject]) -> None:
    """Refuse what is held out, and copies of what there is."""
    left = [index for index, entry in enumerate(found) if isinstance(entry, Candidate)]
    texts = [entry.text for entry in found if isinstance(entry, Candidate)]
    for place, refused in work.known.judge(texts, [row.text for row in made.rows]).items():
        entry = found[left[place]]
        assert isinstance(entry, Candidate)
        found[left[place]] = reject(entry, *refused)


def _again(work: Work, made: Made, found: list[Candidate | Reject], asked: Asked) -> None:
    left = [(index, entry) for index, entry in enumerate(found) if isinstance(entry, Candidate)]
    candidates = [entry for _, entry in left]
    failed, over = round_trip(candidates, work.teacher, asked, work.settings.gates, work.sampling)
    made.over = made.over or over
    for place, reason in failed.items():
        index, entry = left[place]
        found[index] = reject(entry, "round_trip", reason)


def _check_folder(folder: Path, work: Work) -> None:
    """Refuse a folder with rows that were made from something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError.at(f"output {folder}", "is not a folder", "choose another output")
    path = folder / SYNTH
    if not path.exists():
        if (folder / ROWS).exists() and not (folder / ASKED).exists():
            raise UserError.at(f"output {folder}", f"holds a {ROWS} that was not made here", "choose another output")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        before = (stored["source"]["kind"], stored["source"]["given"], stored["teacher"]["name"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError.at(str(path), "is damaged", "delete it; no answer is lost with it") from error
    if before != (work.source, work.given, work.teacher.name):
        what = f"holds rows made from {before[0]}={before[1]} by {before[2]}"
        raise UserError.at(f"output {folder}", what, f"choose another output, or delete {path}")


def _write(folder: Path, work: Work, made: Made, asked: Asked) -> dict[str, Any]:
    wanted = work.settings.rows
    rows = made.rows[:wanted] if wanted is not None else made.rows
    lines, rejected = _lines([row.as_row() for row in rows]), _lines([entry.as_row() for entry in made.rejects])
    write_text(folder / ROWS, lines)
    write_text(folder / REJECTS, rejected)
    if wanted is not None and len(rows) < wanted and not made.over:
        log.warning(f"rows: {len(rows):,} of {wanted:,} wanted; raise samples, or give more {work.source}")
    result = _result(work, made, rows, asked, hashlib.sha256(lines.encode()).hexdigest())
    write_json(folder / SYNTH, result)
    return result


def _result(work: Work, made: Made, rows: Sequence[Candidate], asked: Asked, digest: str) -> dict[str, Any]:
    """What synth.json holds: where the rows come from, what was asked, and what it cost."""
    settings, teacher, ceiling = work.settings, work.teacher, work.teacher.ceiling
    gates = Counter(entry.gate for entry in made.rejects)
    priced = settings.teacher.price_in is not None
    return {
        "status": "ceiling" if made.over else "complete",
        "teacher": {
            "name": teacher.name,
            "hosts": sorted(asked.hosts),
            "license": teacher.license,
            "served": sorted(asked.served),
        },
        "source": {"kind": work.source, "given": work.given, "items": len({call.item.where for call in work.calls})},
        "template": {"name": work.template.name, "sha256": work.template.digest},
        "sampling": asdict(work.sampling),
        "seed": settings.seed,
        "samples": settings.samples,
        "gates": asdict(settings.gates),
        "rows_sha256": digest,
        "counts": {
            "requests": len(work.calls),
            "answered": made.answered,
            "unasked": made.unasked,
            "examples": made.examples,
            "rows": len(rows),
            "surplus": len(made.rows) - len(rows),
            "rejected": dict(sorted(gates.items())),
        },
        "spent": {
            "requests": asked.requests,
            "tokens_in": asked.settled.asked,
            "tokens_out": asked.settled.answered,
            "unknown_tokens": asked.unknown.total,
            "cost": round(ceiling.price(asked.committed), 6) if priced else None,
        },
        "diversity": diversity(rows, settings.seed),
    }


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as lines of JSON; half a character, as a reject may hold, becomes a question mark."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "replace").decode()
