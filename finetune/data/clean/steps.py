"""The steps by name: what each does to the rows that reach it, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.clean import copies, filters, meaning, normalise, personal, roles
from finetune.data.clean.item import Item
from finetune.data.clean.settings import CleanConfig
from finetune.data.likeness.embedding import Embedder

Reject = Callable[[Item, str, str], None]  # the item, the step that drops it, and why
Edit = Callable[[Item], None]


@dataclass
class Tally:
    """What a step did."""

    step: str
    kept: int = 0
    changed: int = 0
    dropped: int = 0


@dataclass
class Run:
    """What the steps of one command share."""

    config: CleanConfig
    tokenizer: Any  # where lengths are measured in tokens
    folder: Path  # for what does not fit into memory
    reject: Reject
    preference: copies.Preference
    embedder: Embedder | None = None  # where meanings are compared
    tallies: dict[str, Tally] = field(default_factory=dict)

    def apply(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items after all steps."""
        for name in self.config.steps:
            self.tallies[name] = Tally(name)
            items = STEPS[name](self, items)
        return items

    def drop(self, step: str, item: Item, reason: str) -> None:
        """Count and keep a row that a step drops."""
        self.tallies[step].dropped += 1
        self.reject(item, step, reason)


Step = Callable[[Run, Iterator[Item]], Iterator[Item]]


def _editing(name: str, build: Callable[[Run], Edit]) -> Step:
    """A step that changes rows."""

    def step(run: Run, items: Iterator[Item]) -> Iterator[Item]:
        edit, tally = build(run), run.tallies[name]
        for item in items:
            before = item.changes
            edit(item)
            tally.kept += 1
            tally.changed += item.changes != before
            yield item

    return step


def _dropping(name: str, build: Callable[[Run], filters.Filter]) -> Step:
    """A step that drops rows one by one."""

    def step(run: Run, items: Iterator[Item]) -> Iterator[Item]:
        drops, tally = build(run), run.tallies[name]
        for item in items:
            reason = drops(item)
            if reason is not None:
                run.drop(name, item, reason)
                continue
            tally.kept += 1
            yield item

    return step


def _exact(run: Run, items: Iterator[Item]) -> Iterator[Item]:
    kept = copies.drop_equal(items, run.preference, partial(run.drop, "exact"), run.folder)
    return _counted(kept, run.tallies["exact"])


def _near(run: Run, items: Iterator[Item]) -> Iterator[Item]:
    kept = copies.drop_near(items, run.preference, run.config.near, partial(run.drop, "near"), run.folder)
    return _counted(kept, run.tallies["near"])


def _meaning(run: Run, items: Iterator[Item]) -> Iterator[Item]:
    assert run.embedder is not None
    drop, config = partial(run.drop, "meaning"), run.config.meaning
    kept = meaning.drop_same(items, run.preference, config, run.embedder, drop, run.folder)
    return _counted(kept, run.tallies["meaning"])


def _counted(items: Iterator[Item], tally: Tally) -> Iterator[Item]:
    for item in items:
        tally.kept += 1
        yield item


STEPS: dict[str, Step] = {
    "normalise": _editing("normalise", lambda run: normalise.normalise),
    "roles": _editing("roles", lambda run: roles.repair),
    "invalid": _dropping("invalid", lambda run: filters.invalid),
    "secrets": _dropping("secrets", lambda run: filters.secret),
    "personal": _editing("personal", lambda run: partial(personal.mask, kinds=run.config.personal.kinds)),
    "boilerplate": _dropping("boilerplate", lambda run: filters.boilerplate(run.config.boilerplate.kinds)),
    "language": _dropping("language", lambda run: filters.languages(run.config.language.keep)),
    "length": _dropping("length", lambda run: filters.length(run.config.length, run.tokenizer)),
    "exact": _exact,
    "near": _near,
    "meaning": _meaning,
}
