"""data-report.html: what was found, as one page for somebody who has never seen the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.codes import CODES, ERROR, INFO, SEVERITIES, WARNING
from finetune.data.examine.languages import NAMES
from finetune.data.examine.result import Problem, Result, said_training
from finetune.evaluate import plots
from finetune.evaluate.page import STYLE

HEADINGS = {ERROR: "Errors", WARNING: "Warnings", INFO: "Hints"}
MEANINGS = {
    ERROR: "`train` refuses these rows. It names them and stops before anything is learned.",
    WARNING: "`train` takes these rows and learns what they say. Look whether you mean it.",
    INFO: "Nothing is wrong with these rows by themselves.",
}
VERDICTS = {ERROR: ("worse", "errors"), WARNING: ("inconclusive", "look first"), INFO: ("better", "ready")}
BINS = 24
OWN_STYLE = """
.numbers tr:last-child td{font-weight:inherit}
.problem{border-top:1px solid var(--edge);padding:12px 0}
.problem h3{font-size:15px;margin:0 0 4px}
.problem p{margin:0 0 6px}
.count{float:right;color:var(--soft);font-variant-numeric:tabular-nums}
.samples{margin:6px 0 0;padding-left:18px;font-size:13px}
.samples li{overflow-wrap:anywhere;margin-bottom:3px}
.samples b{font-weight:600}
"""


def page(result: Result) -> str:
    """The whole page."""
    sections = [_verdict(result), *_problems(result), *_distributions(result), _contents(result), _next(result)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Data report · finetune</title><style>{STYLE.read_text(encoding='utf-8')}{OWN_STYLE}</style></head>\n"
        f'<body><main><header><h1>Data report</h1><p class="soft">{escape(_files(result))}</p></header>\n'
        + "\n".join(section for section in sections if section)
        + "\n<footer>Made by <code>finetune data check</code>. What looks private is counted and never shown.</footer>"
        "</main></body></html>\n"
    )


def _files(result: Result) -> str:
    names = ", ".join(result.files[:6])
    return names if len(result.files) <= 6 else f"{names} and {len(result.files) - 6} more files"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def _verdict(result: Result) -> str:
    worst = next((severity for severity in (ERROR, WARNING) if result.count(severity)), INFO)
    style, word = VERDICTS[worst]
    tiles = [(f"{result.rows:,}", "rows read"), (f"{result.sound:,}", "rows fit to learn from")]
    if result.held_out:
        tiles.append((f"{result.held_out:,}", "rows held out"))
    if result.benchmarks:
        tiles.append((f"{result.benchmarks:,}", "rows of benchmarks"))
    tiles += [(f"{result.count(severity):,}", HEADINGS[severity].lower()) for severity in SEVERITIES]
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for value, name in tiles)
    said = f'<p><span class="verdict {style}">{word}</span>{_code(result.verdict)}</p>'
    training = f"<p>{escape(said_training(result.statistics['training']).capitalize())}.</p>"
    remarks = "".join(f'<p class="soft">{escape(remark)}</p>' for remark in result.remarks)
    return _section("Can this data be trained on?", said, f'<div class="tiles">{boxes}</div>', training, remarks)


def _problems(result: Result) -> Iterator[str]:
    for severity in SEVERITIES:
        found = [problem for problem in result.problems if problem.severity == severity]
        if found:
            parts = (f'<p class="soft">{_code(MEANINGS[severity])}</p>', *map(_problem, found))
            yield _section(HEADINGS[severity], *parts)


def _problem(problem: Problem) -> str:
    code = CODES[problem.code]
    items = "".join(
        f"<li><b>{escape(f'{sample.where} {sample.field}'.strip())}</b> {escape(sample.text)}"
        f"{escape(f'; {sample.mend}') if sample.mend else ''}</li>"
        for sample in problem.samples
    )
    hidden = problem.count - len(problem.samples)
    more = f'<p class="soft">and {hidden:,} more</p>' if hidden > 0 else ""
    return (
        f'<div class="problem"><span class="count">{problem.count:,} ×</span><h3>{_code(code.what)}</h3>'
        f'<p>{_code(code.mend)} <span class="soft"><code>{escape(problem.code)}</code></span></p>'
        f'<ul class="samples">{items}</ul>{more}</div>'
    )


def _distributions(result: Result) -> Iterator[str]:
    drawn = []
    titles = {
        "tokens": "Tokens of a row",
        "words": "Words of a row",
        "answer_words": "Words of the last answer",
        "turns": "Turns of a conversation",
    }
    for name, title in titles.items():
        plot = histogram(title, result.lengths[name])
        if plot:
            drawn.append(f'<p class="soft">{escape(title)}; each bar counts rows</p>{plot}')
    yield _section("How long the rows are", *drawn)
    if result.statistics["labels"]:
        rows = [(entry["label"], entry["rows"]) for entry in result.statistics["labels"]]
        yield _section("Short answers", '<p class="soft">The answers look like labels.</p>', _shares(rows))


def histogram(title: str, values: NDArray[Any]) -> str:
    """Counts over ranges of values, which grow with the values where these are far apart; nothing for none."""
    values = values[values > 0]
    if not len(values):
        return ""
    low, high = int(values.min()), int(values.max())
    if high - low < BINS:
        edges = np.arange(low, high + 2)
    elif high < 20 * max(low, 5):
        edges = np.unique(np.linspace(low, high + 1, BINS + 1).astype(int))
    else:
        edges = np.unique(np.geomspace(low, high + 1, BINS + 1).astype(int))
        edges[-1] = high + 1
    counts, _ = np.histogram(values, edges)
    names = [str(a) if b - a == 1 else f"{a:,}–{b - 1:,}" for a, b in pairwise(edges.tolist())]
    return plots.columns(title, list(zip(names, counts.tolist(), strict=True)))


def _contents(result: Result) -> str:
    stats = result.statistics
    known = list(stats["languages"].items())
    spoken = _shares([(NAMES[name], count) for name, count in known]) if known else ""
    note = '<p class="soft">A rough guess by script and common words; short rows, code and tables are left out.</p>'
    languages = _section("Languages", note, spoken) if spoken else ""
    private = stats["private"]
    if not private:
        return languages
    rows = [(what, count) for what, count in sorted(private.items(), key=lambda item: -item[1])]
    said = '<p class="soft">By shape and checksum. The values stand in no report of ours, only in your files.</p>'
    return languages + _section("What looks private", said, _table(("kind", "times"), rows))


def _shares(rows: Sequence[tuple[str, int]]) -> str:
    total = max(1, sum(count for _, count in rows))
    return _table(("", "rows", "share"), [(name, count, f"{100 * count / total:.1f} %") for name, count in rows])


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _next(result: Result) -> str:
    steps = list(_steps(result))
    return _section("What to do next", f"<ol>{''.join(f'<li>{_code(step)}</li>' for step in steps)}</ol>")


def _steps(result: Result) -> Iterator[str]:
    if result.count(ERROR):
        yield "Mend the errors: each names its file, row and field. Then run the same command again."
    if result.count(WARNING):
        yield "Read some of the rows under each warning, the most frequent first, and decide whether to mend them."
    if not result.statistics["tokens"]:
        yield "Check again with the model that you want to tune: `finetune data check FILE model=tiny`."
    if not result.held_out:
        yield "Keep some rows that you do not train on, and name them: `data.eval=heldout.jsonl`."
    yield "See the whole plan without loading a model: `finetune plan model=tiny data.train=FILE`."


def _code(text: str) -> str:
    """Escaped text in which what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
