"""What is known of a problem: said by a setting, seen in the rows, answered when asked, or assumed and told so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.choose import situation as kinds
from finetune.choose.settings import ChooseConfig
from finetune.choose.situation import (
    BEHAVIOUR,
    BOTH,
    CHANGES,
    FEW_SHOT,
    KNOWLEDGE,
    NEVER,
    NO_FEEDBACK,
    PAIRS,
    PROMPT,
    SCALE,
    THUMBS,
    TRIED,
    Evidence,
    Rows,
)
from finetune.errors import Fault, UserError, listed

SAID, SEEN, ASKED, ASSUMED, MEASURED = "said", "seen", "asked", "assumed", "measured"


@dataclass(frozen=True)
class Fact:
    """One thing that is known, and how."""

    name: str
    value: Any
    how: str
    why: str = ""

    @property
    def setting(self) -> str:
        """The fact as a setting."""
        value = self.value
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, tuple):
            value = f"[{','.join(value)}]"
        return f"choose.{self.name}={'null' if value is None else value}"


Known = dict[str, Fact]


@dataclass(frozen=True)
class Question:
    """What is asked, and what is assumed where nobody answers."""

    name: str
    asks: str
    answers: tuple[tuple[Any, str], ...]  # value and words; none for a free answer
    assumed: Any
    why: str
    kind: Callable[[str], Any] = str  # of a free answer
    many: bool = False  # several answers may be given
    when: Callable[[Known], bool] = lambda known: True  # whether it matters


def _teaches(known: Known) -> bool:
    return bool(known["gap"].value != KNOWLEDGE)


YES_NO = ((False, "no"), (True, "yes"))

QUESTIONS: tuple[Question, ...] = (
    Question(
        "gap",
        "What is missing?",
        (
            (BEHAVIOUR, "behaviour: form, tone, a skill"),
            (KNOWLEDGE, "knowledge: facts that the model does not have"),
            (BOTH, "both"),
        ),
        BEHAVIOUR,
        "rows teach behaviour better than facts",
    ),
    Question(
        "changes",
        "How often does what is asked for change?",
        tuple((value, "by the minute" if value == kinds.LIVE else value) for value in CHANGES),
        NEVER,
        "nothing was said about changes",
    ),
    Question(
        "tried",
        "What was tried and measured, and falls short?",
        tuple(TRIED.items()),
        (PROMPT, FEW_SHOT),
        "that both were and fall short; --measure finds it out",
        many=True,
    ),
    Question("rows", "How many examples with good answers are there?", (), 0, "none were shown", kind=int),
    Question("images", "Are images part of the question?", YES_NO, False, "none were seen"),
    Question(
        "verifiable",
        "Can a program check whether an answer is right?",
        YES_NO,
        False,
        "the rows name nothing to check answers against",
        when=_teaches,
    ),
    Question(
        "feedback",
        "What have people said about answers?",
        (
            (NO_FEEDBACK, "nothing"),
            (THUMBS, "thumbs up and down"),
            (PAIRS, "which of two answers is better"),
            (SCALE, "so much, all the time, that it cannot be read"),
        ),
        NO_FEEDBACK,
        "none was seen",
        when=_teaches,
    ),
    Question(
        "teacher",
        "Is there a larger model that does the task well? Its name (empty for none)",
        (),
        None,
        "none was named",
        when=_teaches,
    ),
    Question(
        "cost",
        "Is what it costs to run the problem?",
        YES_NO,
        False,
        "nothing was said about cost",
        when=lambda known: known["teacher"].value is not None,
    ),
    Question(
        "variants",
        "How many variants of the behaviour are wanted, such as one a customer?",
        (),
        1,
        "one behaviour is wanted",
        kind=int,
        when=_teaches,
    ),
)
NAMES = tuple(question.name for question in QUESTIONS)

# What a kind of rows says about the problem: the name of a fact, its value.
TOLD: dict[str, tuple[tuple[str, Any], ...]] = {
    kinds.CHAT: (),
    kinds.TEXT: (),
    kinds.BETTER_WORSE: (("feedback", PAIRS),),
    kinds.VOTES: (("feedback", THUMBS),),
    kinds.IMAGES: (("images", True),),
    kinds.GROUNDED: (("gap", BOTH), ("tried", (PROMPT, FEW_SHOT, kinds.RETRIEVAL))),
    kinds.TASKS: (("verifiable", True),),
    kinds.PROMPTS: (),
}
# What cannot be said of rows that show it, or of what can do with more than they show.
STRONGER = {PAIRS: (SCALE,), THUMBS: (PAIRS, SCALE)}


def seen(rows: Sequence[Rows]) -> Known:
    """What the rows tell about the problem; of several kinds of feedback the one that tells more."""
    known: Known = {}
    for one in sorted(rows, key=lambda one: one.kind != kinds.VOTES):  # pairs come after votes, and win
        for name, value in TOLD[one.kind]:
            known[name] = Fact(name, value, SEEN, f"{one.given} holds {kinds.KINDS[one.kind]}")
    if rows:
        known["rows"] = Fact("rows", sum(one.count for one in rows), SEEN)
    return known


def said(choose: ChooseConfig) -> Known:
    """What the settings say."""
    values = {name: vars(choose)[name] for name in NAMES if vars(choose)[name] is not None}
    return {name: Fact(name, tuple(v) if isinstance(v, list) else v, SAID) for name, v in values.items()}


def check(told: Known, shown: Known) -> None:
    """Refuse what is said against the rows."""
    faults = []
    for name in ("images", "feedback"):
        if name not in told or name not in shown or told[name].value == shown[name].value:
            continue
        if told[name].value not in STRONGER.get(shown[name].value, ()):
            mend = "leave it out, or show other rows"
            what = f"{told[name].setting.partition('=')[2]} is said, and {shown[name].why}"
            faults.append(Fault(f"choose.{name}", what, mend))
    if faults:
        raise UserError(faults)


def measured(tried: Fact, evidence: Evidence) -> Fact:
    """What was tried, now that cheap rungs were measured; what was assumed and not measured stays assumed."""
    rungs = {rung.rung for rung in evidence.rungs}
    shown = {now for now, rung in ((PROMPT, "prompted"), (FEW_SHOT, "few_shot")) if rung in rungs}
    value = tuple(one for one in TRIED if one in {*tried.value, *shown})
    unmeasured = [TRIED[one] for one in tried.value if one not in shown]
    if tried.how == ASSUMED and unmeasured:
        return Fact(tried.name, value, ASSUMED, f"that {listed(unmeasured)} fell short: it was not measured")
    return Fact(tried.name, value, MEASURED)


def complete(known: Known, ask: Callable[[Question], Any] | None) -> Known:
    """Everything that is open is asked, or else assumed; what does not matter is assumed in silence."""
    for question in QUESTIONS:
        if question.name in known:
            continue
        matters = question.when(known)
        answer = ask(question) if ask is not None and matters else None
        if answer is not None:
            known[question.name] = Fact(question.name, answer, ASKED)
        else:
            why = question.why if matters else ""
            known[question.name] = Fact(question.name, question.assumed, ASSUMED, why)
    return known


def read_answer(question: Question, text: str) -> Any:
    """What was typed, as a value; a ValueError says what is wrong with it. Nothing typed is None."""
    text = text.strip()
    if not text:
        return None
    if not question.answers:
        return _free(question, text)
    found = [_one(question, word.strip()) for word in (text.split(",") if question.many else [text])]
    return tuple(dict.fromkeys(found)) if question.many else found[0]


def _one(question: Question, word: str) -> Any:
    """A choice by its number, its value or the beginning of its words."""
    for number, (value, words) in enumerate(question.answers, 1):
        if word.casefold() in (
            str(number),
            str(value).casefold(),
            words.casefold(),
            words[:1] * (words in ("yes", "no")),
        ):
            return value
    raise ValueError(f"write a number from 1 to {len(question.answers)}, or {listed([w for _, w in question.answers])}")


def _free(question: Question, text: str) -> Any:
    if question.kind is not int:
        return text
    if not text.isdecimal() or (question.name == "variants" and int(text) < 1):
        raise ValueError("write a whole number")
    return int(text)
