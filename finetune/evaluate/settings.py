"""The settings of `finetune evaluate`. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.config import DataConfig, EvaluateConfig, GroupedRowsConfig, RunConfig, flatten, setting
from finetune.endpoint.settings import EndpointSettings, verbatim
from finetune.errors import Fault, UserError
from finetune.settings.verb import read_verb


@dataclass
class MeasuredRows(GroupedRowsConfig):
    """Rows that are not a run's own."""

    eval: Any = verbatim("File, folder, hub id or a list of them with the rows to answer; by default the run's own.")
    train: Any = verbatim("Rows for examples and prompts, where the target is not a run and so brings none.")
    contamination_words: int = setting(
        DataConfig().contamination_words, "Words in a row that held-out rows may not share with training rows.", low=5
    )
    allow_contamination: bool = setting(
        False, "Evaluate although held-out rows stand in training rows; the result then says so."
    )

    def as_data(self) -> DataConfig:
        """The same as training reads rows."""
        shared = {item.name: getattr(self, item.name) for item in dataclasses.fields(GroupedRowsConfig)}
        return DataConfig(**shared)


@dataclass
class AskedSettings(EndpointSettings):
    """How an endpoint is asked."""

    temperature: float | None = setting(0.0, "0 takes the likeliest word; null leaves it unsaid.", low=0)


@dataclass
class EvaluateSettings:
    """What `finetune evaluate` can be told."""

    output_dir: str = setting(RunConfig().output_dir, "Folder of the runs, and of results that belong to no run.")
    seed: int = setting(RunConfig().seed, "Seed of every random choice; by default the run's.", low=0, high=2**32 - 1)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    data: MeasuredRows = field(default_factory=MeasuredRows)
    endpoint: AskedSettings = field(default_factory=AskedSettings)


def read(arguments: Sequence[str], defaults: EvaluateSettings | None = None) -> tuple[list[str], EvaluateSettings]:
    """The targets among the arguments, and the settings; every fault is raised at once."""
    return read_verb("evaluate", defaults or EvaluateSettings(), arguments)


def as_trained(settings: EvaluateSettings, config: RunConfig) -> EvaluateSettings:
    """The defaults that a run brings: its own evaluation, and how its rows were read where others are given."""
    data = settings.data
    if data.eval is not None:
        trained = config.data
        data = dataclasses.replace(
            MeasuredRows(), columns=trained.columns, layout=trained.layout, group_by=trained.group_by
        )
    else:
        data = MeasuredRows()
    return EvaluateSettings(settings.output_dir, config.seed, config.evaluate, data, AskedSettings())


# Settings that decide how an evaluation goes, and not what comes out.
NOT_DECIDING = (
    "output_dir",
    "evaluate.batch_size",
    "evaluate.choose_again",
    *(f"endpoint.{item.name}" for item in dataclasses.fields(EndpointSettings)),
)


def deciding(settings: EvaluateSettings) -> dict[str, Any]:
    """The settings that decide the result, by their keys."""
    return {key: value for key, value, _ in flatten(settings) if key not in NOT_DECIDING}


def check_twice(settings: EvaluateConfig) -> None:
    """Refuse what stands twice in a list: the second would do nothing."""
    lists: dict[str, Sequence[object]] = {
        "rungs": settings.rungs,
        "prompts": settings.prompts,
        "strengths": settings.strengths,
        "tasks": settings.tasks,
    }
    faults = [
        Fault(f"evaluate.{name}", f"{one} is given twice", "give each once")
        for name, given in lists.items()
        for one, count in Counter(given).items()
        if count > 1
    ]
    if faults:
        raise UserError(faults)


def check_idle(settings: EvaluateSettings, kinds: Sequence[str]) -> None:
    """Refuse settings that have no effect on these targets."""
    data, standard = settings.data, MeasuredRows()
    faults = []
    if "endpoint" not in kinds:
        given = [item.name for item in dataclasses.fields(settings.endpoint)]
        faults += [
            Fault(f"endpoint.{name}", "has no effect: no endpoint is evaluated", "leave it out")
            for name in given
            if getattr(settings.endpoint, name) != getattr(AskedSettings(), name)
        ]
    if data.eval is None and data.train is None:
        names = [item.name for item in dataclasses.fields(GroupedRowsConfig)]
        faults += [
            Fault(f"data.{name}", "has no effect on a run's own rows", "leave it out, or give data.eval")
            for name in names
            if getattr(data, name) != getattr(standard, name)
        ]
    if kinds[0] == "run" and data.train is not None:
        what = "has no effect: a run brings its own training rows"
        faults.append(Fault("data.train", what, "leave it out"))
    rungs, prompts = settings.evaluate.rungs, settings.evaluate.prompts
    if prompts and rungs and "prompted" not in rungs:
        mend = "add prompted to evaluate.rungs, or leave it out"
        faults.append(Fault("evaluate.prompts", "has no effect without the rung `prompted`", mend))
    if faults:
        raise UserError(faults)
