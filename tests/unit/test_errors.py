"""How errors and numbers are said."""

from __future__ import annotations

import pytest

from finetune.errors import counted


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows"), (1.0, "1 row"), (0.5, "0.5 rows"), (3.0, "3 rows")],
)  # fmt: skip
def test_a_number_has_its_noun(count: float, said: str) -> None:
    assert counted(count, "row") == said
