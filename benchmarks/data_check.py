"""`finetune data check` on seeded chat rows of about 120 words: time, and the most memory of all its processes at once.

python benchmarks/data_check.py [--rows 50000] [--processes 2] [--near]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
COMMON = "the of and a to in is it you that was for on are with as they be at one have this from or had by"
PLANTED = (
    "As an AI language model, I cannot assist with that.",
    "Write to somebody.{number}@corporate-mail.com or call +47 912 34 567.",
    "Itâ€™s fine &amp; well.",
    "```python\nprint({number})",
    "My card is 4111 1111 1111 1111.",
)


def write_rows(file: TextIO, count: int, seed: int) -> None:
    """Rows of sentences whose lengths differ; one in a hundred has a defect, one in a thousand repeats another."""
    dice = random.Random(seed)
    syllables = ("ka", "lo", "mi", "ren", "tu", "sa", "vel", "dor", "ni", "pe")
    rare = ["".join(dice.choices(syllables, k=dice.randint(2, 4))) for _ in range(20_000)]
    common = COMMON.split()
    line = ""
    for number in range(count):
        if number % 1000 != 999:
            line = json.dumps(make_row(dice, number, rare, common), ensure_ascii=False)
        file.write(f"{line}\n")


def make_row(dice: random.Random, number: int, rare: list[str], common: list[str]) -> dict[str, Any]:
    """One conversation of one or two questions."""
    turns = []
    for _ in range(dice.choice((1, 1, 1, 2))):
        total = max(12, int(dice.lognormvariate(4.6, 0.5)))
        words = [dice.choice(common if dice.random() < 0.45 else rare) for _ in range(total)]
        cut = total // 3
        asked, answered = " ".join(words[:cut]).capitalize() + "?", " ".join(words[cut:]).capitalize() + "."
        if number % 100 == 7:
            answered = f"{answered} {dice.choice(PLANTED).format(number=number)}"
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": turns}


def measure(path: Path, processes: int, near: bool) -> tuple[float, float, float, dict[str, Any]]:
    """Seconds on the clock and of all processors, MiB, and the result of one command."""
    command = [sys.executable, "-m", "finetune", "data", "check", str(path), "--json"]
    settings = [f"check.processes={processes}", f"check.near={str(near).lower()}", f"check.output={path.parent}"]
    began, peak = time.perf_counter(), 0
    with (path.parent / "out.json").open("w+b") as out:
        process = subprocess.Popen([*command, *settings], stdout=out, cwd=ROOT, start_new_session=True)
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        out.seek(0)
        found = json.load(out)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, spent.ru_utime + spent.ru_stime, peak / 1024, found


def memory(group: int) -> int:
    """KiB that the processes of a group hold, shared pages counted once."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, IndexError):
            continue  # it has just ended
    return total


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--near", action="store_true", help="look for near-copies too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-check-") as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            write_rows(file, given.rows, given.seed)
        size = path.stat().st_size
        seconds, used, peak, found = measure(path, given.processes, given.near)
    print(
        json.dumps(
            {
                "benchmark": "data check",
                "rows": found["rows"],
                "megabytes": round(size / 1e6, 1),
                "words_a_row": found["statistics"]["words"]["mean"],
                "processes": given.processes,
                "near": given.near,
                "seconds": round(seconds, 2),
                "cpu_seconds": round(used, 2),
                "cpu_microseconds_a_row": round(1e6 * used / given.rows, 1),
                "peak_mib": round(peak),
                "problems": {problem["code"]: problem["count"] for problem in found["problems"]},
            }
        )
    )


if __name__ == "__main__":
    main()
