"""Rows of a stream: windows that lose no row and repeat none, whatever the files are, and the rows that come of them."""

from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import chat_row, question

from finetune.config import DataConfig
from finetune.data import stream as stream_module
from finetune.data.order import part_order
from finetune.data.prepare import PreparedData, prepare, read_rows
from finetune.data.prepared import START, Place, Window, read
from finetune.data.read import Source
from finetune.data.reading import Reading, read_part
from finetune.data.spool import SpoolWriter
from finetune.data.store import lengths, open_rows
from finetune.data.stream import WindowReader, stream_digest
from finetune.data.windows import AT_WORK, FOLDER, LIST, StreamedRows, Windows, as_dataset, listed_windows
from finetune.errors import RunFailed, UserError

Run = Callable[..., PreparedData]
SHAPES = ("chat", "text")


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def numbered(first: int, count: int) -> list[dict[str, str]]:
    return [{"text": f"row {number}"} for number in range(first, first + count)]


@pytest.fixture
def files(tmp_path: Path) -> list[Source]:
    """Rows 0 to 69, in files of every kind and with every kind of end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_text(lines(*numbered(0, 10), "", "", *numbered(10, 10)), encoding="utf-8")
    with (tmp_path / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([row["text"]] for row in numbered(20, 10))])
    (tmp_path / "c.jsonl").write_text(lines(*numbered(30, 10)).rstrip("\n"), encoding="utf-8")
    (tmp_path / "d.json").write_text(json.dumps(numbered(40, 10)), encoding="utf-8")
    pq.write_table(pa.table({"text": [row["text"] for row in numbered(50, 10)]}), tmp_path / "e.parquet")
    (tmp_path / "f.jsonl").write_text(lines(*numbered(60, 10)) + "\n" * 200, encoding="utf-8")
    names = ("a.jsonl", "b.csv", "c.jsonl", "d.json", "e.parquet", "f.jsonl")
    return [Source(name, (tmp_path / name,)) for name in names]


def reader(sources: Sequence[Source], window: int) -> WindowReader:
    data = DataConfig(train="x", streaming=True, window=window)
    reading = Reading(data, SHAPES, lambda parts: (read_part(part, data, SHAPES) for part in parts))
    return WindowReader(sources, data, reading)


def window_of(source: WindowReader, begins: Place, folder: Path) -> tuple[list[str], list[str], Place]:
    """Texts and places of the rows of a window, and where it ends."""
    writer = SpoolWriter(folder / "window.rows")
    ends = source.read(begins, writer)
    spool = writer.close()
    return [json.loads(row.json)["text"] for row in spool], [row.where for row in spool], ends


@pytest.mark.parametrize("window", [2, 3, 7, 10, 20, 33, 69, 70, 71])
def test_windows_hold_every_row_once_and_each_can_be_read_again(
    files: list[Source], window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PART_BYTES", 90)  # several parts in a window
    going, begins, found = reader(files, window), START, list[str]()
    while True:
        texts, places, ends = window_of(going, begins, tmp_path)
        assert window_of(reader(files, window), begins, tmp_path) == (texts, places, ends)
        assert texts and (len(texts) == window or ends == START)
        found, begins = found + texts, ends
        if ends == START:
            break
    assert found == [row["text"] for row in numbered(0, 70)]
    assert window_of(going, START, tmp_path)[0] == found[:window]  # the next pass begins like the first


def test_faults_of_a_window_are_named_by_the_rows_of_their_file(tmp_path: Path) -> None:
    odd = question(1)  # of another layout than the first row, which is in another window
    (tmp_path / "a.jsonl").write_text(
        lines(*numbered(0, 20), odd, *numbered(21, 4), "{", *numbered(26, 4), '{"text": 5}')
    )
    source = [Source("a", (tmp_path / "a.jsonl",))]
    begins = window_of(reader(source, 20), START, tmp_path)[2]
    with pytest.raises(UserError) as caught:
        window_of(reader(source, 20), begins, tmp_path)
    assert [fault.where.split("/")[-1] for fault in caught.value.faults] == [
        "a.jsonl:21",
        "a.jsonl:26",
        "a.jsonl:31 text",
    ]


def test_a_file_that_changes_while_it_is_streamed_is_refused(files: list[Source], tmp_path: Path) -> None:
    going = reader(files, 5)
    begins = window_of(going, START, tmp_path)[2]
    with files[0].files[0].open("a") as file:
        file.write(lines({"text": "late"}))
    with pytest.raises(UserError, match=r"a\.jsonl: has changed since the run began to read it"):
        going.read(begins, SpoolWriter(tmp_path / "window.rows"))


def test_a_dataset_of_the_hub_is_read_as_a_stream(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(*numbered(0, 10)), encoding="utf-8")
    source = Source(str(folder))  # as a name of the hub would be: the same library reads it
    going = reader([source], 4)
    first, _, begins = window_of(going, START, tmp_path)
    second, places, ends = window_of(going, begins, tmp_path)
    assert first + second == [row["text"] for row in numbered(0, 8)] and places[0] == f"{folder}:5"
    assert window_of(reader([source], 4), begins, tmp_path) == (second, places, ends)
    assert window_of(going, ends, tmp_path)[2] == START
    before = stream_digest([source], going.data)
    assert stream_digest([source], going.data) == before
    (folder / "train.jsonl").write_text(lines(*numbered(0, 11)), encoding="utf-8")
    assert stream_digest([source], going.data) != before


def test_what_tells_streams_apart(files: list[Source], tmp_path: Path) -> None:
    data, path = DataConfig(train="x"), files[0].files[0]
    before, times = stream_digest(files, data), path.stat()
    assert stream_digest(files[::-1], data) != before
    path.write_text(path.read_text().replace("row 3", "row x"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stream_digest(files, data) != before  # the same size and time, other bytes at the ends
    path.write_text(path.read_text().replace("row x", "row 3"))
    assert stream_digest(files, data) != before  # the same bytes at another time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stream_digest(files, data) == before


def test_a_file_that_comes_later_is_looked_at_first(tmp_path: Path, run_prepare: Run) -> None:
    (tmp_path / "a.jsonl").write_text(lines(*(question(number) for number in range(40))), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(lines({"odd": 1}), encoding="utf-8")
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    with pytest.raises(UserError, match=r"b\.jsonl:1: columns fit no layout"):
        run_prepare(files, streaming=True, window=10, eval_share=0)


def test_a_column_that_is_not_seen_yet_is_told_and_one_that_is_nowhere_refused(
    write_rows: Callable[..., str], run_prepare: Run
) -> None:
    path = write_rows([{"asked": f"Q{number}?", "completion": f"A{number}"} for number in range(20)])
    settings = {"columns": {"prompt": "asked"}, "streaming": True, "eval_share": 0}
    assert run_prepare(path, window=5, **settings).warnings == ()
    extra = write_rows([{"prompt": f"Q{number}?", "completion": f"A{number}"} for number in range(20)], "b.jsonl")
    told = run_prepare(extra, window=5, **settings).warnings
    assert told == (
        "data.columns.prompt: no row has a column 'asked', so it has no effect, as far as the rows are read",
    )
    with pytest.raises(UserError, match="no row has a column 'asked'"):
        run_prepare(extra, window=50, **settings)


def window(begins: int, ends: int, rows: int, tokens: int) -> Window:
    return Window(Place(0, begins), Place(0, ends), rows, tokens, "d")


def test_where_each_row_of_the_run_is() -> None:
    known = Windows((window(0, 30, 30, 300), window(30, 60, 20, 100)))
    found = [known.find(row) for row in (0, 29, 30, 49)]
    assert [(part.number, part.begins, part.ends, part.tokens) for part in found if part] == [
        (0, 0, 30, 0), (0, 0, 30, 0), (1, 30, 50, 300), (1, 30, 50, 300)
    ]  # fmt: skip
    assert known.find(50) is None
    whole = Windows((*known.known, window(60, 0, 10, 50)))
    assert whole.are_all
    again = whole.find(60 * 7 + 55)
    assert again and (again.number, again.begins, again.ends, again.tokens) == (23, 470, 480, 7 * 450 + 400)


@pytest.fixture
def streamed(tmp_path: Path, write_rows: Callable[..., str], family: Callable[[str], Any]) -> StreamedRows:
    """Twenty-five rows in windows of ten, all of them prepared."""
    path, config = write_rows([chat_row(number) for number in range(25)]), DataConfig(streaming=True, window=10)
    settings: dict[str, Any] = {"learn": "assistant", "shapes": SHAPES, "tokenizer": family("smollm2"),
                                "max_length": 512, "seed": 3, "cache": str(tmp_path / "cache")}  # fmt: skip
    first = prepare(replace(config, train=path, eval_share=0), **settings)
    folder, known = tmp_path / FOLDER, [first.window]
    folder.mkdir()
    for number, (begin, end) in enumerate([(10, 20), (20, 25)], 1):
        part = write_rows([chat_row(row) for row in range(begin, end)], f"{number}.jsonl")
        made = prepare(DataConfig(train=part, eval_share=0), **settings)
        Path(made.folder).rename(folder / str(number))
        known.append(Window(Place(0, begin), Place(0, end % 25), made.train.rows, made.train.tokens, "d"))
    windows = Windows(tuple(one for one in known if one))
    (folder / LIST).write_text(json.dumps(listed_windows(windows, first)))
    return StreamedRows(folder, first, 3, 4, False)


def test_a_stream_gives_its_windows_one_after_the_other_each_in_its_own_order(streamed: StreamedRows) -> None:
    rows = as_dataset(streamed, 60)
    folders = [streamed.data.train.path, *(str(streamed.folder / name / "train") for name in "12")]
    expected: list[Any] = []
    tokens = []
    for number in range(6):  # two passes and the first window of the third
        counts, window_rows = lengths(folders[number % 3]), open_rows(folders[number % 3])
        order = part_order(counts, number=number, before=len(expected), seed=3, grouped_by=None)
        expected += [window_rows[int(place)] for place in order]
        tokens += counts[order].tolist()
    assert len(rows) == 60 and len(expected) == 50
    assert [rows[place] for place in range(50)] == expected
    assert rows.__getitems__(list(range(8, 12))) == expected[8:12]  # a batch over the border of two windows
    assert [row["input_ids"] for row in rows.remove_columns([])][:50] == [row["input_ids"] for row in expected]
    assert [streamed.tokens(count) for count in range(51)] == np.cumsum([0, *tokens]).tolist()
    assert [row["input_ids"] for row in expected[:25]] != [row["input_ids"] for row in expected[25:]]


def test_a_row_whose_window_nobody_prepares_is_no_endless_wait(streamed: StreamedRows) -> None:
    every = json.loads((streamed.folder / LIST).read_text())
    (streamed.folder / LIST).write_text(json.dumps({**every, "windows": every["windows"][:2]}))
    rows = as_dataset(streamed, 40)
    assert rows[15]["input_ids"]
    with pytest.raises(RunFailed, match="could not be prepared"):
        rows[20]
    (streamed.folder / AT_WORK).touch()
    threading.Timer(0.3, (streamed.folder / LIST).write_text, [json.dumps(every)]).start()
    assert rows[20]["input_ids"]  # it is waited for


def test_a_stream_prepared_once_is_found_again_and_its_first_window_is_an_ordinary_one(
    write_rows: Callable[..., str], run_prepare: Run
) -> None:
    path = write_rows([question(number) for number in range(12)])
    prepared = run_prepare(path, streaming=True, window=5, eval_share=0)
    assert run_prepare(path, streaming=True, window=5, eval_share=0) == prepared == read(Path(prepared.folder))
    assert prepared.is_partial and prepared.train.rows == 5 and len(list(read_rows(prepared.train))) == 5
    whole = run_prepare(path, streaming=True, window=12, eval_share=0)
    assert not whole.is_partial and "the run is the same without it" in whole.warnings[0]
    assert whole.fingerprint != prepared.fingerprint
