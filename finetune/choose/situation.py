"""What a decision stands on: the problem, the rows, what fits on the machine, what was measured."""

from __future__ import annotations

from dataclasses import dataclass

# The rungs of the ladder, the cheapest first; `rows` are to be had before any tuning.
PROMPT, FEW_SHOT, RETRIEVAL, TOOLS, ROWS, TUNING = "prompt", "few_shot", "retrieval", "tools", "rows", "tuning"
# What can have been tried, in words; `tuning` stands for lora.
TRIED = {
    PROMPT: "a careful prompt",
    FEW_SHOT: "examples in the prompt",
    RETRIEVAL: "retrieval",
    TOOLS: "tools",
    TUNING: "lora",
}

BEHAVIOUR, KNOWLEDGE, BOTH = "behaviour", "knowledge", "both"
NEVER, LIVE = "never", "live"
CHANGES = (NEVER, "yearly", "monthly", "weekly", "daily", LIVE)
NO_FEEDBACK, THUMBS, PAIRS, SCALE = "none", "thumbs", "pairs", "scale"

# Kinds of rows. Some of them no method learns from yet.
CHAT, TEXT, BETTER_WORSE, VOTES = "chat", "text", "pairs", "votes"
IMAGES, GROUNDED, TASKS, PROMPTS = "images", "grounded", "tasks", "prompts"
KINDS = {
    CHAT: "questions with answers",
    TEXT: "plain text",
    BETTER_WORSE: "pairs of a better and a worse answer",
    VOTES: "answers with a thumb up or down",
    IMAGES: "rows with images",
    GROUNDED: "questions with passages and answers",
    TASKS: "tasks with a reference to check against",
    PROMPTS: "prompts without answers",
}
COUNTED, SAMPLED, GUESSED = "counted", "sampled", "guessed"


@dataclass(frozen=True)
class Rows:
    """The rows of one source."""

    given: str  # as the user named it; empty when only their number was said
    kind: str
    count: int
    exact: bool = True  # counted, and not estimated from the size of the file
    characters: int = 0  # of all rows, by those that were looked at
    longest: int = 0  # characters of the longest row that was looked at
    refused: int = 0  # of those that were looked at
    layout: str = ""


@dataclass(frozen=True)
class Tokens:
    """What an epoch reads: as the plan of a run counts it, by a part of the rows, or guessed from characters."""

    total: int = 0
    longest: int = 0
    how: str = GUESSED


@dataclass(frozen=True)
class Fit:
    """A tuning that fits into memory, and the settings that it needs for that."""

    tuning: str
    settings: tuple[str, ...]
    gigabytes: float


@dataclass(frozen=True)
class Base:
    """The base model and the devices for it."""

    name: str
    parameters: int
    said: str  # the devices in words
    adapter: bool = False  # the name holds an adapter already
    fits: tuple[Fit, ...] = ()
    hours: float | None = None  # of training the rows for three epochs, very roughly

    def fit(self, tuning: str) -> Fit | None:
        """How a tuning fits."""
        return next((fit for fit in self.fits if fit.tuning == tuning), None)


@dataclass(frozen=True)
class Measured:
    """What a cheap rung scored on held-out rows."""

    rung: str  # base, prompted or few_shot
    score: float
    interval: tuple[float, float]
    examples: int = 0  # in the prompt


@dataclass(frozen=True)
class Evidence:
    """What the cheap rungs scored."""

    metric: str
    rows: int  # that were answered
    rungs: tuple[Measured, ...]
    held_out: int = 0  # rows, of which evaluate.rows may leave some out

    @property
    def best(self) -> Measured:
        """The rung that scored most; of equals the cheapest."""
        return max(self.rungs, key=lambda rung: rung.score)


@dataclass(frozen=True)
class Situation:
    """Everything that the decision depends on, and nothing else."""

    gap: str = BEHAVIOUR
    changes: str = NEVER
    tried: tuple[str, ...] = (PROMPT, FEW_SHOT)  # rungs that were tried and fell short; `tuning` is lora
    verifiable: bool = False
    feedback: str = NO_FEEDBACK
    images: bool = False
    variants: int = 1
    teacher: str | None = None
    cost: bool = False
    hours: float | None = None
    target: float | None = None
    rows: tuple[Rows, ...] = ()
    tokens: Tokens = Tokens()
    base: Base | None = None
    evidence: Evidence | None = None

    def have(self, *kinds: str) -> int:
        """How many rows there are of these kinds."""
        return sum(rows.count for rows in self.rows if rows.kind in kinds)

    def all_of(self, *kinds: str) -> bool:
        """Whether there are rows, all of these kinds."""
        return bool(self.rows) and all(rows.kind in kinds for rows in self.rows)


@dataclass(frozen=True)
class Stage:
    """One method of the way, and whether the rows for it are there."""

    method: str
    there: bool  # this version has it
    have: int
    least: int
    good: int
    unit: str

    @property
    def missing(self) -> int:
        """How many rows are missing before it is worth a try."""
        return max(0, self.least - self.have)


@dataclass(frozen=True)
class Advice:
    """What to do now, what after it, and why."""

    stop: str  # the rule that stopped the climb, or `tune`
    rung: str
    path: str  # the rule that found the stages; empty when tuning is of no use
    stages: tuple[Stage, ...]
    tuning: str | None
    tuning_rule: str
    settings: tuple[str, ...]  # that the tuning needs in order to fit
    sentence: str
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    missing: tuple[str, ...]  # of each method that is not there yet: what is missing, what to do until then

    @property
    def tunes(self) -> bool:
        """Whether to tune now."""
        return self.rung == TUNING
