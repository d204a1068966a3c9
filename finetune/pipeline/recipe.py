"""The recipe of a pipeline: `stages:`, and beside them what holds for all of them.

stages:
  sft:                     a name; the stages run in the order of the file
    data: {train: ./rows.jsonl}
  dpo:
    from: sft              whose result it starts from; `base` is the recipe's own model
    tuning: {start: merge}
    gate: {at_least: {eval_accuracy: 0.65}}
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import OPEN_KEYS, RunConfig
from finetune.errors import Fault, UserError, did_you_mean, listed
from finetune.settings.catalogue import shown
from finetune.settings.recipe import STAGES, Recipe, find_recipe, recipe_of, shown_path
from finetune.settings.yaml_files import Entry, read_entries

STAGE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,19}")
STAGE_NAME_SAID = "lower-case letters, digits, `_` and `-`, at most 20, starting with a letter"
BASE = "base"  # what a stage starts from that does not go on with another
FROM, GATE = "from", "gate"
BOUNDS = ("at_least", "at_most")
# What the pipeline decides for its stages.
OF_THE_WHOLE = ("name", "output_dir")


@dataclass(frozen=True)
class Limit:
    """A bound that a stage's result has to keep, or the pipeline stops."""

    metric: str  # of metrics.jsonl
    bound: str  # at_least or at_most
    value: float
    where: str

    @property
    def key(self) -> str:
        """The setting that holds it."""
        return f"{GATE}.{self.bound}.{self.metric}"

    def holds(self, measured: float) -> bool:
        """Whether a result keeps it; one that is not a number does not."""
        return measured >= self.value if self.bound == "at_least" else measured <= self.value


@dataclass(frozen=True)
class StageRecipe:
    """One stage as its recipe has it."""

    name: str
    where: str  # file and line
    start: str | None  # the stage it goes on from; None for the recipe's own model
    limits: tuple[Limit, ...]
    own: Recipe  # what it sets itself


@dataclass(frozen=True)
class PipelineRecipe:
    """A recipe with stages."""

    name: str  # as it was asked for
    path: Path
    shared: Recipe  # what holds for every stage that does not set it itself
    stages: tuple[StageRecipe, ...]


def is_pipeline(name: str) -> bool:
    """Whether a recipe has stages; one that cannot be read is left to whoever reads it."""
    try:
        path = find_recipe(name)
        return any(entry.key.partition(".")[0] == STAGES for entry in read_entries(path, shown_path(path), OPEN_KEYS))
    except UserError:
        return False


def read_pipeline(name: str) -> PipelineRecipe:
    """Read a recipe with stages; every fault of its structure is raised at once as a UserError."""
    path, faults = find_recipe(name), list[Fault]()
    at = shown_path(path)
    first = [entry for entry in read_entries(path, at, OPEN_KEYS) if entry.key.partition(".")[0] == STAGES]
    if not first:
        raise UserError.at(at, "has no `stages:`", f"for one run write finetune train --recipe {name}")
    lines = {parts[1]: entry.line for entry in reversed(first) if len(parts := entry.key.split(".", 2)) > 1}
    names = list(dict.fromkeys(entry.key.split(".", 2)[1] for entry in first if "." in entry.key))
    if not names:
        raise UserError.at(f"{at}:{first[0].line} {STAGES}", "names no stage", "write a name and settings for each")
    whole = (*OPEN_KEYS, *(f"{STAGES}.{stage}.{key}" for stage in names for key in OPEN_KEYS))
    entries = read_entries(path, at, whole)
    shared = recipe_of(name, path, [one for one in entries if one.key.partition(".")[0] != STAGES], faults)
    stages = []
    for place, stage in enumerate(names):
        where = f"{at}:{lines[stage]} {STAGES}.{stage}"
        if fault := _bad_name(stage, where):
            faults.append(fault)
        own = [
            replace(one, key=one.key.split(".", 2)[2]) for one in entries if one.key.startswith(f"{STAGES}.{stage}.")
        ]
        faults += [
            Fault(f"{at}:{one.line} {one.key}", "holds no settings", "write them below its name")
            for one in entries
            if one.key == f"{STAGES}.{stage}" and one.value not in ({}, None)
        ]
        stages.append(_stage(name, path, stage, where, own, names, place, faults))
    if faults:
        raise UserError(faults)
    return PipelineRecipe(name, path, shared, tuple(stages))


def _bad_name(stage: str, where: str) -> Fault | None:
    if not STAGE_NAME.fullmatch(stage):
        return Fault(where, f"{shown(stage)} is no name for a stage", f"use {STAGE_NAME_SAID}")
    if stage in {BASE, *(item.name for item in dataclasses.fields(RunConfig))}:
        return Fault(where, f"{shown(stage)} means something else", "choose another name for the stage")
    return None


def _stage(
    recipe: str, path: Path, name: str, where: str, entries: Sequence[Entry], names: Sequence[str], place: int,
    faults: list[Fault],
) -> StageRecipe:  # fmt: skip
    at = shown_path(path)
    start, limits, settings = None, list[Limit](), list[Entry]()
    said = next((one for one in entries if one.key == FROM), None)
    if said is not None:
        start = _start(said.value, f"{at}:{said.line} {STAGES}.{name}.{FROM}", names, place, faults)
    elif place:
        mend = f"write `from: {names[place - 1]}`, or `from: {BASE}` for the recipe's own model"
        faults.append(Fault(where, "does not say what it starts from", mend))
    for entry in entries:
        at_key = f"{at}:{entry.line} {STAGES}.{name}.{entry.key}"
        if entry.key.partition(".")[0] == GATE:
            limits += [limit] if (limit := limit_of(entry.key, entry.value, at_key, faults)) else []
        elif entry.key in OF_THE_WHOLE:
            faults.append(
                Fault(at_key, "is the pipeline's, which names the runs of its stages", f"write it beside `{STAGES}:`")
            )
        elif entry.key != FROM:
            settings.append(entry)
    own = recipe_of(recipe, path, settings, faults, within=f"{STAGES}.{name}.")
    if start is not None:
        what = f"starts from the stage {start}, whose model it goes on with"
        faults += [
            Fault(given.where, what, f"leave it out, or write `from: {BASE}`")
            for given in (*own.choices, *own.settings)
            if given.key in ("model", "model.name", "model.revision")
        ]
    return StageRecipe(name, where, start, tuple(limits), own)


def _start(value: Any, where: str, names: Sequence[str], place: int, faults: list[Fault]) -> str | None:
    if value == BASE:
        return None
    if fault := not_before(value, where, names, place):
        faults.append(fault)
        return None
    return str(value)


def not_before(value: Any, where: str, names: Sequence[str], place: int) -> Fault | None:
    """Why a stage cannot take the result of the one that is named, if so: only those before it have one."""
    before = names[:place]
    known = f"before it come {listed(before)}" if before else f"it is the first: only `{BASE}` comes before it"
    if value in before:
        return None
    if value in names:
        what = "is the stage itself" if value == names[place] else "comes later"
        return Fault(where, f"{shown(value)} {what}; {known}", "name an earlier stage, or put it further down")
    near = did_you_mean(str(value), before) or f"write one of {listed([*before, BASE])}"
    return Fault(where, f"there is no stage {shown(value)}; {known}", near)


def limit_of(key: str, value: Any, where: str, faults: list[Fault]) -> Limit | None:
    """The bound that `gate.at_least.METRIC` sets, or None and a fault."""
    _, bound, metric = [*key.split(".", 2), "", ""][:3]
    if bound not in BOUNDS or not metric:
        mend = did_you_mean(bound, BOUNDS) or f"write {GATE}.at_least.<metric>, or {GATE}.at_most.<metric>"
        faults.append(Fault(where, "sets no bound for a metric", mend))
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        faults.append(Fault(where, f"must be a number, got {shown(value)}", f"such as {GATE}.{bound}.{metric}=0.65"))
        return None
    return Limit(metric, bound, float(value), where)
