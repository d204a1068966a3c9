"""Settings of `finetune data clean` that cannot mean anything, or have no effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from omegaconf import MISSING

from finetune.data.clean.settings import ALL_STEPS, CleanConfig, CleanSettings
from finetune.data.examine.languages import NAMES
from finetune.errors import Fault, UserError, did_you_mean

SECTIONS = ("personal", "boilerplate", "language", "length", "near", "meaning")


def check_settings(settings: CleanSettings) -> None:
    """Refuse them, all at once."""
    faults = [
        *_steps(settings.clean),
        *_idle(settings.clean),
        *_wrong(settings.clean),
        *_model(settings),
        *_meaning(settings.clean),
    ]
    if faults:
        raise UserError(faults)


def _steps(clean: CleanConfig) -> Iterator[Fault]:
    if not clean.steps:
        yield Fault("clean.steps", "names no step", f"there are {', '.join(ALL_STEPS)}")
    for name in dict.fromkeys(name for name in clean.steps if clean.steps.count(name) > 1):
        yield Fault("clean.steps", f"names {name} twice", "keep one of them")


def _idle(clean: CleanConfig) -> Iterator[Fault]:
    """Settings of steps that are not carried out."""
    default = CleanConfig()
    for section in SECTIONS:
        given, usual = getattr(clean, section), getattr(default, section)
        for item in dataclasses.fields(given):
            if section not in clean.steps and getattr(given, item.name) != getattr(usual, item.name):
                mend = f"add {section}: clean.steps=[{','.join(_with(clean.steps, section))}]"
                yield Fault(f"clean.{section}.{item.name}", f"has no effect: {section} is not among clean.steps", mend)
    if clean.keep != default.keep and not {"exact", "near", "meaning"} & set(clean.steps):
        what = "has no effect: none of exact, near and meaning is among clean.steps"
        yield Fault("clean.keep", what, "leave it out")
    if clean.keep_by is not None and clean.keep != "highest":
        yield Fault("clean.keep_by", f"has no effect with clean.keep={clean.keep}", "set clean.keep=highest")


def _with(steps: list[str], name: str) -> list[str]:
    """The steps and one more, which stands where it is best carried out."""
    later = ALL_STEPS[ALL_STEPS.index(name) :]
    at = next((index for index, step in enumerate(steps) if step in later), len(steps))
    return [*steps[:at], name, *steps[at:]]


def _wrong(clean: CleanConfig) -> Iterator[Fault]:
    length, language = clean.length, clean.language
    if clean.keep == "highest" and clean.keep_by is None:
        yield Fault("clean.keep", "highest needs a column", "name it, such as clean.keep_by=date")
    if "length" in clean.steps and length.low is None and length.high is None:
        yield Fault("clean.steps", "length has no bounds", "set clean.length.low, clean.length.high or both")
    if length.low is not None and length.high is not None and length.low > length.high:
        yield Fault("clean.length.low", f"{length.low} is over clean.length.high={length.high}", "lower it")
    if "language" in clean.steps and not language.keep:
        yield Fault("clean.steps", "language keeps none", "name some, such as clean.language.keep=[en]")
    for name in language.keep:
        if name not in NAMES:
            mend = did_you_mean(name, NAMES) or f"there are {', '.join(NAMES)}"
            yield Fault("clean.language.keep", f"{name!r} is no language that is told apart", mend)
    for section, kinds in (("personal", clean.personal.kinds), ("boilerplate", clean.boilerplate.kinds)):
        if section in clean.steps and not kinds:
            yield Fault(f"clean.{section}.kinds", "is empty, so the step does nothing", "name some, or leave it out")


def _meaning(clean: CleanConfig) -> Iterator[Fault]:
    given = clean.meaning
    if "meaning" not in clean.steps:
        return
    if given.model is None:
        mend = "name one, such as clean.meaning.model=sentence-transformers/all-MiniLM-L6-v2"
        yield Fault("clean.meaning.model", "the step meaning compares embeddings, and no model is named", mend)
    elif given.revision is not None and (given.model == "tiny" or Path(given.model).expanduser().exists()):
        yield Fault("clean.meaning.revision", "has no effect on a local model", "leave it out")


def _model(settings: CleanSettings) -> Iterator[Fault]:
    in_tokens = settings.clean.length.unit == "tokens"
    if in_tokens and settings.model.name == MISSING:
        yield Fault("clean.length.unit", "tokens need a model", "add model=tiny or another")
    for item in dataclasses.fields(settings.model):
        value = getattr(settings.model, item.name)
        used = in_tokens and item.name not in ("precision", "attention", "chat_template")
        if value not in (None, False, MISSING) and not used:
            key = "model" if item.name == "name" else f"model.{item.name}"
            yield Fault(key, "has no effect: only clean.length.unit=tokens needs a model", "leave it out")
