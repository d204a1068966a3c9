"""`finetune runs list`: every run of a folder, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError
from finetune.evaluate.table import shown_score
from finetune.runs.find import FOLDER, names
from finetune.runs.record import PLAN, Run, as_json, read_run
from finetune.runs.text import NOTHING, columns, shown_interval, shown_loss, shown_metric, shown_model, shown_rows

HEADS = (
    "name",
    "state",
    "trained",
    "model",
    "rows",
    "loss",
    "held-out loss",
    "score (95 % interval)",
    "verdict",
    "when",
)


@dataclass(frozen=True)
class Listing:
    """The directories of a folder: runs, and what is none that can be read."""

    folder: Path
    runs: tuple[Run, ...]
    others: tuple[Fault, ...]


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb."""
    found = list_runs(_folder(arguments))
    print(json.dumps(listing_json(found), ensure_ascii=False) if json_output else "\n".join(lines(found)))
    return 0


def list_runs(folder: Path) -> Listing:
    """The runs of a folder, newest first; a directory that is foreign or damaged is kept apart, with what is wrong."""
    runs, others = list[Run](), list[Fault]()
    for name in names(folder):
        try:
            runs.append(read_run(folder / name))
        except UserError as error:
            others += error.faults
    runs.sort(key=lambda run: (-run.when.timestamp(), run.name))
    return Listing(folder, tuple(runs), tuple(others))


def _folder(arguments: Sequence[str]) -> Path:
    if len(arguments) > 1:
        raise UserError.at(arguments[1], "`finetune runs list` takes one folder and nothing else", "leave it out")
    if not arguments:
        return FOLDER
    folder = Path(arguments[0]).expanduser()
    if (folder / PLAN).exists():
        raise UserError.at(str(folder), "is one run, not a folder of runs", f"write finetune runs show {folder}")
    if not folder.is_dir():
        raise UserError.at(str(folder), "is no folder", "name the output_dir of your runs")
    return folder


def listing_json(found: Listing) -> dict[str, Any]:
    """What `--json` prints."""
    others = [{"where": fault.where, "what": fault.what} for fault in found.others]
    return {"folder": str(found.folder), "runs": [as_json(run) for run in found.runs], "others": others}


def lines(found: Listing) -> list[str]:
    """The list as a person reads it."""
    others = [f"not listed: {fault.where}: {fault.what}" for fault in found.others]
    if not found.runs:
        return [f"no runs under {found.folder}; train one with `finetune train`", *others]
    return [*columns([HEADS, *map(_cells, found.runs)]), *([""] if others else []), *others]


def _cells(run: Run) -> list[str]:
    planned, score = run.planned, run.score
    made = [NOTHING] * 3
    if planned is not None:
        made = [f"{planned.method}, {planned.tuning}", shown_model(planned.model), shown_rows(planned.rows)]
    judged = [NOTHING] * 2
    if score is not None:
        shown = f"{shown_metric(score.metric)} {shown_score(score.metric, score.score)}"
        judged = [f"{shown} ({shown_interval(score.metric, score.interval)})", score.verdict or NOTHING]
    when = f"{run.when.astimezone():%Y-%m-%d %H:%M}"
    losses = [shown_loss(run.losses.train), shown_loss(run.losses.held_out)]
    return [run.name, run.state.shown, *made, *losses, *judged, when]
