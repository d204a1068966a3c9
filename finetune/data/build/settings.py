"""The settings of the commands that ask a teacher. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune.config import ModelConfig, setting
from finetune.endpoint.settings import EndpointSettings, verbatim


@dataclass
class TeacherSettings(EndpointSettings):
    """Who is asked, how, how fast and for how much."""

    url: str | None = verbatim("Address of an endpoint that speaks OpenAI's chat completions: `https://…/v1`.")
    model: str | None = verbatim("Name of the model at that endpoint.")
    license: str | None = verbatim("Licence or terms of the teacher's answers, to be recorded.")
    temperature: float | None = setting(0.7, "How freely the teacher chooses its words; null leaves it unsaid.", low=0)
    top_p: float | None = setting(None, "Share of the likeliest words that it chooses among.", above=0, high=1)
    max_tokens: int = setting(1024, "Longest answer in tokens.", low=1)
    reasoning: bool = setting(False, "Keep the teacher's reasoning beside its answers.")
    price_in: float | None = setting(None, "Price of a million tokens asked.", low=0)
    price_out: float | None = setting(None, "Price of a million tokens answered.", low=0)
    max_cost: float | None = setting(None, "Most to be spent, in the unit of the prices.", above=0)
    max_tokens_total: int | None = setting(None, "Most tokens to be used, asked and answered.", low=1)
    batch_size: int = setting(8, "Requests answered together by a local model.", low=1)


@dataclass
class GateSettings:
    """What an example has to pass."""

    min_words: int = setting(1, "Fewest words of an answer.", low=1)
    max_words: int = setting(2000, "Most words of an answer.", low=1)
    refusals: bool = setting(True, "Reject refusals and what assistants say about themselves.")
    quote: bool = setting(True, "Reject a pair whose quote does not stand in its document.")
    verify: str = setting(
        "auto",
        "How an answer is compared with the prompt's `reference`; `auto` takes the number when that is one.",
        choices=("auto", "number", "exact", "contains", "json_fields", "off"),
    )
    round_trip: str = setting(
        "off",
        "Ask the teacher again, with the question alone or with its document, and compare.",
        choices=("off", "question", "document"),
    )
    equivalent: str = setting(
        "words",
        "Who says whether both answers agree: their words and numbers, or the teacher.",
        choices=("words", "teacher"),
    )
    agreement: float = setting(
        0.5, "Share of words (F1) that two answers in agreement have in common.", above=0, high=1
    )
    near: float = setting(0.8, "Likeness (Jaccard) from which an example is a copy of another.", above=0, high=1)


@dataclass
class Existing:
    """Rows that there are already."""

    train: Any = verbatim("Rows that no new one may be a near copy of: a file, a folder or a list of them.")
    columns: dict[str, str] = setting({}, "Names of columns: ours to the file's, such as `prompt: question`.")


@dataclass
class SynthSettings:
    """Rows made from prompts, documents or examples."""

    prompts: str | None = verbatim("File of prompts to be answered.")
    documents: str | None = verbatim("File or folder of documents to write questions and answers about.")
    examples: str | None = verbatim("File of rows to write variations of.")
    template: str | None = verbatim("What the teacher is asked: the name of a template, or a file.")
    output: str = verbatim("Folder of the rows and of all that was asked.", "synth")
    held_out: str | None = verbatim("Rows that no example may overlap with, such as an evaluation's.")
    rows: int | None = setting(None, "Rows wanted; asking ends when there are so many.", low=1)
    samples: int = setting(1, "How often each prompt, passage or example is asked about.", low=1)
    pairs: int = setting(3, "Examples that are asked for at once, where a request gives several.", low=1, high=50)
    shots: int = setting(3, "Examples shown at once.", low=1, high=32)
    chunk: int = setting(4000, "Longest passage of a document, in characters.", low=200)
    seed: int = setting(42, "Seed of every random choice.", low=0, high=2**32 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    data: Existing = field(default_factory=Existing)
