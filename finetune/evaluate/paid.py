"""Tasks: what a run's own rewards pay for the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.data.rows import Chat
from finetune.errors import counted
from finetune.evaluate.hearing import Hearing, Way
from finetune.evaluate.questions import Asked
from finetune.log import log
from finetune.plan import RunPlan
from finetune.rewards.batch import Paid
from finetune.rewards.judge import Rewards, build
from finetune.rewards.settings import Rewarded
from finetune.rundir import read_facts

REWARD = "reward"
PART = f"{REWARD}."  # how the scores of single rewards begin


def rewards_of(plan: RunPlan | None) -> Rewarded | None:
    """What a run was paid for; none where it learned from no rewards."""
    method = plan.config.method if plan else None
    return method if isinstance(method, Rewarded) else None


@contextmanager
def opened(plan: RunPlan, rows: Sequence[Chat]) -> Iterator[Rewards]:
    """The rewards of a run, for rows that are to be answered; says which of the user's own have changed since."""
    settings = rewards_of(plan)
    assert settings is not None
    names = dict.fromkeys(name for row in rows for name in _columns(row))
    with build(settings, names, section="method.") as rewards:
        _say_changed(plan, rewards)
        yield rewards


def _say_changed(plan: RunPlan, rewards: Rewards) -> None:
    from finetune.lineage import LINEAGE

    path = Path(plan.run_dir) / LINEAGE
    known = read_facts(path).get("rewards", {}) if path.exists() else {}
    for file, digest in rewards.files.items():
        if file not in known:
            log.warning(f"{file}: nothing shows that the run was paid by this very file")
        elif known[file] != digest:
            log.warning(f"{file}: has changed since the run was trained; answers are paid as it is now")


class Payment:
    """What the rewards pay for what is said, as the scores of rows: all of them together, and each by itself."""

    def __init__(self, rewards: Rewards) -> None:
        self._rewards = rewards
        self._whole = sum(abs(part.weight) for part in rewards.parts) or 1.0
        self._last: tuple[Hearing, dict[str, tuple[float, ...]]] | None = None

    @property
    def ways(self) -> dict[str, Way]:
        """The scores by their names."""
        parts = [f"{PART}{part.name}" for part in self._rewards.parts]
        return {name: self._way(name) for name in (REWARD, *(parts if len(parts) > 1 else ()))}

    def _way(self, name: str) -> Way:
        return lambda heard: self._paid(heard)[name]

    def _paid(self, heard: Hearing) -> dict[str, tuple[float, ...]]:
        """Called once for what is heard: a reward may take long."""
        if self._last is None or self._last[0] is not heard:
            self._last = heard, self._pay(heard)
        return self._last[1]

    def _pay(self, heard: Hearing) -> dict[str, tuple[float, ...]]:
        asked = [row.messages[:-1] for row in heard.rows]
        names = dict.fromkeys(name for row in heard.rows for name in _columns(row))
        columns = {name: [_columns(row).get(name) for row in heard.rows] for name in names}
        scored = self._rewards.score(asked, [said.text for said in heard.said], columns)
        if silent := scored.totals.count(None):
            log.warning(f"no reward says anything of {silent:,} of {counted(len(asked), 'answer')}, which count as 0")
        found = {REWARD: tuple((total or 0.0) / self._whole for total in scored.totals)}
        return found | {f"{PART}{name}": _values(paid) for name, paid in scored.parts.items()}


def _values(paid: Paid) -> tuple[float, ...]:
    return tuple(value or 0.0 for value in paid.values)


def _columns(row: Chat) -> dict[str, object]:
    return row.columns if isinstance(row, Asked) else {}
