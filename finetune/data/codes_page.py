"""The page of the checks: what `finetune data check` does, its settings, and every code."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.codes import page
from finetune.data.examine.settings import CheckConfig
from finetune.settings.catalogue import settings_of_kind
from finetune.settings.reference import said_default, said_kind, said_limits
from finetune.settings.shipped import PACKAGE

PAGE = PACKAGE.parent / "docs" / "data-checks.md"
OPENING = """# Checking data

Generated from `finetune/data/codes.py` by `python -m finetune.data.codes`: change that, and the text in
`finetune/data/codes_page.py`, instead of this page.

`finetune data check` looks at every row before you spend a minute of a GPU on it, and says what is wrong, where and
what to do. It takes whatever `data.train` takes, reads it once, and needs no GPU:

```bash
finetune data check my.jsonl
finetune data check my.jsonl model=tiny data.eval=heldout.jsonl
finetune data check my.jsonl data.benchmarks=exam.txt
finetune data check qa.csv data.columns.prompt=asked data.columns.completion=reply check.output=checked
```

It prints the defects, the worst first, and writes `data-report.html` into the current folder or `check.output`: a page
with the verdict, the defects with some of their places, how long the rows are, languages and labels. The exit code is 2
when there are errors, else 0.

| severity | meaning |
|---|---|
| error | `finetune train` refuses the row, in the same words |
| warning | `train` learns from the row, and you probably do not want it to |
| info | worth a look, nothing more |

Without a model, everything is checked that needs no tokenizer. With one, each row is also rendered by the chat template
and masked as `train` does it, and measured against `data.max_length`: does the template keep every turn, is something
learned, does the answer survive, is its stop token learned?

What looks private is counted and its place is told; the value is in no message, report or page. Patterns find shapes,
not meanings: a number can look like a phone, and a secret can look like a word. Languages are guessed by script and by
common words; short rows, code and tables are left out, and close relatives such as Danish and Norwegian are one.

Near-copies are looked for among up to 200,000 rows; for more, say `check.near=true`. Held-out rows of `data.eval`
and those of `data.benchmarks` are compared with all training rows, whole, by runs of words and by likeness, in the
same way and with the same words as by `train`.

## Settings

Besides these it takes `model.name`, `model.revision`, `model.chat_template`, `model.trust_remote_code`, `method.learn`,
`training.epochs` and the settings of `data` that say where rows come from and how long they may be.

"""
JSON = """
## What `--json` prints

| field | |
|---|---|
| `verdict` | one sentence |
| `files`, `rows`, `sound_rows`, `held_out_rows`, `benchmark_rows` | what was read; `sound_rows` have no errors |
| `errors`, `warnings`, `hints` | how many places there are of each severity |
| `problems` | one entry for each code that was found, the worst first |
| `statistics` | lengths, turns, languages, labels, what looks private, an estimate of training tokens and their cost |
| `remarks` | what was not looked at, and how to have it looked at |
| `page` | where the page is |

### A problem

| field | |
|---|---|
| `code`, `severity` | as below |
| `what`, `mend` | what it is and what to do |
| `count` | in how many places |
| `samples` | the first of them: `where` (file and row), `field`, `text`, and `mend` where it says more |
"""


def text() -> str:
    """The whole page."""
    return OPENING + "\n".join(_settings()) + "\n" + JSON + "\n".join(page()) + "\n"


def _settings() -> Iterator[str]:
    yield from ("| key | type | default | allowed | what it is |", "|---|---|---|---|---|")
    for setting in settings_of_kind(CheckConfig, "check."):
        cells = (
            f"`{setting.key}`",
            said_kind(setting),
            f"`{said_default(setting)}`",
            said_limits(setting),
            setting.help,
        )
        yield f"| {' | '.join(cells)} |"
