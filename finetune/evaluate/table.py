"""The comparison as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"base": "base", "few_shot": "base + examples", "tuned": "tuned"}
METRICS = {
    "exact": "exact",
    "contains": "contains",
    "f1": "F1",
    "json_valid": "valid JSON",
    "json_fields": "fields right",
    "nll": "NLL per token",
}


def answer_table(result: Mapping[str, Any]) -> str:
    """The rungs, one a line, and the verdict under them."""
    rows = cells(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", verdict_line(result)])


def cells(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's cells, the heads first."""
    return [_heads(result), *(_cells(rung, result) for rung in result["rungs"])]


def verdict_line(result: Mapping[str, Any]) -> str:
    """The verdict in one sentence, with the difference it rests on."""
    against = next(one for one in result["comparisons"] if one["against"] == result["best_baseline"])
    baseline, rows = _name(against["against"]), result["held_out"]["rows"]
    low, high = (_gap(bound, result).removesuffix(" points") for bound in against["interval"])
    found = f"{_gap(against['difference'], result)} (95 % interval {low} to {high}"
    what, p = METRICS.get(result["metric"], result["metric"]), _p(against["p_corrected"])
    line = f"{result['verdict']}: tuned against {baseline}, {what} {found}, p {p}), on {rows} held-out rows"
    if result["verdict"] != "inconclusive" or not result["underpowered"]:
        return line
    if against["detectable"] >= 1 and result["metric"] in METRICS:
        return f"{line}; underpowered: so few rows can show no difference at all"
    least = _gap(against["detectable"], result, sign="")
    return f"{line}; underpowered: so few rows show only differences over {least}"


def extra_metrics(result: Mapping[str, Any]) -> list[str]:
    """The metrics shown beside the one that decides."""
    known = result["rungs"][0].get("scores", {})
    structured = [name for name in ("json_valid", "json_fields") if name in known]
    return [name for name in structured or ("contains", "f1") if name in known and name != result["metric"]]


def shown_score(metric: str, value: float) -> str:
    """A score as people write it."""
    return f"{value:.3f}" if metric == "nll" else f"{100 * value:.1f} %"


def _heads(result: Mapping[str, Any]) -> list[str]:
    heads = ["", METRICS.get(result["metric"], result["metric"]), "95 % interval"]
    if result["metric"] != "nll":
        heads += [METRICS[name] for name in extra_metrics(result)] + ["tokens", "NLL"]
    return heads


def _cells(rung: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    metric = result["metric"]
    low, high = rung["interval"]
    # one percent sign is enough for both ends
    interval = f"{shown_score(metric, low).removesuffix(' %')} – {shown_score(metric, high)}"
    row = [rung_name(rung), shown_score(metric, rung["score"]), interval]
    if metric != "nll":
        row += [shown_score(name, rung["scores"][name]) for name in extra_metrics(result)]
        row += [f"{rung['tokens_per_answer']:.1f}", f"{rung['nll_per_token']:.3f}"]
    return row


def rung_name(rung: Mapping[str, Any]) -> str:
    """What a rung is called in a table."""
    count = len(rung.get("examples", ()))
    return f"base + {count} example{'s' * (count > 1)}" if count else _name(rung["name"])


def _name(rung: str) -> str:
    return NAMES.get(rung, rung)


def _gap(value: float, result: Mapping[str, Any], sign: str = "+") -> str:
    if result["metric"] == "nll":
        return f"{value:{sign}.3f}"
    return f"{100 * value:{sign}.1f} points"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
