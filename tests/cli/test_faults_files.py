"""The fault table, rows 27–35 and 51–56: files of rows that cannot be read, and what the user sees."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import GOOD, Refused, Run, chat, lines, refuse, second, write_files

BATCH = "training.batch_size=2"
PLAIN = ("prompt", "completion")


def given(name: str, *more: str) -> tuple[str, ...]:
    return ("model=tiny", f"data.train={name}", BATCH, *more)


def file(row: int, case: str, said: str, name: str, content: str | bytes) -> Refused:
    return Refused(row, case, said, given(name), {name: content})


def parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("../x.jsonl", lines(GOOD))
    return sink.getvalue()


TEXTS = parquet(pa.table({"text": [f"row {number}" for number in range(100)]}))
NO_LAYOUT = "columns fit no layout (found: "

CASES = [
    Refused(27, "missing", "data.train t.jsonl: no such file in FOLDER; did you mean tt.jsonl?", given("t.jsonl"), {"tt.jsonl": ""}),
    Refused(27, "missing held out", "data.eval held/out.jsonl: no such file in FOLDER; give a file, a folder, a pattern or", given("t.jsonl", "data.eval=held/out.jsonl"), {"t.jsonl": lines(GOOD)}),
    Refused(27, "pattern", "data.train *.jsnl: the pattern matches no file in FOLDER; correct it, or give a list of files as", given("*.jsnl"), {"t.jsonl": ""}),
    Refused(27, "folder without rows", "data.train d: no data file in the folder (looked for .jsonl, ", given("d"), {"d/notes.txt": ""}),
    Refused(27, "address", "data.train https://x.org/a.jsonl: no such file in FOLDER; download it first", given("https://x.org/a.jsonl")),
    Refused(27, "several without brackets", "data.train t.jsonl,u.jsonl: no such file in FOLDER; for several files write data.train=[t.jsonl,u.jsonl]", given("t.jsonl,u.jsonl"), {"t.jsonl": "", "u.jsonl": ""}),
    Refused(27, "link to nothing", "data.train l.jsonl: is a link to nothing; mend the link, or give the file itself", given("l.jsonl"), build=lambda folder: (folder / "l.jsonl").symlink_to(folder / "gone")),
    Refused(27, "home of nobody", "data.train: '~nobody-here/x.jsonl' begins with the home folder of a user that is not here; write the whole path", given("~nobody-here/x.jsonl")),
    Refused(27, "too long a name", "data.train: 'xxxxx", given("x" * 5000)),
    Refused(27, "NUL in the name", "data.train: 'a\\x00b' holds a NUL character, which no path does; remove it", given("a\0b")),
    file(28, "empty", "t.jsonl: no rows; the file is empty", "t.jsonl", ""),
    file(28, "empty list", "t.json: no rows; ", "t.json", "[]"),
    file(28, "empty Parquet", "t.parquet: no rows; ", "t.parquet", parquet(pa.table({"text": pa.array([], pa.string())}))),
    file(28, "header alone", "t.csv: no rows; ", "t.csv", "prompt,completion\n"),
    file(29, "blank lines", "t.jsonl: no rows; ", "t.jsonl", "\n\n  \n"),
    file(30, "bad JSON", "t.jsonl:3: not valid JSON (col 14): expecting value; mend the line, or delete it", "t.jsonl", lines(GOOD[:2]) + '{"messages": bad}\n'),
    file(30, "comma after each line", "t.jsonl:1: not valid JSON (col 125): extra data; mend the line, or delete it: each line is one whole", "t.jsonl", lines(GOOD).replace("\n", ",\n")),
    file(30, "Python instead of JSON", "t.jsonl:1: not valid JSON (col 2): expecting property name", "t.jsonl", f"{GOOD[0]}\n"),
    file(30, "list with a comma too many", "t.json:3: not valid JSON (line 1 col ", "t.json", "[" + lines(GOOD[:2]).replace("\n", ",") + "]"),
    file(30, "key twice", "t.jsonl:1: has the key 'a' twice; keep one of them", "t.jsonl", '{"a": 1, "a": 2}\n'),
    file(30, "nested too deeply", "t.jsonl:2: is nested too deeply; flatten it", "t.jsonl", lines(GOOD[:1]) + "[" * 100_000 + "\n"),
    file(30, "number of 5,000 digits", "t.jsonl:1: holds a number of more than 4,300 digits; write it as text", "t.jsonl", f'{{"a": {"9" * 5000}}}\n'),
    file(30, "no object", "t.jsonl:2: a row must be an object, got a number; write ", "t.jsonl", lines([GOOD[0], 5])),
    file(31, "cut", "t.jsonl:2: the line is cut short; copy the file again, or delete its last line", "t.jsonl", lines(GOOD[:2])[:-20]),
    file(31, "cut list", "t.json:2: the file is cut short: its list is not closed; copy it again", "t.json", "[" + lines(GOOD[:2]).replace("\n", ",")[:-1]),
    file(34, "Latin-1", "t.jsonl:2: not UTF-8 at byte 14 of the row; convert it: iconv -f LATIN1 -t UTF-8 t.jsonl", "t.jsonl", lines(GOOD[:1]).encode() + '{"text": "café"}\n'.encode("latin-1")),
    file(34, "UTF-16", "t.jsonl:1: not UTF-8 at byte 1: this is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 t.jsonl", "t.jsonl", lines(GOOD).encode("utf-16")),
    file(34, "UTF-16 table", "t.csv:1: not UTF-8 at byte 1: this is UTF-16; convert it", "t.csv", "prompt,completion\nc,d\n".encode("utf-16")),
    file(35, "NUL", "t.jsonl:2: a NUL byte at byte 12 of the row; remove it", "t.jsonl", lines(GOOD[:1]) + '{"text": "a\0b"}\n'),
    file(35, "escaped NUL", "t.jsonl:2 text: holds a NUL character; remove it", "t.jsonl", lines(GOOD[:1]) + '{"text": "a\\u0000b"}\n'),
    file(35, "half a surrogate pair", "t.jsonl:2 messages.1.content: holds half of a surrogate pair, which is no character; remove it", "t.jsonl", second(chat(("user", "a"), ("assistant", "\ud800")))),
    file(51, "ragged", "t.csv:3: 3 cells where the header has 2; quote the cells that hold the delimiter", "t.csv", "prompt,completion\na,b\nc,d,e\n"),
    file(51, "delimiter", "t.csv:1: the cells seem to be parted by semicolons, not commas; save it with commas", "t.csv", "prompt;completion\na;b\n"),
    file(51, "open quote", "t.csv:2: a quote that opens here is never closed; close it", "t.csv", 'prompt,completion\na,"b\nc,d\n'),
    file(51, "no header", f"t.csv:2: {NO_LAYOUT}hello, world; wanted: messages or ", "t.csv", "hello,world\nc,d\n"),
    file(51, "header twice", "t.csv:1: the column 'prompt' is there twice; rename or remove one", "t.csv", "prompt,prompt\nc,d\n"),
    file(51, "column without a name", "t.csv:1: column 1 has no name; name it in the first line, or leave it out (in pandas: ", "t.csv", ",prompt,completion\n0,c,d\n"),
    file(52, "no Parquet", "t.parquet: not a Parquet file; give the file the name of what it is", "t.parquet", "hello world, this is not"),
    file(52, "cut", "t.parquet: is cut short: the end of the Parquet file is missing; copy it again", "t.parquet", TEXTS[:-20]),
    file(52, "cut in the middle", "t.parquet: not a readable Parquet file: ", "t.parquet", TEXTS[:30] + TEXTS[-4:]),
    file(53, "binary", "t.parquet text: holds binary, not text; write the column as text or as a list", "t.parquet", parquet(pa.table({"text": [b"a"] * 10}))),
    file(53, "struct", "t.parquet text: holds struct<a: int64>, not text; write the column as text", "t.parquet", parquet(pa.table({"text": [{"a": 1}] * 10}))),
    file(53, "numbers", "t.parquet:1 text: must be text, got a number; put it in quotes", "t.parquet", parquet(pa.table({"text": list(range(10))}))),
    file(54, "cut gzip", "t.jsonl.gz: packed files are not read; unpack it first", "t.jsonl.gz", gzip.compress(lines(GOOD).encode())[:50]),
    file(54, "zip that leaves its folder", "t.zip: packed files are not read; unpack it first", "t.zip", zipped()),
    file(54, "gzip under another name", "t.jsonl: is a gzip file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", gzip.compress(b"a")),
    file(54, "zip under another name", "t.jsonl: is a zip file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", zipped()),
    file(54, "zstd under another name", "t.jsonl: is a zstd file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", b"\x28\xb5\x2f\xfd" + bytes(20)),
    file(54, "bzip2 under another name", "t.jsonl: is a bzip2 file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", bz2.compress(b"a")),
    file(54, "xz under another name", "t.jsonl: is an xz file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", lzma.compress(b"a")),
    file(55, "git-lfs pointer", "t.jsonl: is a git-lfs pointer, not the rows themselves; run git lfs pull", "t.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    file(55, "unknown", "t.docx: unknown kind of file '.docx'; known are .jsonl, .json, ", "t.docx", lines(GOOD)),
    file(55, "no ending", "t: unknown kind of file '(no ending)'; known are .jsonl, .json, ", "t", lines(GOOD)),
    file(55, "Parquet under another name", "t.jsonl: is a Parquet file, not what its ending .jsonl says; rename or unpack it", "t.jsonl", TEXTS),
    file(55, "JSON lines as a table", "t.csv:1: holds JSON, not a table; give the file the ending .jsonl", "t.csv", lines(GOOD)),
    file(55, "table as JSON lines", "t.jsonl:1: not valid JSON (col 1): expecting value; mend the line", "t.jsonl", "prompt,completion\na,b\n"),
    Refused(56, "device", "/dev/zero: is not a file (a pipe, a device or a folder); write the rows to a file first", given("/dev/zero")),
    Refused(56, "pipe", "t.jsonl: is not a file (a pipe, a device or a folder); write the rows to a file first", given("t.jsonl"), build=lambda folder: os.mkfifo(folder / "t.jsonl")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_file_that_cannot_be_read_is_refused(case: Refused, finetune: Run, tmp_path: Path) -> None:
    refuse(case, finetune, tmp_path)


def test_row_27_all_missing_files_are_named_at_once(finetune: Run, tmp_path: Path) -> None:
    said = refuse(Refused(27, "", "data.train a.jsonl: no such file", given("[a.jsonl,b.jsonl]")), finetune, tmp_path)
    assert "error: data.train b.jsonl: no such file" in said


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.ndjson"])
@pytest.mark.parametrize(
    "content",
    [
        lines(GOOD).encode(),
        ("[" + lines(GOOD).strip().replace("\n", ",\n") + "]").encode(),
        b"\xef\xbb\xbf" + lines(GOOD).encode(),
        lines(GOOD).replace("\n", "\r\n\r\n").encode(),
        lines(GOOD).strip().encode(),
    ],
    ids=["lines", "32-list", "33-byte order mark", "Windows line ends", "no last line end"],
)
def test_rows_32_and_33_what_is_sound_is_accepted(name: str, content: bytes, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {name: content})
    code, out, err = finetune("plan", *given(name))
    assert code == 0, err
    assert "19 chat rows" in out


AWKWARD = ["my data.jsonl", "ünïcode 数据 🚀.jsonl", "-t.jsonl", "it's.jsonl", 'q"uote.jsonl', "a=b.jsonl", "a,b.jsonl", "x(1).jsonl",
           "[x].jsonl", "{x}.jsonl", "$HOME.jsonl", "a*b.jsonl", "#x.jsonl", "a:b;c.jsonl", "\\x.jsonl", "a%20b.jsonl", "@x.jsonl",
           "+x.jsonl", "!x.jsonl", "T.JSONL"]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_of_a_file_is_a_name(name: str, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {name: lines(GOOD), f"folder of {name}/{name}": lines(GOOD)})
    for path in (name, f"folder of {name}/{name}", str(tmp_path / name)):
        code, out, err = finetune("plan", *given(path))
        assert code == 0, err
        assert "19 chat rows" in out
