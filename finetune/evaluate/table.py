"""The comparison as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = {
    "exact": "exact",
    "contains": "contains",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "numeric": "number right",
    "choice": "class right",
    "json_valid": "valid JSON",
    "json_fields": "fields right",
    "json_schema": "as the schema",
    "regex": "pattern right",
    "nll": "NLL per token",
    "accuracy": "pairs right",
    "preference": "chosen preferred",
    "preference_mean": "by token",
    "vote": "liked above disliked",
    "vote_likelihood": "by likelihood",
    "reward": "reward",
}
CHOSEN = ("nll", "accuracy")  # of models that answered nothing
OWN = ("preference", "preference_mean", "vote", "vote_likelihood", "reward")  # of rows of one shape
PART = "reward."  # how the scores of single rewards begin
LONGEST_QUOTE = 40  # characters of an answer in a sentence
SHOWN_CONFUSIONS = 3  # classes that a class is taken for, in a table


def answer_table(result: Mapping[str, Any]) -> str:
    """The rungs, one a line, and the verdict under them."""
    rows = cells(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    classes = [class_line(rung, result) for rung in result["rungs"] if "classes" in rung]
    said = [verdict_line(result), *majority_lines(result), *pair_lines(result)]
    return "\n".join([*lines, "", *said, *classes, *other_lines(result)])


def cells(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's cells, the heads first."""
    return [_heads(result), *(_cells(rung, result) for rung in result["rungs"])]


def verdict_line(result: Mapping[str, Any]) -> str:
    """The verdict in one sentence, with the difference it rests on."""
    rows = result["held_out"]["rows"]
    against = next((one for one in result["comparisons"] if one["against"] == result["best_baseline"]), None)
    if against is None:
        return f"no verdict: there is nothing to compare with, on {rows} held-out rows"
    judged = next(rung for rung in result["rungs"] if rung["name"] == "tuned")
    found = f"{metric_name(result['metric'])} {_difference(against, result)}"
    pair = f"{rung_name(judged, result)} against {_name(against['against'], result)}"
    line = f"{result['verdict']}: {pair}, {found}, on {rows} held-out rows{_among(result)}"
    if (most := result.get("majority")) and most["verdict"] != "better":
        line += f"; {_short_of(most)} always answering {_quoted(most)}"
    if (length := result.get("length")) and length["verdict"] != "better":
        line += f"; {_short_of(length)} always taking the {length['rule']} answer for the better one"
    if result["verdict"] != "inconclusive" or not result["underpowered"]:
        return line
    if against["detectable"] >= 1 and in_percent(result["metric"]):
        return f"{line}; underpowered: so few rows can show no difference at all"
    least = _gap(against["detectable"], result, sign="")
    return f"{line}; underpowered: so few rows show only differences over {least}"


def _difference(against: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """How far the first target is from another rung, and how sure that is."""
    low, high = (_gap(bound, result).removesuffix(" points") for bound in against["interval"])
    # of several comparisons p is corrected for their number; the intervals beside it stand as they are
    p = f"{'corrected ' * (len(result['comparisons']) > 1)}p {_p(against['p_corrected'])}"
    return f"{_gap(against['difference'], result)} (95 % interval {low} to {high}, {p})"


def _short_of(rule: Mapping[str, Any]) -> str:
    return "worse than" if rule["verdict"] == "worse" else "not shown to beat"


def majority_lines(result: Mapping[str, Any]) -> list[str]:
    """What a rule without a model would score, and how far the first target is from it; nothing where nobody knows."""
    lines = []
    if found := result.get("majority"):
        what = f"always answering {_quoted(found)}, the commonest training answer, scores"
        lines.append(f"{what} {_rule(found, result)}")
    if found := result.get("length"):
        lines.append(f"always taking the {found['rule']} answer for the better one scores {_rule(found, result)}")
    return lines


def _rule(found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    low, high = (_gap(bound, result).removesuffix(" points") for bound in found["interval"])
    gap = f"{judged_name(result)} {_gap(found['difference'], result)} (95 % interval {low} to {high})"
    return f"{shown_score(result['metric'], found['score'])}: {gap}"


def pair_lines(result: Mapping[str, Any]) -> list[str]:
    """How often a reward model is right where the length of the answers says nothing, or the wrong thing."""
    if result["metric"] != "accuracy":
        return []
    parts = [(one["name"], shown_score("accuracy", one["scores"]["tuned"]), one["n"]) for one in result["slices"]]
    said = "; ".join(f"{name}: {score} of {n:,} pairs" for name, score, n in parts)
    return [f"answers {said}"] if parts else []


def slice_cells(result: Mapping[str, Any]) -> list[list[str]]:
    """Parts of the rows: the first target against the best baseline in each, the heads first."""
    metric, best = result["metric"], result["best_baseline"]
    rows = []
    for one in result.get("slices", ()):
        scores = [shown_score(metric, one["scores"][name]) for name in (best, "tuned")]
        low, high = (_gap(bound, result).removesuffix(" points") for bound in one["interval"])
        difference = [_gap(one["difference"], result), f"{low} to {high}"]
        rows.append([f"{one['by']}: {one['name']}", *scores, *difference, f"{one['n']:,}"])
    names = [_name(best, result), judged_name(result)] if rows else ["", ""]
    return [["", *names, "difference", "95 % interval", "rows"], *rows]


def slices_left_out(result: Mapping[str, Any]) -> str:
    """The parts of the rows that are not shown, in one line; nothing where all are."""
    small = result.get("slices_left_out", ())
    if not small:
        return ""
    parts = ", ".join(f"{one['by']} {one['name']} ({one['n']})" for one in small)
    count = f"{len(small)} part{'s' * (len(small) > 1)} of the rows"
    return f"Not shown, with too few rows or no other part to compare with: {count}, with their rows: {parts}"


def other_lines(result: Mapping[str, Any]) -> list[str]:
    """What else a reader has to know: the other targets, what was left out, rows that were trained on."""
    lines = []
    for one in result["comparisons"]:
        if one["against"] not in ("base", "prompted", "few_shot", result["best_baseline"]):
            pair = f"{judged_name(result)} against {_name(one['against'], result)}"
            lines.append(f"{one['verdict']}: {pair}, {metric_name(result['metric'])} {_difference(one, result)}")
    prompts = result.get("prompts")
    if prompts and prompts["by"] != result["metric"]:
        lines.append(f"the prompt was chosen by {prompts['by']}, when these rows were first evaluated")
    lines += [f"left out: {one['rung']}, since {one['why']}" for one in result.get("left_out", ())]
    if rows := sum(one["rows"] for one in result.get("contamination", ())):
        lines.append(f"warning: {rows} held-out rows stand in training rows too, which was allowed")
    return lines


def class_cells(rung: Mapping[str, Any]) -> list[list[str]]:
    """What became of the rows of each class on a rung, the heads first; nothing where there are no classes."""
    if "classes" not in rung:
        return []
    heads = ["class", "rows", "precision", "recall", "F1", "taken for"]
    return [heads, *(_class(one) for one in rung["classes"])]


def class_line(rung: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The classes of a rung in one sentence."""
    none, count = rung["no_class"], len(rung["classes"])
    said = f"{none} answer{'s' * (none != 1)} of {rung['n']} name{'s' * (none == 1)} no class"
    return f"{rung_name(rung, result)}: mean F1 of {count} classes {shown_score('choice', rung['macro_f1'])}; {said}"


def extra_metrics(result: Mapping[str, Any]) -> list[str]:
    """The metrics shown beside the one that decides: the usual ones, and those that a setting was given for."""
    every = [rung.get("scores", {}) for rung in result["rungs"]]
    known = [name for name in every[0] if all(name in scores for scores in every)]  # endpoints tell no likelihoods
    structured = [name for name in ("json_valid", "json_fields") if name in known]
    asked = ["json_schema", "regex"]  # without their setting nobody computes them
    if result.get("settings", {}).get("tolerance"):
        asked.append("numeric")
    own = [name for name in known if name in OWN or name.startswith(PART)]
    shown = [*own, *(structured or ("contains", "f1")), *asked]
    return [name for name in shown if name in known and name != result["metric"]]


def metric_name(metric: str) -> str:
    """What a metric is called."""
    return METRICS.get(metric) or (f"paid {metric.removeprefix(PART)}" if metric.startswith(PART) else metric)


def in_percent(metric: str) -> bool:
    """Whether a metric is a share; likelihoods are none, and rewards need not be."""
    return metric not in ("nll", "reward") and not metric.startswith(PART)


def shown_score(metric: str, value: float) -> str:
    """A score as people write it."""
    return f"{100 * value:.1f} %" if in_percent(metric) else f"{value:.3f}"


def _quoted(found: Mapping[str, Any]) -> str:
    text = " ".join(found["answer"].split())
    return f"“{text if len(text) <= LONGEST_QUOTE else f'{text[:LONGEST_QUOTE]} …'}”"


def _among(result: Mapping[str, Any]) -> str:
    """In how many groups the rows came, where they were not each on its own."""
    rows, groups = result["held_out"]["rows"], result["held_out"].get("groups")
    return f" in {groups} groups" if groups and groups < rows else ""


def _class(one: Mapping[str, Any]) -> list[str]:
    precision = "–" if one["precision"] is None else shown_score("choice", one["precision"])
    wrong = [said for said in one["answers"] if said["label"] != one["label"]]
    taken = ", ".join(f"{said['label'] or 'no class'} {said['rows']}" for said in wrong[:SHOWN_CONFUSIONS])
    scores = [shown_score("choice", one[name]) for name in ("recall", "f1")]
    return [one["label"], str(one["rows"]), precision, *scores, taken]


def _heads(result: Mapping[str, Any]) -> list[str]:
    heads = ["", metric_name(result["metric"]), "95 % interval"]
    if result["metric"] not in CHOSEN:
        heads += [metric_name(name) for name in extra_metrics(result)]
        heads += ["NLL", "stopped", "tokens in", "out", "s/answer"]
    return heads


def _cells(rung: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    metric = result["metric"]
    low, high = rung["interval"]
    # one percent sign is enough for both ends
    interval = f"{shown_score(metric, low).removesuffix(' %')} – {shown_score(metric, high)}"
    row = [rung_name(rung, result), shown_score(metric, rung["score"]), interval]
    if metric not in CHOSEN:
        row += [shown_score(name, rung["scores"][name]) for name in extra_metrics(result)]
        row += [_number(rung["nll_per_token"], ".3f"), f"{100 * rung['stop_rate']:.0f} %"]
        row += [_number(rung["prompt_tokens"], ".0f"), _number(rung["tokens_per_answer"], ".1f")]
        row += [f"{rung['seconds_per_answer']:.3f}"]
    return row


def _number(value: float | None, form: str) -> str:
    """A number; a dash for one that nobody knows."""
    return "–" if value is None else f"{value:{form}}"


def rung_name(rung: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a rung is called in a table."""
    who = judged_name(result) if rung["of"] == "tuned" else rung["of"]
    added = ["prompt"] if "prompt" in rung else []
    if count := len(rung.get("examples", ())):
        added.append(f"{count} example{'s' * (count > 1)}")
    return " + ".join([who, *added])


def judged_name(result: Mapping[str, Any]) -> str:
    """What is judged: a tuned model is called so, a model or an endpoint by its name."""
    first = result["targets"][0] if result.get("targets") else {"kind": "run"}
    return str(first["name"]) if first["kind"] in ("model", "endpoint") else "tuned"


def _name(rung: str, result: Mapping[str, Any]) -> str:
    return rung_name(next(one for one in result["rungs"] if one["name"] == rung), result)


def _gap(value: float, result: Mapping[str, Any], sign: str = "+") -> str:
    return f"{100 * value:{sign}.1f} points" if in_percent(result["metric"]) else f"{value:{sign}.3f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
