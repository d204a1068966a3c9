"""What each method needs: which rows, how many, and what is missing where this version has not got it.

The numbers of rows are rules of thumb: below `least` a gain is rare or cannot be seen, from `good` on it is common.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from finetune.choose.situation import (
    BETTER_WORSE,
    CHAT,
    GROUNDED,
    IMAGES,
    PROMPTS,
    TASKS,
    TEXT,
    VOTES,
    Situation,
    Stage,
)
from finetune.methods import METHODS

LEAST_ROWS = 50  # fewer are better shown in the prompt
LEAST_TOKENS = 250_000  # of plain text; less fits into an index, and much of it into a prompt


@dataclass(frozen=True)
class Need:
    """What a method learns from."""

    kinds: tuple[str, ...]  # rows that it learns from
    unit: str
    least: int
    good: int
    missing: str = ""  # what is not there, where this version has not got the method
    until: str = ""  # what can be done until it is


CHOSEN_ONLY = "tune with method=sft on the better answer of each pair"

NEEDS: dict[str, Need] = {
    "sft": Need((CHAT, TEXT, BETTER_WORSE), "rows with answers", LEAST_ROWS, 500),
    "distill": Need((CHAT, TEXT), "rows with answers", 200, 2000),
    "grounded": Need(
        (GROUNDED,),
        "questions with passages and answers",
        200,
        1000,
        "training on questions with the passages that answer them",
        "put the passages into the prompts of ordinary rows yourself, and tune on those with method=sft",
    ),
    "dpo": Need((BETTER_WORSE,), "pairs", 200, 1000),
    "kto": Need((VOTES,), "votes", 200, 1000),
    "grpo": Need(
        (CHAT, TASKS, PROMPTS),
        "prompts",
        100,
        1000,
        "training on answers of the model's own, scored by a program",
        "tune with method=sft on answers that the program found right",
    ),
    "reward": Need((BETTER_WORSE,), "pairs", 1000, 10_000, "training a reward model", CHOSEN_ONLY),
    "rloo": Need(
        (CHAT, TASKS, PROMPTS, BETTER_WORSE),
        "prompts",
        500,
        5000,
        "training against a reward model",
        CHOSEN_ONLY,
    ),
    "vision": Need(
        (IMAGES,),
        "rows with images",
        200,
        1000,
        "learning from images",
        "describe the images in words, and tune on the text alone, if words can say what counts",
    ),
}


def stage(method: str, situation: Situation) -> Stage:
    """A method as a stage of the way, with the rows that there are for it."""
    need, there = NEEDS[method], method in METHODS
    if situation.all_of(TEXT) and TEXT in need.kinds:
        return Stage(method, there, situation.tokens.total, LEAST_TOKENS, 20 * LEAST_TOKENS, "tokens of plain text")
    return Stage(method, there, situation.have(*need.kinds), need.least, need.good, need.unit)


def said_missing(method: str) -> str:
    """What is missing of a method, and what can be done until it is there."""
    need = NEEDS[method]
    return f"{method} is not there yet: this version has no way of {need.missing}; until then {need.until}"


def said_no_index() -> tuple[str, ...]:
    """What to do for retrieval where this version has no knowledge base of its own."""
    if find_spec("finetune.knowledge") is not None:
        return ()
    what = "a knowledge base is not there yet: this version builds no index; until then"
    return (f"{what} put passages that a search of your own finds in front of the question, and measure that",)
