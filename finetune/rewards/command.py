"""`finetune reward verify`: rows → answers good, bad and cheating → what the rewards pay for them → a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.config import setting
from finetune.data.faults import FaultLog
from finetune.data.read import Record, find_sources, read
from finetune.endpoint.settings import verbatim
from finetune.errors import Fault, GateRefused, UserError, listed
from finetune.rewards.batch import as_text
from finetune.rewards.judge import REFERENCES, build
from finetune.rewards.settings import Rewarded
from finetune.rewards.verify import KINDS, Tried, Verdict, Verified, verify
from finetune.runs.text import NOTHING, columns
from finetune.settings.verb import read_verb

QUESTIONS = ("prompt", "question", "problem", "instruction", "query", "input")
COMPLETION = "completion"


@dataclass
class VerifySettings(Rewarded):
    """What `finetune reward verify` can be told."""

    data: str | None = verbatim("File with the rows: `messages` or a question, beside what the rewards compare with.")
    good: str | None = verbatim("Column, or file with as many rows, of good answers; by default the right ones.")
    bad: str | None = verbatim("The same of bad answers; by default the good answers of other rows.")
    rows: int = setting(100, "Most rows that the rewards are tried on.", low=2)


@dataclass(frozen=True)
class Row:
    """A row that asks something."""

    messages: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, Any]


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb; raises GateRefused when a reward fails."""
    paths, settings = read_verb("reward verify", VerifySettings(), arguments)
    given = {argument.partition("=")[0] for argument in arguments}
    records = _records(_file(paths, settings.data), "data", settings.rows)
    rows = _rows(records)
    names = dict.fromkeys(name for row in rows for name in row.columns)
    with build(settings, names, given) as rewards:
        good = _column(settings.good or rewards.reference, "good", rows)
        verified = verify(rewards, rows, good, _column(settings.bad, "bad", rows))
        files = rewards.files
    if json_output:
        print(json.dumps(as_json(verified, files), ensure_ascii=False))
    else:
        print("\n".join(lines(verified)))
    if verified.failing:
        raise GateRefused(f"rewards that fail: {listed(verified.failing)}")
    return 0


def as_json(verified: Verified, files: Mapping[str, str]) -> dict[str, Any]:
    """The result as `--json` prints it."""
    said = [{**asdict(verdict), "holds": not verdict.reasons} for verdict in verified.verdicts]
    return {"verdict": "fails" if verified.failing else "holds", "rows": verified.rows, "files": files, "rewards": said}


def lines(verified: Verified) -> list[str]:
    """The result as a terminal shows it."""
    verdicts = verified.verdicts
    head = ["answer", *(verdict.name for verdict in verdicts)]
    cells = [[kind, *(_cell(verdict.tried[kind], kind) for verdict in verdicts)] for kind in KINDS]
    told = [f"Tried on {verified.rows} rows: median of good and bad answers, mean of the others; behind them the share"]
    told += ["of the rows in which they are paid more than the median good answer.", ""]
    return [*told, *columns([head, *cells]), "", *(line for verdict in verdicts for line in _said(verdict))]


def _cell(tried: Tried, kind: str) -> str:
    value = tried.median if kind in KINDS[:2] else tried.mean
    shown = NOTHING if value is None else f"{value:.3g}"
    return f"{shown} ({tried.above:.0%})" if tried.above else shown


def _said(verdict: Verdict) -> Iterator[str]:
    if verdict.reasons:
        yield from (f"{verdict.name} fails: it {reason}" for reason in verdict.reasons)
    else:
        yield f"{verdict.name} holds" if verdict.judged else f"{verdict.name} pays for form: judged in the sum"


def _file(paths: Sequence[str], data: str | None) -> str:
    given = [*paths, *([data] if data is not None else [])]
    if len(given) != 1:
        what = "no file is given" if not given else f"{len(given)} files are given"
        raise UserError.at("data", what, "name one, such as data=my.jsonl")
    return given[0]


def _records(path: str, key: str, most: int) -> list[Record]:
    (source,) = find_sources(path, key)
    if source.on_hub:
        raise UserError.at(key, f"{path} is no file here", "give a file")
    faults = FaultLog()
    found = list(islice(read(source, faults, wanted=(), others=True), most))
    faults.raise_any()
    return found


def _rows(records: Sequence[Record]) -> list[Row]:
    faults, rows = list[Fault](), list[Row]()
    for record in records:
        turns = _turns(record.values)
        if turns is None:
            what = f"has neither messages that end with a user's nor a text under {listed(QUESTIONS)}"
            faults.append(Fault(record.where, what, "a reward needs a question"))
        else:
            rows.append(Row(tuple(turns), record.values))
    if faults:
        raise UserError(faults)
    return rows


def _turns(values: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    given = next((values[name] for name in ("messages", *QUESTIONS) if values.get(name)), None)
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    sound = isinstance(given, list) and all(isinstance(one, dict) and {"role", "content"} <= {*one} for one in given)
    return given if sound and given and given[-1]["role"] == "user" else None


def _column(name: str | None, key: str, rows: Sequence[Row]) -> list[str] | None:
    """The answers in a column, or in a file; none where neither is named."""
    if name is None:
        return None
    if any(name in row.columns for row in rows):
        found, wheres = [row.columns.get(name) for row in rows], [f"row {at} {name}" for at in range(1, len(rows) + 1)]
    elif Path(name).expanduser().exists():
        records = _records(name, key, len(rows))
        column = next((one for one in (COMPLETION, *REFERENCES) if records and one in records[0].values), None)
        if column is None or len(records) != len(rows):
            what = f"{name} has not {len(rows)} rows with {listed((COMPLETION, *REFERENCES))}"
            raise UserError.at(key, what, "give one for each row, in their order")
        found, wheres = [one.values.get(column) for one in records], [f"{one.where} {column}" for one in records]
    else:
        raise UserError.at(key, f"'{name}' is neither a column of the rows nor a file", "name one of them")
    if empty := [where for where, value in zip(wheres, found, strict=True) if value is None]:
        raise UserError([Fault(where, "holds no answer", "fill it, or drop the row") for where in empty])
    return [as_text(value) for value in found]
