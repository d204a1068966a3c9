"""Who answers: the first target, what it was made of, and the others, each as an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from finetune.evaluate.engines import Engine
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import BASE, TUNED
from finetune.evaluate.local import (
    LocalEngine,
    Models,
    adapter_models,
    alone,
    held_as,
    identity_of,
    load,
    open_run,
    opener,
    speech_of,
)
from finetune.evaluate.questions import Speech
from finetune.evaluate.remote import EndpointEngine
from finetune.evaluate.settings import EvaluateSettings
from finetune.evaluate.subjects import Subject


@dataclass(frozen=True)
class Contest:
    """Who answers. Each engine loads its model when it is asked first, and lets go of it at the end of its turn."""

    judged: Engine  # the first target
    base: Engine | None = None  # what it was made of; a model or an endpoint has none
    others: tuple[Engine, ...] = ()
    models: Models | None = None  # base and judged, where one copy in memory is both
    speech: Speech | None = None  # how both are spoken to
    adapter: Path | None = None  # what was trained, where it is an adapter

    @property
    def climber(self) -> Engine:
        """What is given prompts and examples: the base, or what has none itself."""
        return self.base or self.judged


KeptOf = Callable[[str], Kept]  # the kept answers of an identity: one object for all engines that have it


@dataclass(frozen=True)
class Made:
    """A model and the base that it was made of."""

    speech: Speech
    models: Models
    base: str  # identity
    tuned: str
    adapter: Path | None


def open_contest(subjects: Sequence[Subject], settings: EvaluateSettings, answers: Path) -> Contest:
    """The engines of all targets; answers are kept in the folder. No model is loaded yet."""
    first, *rest = subjects
    kept_of = cache(partial(Kept.open, answers))
    others = tuple(_engine(other, settings, answers, kept_of) for other in rest)
    if first.kind in ("endpoint", "model"):
        return Contest(_engine(first, settings, answers, kept_of), others=others)
    made, size = _made(first, answers), settings.evaluate.batch_size
    tuned, base = map(kept_of, (made.tuned, made.base))
    return Contest(
        LocalEngine(TUNED, made.speech, made.models.tuned, tuned, size),
        LocalEngine(BASE, made.speech, made.models.base, base, size),
        others,
        made.models,
        made.speech,
        made.adapter,
    )


def _engine(subject: Subject, settings: EvaluateSettings, answers: Path, kept_of: KeptOf) -> Engine:
    """What answers for a target that is asked as it is."""
    if subject.endpoint is not None:
        return EndpointEngine(subject.name, subject.endpoint, settings.endpoint, answers)
    size = settings.evaluate.batch_size
    if subject.kind != "model":
        made = _made(subject, answers)
        return LocalEngine(subject.name, made.speech, alone(made.models), kept_of(made.tuned), size)
    assert subject.facts is not None
    held, speech = held_as(None), speech_of(subject.facts)
    kept = kept_of(identity_of(subject.facts, None, held, speech.tokenizer, answers))
    return LocalEngine(subject.name, speech, opener(subject.facts, held, speech.tokenizer), kept, size)


def _made(subject: Subject, answers: Path) -> Made:
    """What a run made, or an adapter, with its base."""
    from finetune.artefact import ADAPTER, MODEL
    from finetune.model_files import inspect_model

    held = held_as(subject.plan)
    if subject.plan is not None:
        speech, models = open_run(subject.plan)
        facts = tuned_facts = subject.plan.model
        folder = Path(subject.plan.run_dir) / ADAPTER
        adapter = folder if folder.is_dir() else None
        if adapter is None:
            tuned_facts = inspect_model(str(Path(subject.plan.run_dir) / MODEL))
    else:
        assert subject.facts is not None and subject.facts.adapter is not None
        facts = tuned_facts = subject.facts
        adapter, speech = Path(subject.facts.adapter.path), speech_of(subject.facts)
        models = adapter_models(partial(load, facts, held, speech.tokenizer), adapter)
    identify = partial(identity_of, held=held, tokenizer=speech.tokenizer, folder=answers)
    return Made(speech, models, identify(facts, None), identify(tuned_facts, adapter), adapter)
