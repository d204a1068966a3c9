"""The page of the checks: what `finetune data check` does, and every code."""

from __future__ import annotations

from finetune.data.codes import page
from finetune.settings.shipped import PACKAGE

PAGE = PACKAGE.parent / "docs" / "data-checks.md"
OPENING = """# Checking data

Generated from `finetune/data/codes.py` by `python -m finetune.data.codes`: change that instead of the tables.
"""


def text() -> str:
    """The whole page."""
    return OPENING + "\n".join(page()) + "\n"
