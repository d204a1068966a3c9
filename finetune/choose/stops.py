"""The first table: where the climb stops before tuning. The first rule that holds decides; none is `tune`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune.choose.needs import stage
from finetune.choose.paths import path_of
from finetune.choose.situation import (
    BEHAVIOUR,
    FEW_SHOT,
    KNOWLEDGE,
    LIVE,
    NEVER,
    PROMPT,
    PROMPTS,
    RETRIEVAL,
    ROWS,
    TOOLS,
    Situation,
)

NO_ROOM = 0.95  # where no target is set: a score that is surely above it leaves too little to gain
MEASURED = "the rung that was measured"


@dataclass(frozen=True)
class Stop:
    """A rung on which to stop for now."""

    name: str
    when: Callable[[Situation], bool]
    rung: str
    says: str
    why: tuple[str, ...]
    unless: str
    tunes_later: bool  # whether tuning is what comes next when the rung falls short


def is_short(situation: Situation) -> bool:
    """Whether there are too few rows for the first method of the path."""
    return stage(path_of(situation).stages[0], situation).missing > 0


def _reached(situation: Situation, value: Callable[[Situation], float]) -> bool:
    return situation.target is not None and situation.evidence is not None and value(situation) >= situation.target


def _low(situation: Situation) -> float:
    return situation.evidence.best.interval[0] if situation.evidence else 0.0


def _score(situation: Situation) -> float:
    return situation.evidence.best.score if situation.evidence else 0.0


STOPS: tuple[Stop, ...] = (
    Stop(
        "enough",
        lambda s: _reached(s, _low),
        MEASURED,
        "Do not tune: the untuned model reaches the target.",
        ("{rung} scores {score}, and even the lower end of its interval, {low}, reaches the target of {target}",),
        "a target above what was measured",
        False,
    ),
    Stop(
        "undecided",
        lambda s: _reached(s, _score),
        MEASURED,
        "Do not tune yet: the untuned model seems to reach the target, but too few rows were measured to be sure.",
        (
            "{rung} scores {score} and so reaches the target of {target}, "
            "but its interval, {low} to {high}, does not exclude that it falls short",
        ),
        "more held-out rows that put the interval below the target ({more})",
        True,
    ),
    Stop(
        "no_room",
        lambda s: s.target is None and _low(s) >= NO_ROOM,
        MEASURED,
        "Do not tune: there is hardly anything left to gain.",
        (f"{{rung}} scores {{score}}, and even the lower end of its interval, {{low}}, is above {NO_ROOM:.0%}",),
        "harder held-out rows, or a stricter evaluate.metric",
        False,
    ),
    Stop(
        "live",
        lambda s: s.gap != BEHAVIOUR and s.changes == LIVE and TOOLS not in s.tried,
        TOOLS,
        "Do not tune: give the model tools that ask where the answer is kept.",
        ("what changes by the minute is out of date in weights and in an index alike",),
        "the model has the tools and calls them badly (choose.tried=[prompt,few_shot,tools])",
        True,
    ),
    Stop(
        "facts",
        lambda s: s.gap == KNOWLEDGE and s.changes == NEVER and RETRIEVAL not in s.tried,
        RETRIEVAL,
        "Do not tune: facts are missing, so let the model look them up.",
        (
            "tuning teaches behaviour well and facts badly: a tuned model states wrong ones with the same confidence",
            "what is looked up can be corrected, and shown as a source",
        ),
        "the right passage stands in the prompt and the answer is still wrong (choose.tried=[prompt,retrieval])",
        False,
    ),
    Stop(
        "retrieval",
        lambda s: s.gap != BEHAVIOUR and s.changes != LIVE and RETRIEVAL not in s.tried,
        RETRIEVAL,
        "Build a knowledge base and look passages up first.",
        (
            "facts that change belong where they can be changed, and tuning would have to be done again with each",
            "whether reading is the problem shows only once the right passage is there to be read",
        ),
        "retrieval is there, finds the right passages, and the answers are still wrong "
        "(choose.tried=[prompt,few_shot,retrieval])",
        True,
    ),
    Stop(
        "moving",
        lambda s: s.gap == BEHAVIOUR and s.changes in ("daily", LIVE),
        PROMPT,
        "Do not tune: keep in the prompt what changes so often.",
        ("a tuned model would be out of date before it is measured; a prompt is changed at once",),
        "the part that changes can be told apart from a part that is stable: tune on that one (choose.changes=never)",
        False,
    ),
    Stop(
        "prompt",
        lambda s: PROMPT not in s.tried,
        PROMPT,
        "Write a better prompt first.",
        ("a prompt costs minutes: say what a good answer is, its form, and what to do in doubt",),
        "a careful prompt was measured and falls short (choose.tried=[prompt])",
        True,
    ),
    Stop(
        "few_shot",
        lambda s: FEW_SHOT not in s.tried,
        FEW_SHOT,
        "Show the model a few examples in its prompt first.",
        ("examples in the prompt often show what a description cannot, and need no training",),
        "examples in the prompt were measured and fall short (choose.tried=[prompt,few_shot])",
        True,
    ),
    Stop(
        "no_rows",
        lambda s: not s.rows,
        ROWS,
        "No rows are known: show a file of examples (finetune choose FILE), or say how many there are (choose.rows).",
        ("whether tuning is worth it depends on the rows: what they are, how many, and how long",),
        "rows are shown: their kind and number decide",
        True,
    ),
    Stop(
        "unanswered",
        lambda s: s.all_of(PROMPTS) and is_short(s),
        ROWS,
        "Have the prompts answered first: there is nothing to learn from yet.",
        ("the rows ask, and none of them answers",),
        "a program can check answers (choose.verifiable=true): then the model can learn from its own tries",
        True,
    ),
    Stop(
        "teacher_writes",
        lambda s: s.teacher is not None and is_short(s) and s.gap == BEHAVIOUR and not s.images,
        ROWS,
        "Have the larger model write more rows first.",
        ("a model that does the task well can write the rows that are missing, and gates drop the bad ones",),
        "its licence does not allow that: then collect rows by hand",
        True,
    ),
    Stop(
        "few_passages",
        lambda s: s.gap != BEHAVIOUR and s.changes != LIVE and is_short(s),
        RETRIEVAL,
        "Improve retrieval for now: there are too few rows to tune on.",
        ("a handful of questions measures an index well, and teaches a model little",),
        "more questions with their passages and answers",
        True,
    ),
    Stop(
        "few_rows",
        is_short,
        FEW_SHOT,
        "Use the rows as examples in the prompt for now: they are too few to tune on.",
        ("so few rows are learned by heart; a part of them held out shows nothing with certainty",),
        "more rows",
        True,
    ),
)


def stop_of(situation: Situation) -> Stop | None:
    """The rung on which to stop for now; None when tuning is worth it."""
    return next((stop for stop in STOPS if stop.when(situation)), None)
