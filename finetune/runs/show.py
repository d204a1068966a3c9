"""`finetune runs show`: one run with all that its directory says of it, and the commands that come next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import checkpoint
from finetune.artefact import ADAPTER, MODEL
from finetune.evaluate.contents import Contents, artefact_digest, facts, passed, read_contents, settings
from finetune.evaluate.table import answer_table
from finetune.runs.find import one_run
from finetune.runs.record import Run, as_json, read_run
from finetune.runs.state import FAILED, FINISHED, INTERRUPTED, UNSTARTED
from finetune.runs.text import columns, shown_loss, shown_size


@dataclass(frozen=True)
class Artefact:
    """What a run left behind."""

    path: Path
    size: int  # bytes of all its files
    digest: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint."""

    path: Path
    step: int
    size: int
    wrong: str | None


@dataclass(frozen=True)
class Shown:
    """A run and what belongs to it."""

    run: Run
    contents: Contents
    artefact: Artefact | None
    checkpoints: tuple[Saved, ...]
    commands: dict[str, str]


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb."""
    shown = look_at(one_run("runs show", arguments))
    print(json.dumps(shown_json(shown), ensure_ascii=False) if json_output else "\n".join(lines(shown)))
    return 0


def look_at(run_dir: Path) -> Shown:
    """Read a run; checkpoints are compared with their manifests by size, `runs verify` reads every byte."""
    run = read_run(run_dir)
    saved = tuple(
        Saved(folder, step, _size(folder), checkpoint.verify(folder, every_byte=False))
        for step, folder in sorted(checkpoint.folders(run_dir))
    )
    made = artefact_of(run_dir)
    return Shown(run, read_contents(run_dir), made, saved, _commands(run, made))


def artefact_of(run_dir: Path) -> Artefact | None:
    """The saved adapter or model of a run."""
    for folder in (run_dir / ADAPTER, run_dir / MODEL):
        if folder.is_dir():
            return Artefact(folder, _size(folder), artefact_digest(run_dir))
    return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _commands(run: Run, made: Artefact | None) -> dict[str, str]:
    """What comes next, as far as the run has come: the command to continue, or to evaluate, load and train on."""
    where = shlex.quote(str(run.path))
    if run.planned is None:
        return {}
    if run.state.kind in (INTERRUPTED, FAILED):
        return {"continue": run.planned.command}
    if run.state.kind != FINISHED or made is None:
        return {}
    is_adapter = made.path.name == ADAPTER
    package, loader = ("peft", "AutoPeftModelForCausalLM") if is_adapter else ("transformers", "AutoModelForCausalLM")
    start = " tuning.start=continue" if is_adapter else ""
    return {
        "evaluate": f"finetune evaluate {where}",
        "load": f"from {package} import {loader}; model = {loader}.from_pretrained({json.dumps(str(made.path))})",
        "train on": f"finetune train model.name={where}{start} data.train=FILE",
    }


def _settings(contents: Contents) -> list[tuple[str, str, str]]:
    """Key, value and origin; a preset says nothing by itself, its keys stand beside it."""
    return [row for row in settings(contents) if row[1]]


def shown_json(shown: Shown) -> dict[str, Any]:
    """What `--json` prints."""
    contents, made = shown.contents, shown.artefact
    return {
        **as_json(shown.run),
        "settings": [{"key": key, "value": value, "source": source} for key, value, source in _settings(contents)],
        "artefact": made and {"path": str(made.path), "bytes": made.size, "digest": made.digest},
        "checkpoints": [
            {"path": str(one.path), "step": one.step, "bytes": one.size, "wrong": one.wrong}
            for one in shown.checkpoints
        ],
        "lineage": contents.lineage,
        "evaluation": contents.evaluation,
        "warnings": list(contents.warnings),
        "commands": shown.commands,
    }


def lines(shown: Shown) -> list[str]:
    """The run as a person reads it."""
    run, contents = shown.run, shown.contents
    text = [f"{run.name}: {run.state.shown}{f' ({run.state.said})' if run.state.said else ''}"]
    if run.state.kind == UNSTARTED:
        return [*text, "nothing was trained; the `finetune train` command that claimed it begins it"]
    made = [*facts(contents), *_came_to(shown)]
    text += columns(made, indent="  ") if made else []
    text += [f"  warning: {warning}" for warning in contents.warnings]
    text += _section("settings that are not defaults", _settings(contents))
    text += _section("checkpoints", [_checkpoint(one) for one in shown.checkpoints])
    text += _section("lineage", passed(contents))
    if contents.evaluation is not None:
        text += ["", "evaluation", *(f"  {line}".rstrip() for line in answer_table(contents.evaluation).splitlines())]
    return text + _section("next", list(shown.commands.items()))


def _came_to(shown: Shown) -> list[tuple[str, str]]:
    """How the run went, and what it left."""
    losses, made = shown.run.losses, shown.artefact
    pairs = [("loss", f"{shown_loss(losses.train)} at the end, best on held-out rows {shown_loss(losses.held_out)}")]
    if made is not None:
        pairs.append(("result", f"{made.path}, {shown_size(made.size)}"))
    return pairs


def _checkpoint(one: Saved) -> tuple[str, str, str]:
    return str(one.path), shown_size(one.size), one.wrong or "whole, by the sizes in its manifest"


def _section(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", title, *columns(rows, indent="  ")] if rows else []
