"""Checked rows in a file: the same rows come back, in any order, and texts without holding them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.data import arrow
from finetune.data import spool as spool_module
from finetune.data.load import Loaded
from finetune.data.spool import Spool, SpoolWriter

ROWS = [
    Loaded(f'{{"text":"row {n} ü"}}', "text", f"{n % 3}.jsonl", n + 1, n % 2, n % 5 == 0, (f"g{n}",) if n % 4 else ())
    for n in range(50)
]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """Fifty rows in pieces of seven."""
    monkeypatch.setattr(spool_module, "PIECE_ROWS", 7)
    return write(tmp_path / "rows", ROWS)


def write(path: Path, rows: list[Loaded]) -> Spool:
    writer = SpoolWriter(path)
    writer.extend(rows)
    return writer.close()


def test_rows_come_back_as_they_were(rows: Spool) -> None:
    assert len(rows) == 50
    assert list(rows) == ROWS
    assert [rows[0], rows[33], rows[-1]] == [ROWS[0], ROWS[33], ROWS[-1]]
    assert rows[40:5:-6] == ROWS[40:5:-6]
    with pytest.raises(IndexError):
        rows[50]


def test_rows_at_any_places_come_in_their_order_and_in_parts(rows: Spool) -> None:
    places = np.random.default_rng(0).integers(0, 50, 33)
    parts = list(rows.parts(places, 10))
    assert [row for part in parts for row in part] == [ROWS[place] for place in places]
    assert [len(part) for part in parts] == [10, 10, 10, 3]
    assert list(rows.parts(np.arange(0))) == []


def test_columns_of_numbers_are_of_all_pieces_in_order(rows: Spool) -> None:
    assert rows.column("row").tolist() == [row.row for row in ROWS]
    assert rows.column("source").tolist() == [row.source for row in ROWS]


def test_values_of_a_slice_are_its_own() -> None:
    every = arrow.numbers(np.arange(9, dtype=np.int64))
    assert arrow.values(every.slice(4, 3)).tolist() == [4, 5, 6]
    assert arrow.values(every.slice(4, 0)).tolist() == []


def test_parts_of_long_rows_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "PIECE_CHARACTERS", 100)
    long = [Loaded("x" * 60, "text", "a", n, 0) for n in range(6)]
    assert [len(part) for part in write(tmp_path / "long", long).parts(np.arange(6))] == [2, 2, 2]


def test_texts_are_a_sequence_made_when_asked_for(rows: Spool) -> None:
    texts = rows.texts(str.upper)
    assert len(texts) == 50 and texts[3] == ROWS[3].json.upper()
    assert texts[2:5] == [row.json.upper() for row in ROWS[2:5]]
    assert list(rows.texts()) == [row.json for row in ROWS]


def test_columns_and_shapes(rows: Spool) -> None:
    assert rows.column("source").tolist() == [row.source for row in ROWS]
    assert rows.shapes == {"text"} and not rows.needs_template


def test_nothing_spooled_is_an_empty_sequence(tmp_path: Path) -> None:
    rows = write(tmp_path / "none", [])
    assert len(rows) == 0 and list(rows) == [] and rows.column("source").tolist() == []


def test_digest_is_of_all_rows_in_their_order(tmp_path: Path, rows: Spool) -> None:
    assert write(tmp_path / "again", ROWS).digest == rows.digest
    assert write(tmp_path / "turned", ROWS[::-1]).digest != rows.digest
