"""What rows of each shape are scored by: the one place that knows what pairs, votes and tasks have of their own.

Every row is asked as a conversation that ends in its reference (`questions.asked`); what differs is said here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetune.config import EvaluateConfig
from finetune.data.rows import Chat
from finetune.errors import UserError, listed
from finetune.evaluate import paid, preference
from finetune.evaluate.engines import Engine
from finetune.evaluate.hearing import Way, rejected
from finetune.evaluate.preference import PREFERENCE, PREFERENCE_MEAN, VOTE, VOTE_LIKELIHOOD
from finetune.evaluate.questions import Asked
from finetune.plan import RunPlan
from finetune.plan.table import NEW_TOKENS

EXACT = "exact"
SAID = {
    "chat": "conversations",
    "text": "plain text",
    "pair": "preference pairs",
    "vote": "votes",
    "task": "tasks",
}
# The metrics that rows of one shape alone have, the one first that decides where none is named.
OWN: dict[str, tuple[str, ...]] = {
    "pair": (PREFERENCE, PREFERENCE_MEAN),
    "vote": (VOTE, VOTE_LIKELIHOOD),
    "task": (paid.REWARD,),
}
BY_LIKELIHOOD = (*OWN["pair"], *OWN["vote"])  # which endpoints do not tell


@dataclass(frozen=True)
class Form:
    """How the rows of an evaluation are scored, besides by the text of the answers."""

    shape: str = "chat"
    has_references: bool = True  # which are good answers; those of tasks may be unknown
    payment: Mapping[str, Way] = field(default_factory=dict)  # of tasks
    room: int | None = None  # tokens of an answer where none are set; None: a little over the longest reference

    @property
    def compares_text(self) -> bool:
        """Whether answers are held against references: a completion that was voted down is none."""
        return self.has_references and self.shape != "vote"

    def ways(self, climber: Engine) -> dict[str, Way]:
        """The metrics that only these rows have."""
        if self.shape == "pair":
            return {PREFERENCE: preference.prefers, PREFERENCE_MEAN: preference.prefers_by_token}
        if self.shape == "vote":
            return {VOTE: preference.ranks_over(climber), VOTE_LIKELIHOOD: preference.ranks_by_token}
        return dict(self.payment)

    def can_be_shown(self, row: Chat) -> bool:
        """Whether a training row is a good example."""
        if not isinstance(row, Asked):
            return True
        return row.liked and (self.shape != "task" or _have_references([row]))

    def can_choose(self, rows: Sequence[Chat]) -> bool:
        """Whether training rows are enough to compare prompts on."""
        return len(rows) >= 2 and (self.shape != "vote" or len(set(preference.are_liked(rows))) == 2)

    def weighed(self, row: Chat) -> list[Chat]:
        """The conversations whose last answers are to be predicted whole, to score the row."""
        return [row, *([worse] if (worse := rejected(row)) else [])] if self.shape in ("pair", "vote") else []


def default_metric(shape: str, trained: RunPlan | None) -> str | None:
    """The metric that decides where none is named; plain text has but one."""
    return None if shape == "text" else _default(shape, is_paid=paid.rewards_of(trained) is not None)


def settled(settings: EvaluateConfig, form: Form) -> str:
    """The metric of an evaluation of answers."""
    return settings.metric or _default(form.shape, is_paid=bool(form.payment))


def _default(shape: str, *, is_paid: bool) -> str:
    return OWN[shape][0] if shape in OWN and (is_paid or shape != "task") else EXACT


def check_metric(metric: str | None, rows: Sequence[Chat], shape: str, trained: RunPlan | None) -> None:
    """Refuse a metric that rows of this shape cannot have."""
    key = f"evaluate.metric={metric}"
    owner = next((name for name, own in OWN.items() if metric in own), None)
    if shape == "text":
        return
    if owner not in (None, shape):
        mend = f"leave it out, which takes {default_metric(shape, trained)}"
        raise UserError.at(key, f"is of {SAID[owner or '']}, and these rows are {SAID[shape]}", mend)
    if shape == "vote":
        _check_votes(key, rows, owner)
    if metric == paid.REWARD and paid.rewards_of(trained) is None:
        what = "no run is named that learned from rewards, which would say what an answer is paid"
        raise UserError.at(key, what, "name the run first, or take another metric")
    if shape == "task" and owner is None and not _have_references(rows):
        what = "compares with right answers, and not every row has one"
        mend = f"name a run that learned from rewards, whose metric is {paid.REWARD}, or give rows with a right answer"
        raise UserError.at(key, what, mend)


def _check_votes(key: str, rows: Sequence[Chat], owner: str | None) -> None:
    if owner is None:
        what = "compares answers with a right one, and a completion that was voted on need not be any"
        raise UserError.at(key, what, f"leave it out, or take one of {listed(OWN['vote'])}")
    counts = Counter(preference.are_liked(rows))
    liked, disliked = counts[True], counts[False]
    if min(liked, disliked) < preference.FEWEST:
        what = f"{liked} of the rows are voted up and {disliked} down, which is too few to tell an order from chance"
        mend = f"give at least {preference.FEWEST} of each, or raise evaluate.rows"
        raise UserError.at("data.eval", what, mend)


@contextmanager
def formed(shape: str, rows: Sequence[Chat], trained: RunPlan | None) -> Iterator[Form]:
    """How rows of a shape are scored; the rewards of tasks have processes, which end with this."""
    form = Form(shape, shape != "task" or _have_references(rows))
    if shape != "task" or trained is None or paid.rewards_of(trained) is None:
        yield form
        return
    with paid.opened(trained, rows) as rewards:
        room = trained.resolved.method.get(NEW_TOKENS)
        yield Form(shape, form.has_references, paid.Payment(rewards).ways, room)


def _have_references(rows: Sequence[Chat]) -> bool:
    return all(row.messages[-1]["content"] for row in rows)
