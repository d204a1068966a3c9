"""The dataset's verbs and the preparation of rows, on many rows: `scripts/bench data` writes docs/benchmarks.md.

Each part is a program of its own beside this one; they run one after the other, as processes of their own.

    scripts/bench data [--rows 1000000] [--prepared 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "data.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- data: written by scripts/bench data -->", "<!-- end of data -->"
PACKAGES = ("transformers", "tokenizers", "trl", "datasets", "pyarrow", "numpy", "rensa")


def run(program: str, *options: str) -> dict[str, Any]:
    """What a program prints as its last line."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *options]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(text.splitlines()[-1], file=sys.stderr, flush=True)
    return dict(json.loads(text.splitlines()[-1]))


def measure(rows: int, prepared: int) -> dict[str, Any]:
    """All parts."""
    cores = len(os.sched_getaffinity(0))
    return {
        "check": run("data_check.py", "--rows", str(rows), "--processes", str(cores)),
        "similar": run("data_similar.py", "--rows", str(rows), "--processes", str(cores)),
        "prepare": run("data_prepare.py", "--rows", str(prepared), "--repeats", "3"),
        "machine": f"{cores} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def table(result: dict[str, Any]) -> str:
    """The page's table."""
    check, similar, prepare = (result[part] for part in ("check", "similar", "prepare"))
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    compared = similar["total_s"]
    ours, theirs = prepare["ours_rows_per_second"], prepare["trl_rows_per_second"]
    return "\n".join(
        [
            f"Chat rows of about 120 words. {result['machine']}. {versions}.",
            "",
            "| | rows | |",
            "|---|---|---|",
            f"| `finetune data check`, no model | {check['rows']:,} | {check['seconds']:.0f} s, at most "
            f"{check['peak_mib']:,} MiB in all processes |",
            f"| equal and near rows, and leaks into {similar['held_out']:,} held-out rows | {similar['rows']:,} | "
            f"{compared:.0f} s |",
            f"| preparing: read, checked, rendered, tokenised, masked, written | {prepare['rows']:,} | "
            f"{ours:,.0f} rows/s, {prepare['peak_mb']:,} MB |",
            f"| the same rows by TRL's `SFTTrainer`, one process, without reading them | {prepare['rows']:,} | "
            f"{theirs:,.0f} rows/s ({prepare['ratio']:.2f}× slower) |",
            f"| preparing once more: found in the cache | {prepare['rows']:,} | "
            f"{prepare['second_start_seconds']:.2f} s |",
        ]
    )


def main() -> None:
    """Measure, store, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--prepared", type=int, default=100_000)
    options = parser.parse_args()
    result = measure(options.rows, options.prepared)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    head, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{head}{MARKS[0]}\n{table(result)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table(result))


if __name__ == "__main__":
    main()
