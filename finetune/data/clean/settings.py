"""The settings of `finetune data clean`."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.config import ModelConfig, RowsConfig, setting

# In the order in which they are best carried out.
ALL_STEPS = (
    "normalise",
    "roles",
    "invalid",
    "secrets",
    "personal",
    "boilerplate",
    "language",
    "length",
    "exact",
    "near",
    "meaning",
)
PERSONAL = ("email", "phone", "card", "iban", "ip", "ssn")


@dataclass
class PersonalConfig:
    """Which personal data is masked."""

    kinds: list[str] = setting(list(PERSONAL), "What is masked.", choices=PERSONAL)


@dataclass
class BoilerplateConfig:
    """Which answers are not to be taught."""

    kinds: list[str] = setting(
        ["refusals", "teachers", "placeholders"],
        "What is dropped: refusals, names of other models and their makers, answers that say nothing, stock phrases.",
        choices=("refusals", "teachers", "placeholders", "phrases"),
    )


@dataclass
class LanguageConfig:
    """Which languages stay."""

    keep: list[str] = setting([], "Languages of the answers that are kept, such as `[en,de]`.")


@dataclass
class LengthConfig:
    """How long rows may be."""

    unit: str = setting("words", "What is counted; tokens need `model=`.", choices=("words", "characters", "tokens"))
    of: str = setting("row", "What is measured: all that is said in a row, or its answers.", choices=("row", "answers"))
    low: int | None = setting(None, "Least length of a row that is kept.", low=1)
    high: int | None = setting(None, "Greatest length of a row that is kept.", low=1)


@dataclass
class NearConfig:
    """What a near copy is."""

    threshold: float = setting(0.8, "Share of their word runs that near copies have in common.", low=0.5, high=1)
    other_answers: bool = setting(False, "Drop near copies also when their answers differ.")


@dataclass
class MeaningConfig:
    """What a row of the same meaning is."""

    model: str | None = setting(
        None,
        "Text model whose embeddings are compared: hub id, folder, or `tiny`; the step has none of its own.",
        example="sentence-transformers/all-MiniLM-L6-v2",
    )
    revision: str | None = setting(None, "Commit, tag or branch of an embedding model on the hub.")
    threshold: float = setting(0.95, "Least cosine of embeddings of the same meaning.", above=0, below=1)
    other_answers: bool = setting(False, "Drop rows that ask the same also when their answers differ.")


@dataclass
class CleanConfig:
    """The steps, in their order, and their settings."""

    steps: list[str] = setting(
        ["normalise", "roles", "invalid", "secrets", "exact", "near"], "Steps, in their order.", choices=ALL_STEPS
    )
    keep: str = setting(
        "first",
        "Which of several copies is kept; `highest` takes the one with the highest `clean.keep_by`.",
        choices=("first", "last", "longest", "highest"),
    )
    keep_by: str | None = setting(None, "Column with a date, a version or a score, for `clean.keep=highest`.")
    personal: PersonalConfig = field(default_factory=PersonalConfig)
    boilerplate: BoilerplateConfig = field(default_factory=BoilerplateConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    length: LengthConfig = field(default_factory=LengthConfig)
    near: NearConfig = field(default_factory=NearConfig)
    meaning: MeaningConfig = field(default_factory=MeaningConfig)


@dataclass
class CleanSettings:
    """What `finetune data clean` can be told."""

    data: RowsConfig = field(default_factory=RowsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    output: str = setting("cleaned", "Folder that the files are written to.")
