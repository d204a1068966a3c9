"""The report as one HTML page: everything inline, no script, readable in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from finetune.evaluate import changes, plots, table
from finetune.evaluate.contents import Contents, facts, passed, settings, tiles
from finetune.evaluate.samples import section as samples_section

SHOWN_ANSWERS = 3  # of each kind
LONGEST_TEXT = 600  # characters of a prompt or an answer
LONGEST_PREVIEW = 6000

STYLE = Path(__file__).with_name("page.css")


def page(contents: Contents) -> str:
    """The whole page."""
    sections = [
        _comparison(contents),
        _forgetting(contents),
        _strengths(contents),
        _tasks(contents),
        _training(contents),
        samples_section(contents.samples),
        _answers(contents),
        _learned(contents),
        _plan(contents),
    ]
    name = escape(contents.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} · finetune</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        "<body><main>"
        f'<header><h1>{name}</h1><p class="soft">{escape(contents.subtitle)}</p></header>\n'
        + "\n".join(section for section in sections if section)
        + f"\n<footer>{escape(contents.origin)}</footer></main></body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def _comparison(contents: Contents) -> str:
    result = contents.evaluation
    if result is None:
        return ""
    verdict = str(result["verdict"] or "no verdict")
    rest = table.verdict_line(result).removeprefix(f"{verdict}: ")
    said = f'<p><span class="verdict {escape(verdict)}">{escape(verdict)}</span>{escape(rest)}</p>'
    said += "".join(f"<p>{escape(line)}</p>" for line in table.majority_lines(result))
    heads, *rows = table.cells(result)
    judged = next(at for at, rung in enumerate(result["rungs"]) if rung["name"] == "tuned")
    others = "".join(f"<p>{escape(line)}</p>" for line in table.other_lines(result))
    shown = [_score_plot(result), _grid(heads, rows, "numbers", judged), *_classes(result), *_slices(result), others]
    return _section("Did it help?", said, *shown)


def _classes(result: Mapping[str, Any]) -> list[str]:
    """What became of each class on every rung, where the references name classes."""
    found = []
    for rung in result["rungs"]:
        if cells := table.class_cells(rung):
            inner = _grid(cells[0], cells[1:], "numbers")
            found.append(f"<details><summary>{escape(table.class_line(rung, result))}</summary>{inner}</details>")
    return found


def _slices(result: Mapping[str, Any]) -> list[str]:
    """The rows in parts, where there are several."""
    heads, *rows = table.slice_cells(result)
    said = "Parts of the rows: looked at after the fact, so these intervals are a hint and no verdict"
    small = f'<p class="soft">{escape(line)}</p>' if (line := table.slices_left_out(result)) else ""
    if not rows:
        return [small]
    return [f"<details><summary>{said}</summary>{_grid(heads, rows, 'numbers')}{small}</details>"]


def _score_plot(result: Mapping[str, Any]) -> str:
    metric = str(result["metric"])
    values = [
        plots.Bar(
            table.rung_name(rung, result),
            "one" if rung["name"] == "tuned" else "three",
            rung["score"],
            rung["interval"][0],
            rung["interval"][1],
        )
        for rung in result["rungs"]
    ]
    if min(one.low for one in values) < 0:
        return ""  # bars begin at 0
    top = 1.0 if table.in_percent(metric) else max(one.high for one in values) * 1.05 or 1.0
    return plots.bars(
        f"{table.metric_name(metric)} on held-out rows, by rung",
        values,
        top,
        partial(table.shown_score, metric),
    )


def _forgetting(contents: Contents) -> str:
    found = contents.evaluation.get("forgetting") if contents.evaluation else None
    if not found:
        return ""
    said = f"Base and tuned model on {found['prompts']} prompts that have nothing to do with the task."
    notes = "".join(f"<p>⚠ {escape(line)}</p>" for line in changes.remarks(found))
    heads, *rows = changes.forgetting_cells(found)
    kinds, *each = changes.kind_cells(found)
    cards = "".join(_changed(row) for row in found["most_changed"])
    shown = f"<details><summary>Answers that changed most</summary>{cards}</details>"
    tables = _grid(heads, rows, "numbers") + _grid(kinds, each, "numbers")
    return _section("What else changed?", f'<p class="soft">{said}</p>', notes, tables, shown)


def _changed(row: Mapping[str, Any]) -> str:
    said = "".join(f"<dt>{side}</dt><dd><pre>{_cut(row[side])}</pre></dd>" for side in ("base", "tuned"))
    return f'<div class="answer"><pre>{_cut(row["prompt"])}</pre><dl>{said}</dl></div>'


def _strengths(contents: Contents) -> str:
    points = contents.evaluation.get("strengths") if contents.evaluation else None
    if not contents.evaluation or not points:
        return ""
    metric = str(contents.evaluation["metric"])
    # as the table under it has them
    score, unit = table.metric_name(metric), 100 if table.in_percent(metric) else 1
    shown = [
        ("score", score if unit == 1 else f"{score}, %", unit, "one"),
        ("kl", "nats a token from the base", 1, "two"),
    ]
    drawn = "".join(
        f'<p class="soft">{escape(name)}</p>'
        + plots.curves(
            f"{name} by strength of the adapter",
            [plots.Line("", style, tuple((one["strength"], unit * one[key]) for one in points), marked=True)],
            x_name="strength",
            height=200,
        )
        for key, name, unit, style in shown
    )
    heads, *rows = changes.strength_cells(points, metric)
    return _section("At other strengths", drawn, _grid(heads, rows, "numbers"))


def _tasks(contents: Contents) -> str:
    found = contents.evaluation.get("tasks") if contents.evaluation else None
    if not found:
        return ""
    notes = "".join(f"<p>⚠ exceeded: {escape(line)}</p>" for line in found["exceeded"])
    heads, *rows = changes.task_cells(found)
    return _section("Tasks of lm-evaluation-harness", notes, _grid(heads, rows, "numbers"))


def _training(contents: Contents) -> str:
    steps = [row for row in contents.metrics if "loss" in row]
    evaluations = [row for row in contents.metrics if "eval_loss" in row]
    name = "reward" if contents.is_paid else "loss"
    loss = plots.curves(
        f"{name.capitalize()} over the steps of training",
        [
            plots.Line("train", "one", _points(steps, name)),
            plots.Line("held out", "two", _points(evaluations, f"eval_{name}"), marked=True),
        ],
        x_name="step",
    )
    rate = plots.curves(
        "Learning rate over the steps of training",
        [plots.Line("rate", "one", _points(steps, "learning_rate"))],
        x_name="step",
        height=150,
    )
    boxes = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles(contents)
    )
    shown = f'<div class="tiles">{boxes}</div>' if boxes else ""
    named = f'<p class="soft">{name.capitalize()}</p>{loss}' if loss else ""
    return _section("Training", shown, named, f'<p class="soft">Learning rate</p>{rate}' if rate else "")


def _answers(contents: Contents) -> str:
    if not contents.answers or contents.evaluation is None:
        return ""
    result, metric = contents.evaluation, str(contents.evaluation["metric"])
    names = {rung["name"]: table.rung_name(rung, result) for rung in result["rungs"]}
    parts = []
    for title, rows in telling(contents.answers, metric, result["best_baseline"]):
        cards = "".join(_answer(row, names, metric) for row in rows)
        parts.append(f'<p class="soft">{escape(title)}</p>{cards}')
    said = f"Some of {len(contents.answers):,} held-out rows; all are in answers.jsonl."
    return _section("Answers side by side", f'<p class="soft">{said}</p>', *parts)


def telling(
    answers: Sequence[Mapping[str, Any]], metric: str, best: str | None
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """A few rows that show most: where tuning lost and won most against the best baseline, and some others."""

    def gain(row: Mapping[str, Any]) -> float:
        score = {name: float(given["scores"][metric]) for name, given in row["answers"].items()}
        return score["tuned"] - (score[best] if best else 0.0)

    # losses come first, so that the page cannot flatter
    order = sorted(answers, key=gain)
    lost = [row for row in order if gain(row) < 0]
    won = [row for row in reversed(order) if gain(row) > 0]
    even = [row for row in answers if gain(row) == 0]
    parts = {f"Most harmed, of {len(lost):,}": lost, f"Most improved, of {len(won):,}": won}
    parts[f"Neither, of {len(even):,}"] = even
    return [(title, rows[:SHOWN_ANSWERS]) for title, rows in parts.items() if rows]


def _answer(row: Mapping[str, Any], names: Mapping[str, str], metric: str) -> str:
    vote = {True: "liked", False: "disliked", None: "should say"}
    said = "chosen" if "rejected" in row else vote[row.get("liked")]
    parts = [f"<dt>{said}</dt><dd><pre>{_cut(row['reference'])}</pre></dd>"] if row["reference"] else []
    if "rejected" in row:
        parts.append(f"<dt>rejected</dt><dd><pre>{_cut(row['rejected'])}</pre></dd>")
    for name, given in row["answers"].items():
        label = _mark(given["scores"], metric)
        parts.append(f"<dt>{escape(names.get(name, name))} {label}</dt><dd><pre>{_cut(given['text'])}</pre></dd>")
    return f'<div class="answer"><pre>{_cut(row["prompt"])}</pre><dl>{"".join(parts)}</dl></div>'


def _mark(scores: Mapping[str, float], metric: str) -> str:
    """How a row came out on a rung: by the metric, and what each single reward paid."""
    score = scores[metric]
    sign = "✓" if score == 1 else "✗" if score == 0 else f"{score:.2f}"
    if metric.startswith("preference"):
        sign = f"prefers the {'chosen' if score == 1 else 'rejected'} {sign}"
    paid = [f"{table.metric_name(name)} {value:g}" for name, value in scores.items() if name.startswith(table.PART)]
    sign = " · ".join([sign, *paid])
    mark = "yes" if score == 1 else "no"
    return f'<span class="mark {mark}" title="{escape(metric)} {score:g}">{escape(sign)}</span>'


def _cut(text: str) -> str:
    return escape(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …")


def _learned(contents: Contents) -> str:
    if not contents.preview:
        return ""
    text = contents.preview
    shown = text if len(text) <= LONGEST_PREVIEW else f"{text[:LONGEST_PREVIEW]}\n…"
    link = '<p class="soft">In colour: <a href="preview.html">preview.html</a></p>' if contents.has_preview_page else ""
    return _section(
        "What is learned",
        link,
        f"<details><summary>Rows as the model sees them</summary><pre>{escape(shown)}</pre></details>",
    )


def _plan(contents: Contents) -> str:
    warnings = "".join(f"<p>⚠ {escape(warning)}</p>" for warning in contents.warnings)
    parts = [warnings, _pairs(facts(contents))]
    if given := settings(contents):
        inner = _grid(["setting", "value", "where from"], given)
        parts.append(f"<details><summary>Settings that are not plain defaults</summary>{inner}</details>")
    if contents.config:
        parts.append(f"<details><summary>config.yaml</summary><pre>{escape(contents.config)}</pre></details>")
    if came := passed(contents):
        parts.append(f"<details><summary>Lineage</summary>{_pairs(came)}</details>")
    return _section("How it was made", *parts)


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], style: str = "", judged: int | None = None) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr{' class=judged' if at == judged else ''}>{inner}</tr>" for at, inner in enumerate(cells))
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table class="{style}">{inner}</table></div>'


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="wide"><table><tbody>{body}</tbody></table></div>'


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None)
