"""The fault table for data files: each bad input, with the place, the field and the mend that the user sees."""

from __future__ import annotations

import csv
import gzip
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.prepare import PreparedData
from finetune.errors import UserError

Run = Callable[..., PreparedData]

USER = {"role": "user", "content": "Norway?"}
ANSWER = {"role": "assistant", "content": "Oslo"}
GOOD = json.dumps({"messages": [USER, ANSWER]})


def rows(*messages: Any) -> bytes:
    """A good row, then rows with the given messages."""
    return "\n".join([GOOD, *(json.dumps({"messages": m}) for m in messages), ""]).encode()


def lines(*texts: str) -> bytes:
    """A good row, then lines as given."""
    return "\n".join([GOOD, *texts, ""]).encode()


@dataclass(frozen=True)
class Case:
    """A file and what is said of it."""

    row: int  # of the fault table
    content: bytes
    where: str  # after the file's path
    what: str
    mend: str
    name: str = "train.jsonl"


CASES = {
    "empty": Case(28, b"", "", "no rows", "copied whole"),
    "blank lines": Case(29, b"\n  \n\n", "", "no rows", "copied whole"),
    "only a bom": Case(29, b"\xef\xbb\xbf", "", "no rows", "copied whole"),
    "bad json": Case(30, lines('{"messages": [}', GOOD), ":2", "not valid JSON (col 15)", "mend the line"),
    "two values": Case(30, lines(GOOD + GOOD), ":2", "not valid JSON (col", "mend the line"),
    "cut": Case(31, (GOOD + "\n" + GOOD[:40]).encode(), ":2", "cut short", "copy the file again"),
    "utf-16": Case(34, GOOD.encode("utf-16"), ":1", "UTF-16", "iconv -f UTF-16"),
    "nul": Case(35, lines(GOOD.replace("Oslo", "Os\0lo")), ":2", "NUL byte at byte", "tr -d"),
    "escaped nul": Case(35, lines(GOOD.replace("Oslo", "Os\\u0000lo")), ":2 messages.1.content", "NUL", "remove"),
    "surrogate": Case(35, lines(GOOD.replace("Oslo", "\\ud800")), ":2 messages.1.content", "surrogate", "remove"),
    "messages text": Case(36, rows("hello"), ":2 messages", "must be a list, got text", "such as"),
    "turn text": Case(36, rows(["hello"]), ":2 messages", "turn 1 must be an object, got text", ""),
    "field missing": Case(37, lines('{"txet": "hi"}'), ":2 messages", "missing (row has: txet)", "add it"),
    "role missing": Case(37, rows([{"content": "x"}, ANSWER]), ":2 messages", "turn 1 has no role", "add role"),
    "content missing": Case(37, rows([{"role": "user"}, ANSWER]), ":2 messages", "turn 1 content is missing", "fill"),
    "field null": Case(38, rows(None), ":2 messages", "must be a list, got null", ""),
    "content null": Case(38, rows([USER, {**ANSWER, "content": None}]), ":2 messages", "turn 2 content is null", ""),
    "no messages": Case(39, rows([]), ":2 messages", "is empty", "delete the row"),
    "empty content": Case(
        39, rows([USER, {**ANSWER, "content": ""}]), ":2 messages", "turn 2 (assistant) is empty", ""
    ),
    "blank content": Case(39, rows([{**USER, "content": " \n"}, ANSWER]), ":2 messages", "turn 1 (user) is empty", ""),
    "unknown role": Case(
        40,
        rows([USER, {**ANSWER, "role": "assistent"}]),
        ":2 messages",
        "'assistent'",
        "did you mean assistant?",
    ),
    "last not assistant": Case(41, rows([USER]), ":2 messages", "turn 1, the last, is from user", "end with"),
    "repeated": Case(41, rows([USER, USER, ANSWER]), ":2 messages", "turn 2: user speaks twice", "join"),
    "late system": Case(
        41,
        rows([USER, {"role": "system", "content": "x"}, ANSWER]),
        ":2 messages",
        "turn 2: a system turn",
        "first",
    ),
    "assistant first": Case(41, rows([ANSWER, USER, ANSWER]), ":2 messages", "turn 1: the assistant", "begin with"),
    "tool uncalled": Case(
        41,
        rows([USER, {"role": "tool", "content": "7"}, ANSWER]),
        ":2 messages",
        "turn 2: a tool answers",
        "tool_calls",
    ),
    "content number": Case(
        42, rows([USER, {**ANSWER, "content": 7}]), ":2 messages", "turn 2 content must be text", ""
    ),
    "content list": Case(
        42, rows([{**USER, "content": [7]}, ANSWER]), ":2 messages", "turn 1 content must be", "parts"
    ),
    "unlearned last": Case(
        42, rows([USER, {**ANSWER, "weight": 0}]), ":2 messages", "every answer has the weight 0", "delete the row"
    ),
    "half a weight": Case(
        42, rows([USER, {**ANSWER, "weight": 0.5}]), ":2 messages", "turn 2 weight must be 0 or 1", "learns nothing"
    ),
    "image": Case(
        42,
        rows([{**USER, "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]),
        ":2 messages",
        "turn 1 content holds a part of type 'image_url'",
        "only text",
    ),
    "mixed": Case(
        43,
        lines('{"prompt": "a", "completion": "b"}'),
        ":2",
        "is prompt_completion, but row 1 of the file is",
        "one layout",
    ),
    "prompt alone": Case(44, b'{"prompt": "a"}\n', ":1", "found: prompt", "data.columns.prompt="),
    "other names": Case(
        44, b'{"q": "a", "a": "b"}\n', ":1", "fit no layout (found: q, a; wanted: messages", "data.columns"
    ),
    "preferences": Case(45, b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', ":1", "preference pairs", "method"),
    "votes": Case(45, b'{"prompt": "a", "completion": "b", "label": false}\n', ":1", "votes (label)", "method"),
    "too long": Case(
        49, rows([USER, {**ANSWER, "content": "Oslo " * 600}]), ":2", "over data.max_length=512", "on_long"
    ),
    "ragged": Case(51, b"prompt,completion\na,b\nc\n", ":3", "1 cells where the header has 2", "quote", "t.csv"),
    "delimiter": Case(51, b"prompt;completion\na;b\n", ":1", "parted by semicolons", "commas", "t.csv"),
    "tabs": Case(51, b"prompt,completion\na,b\n", ":1", "parted by commas", "tabs", "t.tsv"),
    "open quote": Case(51, b'prompt,completion\na,b\nc,"d\ne,f\n', ":3", "never closed", "close it", "t.csv"),
    "no header": Case(51, b"Norway?,Oslo\na,b\n", ":2", "fit no layout (found: Norway?, Oslo", "", "t.csv"),
    "unnamed column": Case(51, b"prompt,\na,b\n", ":1", "column 2 has no name", "first line", "t.csv"),
    "double header": Case(51, b"prompt,prompt\na,b\n", ":1", "'prompt' is there twice", "rename", "t.csv"),
    "not parquet": Case(52, GOOD.encode(), "", "not a Parquet file", "", "t.parquet"),
    "cut parquet": Case(52, b"PAR1" + bytes(200), "", "cut short", "copy it again", "t.parquet"),
    "gzip": Case(54, gzip.compress(GOOD.encode()), "", "packed files are not read", "unpack", "t.jsonl.gz"),
    "zip as json": Case(54, b"PK\x03\x04....", "", "is a zip file", "unpack"),
    "unknown ending": Case(55, GOOD.encode(), "", "unknown kind of file '.xlsx'", "known are", "t.xlsx"),
    "no ending": Case(55, GOOD.encode(), "", "unknown kind of file '(no ending)'", "known are", "rows"),
    "other content": Case(55, b"PAR1....PAR1", "", "is a Parquet file, not what its ending .jsonl says", "rename"),
    "nan": Case(58, lines('{"messages": [], "score": NaN}'), ":2 score", "NaN, which is not JSON", "null"),
    "infinity": Case(58, lines('{"text": -Infinity}'), ":2 text", "-Infinity, which is not JSON", "null"),
    "twice": Case(30, lines('{"text": "a", "text": "b"}'), ":2", "has the key 'text' twice", "keep one"),
    "deep": Case(30, lines("[" * 100_000), ":2", "nested too deeply", "flatten"),
    "huge number": Case(30, lines('{"text": ' + "9" * 5000 + "}"), ":2", "4,300 digits", "as text"),
    "not an object": Case(30, lines("[1, 2]"), ":2", "a row must be an object, got a list", "messages"),
    "object of a list": Case(
        32, b'{"data": [{"text": "a"}]}', "", "holds a list under 'data'", "jq -c '.data[]'", "t.json"
    ),
    "cut array": Case(31, b'[{"text": "a"},\n {"text": "b"}', ":2", "cut short", "copy", "t.json"),
    "bad array": Case(30, b'[{"text": "a"},\n {"text" "b"}]', ":2", "not valid JSON (line 2 col 10)", "mend", "t.json"),
    "bad arguments": Case(
        42,
        rows([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
        ":2 messages",
        "turn 2: the arguments of the call of 'f' are not a JSON object",
        "such as",
    ),
    "alpaca null": Case(38, b'{"instruction": "a", "output": null}\n', ":1 output", "must be text, got null", "fill"),
    "empty answer": Case(
        39, b'{"prompt": "a", "completion": ""}\n', ":1 completion", "turn 2 (assistant) is empty", ""
    ),
    "text number": Case(42, b'{"text": 7}\n', ":1 text", "must be text, got a number", "quotes"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_file_is_refused_with_place_and_mend(name: str, tmp_path: Path, run_prepare: Run) -> None:
    case = CASES[name]
    path = tmp_path / case.name
    path.write_bytes(case.content)
    with pytest.raises(UserError) as caught:
        run_prepare(str(path), eval_share=0)
    assert caught.value.exit_code == 2
    fault = caught.value.faults[0]
    assert fault.where == f"{path}{case.where}"
    assert case.what in fault.what
    assert case.mend in fault.mend
    assert "\n" not in str(fault)
    assert not list(tmp_path.glob("cache/*/prepared.json"))


def test_latin_1_is_named_with_its_byte(tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "train.jsonl"
    line = '{"text": "Caf\u00e9"}\n'.encode("latin-1")
    path.write_bytes(b'{"text": "a"}\n' + line)
    with pytest.raises(UserError) as caught:
        run_prepare(str(path))
    fault = caught.value.faults[0]
    assert fault.where == f"{path}:2"
    assert f"not UTF-8 at byte {line.index(0xE9) + 1}" in fault.what
    assert "iconv -f LATIN1" in fault.mend


def test_line_of_ten_megabytes_is_refused_and_the_next_row_is_still_read(tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * 10_500_000 + b'"}\n{"text": 7}\n')
    with pytest.raises(UserError) as caught:
        run_prepare(str(path))
    first, second = caught.value.faults
    assert first.where == f"{path}:1" and "10,500,013 bytes, over the limit of 10,000,000" in first.what
    assert second.where == f"{path}:2 text"


def test_faults_of_a_file_are_told_together_and_counted(tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": number}) + "\n" for number in range(50)))
    with pytest.raises(UserError) as caught:
        run_prepare(str(path))
    assert (len(caught.value.faults), caught.value.total) == (20, 50)
    assert caught.value.lines()[-1] == "error: 30 more of the same kind, 50 in all"


def test_missing_path_names_its_nearest_neighbour(tmp_path: Path, run_prepare: Run) -> None:
    (tmp_path / "train.jsonl").write_text(GOOD)
    with pytest.raises(UserError) as caught:
        run_prepare(str(tmp_path / "tarin.jsonl"))
    fault = caught.value.faults[0]
    assert "no such file" in fault.what and os.getcwd() in fault.what
    assert fault.mend == f"did you mean {tmp_path / 'train.jsonl'}?"


def test_pattern_without_a_match_and_empty_folder_are_refused(tmp_path: Path, run_prepare: Run) -> None:
    with pytest.raises(UserError, match="matches no file"):
        run_prepare(str(tmp_path / "*.jsonl"))
    with pytest.raises(UserError, match="no data file in the folder"):
        run_prepare(str(tmp_path))


@pytest.mark.parametrize("given", [7, "", [], [7], {"a": "b"}, "a\0b"])
def test_train_must_be_paths(given: Any, run_prepare: Run) -> None:
    with pytest.raises(UserError) as caught:
        run_prepare(given)
    assert caught.value.faults[0].where == "data.train"


def test_pipes_devices_and_sockets_are_refused_at_once(tmp_path: Path, run_prepare: Run) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    place = tmp_path / "s.jsonl"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        started = time.monotonic()
        for path in (pipe, place, Path("/dev/zero")):
            with pytest.raises(UserError, match="is not a file"):
                run_prepare(str(path))
    assert time.monotonic() - started < 5


def test_unreadable_file_is_refused(tmp_path: Path, run_prepare: Run) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(UserError):
        run_prepare(str(loop))


def test_zip_is_refused_and_nothing_unpacked(tmp_path: Path, run_prepare: Run) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("../x.jsonl", GOOD)
    with pytest.raises(UserError, match="packed files are not read"):
        run_prepare(str(tmp_path / "rows.zip"))
    assert not (tmp_path.parent / "x.jsonl").exists()


@pytest.mark.parametrize("column", [pa.array([b"x"]), pa.array([{"a": 1}])], ids=["binary", "struct"])
def test_parquet_column_of_a_wrong_type_is_named(column: Any, tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"prompt": column, "completion": ["b"]}), path)
    with pytest.raises(UserError) as caught:
        run_prepare(str(path))
    fault = caught.value.faults[0]
    assert fault.where == f"{path} prompt" and str(column.type) in fault.what


def test_parquet_cut_inside_is_refused(tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["Oslo " * 100] * 500}), path, compression="none")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-8:])
    with pytest.raises(UserError) as caught:
        run_prepare(str(path))
    assert caught.value.faults[0].where == str(path)


def test_unknown_column_names_what_there_is(write_rows: Callable[..., str], run_prepare: Run) -> None:
    path = write_rows([{"question": "a", "answer": "b"}])
    with pytest.raises(UserError) as caught:
        run_prepare(path, columns={"prompt": "qestion", "completion": "answer"})
    fault = caught.value.faults[0]
    assert fault.where == f"{path}:1 data.columns.prompt"
    assert "it has: question, answer" in fault.what and fault.mend == "did you mean question?"
    with pytest.raises(UserError) as caught:
        run_prepare(path, columns={"promt": "question"})
    assert caught.value.faults[0].where == "data.columns.promt"
    assert caught.value.faults[0].mend == "did you mean prompt?"


def test_layout_that_is_asked_for_must_fit(write_rows: Callable[..., str], run_prepare: Run) -> None:
    with pytest.raises(UserError, match=r"conversations: missing \(row has: messages\)"):
        run_prepare(write_rows([json.loads(GOOD)]), layout="sharegpt")


def test_chat_rows_need_a_template(write_rows: Callable[..., str], run_prepare: Run, make_tokenizer: Any) -> None:
    with pytest.raises(UserError) as caught:
        run_prepare(write_rows([json.loads(GOOD)] * 30), tokenizer=make_tokenizer(("</s>",), "</s>"))
    assert [fault.where for fault in caught.value.faults] == ["model.chat_template"]
    assert "set model.chat_template=FILE" in caught.value.faults[0].mend


def test_shape_that_the_method_does_not_learn_is_refused(
    write_rows: Callable[..., str], family: Any, tmp_path: Path
) -> None:
    from finetune.config import DataConfig
    from finetune.data.prepare import prepare

    path = write_rows([{"text": "Oslo"}])
    with pytest.raises(
        UserError, match="the rows are plain text, which this method does not learn from; use method=sft"
    ):
        prepare(
            DataConfig(train=path),
            learn="assistant",
            shapes=("chat",),
            tokenizer=family("phi4"),
            max_length=64,
            seed=1,
            cache=str(tmp_path / "cache"),
        )


def test_dataset_of_the_hub_that_is_not_cached_is_refused_in_one_line(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "from finetune.config import DataConfig\nfrom finetune.data.read import find_sources, read\n"
        "from finetune.data.faults import FaultLog\nfrom finetune.errors import UserError\n"
        "try:\n    list(read(find_sources('nobody/nothing', 'data.train')[0], FaultLog(), wanted=()))\n"
        "except UserError as error:\n    print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("error: data nobody/nothing: ") and done.stdout.count("\n") == 1
    assert "cache" in done.stdout and "local file" in done.stdout


@pytest.mark.parametrize("setting", [{"revision": "main"}, {"split": "test"}])
def test_setting_of_the_hub_without_a_hub_dataset_is_refused(
    setting: dict[str, str], write_rows: Callable[..., str], run_prepare: Run
) -> None:
    with pytest.raises(UserError) as caught:
        run_prepare(write_rows([json.loads(GOOD)]), **setting)
    assert caught.value.faults[0].where == f"data.{next(iter(setting))}"


def test_text_with_a_class_label_is_not_taken_for_votes(write_rows: Callable[..., str], run_prepare: Run) -> None:
    assert run_prepare(write_rows([{"text": "Oslo", "label": True}]), eval_share=0).train.rows == 1


def test_field_limit_of_csv_is_ours(tmp_path: Path, run_prepare: Run) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], ["Oslo " * 40_000]])
    with pytest.raises(UserError, match=r"over data\.max_length"):
        run_prepare(str(path), eval_share=0)
