"""What the climber is asked besides the bare question, and which system prompt is the best on training rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from finetune.data.rows import Chat, answer
from finetune.evaluate.engines import Engine, Prompt
from finetune.evaluate.hearing import Hearing, Way
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.prompts import SystemPrompt, made_for, with_prompt
from finetune.evaluate.questions import shown
from finetune.evaluate.shapes import BY_LIKELIHOOD, Form
from finetune.log import log

LOOKED_AT = 1000  # training answers from which prompts are made


@dataclass(frozen=True)
class Asking:
    """What is asked on the rungs of the climber, and how it is scored."""

    engine: Engine
    metric: str
    room: int
    examples: tuple[Chat, ...]
    way: Way  # of the metric
    form: Form = field(default_factory=Form)

    def prompts(self, rows: Sequence[Chat], text: str | None, examples: Sequence[Chat]) -> tuple[list[Prompt], int]:
        """What is given for each row, and for how many rows the context does not hold all of it."""
        given = [self._fitted(row, text, examples) for row in rows]
        return [prompt for prompt, _ in given], sum(not whole for _, whole in given)

    def _fitted(self, row: Chat, text: str | None, examples: Sequence[Chat]) -> tuple[Prompt, bool]:
        """As much as the context holds: fewer examples first, the bare question at the last."""
        bare = self.engine.is_bare(row)
        own = list(row.messages[:-1])
        for count in range(len(examples), -1, -1):
            messages = with_prompt(own, text, bare) if text is not None else own
            prompt = self.engine.prompt(row, shown(messages, examples[:count], "\n\n" if bare else ""))
            if self.engine.fits(prompt, max(self.room, self.needed(row))):
                return prompt, count == len(examples)
        return self.engine.prompt(row, own), text is None and not examples

    def needed(self, row: Chat) -> int:
        """Tokens that must have room behind what is asked, to score the row."""
        return max(map(self.engine.length, self.form.weighed(row)), default=1)

    def scores(
        self, rows: Sequence[Chat], texts: Sequence[str | None], examples: Sequence[Chat], said: str
    ) -> list[float]:
        """The mean metric over rows under each text; says beforehand for how many answers it asks."""
        given = [self.prompts(rows, text, examples)[0] for text in texts]
        asked = sum(self.engine.unkept(prompts, self.room) for prompts in given)
        if asked and self.metric not in BY_LIKELIHOOD:
            log.info(said.format(asked))
        return [fmean(self.way(Hearing(self.engine, prompts, self.room))) for prompts in given]


@dataclass(frozen=True)
class Choice:
    """The system prompt of the climber, how it was chosen, and whether it stands above the examples too."""

    best: SystemPrompt
    with_examples: bool
    record: dict[str, Any]


def choose_prompt(
    asking: Asking,
    prompts: Sequence[SystemPrompt],
    training: Sequence[Chat],
    trial: Sequence[int],
    choices: Kept,
    again: bool = False,
) -> Choice:
    """The prompt with the best score on training rows; of equals the first. All scores are recorded.

    A choice that was made before, by whichever metric, stands unless it is to be made `again`: so another metric
    scores the same answers.
    """
    rows, texts = [training[place] for place in trial], [prompt.text for prompt in prompts]
    what = f"prompts: {len(prompts)} × {len(rows)} training rows, {{:,}} answers to choose one"
    scores = asking.scores(rows, texts, (), what)
    given = [asking.engine.prompt(row, row.messages[:-1]).messages for row in (*rows, *asking.examples)]
    key = key_of("choice", asking.engine.identity, asking.room, texts, given, [answer(row) for row in rows])
    if again or key not in choices.found:
        best = max(range(len(prompts)), key=scores.__getitem__)
        without, under = _under(asking, texts[best], rows)
        choices.add({key: {"by": asking.metric, "best": best, "with_examples": under > without}})
    chosen = choices.found[key]
    best = chosen["best"]
    without, under = _under(asking, texts[best], rows)
    named = zip(prompts, scores, strict=True)
    record = {
        "rows": [place + 1 for place in trial],
        "tried": [{"name": one.name, "text": one.text, "score": score} for one, score in named],
        "chosen": prompts[best].name,
        "by": chosen["by"],
        "with_examples": {"without": without, "under": under, "chosen": chosen["with_examples"]},
    }
    return Choice(prompts[best], chosen["with_examples"], record)


def made_prompts(training: Sequence[Chat], seed: int) -> list[SystemPrompt]:
    """Prompts made from what training answers look like."""
    rows = random.Random(seed).sample(list(training), min(LOOKED_AT, len(training)))
    return made_for([answer(row) for row in rows], seed)


def _under(asking: Asking, text: str, rows: Sequence[Chat]) -> tuple[float, float]:
    """How examples do by themselves, and how under a prompt."""
    if not asking.examples:
        return 0.0, 0.0
    what = f"examples: with and without the prompt × {len(rows)} training rows, {{:,}} answers"
    without, under = asking.scores(rows, [None, text], asking.examples, what)
    return without, under
