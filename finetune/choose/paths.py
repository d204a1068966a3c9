"""The second table: which methods, one after the other, once tuning is worth it. The first rule that holds decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune.choose.situation import (
    BEHAVIOUR,
    BETTER_WORSE,
    CHAT,
    GROUNDED,
    LIVE,
    PAIRS,
    SCALE,
    TEXT,
    THUMBS,
    Situation,
)


@dataclass(frozen=True)
class Path:
    """The methods for a kind of problem."""

    name: str
    when: Callable[[Situation], bool]
    stages: tuple[str, ...]
    says: str
    why: tuple[str, ...]
    unless: str


PATHS: tuple[Path, ...] = (
    Path(
        "images",
        lambda s: s.images,
        ("vision",),
        "supervised fine-tuning on images and answers",
        ("images are part of the question, so only a model that sees can learn from these rows",),
        "the images can be put into words: then ordinary rows do",
    ),
    Path(
        "calls",
        lambda s: s.gap != BEHAVIOUR and s.changes == LIVE,
        ("sft",),
        "supervised fine-tuning on conversations that call the tools",
        ("what changes by the minute cannot be learned, but calling a tool for it can",),
        "the base calls the tools well once they are described better",
    ),
    Path(
        "corpus",
        lambda s: s.all_of(TEXT),
        ("sft",),
        "continued pre-training: method=sft on the plain text",
        (
            "plain text holds no questions, so the model learns its language and not to answer",
            "warning: it learns facts unreliably this way, and may forget how to follow instructions: "
            "compare with the base, and tune on questions and answers afterwards",
        ),
        "the text is to be looked up: then build an index of it (choose.gap=knowledge)",
    ),
    Path(
        "reading",
        lambda s: s.gap != BEHAVIOUR or s.all_of(GROUNDED),
        ("grounded",),
        "context-grounded tuning, with the knowledge base in front of the model",
        (
            "facts stay in the knowledge base, where they can be changed",
            "the model learns to answer from the passages that it is given, and to say when they hold no answer",
        ),
        "the base answers well once it is given the right passage: then only retrieval needs work",
    ),
    Path(
        "rlhf",
        lambda s: s.feedback == SCALE,
        ("reward", "rloo"),
        "a reward model from the human feedback, then reinforcement learning (rloo) against it",
        ("feedback at this scale trains a reward model that judges answers nobody has rated",),
        "the feedback is some thousand pairs and no more: choose.feedback=pairs is simpler and rarely worse",
    ),
    Path(
        "smaller",
        lambda s: s.cost and s.teacher is not None,
        ("distill",),
        "distillation: a small base learns from the larger model",
        ("a larger model does the task already, and what it costs to run is the problem",),
        "the teacher has another tokenizer: then it writes answers (finetune data build synth) for method=sft",
    ),
    Path(
        "checked_tasks",
        lambda s: s.verifiable and not s.have(CHAT, BETTER_WORSE),
        ("grpo",),
        "reinforcement learning (grpo) with the program that checks answers as the reward",
        (
            "a program can check answers, and there are none to learn from: the model tries its own",
            "it learns only where some of its tries are right already",
        ),
        "the base is hardly ever right: then write some answers first, and begin with method=sft",
    ),
    Path(
        "checked",
        lambda s: s.verifiable,
        ("sft", "grpo"),
        "supervised fine-tuning, then reinforcement learning (grpo) with the program that checks answers as the reward",
        (
            "a program can check answers: it judges better than a preference does, and without end",
            "the examples come first, so that some of the model's own answers are right at all",
        ),
        "sft alone is good enough: evaluate it before going on",
    ),
    Path(
        "preferred",
        lambda s: s.feedback == PAIRS,
        ("sft", "dpo"),
        "supervised fine-tuning on the better answers, then preference tuning (dpo) on the pairs",
        (
            "which of two answers is better is known, so what to avoid can be learned too",
            "dpo moves away from the worse answer; it needs a model that can already give the better one",
        ),
        "sft alone is good enough: evaluate it before going on",
    ),
    Path(
        "rated_examples",
        lambda s: s.feedback == THUMBS and s.have(CHAT) > 0,
        ("sft", "kto"),
        "supervised fine-tuning on the examples, then kto on the thumbs",
        ("examples show what is right, thumbs what the model got wrong",),
        "pairs of answers to the same question can be had: choose.feedback=pairs tells more",
    ),
    Path(
        "rated",
        lambda s: s.feedback == THUMBS,
        ("kto",),
        "preference tuning on single answers (kto)",
        ("a thumb up or down is no pair: kto is the method that learns from it",),
        "pairs of answers to the same question can be had: choose.feedback=pairs tells more",
    ),
    Path(
        "examples",
        lambda s: True,
        ("sft",),
        "supervised fine-tuning on the examples",
        ("the behaviour is stable and can be shown: examples of it are the most direct way to teach it",),
        "the examples show facts more than behaviour (choose.gap=knowledge)",
    ),
)


def path_of(situation: Situation) -> Path:
    """The methods for a situation."""
    return next(path for path in PATHS if path.when(situation))
