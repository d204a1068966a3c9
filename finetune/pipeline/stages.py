"""From a recipe with stages and overrides to one composed configuration a stage; every fault is found on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.compose import Composed, compose_on, default_choices, identity, written
from finetune.config import RunConfig, flatten
from finetune.errors import Fault, UserError, listed
from finetune.pipeline.recipe import (
    BASE,
    FROM,
    GATE,
    OF_THE_WHOLE,
    Limit,
    PipelineRecipe,
    StageRecipe,
    limit_of,
    not_before,
    read_pipeline,
)
from finetune.plan.checks import OF_THE_ADAPTER
from finetune.settings.catalogue import GROUPS, NAME_RULE, NAME_RULE_SAID, settings_of
from finetune.settings.overrides import Assignment, split_overrides
from finetune.settings.recipe import Recipe

STAGE = "stage:"  # before the name of a stage, where a model is named
OF_THE_MODEL = ("model", "model.name", "model.revision")
LONGEST_STEM = 30
Pair = tuple[str, str]


@dataclass(frozen=True)
class Stage:
    """One stage, composed; a model that another stage will make is named `stage:NAME` in its configuration."""

    name: str
    start: str | None  # the stage whose result it goes on from; None for the recipe's own model
    reads: tuple[str, ...]  # stages whose results its method reads
    limits: tuple[Limit, ...]
    composed: Composed
    places: Mapping[str, str]  # of each setting that was given: the line of the recipe, or the override
    run_dir: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages that must have finished before."""
        return tuple(dict.fromkeys((*([self.start] if self.start else []), *self.reads)))

    def located(self, fault: Fault) -> Fault:
        """A fault of the stage's run, with the place and the mends as they are written for the pipeline."""
        key, space, rest = fault.where.partition(" ")
        keys = settings_of(self.composed.choices)
        if key in keys or key in GROUPS:
            key = self.places.get(key, f"{self.name}.{key}")
        elif not self.knows(fault.where):
            key = f"{self.name}: {key}"
        mend = re.sub(
            r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)*)=",
            lambda found: f"{self.name}.{found[0]}" if found[1] in keys or found[1] in GROUPS else found[0],
            fault.mend,
        )
        return replace(fault, where=f"{key}{space}{rest}", mend=mend)

    def knows(self, where: str) -> bool:
        """Whether this is a place of the recipe or an override, as composing names them."""
        return where in self.places.values()


@dataclass(frozen=True)
class Pipeline:
    """Stages in their order."""

    name: str
    recipe: str
    folder: Path  # of the pipeline's own file
    stages: tuple[Stage, ...]
    command: str  # that a person types to start or continue it
    notes: tuple[str, ...]  # overrides that some stages do not take

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def root(self, stage: Stage) -> Stage:
        """The stage that starts from the recipe's own model, from which another goes on in the end."""
        return self.root(self.stage(stage.start)) if stage.start else stage


@dataclass(frozen=True)
class _Given:
    """The overrides of a command, parted by the stage that they name."""

    shared: tuple[Pair, ...]
    own: Mapping[str, tuple[Pair, ...]]


def compose_pipeline(arguments: Sequence[str], recipe: str) -> Pipeline:
    """Every stage of a recipe, composed with the overrides; every fault is raised at once as a UserError."""
    faults = list[Fault]()
    source = read_pipeline(recipe)
    given = _parted(arguments, source, faults)
    names = [stage.name for stage in source.stages]
    stages, used, notes = list[Stage](), set[str](), list[str]()
    for place, one in enumerate(source.stages):
        merged = _merged(one, source, given)
        base, overrides = merged.base, merged.overrides
        used |= merged.reached
        notes += [
            f"{key}={raw} is not for the stage {one.name}, which sets it itself: {one.name}.{key}={raw} would be"
            for key, raw in merged.kept
        ]
        limits = _limits(one, given.own[one.name], faults)
        places = _places(one.name, base, overrides, given)
        try:
            composed = compose_on([f"{key}={raw}" for key, raw in overrides], base)
        except UserError as error:
            faults += [replace(fault, where=places.get(fault.where, fault.where)) for fault in error.faults]
            continue
        reads = _references(composed.config, one.start, places, names, place, faults)
        stages.append(Stage(one.name, one.start, reads, limits, composed, places, ""))
    faults += _unused(source, given, used, names)
    if faults or len(stages) < len(names):
        raise UserError(list(dict.fromkeys(faults)))
    return _named(source, stages, tuple(arguments), tuple(notes))


def _parted(arguments: Sequence[str], source: PipelineRecipe, faults: list[Fault]) -> _Given:
    own: dict[str, list[Pair]] = {stage.name: [] for stage in source.stages}
    starts = {stage.name: stage.start for stage in source.stages}
    shared: list[Pair] = []
    for key, raw in split_overrides(arguments, faults):
        name, _, rest = key.partition(".")
        if name not in own:
            shared.append((key, raw))
        elif rest == FROM:
            faults.append(Fault(key, "what a stage starts from is no setting", "change it in the recipe"))
        elif rest in OF_THE_WHOLE:
            faults.append(Fault(key, "is the pipeline's, which names the runs of its stages", f"write {rest}={raw}"))
        elif rest in OF_THE_MODEL and starts[name] is not None:
            faults.append(
                Fault(key, f"starts from the stage {starts[name]}, whose model it goes on with", "leave it out")
            )
        else:
            own[name].append((rest, raw))
    for key, raw in shared:
        if key == "resume" and raw not in ("auto", "none"):
            what = f"{raw!r} is for one run, and a pipeline has several"
            faults.append(Fault(key, what, f"write {source.stages[-1].name}.resume={raw}"))
    return _Given(tuple(shared), {name: tuple(pairs) for name, pairs in own.items()})


@dataclass(frozen=True)
class _Merged:
    """A stage as a recipe and overrides of one run."""

    base: Recipe
    overrides: tuple[Pair, ...]
    reached: frozenset[str]  # keys of what is shared and holds for the stage
    kept: tuple[Pair, ...]  # shared overrides in whose place the stage's own recipe stands


def _merged(one: StageRecipe, source: PipelineRecipe, given: _Given) -> _Merged:
    own_pairs = [pair for pair in given.own[one.name] if pair[0].partition(".")[0] != GATE]
    set_here = {item.key for item in (*one.own.choices, *one.own.settings)} | {key for key, _ in own_pairs}
    picked = {choice.key: str(choice.value) for choice in one.own.choices}
    picked |= {key: raw for key, raw in own_pairs if key in GROUPS}
    shared = {choice.key: str(choice.value) for choice in source.shared.choices}
    shared |= {key: raw for key, raw in given.shared if key in GROUPS}
    settings = settings_of({**default_choices(), **shared, **picked})
    starts = {item.key: str(item.value) for item in one.own.settings} | dict(own_pairs)
    continued = starts.get("tuning.start") == "continue"

    def reaches(key: str) -> bool:
        """Whether what is shared holds here: not what the stage sets, starts with, or replaces with another option."""
        if key in set_here or (one.start is not None and key in OF_THE_MODEL):
            return False
        if continued and key in (f"tuning.{name}" for name in OF_THE_ADAPTER):
            return False
        return not (key.partition(".")[0] in picked and key not in settings)

    choices = tuple(choice for choice in source.shared.choices if reaches(choice.key))
    assignments = tuple(item for item in source.shared.settings if reaches(item.key))
    pairs = tuple(pair for pair in given.shared if reaches(pair[0]))
    start: tuple[Assignment, ...] = ()
    if one.start is not None:
        value = f"{STAGE}{one.start}"
        start = (Assignment("model.name", value, value, f"{one.where}.{FROM}", f"recipe {source.name}"),)
    base = Recipe(source.name, source.path, (*choices, *one.own.choices), (*assignments, *start, *one.own.settings))
    reached = {item.key for item in (*choices, *assignments)} | {key for key, _ in pairs}
    kept = [pair for pair in given.shared if pair[0] in set_here and pair[0] not in dict(own_pairs)]
    return _Merged(base, (*pairs, *own_pairs), frozenset(reached), tuple(kept))


def _places(name: str, base: Recipe, overrides: Sequence[Pair], given: _Given) -> dict[str, str]:
    """Where each setting was given, by its key."""
    own = {key for key, _ in given.own[name]}
    places = {item.key: item.where for item in (*base.choices, *base.settings)}
    return places | {key: f"{name}.{key}" if key in own else key for key, _ in overrides}


def _limits(one: StageRecipe, pairs: Sequence[Pair], faults: list[Fault]) -> tuple[Limit, ...]:
    limits = {limit.key: limit for limit in one.limits}
    for key, raw in pairs:
        if key.partition(".")[0] == GATE:
            try:
                value: Any = float(raw)
            except ValueError:
                value = raw
            if limit := limit_of(key, value, f"{one.name}.{key}", faults):
                limits[key] = limit
    return tuple(limits.values())


def _references(
    config: RunConfig, start: str | None, places: Mapping[str, str], names: Sequence[str], place: int,
    faults: list[Fault],
) -> tuple[str, ...]:  # fmt: skip
    """The stages that the settings of the method name; a stage that is named elsewhere is a fault."""
    found = []
    for key, value, _ in flatten(config):
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not item.startswith(STAGE) or (key == "model.name" and start is not None):
                continue
            where, stage = places.get(key, key), item.removeprefix(STAGE)
            if key == "model.name":
                faults.append(Fault(where, f"{item!r} is not how a stage goes on", f"write `{FROM}: {stage}`"))
            elif not key.startswith("method."):
                faults.append(Fault(where, f"{item!r} names a stage, and no model is wanted here", "name a file"))
            elif fault := not_before(stage, where, names, place):
                faults.append(fault)
            else:
                found.append(stage)
    return tuple(dict.fromkeys(found))


def _unused(source: PipelineRecipe, given: _Given, used: set[str], names: Sequence[str]) -> list[Fault]:
    """What is shared and reaches no stage."""
    what = "no stage takes it: each sets it itself, or has other options"
    mend = f"write it for one of the stages: {listed([f'{name}.{{}}' for name in names], 4)}"
    places = {item.key: item.where for item in (*source.shared.choices, *source.shared.settings)}
    places = {key: where for key, where in places.items() if key not in {pair[0] for pair in given.shared}}
    places |= {key: key for key, _ in given.shared}
    return [Fault(where, what, mend.replace("{}", key)) for key, where in places.items() if key not in used]


def _named(
    source: PipelineRecipe, stages: Sequence[Stage], arguments: tuple[str, ...], notes: tuple[str, ...]
) -> Pipeline:
    """The stages with the directories of their runs."""
    config = stages[0].composed.config
    digests: dict[str, str] = {}
    for stage in stages:
        digests[stage.name] = _digest(stage, digests)
    stem = source.path.parent.name if source.path.name == "recipe.yaml" else source.path.stem
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_")[:LONGEST_STEM] or "pipeline"
    whole = hashlib.sha256("".join(digests.values()).encode()).hexdigest()[:8]
    name = config.name or f"{stem}-{whole}"
    runs = {
        stage.name: f"{name}.{stage.name}" if config.name else f"{stem}.{stage.name}-{digests[stage.name]}"
        for stage in stages
    }
    if long := [run for run in runs.values() if not NAME_RULE.fullmatch(run)]:
        raise UserError.at("name", f"{long[0]} is no name for a run", f"use {NAME_RULE_SAID}")
    output = Path(config.output_dir).expanduser()
    placed = tuple(
        replace(stage, composed=_with_name(stage.composed, runs[stage.name]), run_dir=str(output / runs[stage.name]))
        for stage in stages
    )
    command = shlex.join(["finetune", "pipeline", "--recipe", source.name, *arguments])
    return Pipeline(name, source.name, output / name, placed, command, notes)


def _digest(stage: Stage, digests: Mapping[str, str]) -> str:
    """Eight hex digits of all that decides a stage's result, what comes before it included.

    Its length counts too, as it does not for a run by itself: a run that grows would change what the stages after it
    started from.
    """
    config = stage.composed.config
    told = [identity(config), config.training.epochs, config.training.max_steps, *map(digests.__getitem__, stage.needs)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]


def _with_name(composed: Composed, name: str) -> Composed:
    return replace(composed, config=replace(composed.config, name=name))


def resolved(stage: Stage, models: Mapping[str, str]) -> Composed:
    """The stage's configuration with `models` in the places of the stages that it names."""
    config = stage.composed.config

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(item) for item in value]
        if isinstance(value, str) and value.startswith(STAGE):
            return models[value.removeprefix(STAGE)]
        return value

    method = {item.name: of(getattr(config.method, item.name)) for item in dataclasses.fields(config.method)}
    model = replace(config.model, name=of(config.model.name))
    config = replace(config, model=model, method=replace(config.method, **method))
    return replace(stage.composed, config=config, yaml=written(config))


def results(pipeline: Pipeline) -> dict[str, str]:
    """The directory of each stage's run, which stands for what the run makes."""
    return {stage.name: stage.run_dir for stage in pipeline.stages}


def starts_from(stage: Stage) -> str:
    """What a stage starts from, in words."""
    start = stage.composed.config.tuning.start
    return f"{stage.start}{f' ({start})' if start else ''}" if stage.start else BASE
