"""What the held-out rows will be able to show, said before anything is trained."""

from __future__ import annotations

from finetune.config import RunConfig
from finetune.data.prepare import PreparedData
from finetune.evaluate.stats import DISCORDANT, Reach, detectable_difference, foretell

ASSUMED = f"where {DISCORDANT:.0%} of the rows are right with one model only"


def reach(config: RunConfig, data: PreparedData) -> Reach | None:
    """What the rows that will be answered can show; nothing where they are not each right or wrong by themselves."""
    held_out = data.held_out
    if held_out is None or data.shape in ("text", "vote"):
        return None
    answered = min(held_out.rows, config.evaluate.rows)
    groups = held_out.groups or held_out.rows
    return foretell(answered, min(answered, groups))


def describe_reach(found: Reach, data: PreparedData) -> str:
    """One line on it, with what it takes for granted."""
    every = data.held_out.rows if data.held_out else 0
    rows = f"{found.rows:,} of {every:,}" if found.rows < every else f"{found.rows:,}"
    shown, grouped = _difference(found.detectable), _difference(found.detectable_in_groups)
    groups = f" in {found.groups:,} groups" if found.groups < found.rows else ""
    together = f", or {grouped} should the rows of a group all go the same way" if groups else ""
    needed = f"{_points(found.wanted)} take about {_round(found.rows_needed):,} rows"
    # a difference cannot be larger than the share of rows that differ
    one_way = " if no row goes the other way" if DISCORDANT < found.detectable < 1 else ""
    return f"{rows} held-out rows{groups} can show {shown}{one_way}{together}; {needed} ({ASSUMED})"


def warn_reach(config: RunConfig, data: PreparedData, found: Reach | None) -> tuple[str, ...]:
    """Whether evaluate.rows leaves held-out rows out that are needed to see what is wanted."""
    if found is None or data.held_out is None or found.rows >= min(data.held_out.rows, found.rows_needed):
        return ()
    more = min(data.held_out.rows, _round(found.rows_needed))
    now, then = (_difference(detectable_difference(rows)) for rows in (found.rows, more))
    rows = f"evaluate.rows={config.evaluate.rows} leaves out some of the {data.held_out.rows:,} held-out rows"
    return (f"{rows} and can show {now}; evaluate.rows={more} would show {then}",)


def _difference(share: float) -> str:
    return "no difference" if share >= 1 else f"a difference of {_points(share)}"


def _points(share: float) -> str:
    points = f"{100 * share:.0f}"
    return f"{points} point{'s' * (points != '1')}"


def _round(rows: int) -> int:
    """Two figures: it is a guess."""
    step = int(10 ** max(0, len(str(rows)) - 2))
    return -(-rows // step) * step
