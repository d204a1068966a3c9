"""An engine asked about all rows in one way: what it says, and how likely it finds answers, had when first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from finetune.data.rows import Chat
from finetune.evaluate.engines import Engine, Prompt, Said
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.questions import Asked
from finetune.evaluate.score import Scorer, visible


@dataclass(frozen=True)
class Hearing:
    """What an engine is given for each row, and what comes of it."""

    engine: Engine
    prompts: Sequence[Prompt]
    room: int  # tokens that an answer may have

    @property
    def rows(self) -> list[Chat]:
        """What is asked."""
        return [prompt.row for prompt in self.prompts]

    @cached_property
    def said(self) -> list[Said]:
        """The most likely answers."""
        return self.engine.answer(self.prompts, self.room)

    @cached_property
    def predicted(self) -> list[Likelihood]:
        """How well the references are predicted; nothing of an endpoint."""
        return self.engine.predict(self.prompts)

    @cached_property
    def rejected(self) -> list[Likelihood]:
        """The same of the worse answers, after the same prompts; nothing of rows that have none."""
        worse = [replace(one, row=row) for one in self.prompts if (row := rejected(one.row))]
        return self.engine.predict(worse) if worse else []


# One metric of every row; the higher the better.
Way = Callable[[Hearing], tuple[float, ...]]


def rejected(row: Chat) -> Chat | None:
    """The worse answer to what a pair asks, as the end of the same conversation."""
    return row.rejected if isinstance(row, Asked) else None


def by_text(score: Scorer) -> Way:
    """A score of what is said, held against the reference."""

    def way(heard: Hearing) -> tuple[float, ...]:
        pairs = zip(heard.said, heard.rows, strict=True)
        return tuple(score(visible(said.text), heard.engine.reference(row)) for said, row in pairs)

    return way
