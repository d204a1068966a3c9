"""The settings of `finetune data check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from finetune.config import DataConfig, ModelConfig, TrainingConfig, setting
from finetune.data.codes import CODES, ERROR
from finetune.errors import Fault, UserError, did_you_mean
from finetune.methods import sft
from finetune.settings.catalogue import settings_in

MOST_ROWS = 200_000  # among which near-copies are looked for without being asked

# Settings of the sections below that decide nothing here.
IDLE = (
    "data.weights",
    "data.counts",
    "data.eval_share",
    "data.group_by",
    "model.precision",
    "model.attention",
    "method.trl",
)
NEEDS_MODEL = (
    "data.max_length",
    "data.on_long",
    "model.chat_template",
    "model.revision",
    "model.trust_remote_code",
    "method.learn",
)
NEEDS_MEASURED = (
    "data.contamination_words",
    "data.allow_contamination",
)  # rows that the training rows are compared with
NEEDS_NEAR = ("data.contamination_words", "data.benchmarks")


@dataclass
class CheckConfig:
    """What is looked for, and how it is told."""

    output: str = setting(".", "Folder that data-report.html is written into.")
    disable: list[str] = setting([], "Codes of warnings and hints that are not looked for.")
    samples: int = setting(
        5, "Places that are shown for each warning and hint; of errors as many as `train` shows.", low=1, high=100
    )
    processes: int | None = setting(
        None, "Processes that read; by default as many as there are cores.", low=1, high=256
    )
    near: bool | None = setting(None, f"Look for near-copies; by default among up to {MOST_ROWS:,} rows.")
    price_per_million: float | None = setting(None, "Price of a million training tokens, for an estimate.", above=0)


@dataclass
class EpochsConfig:
    """How often the rows are seen."""

    epochs: float = setting(TrainingConfig().epochs, "Passes over the rows, for the estimate of tokens.", above=0)


@dataclass
class CheckSettings:
    """All settings of the verb; the sections that a run has too mean the same."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: sft.Config = field(default_factory=sft.Config)
    training: EpochsConfig = field(default_factory=EpochsConfig)
    check: CheckConfig = field(default_factory=CheckConfig)

    @property
    def has_model(self) -> bool:
        """Whether rows are measured in the tokens of a model."""
        return bool(self.model.name != MISSING)


def settings_in_brief() -> list[str]:
    """One line a setting, for `--help`."""
    from finetune.settings.reference import brief

    known = [setting for setting in settings_in(CheckSettings()) if not _is_idle(setting.key)]
    optional = [replace(setting, default=None) if setting.default == MISSING else setting for setting in known]
    return ["settings (key=value):", "", *map(brief, optional)]


def check_settings(settings: CheckSettings, arguments: Sequence[str]) -> None:
    """Refuse what has no effect, and codes that are not there or cannot be left out."""
    given = [argument.partition("=")[0] for argument in arguments if "=" in argument]
    faults = [Fault(key, "has no effect on `finetune data check`", "leave it out") for key in given if _is_idle(key)]
    if not settings.has_model:
        mend = "add model=tiny or another, or leave it out"
        faults += [Fault(key, "has no effect without a model", mend) for key in given if key in NEEDS_MODEL]
    if settings.data.eval is None and not settings.data.benchmarks:
        what = "has no effect without data.eval or data.benchmarks"
        faults += [Fault(key, what, "leave it out") for key in given if key in NEEDS_MEASURED]
    elif settings.check.near is False:
        what = "has no effect with check.near=false"
        faults += [Fault(key, what, "leave one of them out") for key in given if key in NEEDS_NEAR]
    for name in settings.check.disable:
        if name not in CODES:
            mend = did_you_mean(name, CODES) or "docs/data-checks.md lists them"
            faults.append(Fault("check.disable", f"there is no code {name!r}", mend))
        elif CODES[name].severity == ERROR:
            what = f"{name} is an error: `train` refuses such rows whatever is said here"
            faults.append(Fault("check.disable", what, "leave it out"))
    if faults:
        raise UserError(faults)


def _is_idle(key: str) -> bool:
    return key.startswith(IDLE)
