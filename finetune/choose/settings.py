"""The settings of `finetune choose`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from finetune.choose.situation import (
    BEHAVIOUR,
    BOTH,
    CHANGES,
    KNOWLEDGE,
    NO_FEEDBACK,
    PAIRS,
    SCALE,
    THUMBS,
    TRIED,
)
from finetune.config import DataConfig, EvaluateConfig, ModelConfig, setting
from finetune.errors import Fault, UserError
from finetune.settings.catalogue import settings_in


@dataclass
class ChooseConfig:
    """What is known about the problem. What is left out is read from the rows, asked, or assumed."""

    gap: str | None = setting(
        None,
        "What is missing: `behaviour` (form, tone, a skill), `knowledge` (facts), or `both`.",
        choices=(BEHAVIOUR, KNOWLEDGE, BOTH),
    )
    changes: str | None = setting(None, "How often what is asked for changes.", choices=CHANGES)
    tried: list[str] | None = setting(
        None, "What was tried and measured, and falls short; `[]` for nothing.", choices=tuple(TRIED)
    )
    rows: int | None = setting(None, "How many rows there are, when none are shown.", low=0)
    verifiable: bool | None = setting(None, "Whether a program can check answers.")
    feedback: str | None = setting(
        None,
        "What people said about answers: thumbs up and down, pairs of a better and a worse one, or all the time and "
        "at scale.",
        choices=(NO_FEEDBACK, THUMBS, PAIRS, SCALE),
    )
    images: bool | None = setting(None, "Whether images are part of the question.")
    variants: int | None = setting(
        None, "How many variants of the behaviour are wanted, such as one a customer.", low=1
    )
    teacher: str | None = setting(None, "A larger model that does the task well: hub id, folder or run directory.")
    cost: bool | None = setting(None, "Whether what that larger model costs to run is the problem.")
    memory: float | None = setting(None, "Gigabytes of one GPU to train on; by default this machine's.", above=0)
    devices: int | None = setting(None, "How many such GPUs.", low=1, high=1024)
    hours: float | None = setting(None, "Hours that training may take.", above=0)
    target: float | None = setting(None, "Score that is good enough, of `evaluate.metric`.", above=0, high=1)
    measure: bool = setting(False, "Measure the base and examples in its prompt first; the same as `--measure`.")


@dataclass
class ChooseSettings:
    """All settings of the verb; those of a run are passed on to the commands that it prints."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    choose: ChooseConfig = field(default_factory=ChooseConfig)

    @property
    def has_model(self) -> bool:
        """Whether a base is named."""
        return bool(self.model.name != MISSING)

    @property
    def has_rows(self) -> bool:
        """Whether rows are shown."""
        return bool(self.data.train != MISSING)


def settings_in_brief() -> list[str]:
    """One line a setting, for `--help`."""
    from finetune.settings.reference import brief

    known = settings_in(ChooseSettings())
    own = [setting for setting in known if setting.key.startswith("choose.")]
    others = [setting for setting in known if setting not in own]
    optional = [replace(setting, default=None) if setting.default == MISSING else setting for setting in others]
    return ["settings (key=value):", "", *map(brief, own), "", *map(brief, optional)]


def read_settings(arguments: Sequence[str]) -> tuple[ChooseSettings, list[str]]:
    """The settings, and the arguments but the rows; every fault is raised at once."""
    from finetune.settings.verb import read_verb

    paths, settings = read_verb("choose", ChooseSettings(), arguments)
    if paths and settings.has_rows:
        raise UserError.at("data.train", "files are given twice, alone and under this key", "keep one of them")
    if paths:
        settings.data.train = paths[0] if len(paths) == 1 else paths
    if faults := [*_without_effect(settings, arguments), *_needed(settings)]:
        raise UserError(faults)
    passed = [one for one in arguments if one not in paths and not one.startswith("data.train=")]
    return settings, passed


def _without_effect(settings: ChooseSettings, arguments: Sequence[str]) -> list[Fault]:
    choose, faults = settings.choose, []
    if settings.has_rows and choose.rows is not None:
        faults.append(Fault("choose.rows", "has no effect: the rows that are shown are counted", "leave it out"))
    if not settings.has_rows:
        keys = [one.partition("=")[0] for one in arguments if one.startswith("data.")]
        faults += [Fault(key, "has no effect without rows", "add data.train=FILE, or leave it out") for key in keys]
    if not settings.has_model:
        given = [f"choose.{name}" for name in ("memory", "devices", "hours") if vars(choose)[name] is not None]
        mend = "add model=qwen3-4b or another, or leave it out"
        faults += [Fault(key, "has no effect without a base model", mend) for key in given]
    elif choose.hours is not None and not settings.has_rows:
        faults.append(Fault("choose.hours", "has no effect without rows", "add data.train=FILE, or leave it out"))
    if choose.devices is not None and choose.memory is None and settings.has_model:
        faults.append(Fault("choose.devices", "has no effect without choose.memory", "set both, or none"))
    if choose.cost is not None and choose.teacher is None:
        faults.append(Fault("choose.cost", "has no effect without choose.teacher", "name the larger model too"))
    if choose.target is not None and not choose.measure:
        faults.append(Fault("choose.target", "has no effect without --measure", "add it, or leave this out"))
    return faults


def _needed(settings: ChooseSettings) -> list[Fault]:
    """What measuring needs."""
    if not settings.choose.measure:
        return []
    mend, faults = "there is nothing to measure without it", []
    if not settings.has_model:
        faults.append(Fault("choose.measure", "needs a base model", f"add model=tiny or another: {mend}"))
    if not settings.has_rows:
        faults.append(Fault("choose.measure", "needs rows", f"add data.train=FILE: {mend}"))
    return faults
