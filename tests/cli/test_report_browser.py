"""The report of a real run in a real browser: nothing is fetched, nothing is complained of, every number is the file's."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no browser is installed")


def rendered(page: Path, folder: Path) -> tuple[str, str]:
    """The document as the browser has it in the end, and what it logged; no name can be looked up."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_report_shows_what_the_file_holds_and_fetches_nothing(evaluated_runs: Path, tmp_path: Path) -> None:
    page = evaluated_runs / "runs" / "good" / "report.html"
    shown, logged = rendered(page, tmp_path / "browser")
    assert "CONSOLE" not in logged, logged
    assert not re.search(r"""(?:src|href)=["'](?!preview\.html|#|data:)|url\(|@import|<script""", shown)
    stored = json.loads((page.parent / "eval.json").read_text(encoding="utf-8"))
    assert len(stored["rungs"]) == 4
    rows = [cells(row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", shown, re.DOTALL)]
    for rung, row in zip(stored["rungs"], rows[1:5], strict=True):
        low, high = (100 * bound for bound in rung["interval"])
        assert row[1:3] == [f"{100 * rung['score']:.1f} %", f"{low:.1f} – {high:.1f} %"]
        assert f"{rung['nll_per_token']:.3f}" in row
        assert f"{100 * rung['stop_rate']:.0f} %" in row
        assert [f"{rung['prompt_tokens']:.0f}", f"{rung['tokens_per_answer']:.1f}"] == row[-3:-1]
        assert row[-1] == f"{rung['seconds_per_answer']:.3f}"
    counting = next(one for one in stored["comparisons"] if one["against"] == stored["best_baseline"])
    low, high = (f"{100 * bound:+.1f}" for bound in counting["interval"])
    said = f"{100 * counting['difference']:+.1f} points (95 % interval {low} to {high}"
    assert said in html.unescape(shown)
    assert f">{stored['verdict']}</span>" in shown


def cells(row: str) -> list[str]:
    """The texts of a table's row."""
    return [
        html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)
    ]
