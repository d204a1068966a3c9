"""What tuning did besides the held-out rows, as a person reads it: in lines, and as the cells of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluate import table

NAMES = {
    "kl": "divergence from the base, nats a token",
    "nll": "NLL per token of the base's answers",
    "length": "typical tokens of an answer",
    "stopped": "ended by themselves",
    "language": "in the prompt's language (rough)",
    "refused": "ordinary prompts refused (rough)",
    "refused_unsafe": "prompts refused that should be (rough)",
    "unchanged": "answers unchanged",
}
SHARES = ("stopped", "language", "refused", "refused_unsafe", "unchanged")
HEADS = ("", "base", "tuned", "change", "95 % interval", "prompts")

Measure = Mapping[str, Any]
Points = Sequence[Mapping[str, Any]]


def evaluation_text(result: Mapping[str, Any]) -> str:
    """The table of the rungs, and under it all that was measured besides."""
    return "\n".join([table.answer_table(result), *change_lines(result)])


def change_lines(result: Mapping[str, Any]) -> list[str]:
    """What was measured besides the rungs; nothing where nothing was."""
    lines = ["", *forgetting_lines(found)] if (found := result.get("forgetting")) else []
    if points := result.get("strengths"):
        lines += ["", *_aligned(strength_cells(points, result["metric"]))]
    if tasks := result.get("tasks"):
        lines += ["", *_aligned(task_cells(tasks)), *(f"exceeded: {line}" for line in tasks["exceeded"])]
    return lines


def forgetting_lines(found: Mapping[str, Any]) -> list[str]:
    """The neutral prompts in a few lines."""
    of = {one["name"]: one for one in found["measures"]}
    kl, same, length = of["kl"], of["unchanged"], of["length"]
    sizes = " → ".join(_value(length, length[side]) for side in ("base", "tuned"))
    lines = [
        f"on {found['prompts']} neutral prompts, tuned against base:",
        f"  {kl['change']:.3f} nats a token apart ({_interval(kl)}), {_share(same['change'])} of the answers unchanged",
        f"  typical answer {sizes} tokens, × {length['change']:.2f} ({_interval(length)})",
        f"  {_both(of['stopped'])} ended by themselves",
    ]
    said = [f"{_both(of[name])} {words} ({of[name]['n']} told)" for name, words in _ROUGH.items() if name in of]
    lines += [f"  roughly {'; '.join(said)}"] if said else []
    return [*lines, *(f"  {line}" for line in remarks(found))]


_ROUGH = {
    "language": "in the prompt's language",
    "refused": "of ordinary prompts refused",
    "refused_unsafe": "refused of those that should be",
}


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the measures rightly, and the limits that are exceeded."""
    sure = f"{found['base_nll']:.2f} nats a token"
    unsure = f"the base itself is unsure of its answers ({sure}): they show change, not lost knowledge"
    return [*([unsure] if found["base_unsure"] else []), *(f"exceeded: {line}" for line in found["exceeded"])]


def forgetting_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A row for each measure, the heads first."""
    return [list(HEADS), *(_cells(one) for one in found["measures"])]


def kind_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """The divergence of each kind of prompt, the heads first."""
    rows = [[one["kind"], f"{one['kl']:.3f}", str(one["prompts"])] for one in found["kinds"]]
    return [["kind of prompt", "nats a token", "prompts"], *rows]


def strength_cells(points: Points, metric: str) -> list[list[str]]:
    """Score and divergence at each strength of the adapter, the heads first."""
    name = table.metric_name(metric)
    heads = ["strength", name, "95 % interval", "nats from the base", "95 % interval"]
    return [heads, *(_strength(point, metric) for point in points)]


def _strength(point: Mapping[str, Any], metric: str) -> list[str]:
    low, high = (table.shown_score(metric, bound) for bound in point["score_interval"])
    near, far = point["kl_interval"]
    score, kl = table.shown_score(metric, point["score"]), f"{point['kl']:.3f}"
    return [f"{point['strength']:g}", score, f"{low.removesuffix(' %')} – {high}", kl, f"{near:.3f} – {far:.3f}"]


def task_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A row for each metric of each task, the heads first."""
    heads = ["task", "metric", "base", "tuned", "difference", "95 % interval", "p", "documents", ""]
    return [heads, *map(_task, found["metrics"])]


def _task(one: Mapping[str, Any]) -> list[str]:
    low, high = one["interval"]
    values = [f"{one['base']:.3f}", f"{one['tuned']:.3f}", f"{one['difference']:+.3f}", f"{low:+.3f} – {high:+.3f}"]
    return [one["task"], one["metric"], *values, f"{one['p_corrected']:.3f}", str(one["n"]), one["verdict"]]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(one: Measure) -> list[str]:
    low, high = one["interval"]
    sides = ["", ""] if one["base"] is None else [_value(one, one["base"]), _value(one, one["tuned"])]
    interval = (
        f"{_change(one, low).removesuffix(' points').removesuffix(' %')} – {_change(one, high).removeprefix('× ')}"
    )
    return [NAMES[one["name"]], *sides, _change(one, one["change"]), interval, str(one["n"])]


def _value(one: Measure, value: float) -> str:
    if one["name"] in SHARES:
        return _share(value)
    return f"{value:.2f}" if one["name"] == "length" else f"{value:.3f}"


def _change(one: Measure, value: float) -> str:
    if one["name"] == "length":
        return f"× {value:.2f}"
    if one["base"] is None:
        return _value(one, value)
    return f"{100 * value:+.1f} points" if one["name"] in SHARES else f"{value:+.3f}"


def _both(one: Measure) -> str:
    return f"{_share(one['base'])} → {_share(one['tuned'])}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(one: Measure) -> str:
    low, high = one["interval"]
    return f"95 % interval {low:.3g} to {high:.3g}"
