"""Whether rewards can be trusted: what they pay for good answers, bad ones, and those by which they are cheated.

A reward fails when it pays good answers no more than others that hold no answer, or one of the cheats more than the
median good answer; an answer that lists every option, or begins like the right one, counts as holding none. What only
pays for form is judged in the sum of all rewards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from finetune.errors import listed
from finetune.rewards.batch import Paid, Task
from finetune.rewards.battery import ADVERSARIES, BAD, GOOD, Asked, answers, asked, right_answers
from finetune.rewards.judge import Rewards, Scored

SUM = "sum"
KINDS = (GOOD, BAD, *ADVERSARIES)
MOST_ROWS = 0.1  # share of the rows in which a cheat may be paid more than the median good answer
NEARLY = 1e-9


@dataclass(frozen=True)
class Tried:
    """What one kind of answer was paid; none where nothing was said of it."""

    median: float | None
    mean: float | None
    above: float  # share of the rows in which it was paid more than the median good answer
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How a reward did, and why it fails, if so."""

    name: str
    judged: bool  # by itself; what pays for form only is judged in the sum
    tried: dict[str, Tried]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Verified:
    """How all rewards did."""

    rows: int
    verdicts: tuple[Verdict, ...]

    @property
    def failing(self) -> tuple[str, ...]:
        """The rewards that fail."""
        return tuple(verdict.name for verdict in self.verdicts if verdict.reasons)


def verify(
    rewards: Rewards, rows: Sequence[Task], good: Sequence[str] | None = None, bad: Sequence[str] | None = None
) -> Verified:
    """Try the rewards on rows; good answers are, when none are given, the right ones, bad ones those of other rows."""
    if good is None:
        rows, good = right_answers(rows, rewards.reference)
    trials = asked(rows, good, bad)
    scored = {kind: _score(rewards, trials, kind) for kind in KINDS}
    verdicts = [_verdict(part.name, part.compares, _of_part(scored, part.name)) for part in rewards.parts]
    if len(verdicts) > 1 or not verdicts[0].judged:
        sums = {kind: Paid(one.totals) for kind, one in scored.items()}
        verdicts.append(_verdict(SUM, True, sums))
    return Verified(len(rows), tuple(verdicts))


def _score(rewards: Rewards, trials: Sequence[Asked], kind: str) -> Scored:
    given = answers(trials, kind, rewards.tags)
    tasks = [trials[at].task for at in given]
    names = dict.fromkeys(name for trial in trials for name in trial.task.columns)
    columns = {name: [task.columns.get(name) for task in tasks] for name in names}
    return rewards.score([task.messages for task in tasks], [*given.values()], columns)


def _of_part(scored: Mapping[str, Scored], name: str) -> dict[str, Paid]:
    return {kind: one.parts[name] for kind, one in scored.items()}


def _verdict(name: str, judged: bool, paid: Mapping[str, Paid]) -> Verdict:
    good = _known(paid[GOOD])
    middle = median(good) if good else None
    tried = {kind: _tried(one, middle) for kind, one in paid.items()}
    reasons = [*_troubles(tried), *(_reasons(tried, middle) if judged else ())]
    return Verdict(name, judged, tried, tuple(reasons))


def _tried(paid: Paid, middle: float | None) -> Tried:
    known = _known(paid)
    above = sum(middle is not None and value > middle + NEARLY for value in known) / max(1, len(known))
    kinds = {"an exception": paid.exceptions, "no answer in time": paid.timeouts, "no number": paid.not_finite}
    troubles = tuple(what for what, count in kinds.items() if count)
    return Tried(median(known) if known else None, fmean(known) if known else None, above, troubles)


def _known(paid: Paid) -> list[float]:
    return [value for value in paid.values if value is not None]


def _troubles(tried: Mapping[str, Tried]) -> Iterator[str]:
    for what in dict.fromkeys(what for one in tried.values() for what in one.troubles):
        yield f"gives {what} on {listed([kind for kind, one in tried.items() if what in one.troubles], 4)}"


def _reasons(tried: Mapping[str, Tried], middle: float | None) -> Iterator[str]:
    if middle is None:
        yield "says nothing of good answers"
        return
    more, as_much, at_times = list[str](), list[str](), list[str]()
    for kind, one in ((kind, tried[kind]) for kind in KINDS[1:]):
        holds = kind in ADVERSARIES and ADVERSARIES[kind].holds
        if one.mean is not None and one.mean > middle + NEARLY:
            more.append(f"{kind} ({one.mean:.3g})")
        elif one.mean is not None and one.mean > middle - NEARLY and not holds:
            as_much.append(kind)
        elif one.above > MOST_ROWS:
            at_times.append(f"{kind} ({one.above:.0%} of the rows)")
    for how, kinds in {"more than": more, "as much as": as_much, "often more than": at_times}.items():
        if kinds:
            yield f"pays {how} the {middle:.3g} of good answers for: {listed(kinds, len(kinds))}"
