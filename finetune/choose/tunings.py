"""The third table: how much of the base is trained. LoRA first, in 4 bits where memory demands it, whole only after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune.choose.situation import TUNING, Situation

LORA, QLORA, FULL, SHARDED = "lora", "qlora", "full", "sharded"
ADAPTERS = (LORA, QLORA, SHARDED)
EPOCHS = 3  # of a run, when nothing else is said
LONGEST = 168.0  # hours, where no budget is said: nobody waits longer than a week


@dataclass(frozen=True)
class Tuning:
    """How much to train, and why."""

    name: str
    when: Callable[[Situation], bool]
    fit: Callable[[Situation], str | None]  # which fit it takes; None for none
    settings: tuple[str, ...]
    why: str


def _adapter(situation: Situation) -> str | None:
    """The first way to train an adapter that fits."""
    if situation.base is None or not _looked_at(situation):
        return LORA
    return next((name for name in ADAPTERS if situation.base.fit(name)), None)


def _has(situation: Situation, fit: str) -> bool:
    return situation.base is not None and situation.base.fit(fit) is not None


def _looked_at(situation: Situation) -> bool:
    return situation.base is not None and situation.base.parameters > 0


def _epoch(situation: Situation) -> float:
    """Hours of one epoch; 0 where nothing is known."""
    return (situation.base.hours or 0.0) / EPOCHS if situation.base else 0.0


def budget(situation: Situation) -> float:
    """Hours that training may take."""
    return situation.hours if situation.hours is not None else LONGEST


def epochs(situation: Situation) -> tuple[str, ...]:
    """The setting that keeps a run within the hours that it may take."""
    return ("training.epochs=1",) if _epoch(situation) * EPOCHS > budget(situation) else ()


TUNINGS: tuple[Tuning, ...] = (
    Tuning(
        "too_large",
        lambda s: _looked_at(s) and _adapter(s) is None,
        lambda s: None,
        (),
        "no tuning of this base fits into memory: take a smaller base, or a larger device (choose.memory)",
    ),
    Tuning(
        "too_slow",
        lambda s: _epoch(s) > budget(s),
        lambda s: None,
        (),
        "one pass over the rows takes longer than there is time: take a smaller base, fewer rows or a faster device",
    ),
    Tuning(
        "full",
        lambda s: TUNING in s.tried and s.variants == 1 and _has(s, FULL),
        lambda s: FULL,
        (),
        "lora was tried and falls short, and training every weight fits into memory",
    ),
    Tuning(
        "higher_rank",
        lambda s: TUNING in s.tried,
        _adapter,
        ("tuning.rank=64",),
        "lora was tried and falls short: a higher rank first, since training every weight is out of the question here",
    ),
    Tuning(
        "variants",
        lambda s: s.variants > 1,
        _adapter,
        (),
        "one base, and an adapter of some MB for each variant: they are stored and served together",
    ),
    Tuning(
        "not_looked_at",
        lambda s: not _looked_at(s),
        lambda s: LORA,
        (),
        "lora first: usually nearly as good as training every weight, in a fraction of the memory",
    ),
    Tuning("lora", lambda s: _has(s, LORA), lambda s: LORA, (), "lora first, and it fits into memory"),
    Tuning("qlora", lambda s: _has(s, QLORA), lambda s: QLORA, (), "lora fits only over a base held in 4 bits"),
    Tuning("sharded", lambda s: True, lambda s: SHARDED, (), "lora fits only when all devices share the base"),
)


def tuning_of(situation: Situation) -> Tuning:
    """How much to train in a situation."""
    return next(tuning for tuning in TUNINGS if tuning.when(situation))
