"""The rewards of a run, ready to pay: built once from the settings, called with every batch of answers."""

from __future__ import annotations

import math
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from finetune.data.workers import Crew, Lost, cores
from finetune.errors import Fault, UserError, listed
from finetune.log import log
from finetune.rewards.batch import Batch, Paid, Pay, Text, batch_of, finite
from finetune.rewards.cases import BadTest, read_cases
from finetune.rewards.code import Limits, check_system, score_code
from finetune.rewards.known import REWARDS, Options, Reward, paid_apart, way_of
from finetune.rewards.own import Own, is_own, load
from finetune.rewards.settings import Rewarded, faults_of

REFERENCES = ("answer", "reference_answer", "solution", "reference", "target")


@dataclass(frozen=True)
class Part:
    """One reward, ready to pay."""

    name: str
    weight: float
    pay: Pay
    compares: bool  # it can know what is right
    crew: Crew | None = None  # its processes
    own: Own | None = None


@dataclass(frozen=True)
class Scored:
    """What a batch of answers is paid; none where nothing was said."""

    totals: tuple[float | None, ...]
    parts: dict[str, Paid]


@dataclass(frozen=True)
class Rewards:
    """All rewards of a run. Close it, or use it in a `with` block, to end its processes."""

    parts: tuple[Part, ...]
    reference: str | None  # the column with the right answers, if there is one
    tests: str | None  # the column with tests, if some reward runs them
    tags: tuple[str, ...]
    key: str  # the setting that names the rewards, for messages
    _said: set[str] = field(default_factory=set, compare=False, repr=False)  # whose trace was logged

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Sequence[Any]]
    ) -> Scored:
        """What each completion is paid: by each reward, and the weighted sum of those that said something."""
        batch = batch_of(prompts, completions, columns, self.tags)
        paid = {part.name: self._told(part, part.pay(batch)) for part in self.parts}
        return Scored(tuple(self._sum(paid, at) for at in range(len(batch.answers))), paid)

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of the rewards."""
        for part in self.parts:
            if part.crew is not None:
                part.crew.end()

    @property
    def files(self) -> dict[str, str]:
        """The files of the user's own rewards, and the SHA-256 of each, for the record of the run."""
        return {part.own.path: part.own.sha256 for part in self.parts if part.own is not None}

    def _sum(self, paid: Mapping[str, Paid], at: int) -> float | None:
        said = [(part.weight, paid[part.name].values[at]) for part in self.parts]
        known = [weight * value for weight, value in said if value is not None]
        return math.fsum(known) if known else None

    def _told(self, part: Part, paid: Paid) -> Paid:
        """What was paid, after its first exception was logged."""
        if (paid.trace or paid.refused) and part.name not in self._said:
            self._said.add(part.name)
            log.warning(
                "the reward %s failed on a batch, which gets nothing from it: %s", part.name, paid.trace or paid.refused
            )
        return paid


def build(settings: Rewarded, columns: Collection[str], given: Collection[str] = (), section: str = "") -> Rewards:
    """The rewards that the settings name, for rows with these columns; every fault is raised at once.

    `given` are the settings that were given, to refuse those without effect; `section`, such as `method.`, is where
    they stand.
    """
    key = f"{section}rewards"
    if faults := faults_of(settings, given, section):
        raise UserError(faults)
    reference, faults = _reference(settings, columns, section)
    if "code" in settings.rewards and settings.tests not in columns:
        what = f"no row has the column {settings.tests}, whose tests `code` runs"
        faults.append(Fault(f"{section}tests", what, f"name the column; there are {listed(sorted(columns))}"))
    if faults:
        raise UserError(faults)
    weights = settings.reward_weights or [1.0] * len(settings.rewards)
    parts: list[Part] = []
    for name, weight in zip(settings.rewards, weights, strict=True):
        try:
            parts.append(
                _own(name, weight, settings, key)
                if is_own(name)
                else _known(name, weight, settings, section, reference)
            )
        except UserError as error:
            faults += error.faults
    rewards = Rewards(
        tuple(parts), reference, settings.tests if "code" in settings.rewards else None, tuple(settings.tags), key
    )
    if faults := [*faults, *_misnamed(rewards), *_lacking(rewards, columns)]:
        rewards.close()
        raise UserError(faults)
    return rewards


def _reference(settings: Rewarded, columns: Collection[str], section: str) -> tuple[str | None, list[Fault]]:
    """The column with the right answers."""
    given, needing = settings.reference, [name for name in settings.rewards if name in REWARDS and _compares(name)]
    if given is not None:
        if given in columns:
            return given, []
        mend = f"there are {listed(sorted(columns))}"
        return None, [Fault(f"{section}reference", f"no row has a column {given}", mend)]
    found = next((name for name in REFERENCES if name in columns), None)
    if found is None and needing:
        what = f"{listed(needing)} compare with the right answer, and no row has a column {listed(REFERENCES)}"
        return None, [
            Fault(f"{section}reference", what, f"name the column; there are {listed(sorted(columns)) or 'none'}")
        ]
    return found, []


def _compares(name: str) -> bool:
    return REWARDS[name].compares and REWARDS[name].way is not None


def _own(name: str, weight: float, settings: Rewarded, key: str) -> Part:
    own = load(name, key, settings.reward_timeout)
    return Part(own.function, weight, own.pay, own.knows_rows, own.crew, own)


def _known(name: str, weight: float, settings: Rewarded, section: str, reference: str | None) -> Part:
    reward = REWARDS[name]
    if name == "code":
        check_system()
        limits = Limits(settings.code_seconds, settings.code_memory)
        return Part(name, weight, partial(_pay_code, limits, settings.tests), compares=True)
    options = _options(settings, section)
    column = reference if reward.compares else None
    way_of(name, options)  # raises what is wrong with its settings
    if not reward.apart:
        return Part(name, weight, partial(_pay_here, name, reward, options, column), reward.compares)
    crew = Crew(
        partial(paid_apart, name, options),
        cores(),
        seconds=settings.reward_timeout,
        begin=partial(way_of, name, options),
    )
    return Part(name, weight, partial(_pay_apart, crew, column), reward.compares, crew)


def _options(settings: Rewarded, section: str) -> Options:
    return Options(
        settings.pattern,
        settings.schema,
        settings.tolerance,
        tuple(settings.tags),
        settings.least_words,
        settings.most_words,
        f"{section}schema",
    )


def _right(batch: Batch, column: str | None) -> list[str | None]:
    return [""] * len(batch.answers) if column is None else batch.references(column)


def _pay_here(name: str, reward: Reward, options: Options, column: str | None, batch: Batch) -> Paid:
    way, answers = way_of(name, options), batch.answers if reward.whole else batch.said
    pairs = zip(answers, _right(batch, column), strict=True)
    return Paid(tuple(None if right is None else way(answer, right) for answer, right in pairs))


def _pay_apart(crew: Crew, column: str | None, batch: Batch) -> Paid:
    pairs = [*zip(batch.said, _right(batch, column), strict=True)]
    there = [at for at, (_, right) in enumerate(pairs) if right is not None]
    values: list[float | None] = [None] * len(pairs)
    lost = list[Lost]()
    for at, found in zip(there, crew.mapped([pairs[at] for at in there]), strict=True):
        if isinstance(found, Lost):
            lost.append(found)
        else:
            values[at] = found
    late = sum(one.late for one in lost)
    return finite(Paid(tuple(values), exceptions=len(lost) - late, timeouts=late))


def _pay_code(limits: Limits, column: str, batch: Batch) -> Paid:
    values: list[float | None] = [None] * len(batch.said)
    there, trace = {}, ""
    for at, tests in enumerate(batch.columns[column]):
        if tests is not None:
            try:
                there[at] = read_cases(tests)
            except BadTest:
                trace = trace or traceback.format_exc()
    bad = sum(tests is not None for tests in batch.columns[column]) - len(there)
    paid = score_code([batch.said[at] for at in there], [*there.values()], limits)
    for at, value in zip(there, paid, strict=True):
        values[at] = value
    return Paid(tuple(values), exceptions=bad, trace=trace)


def _misnamed(rewards: Rewards) -> list[Fault]:
    names = [part.name for part in rewards.parts]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [Fault(rewards.key, f"two rewards are called {name}", "call the function otherwise") for name in twice]


def _lacking(rewards: Rewards, columns: Collection[str]) -> list[Fault]:
    """What functions of the user's own want and no column gives."""
    there = f"rows have {listed(sorted(columns)) or 'none'}"
    return [
        Fault(
            f"{rewards.key} {part.name}",
            f"wants {name}, which is no column of the rows",
            f"{there}; or give it a default",
        )
        for part in rewards.parts
        if part.own is not None
        for name in part.own.lacking(columns)
    ]
