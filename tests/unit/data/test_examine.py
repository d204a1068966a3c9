"""The check as a whole: parts and processes, what needs a model or a file of its own, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from refusals import GOOD, Run, chat, lines, write_files

from finetune.data import pieces
from finetune.data.examine import command
from finetune.data.examine.command import check
from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.result import Result, as_json
from finetune.data.examine.settings import CheckSettings
from finetune.data.examine.sums import Sums
from finetune.data.shelf import Shelf

TEMPLATES = Path(__file__).parents[2] / "fixtures" / "templates"


def found(finetune: Run, *arguments: object) -> dict[str, Any]:
    """The problems by code."""
    _, out, err = finetune("data", "check", *arguments, "--json")
    assert out, err
    return {problem["code"]: problem for problem in json.loads(out)["problems"]}


def test_a_fault_without_a_code_is_told_all_the_same() -> None:
    notes = Notes(5)
    notes.add("t.jsonl:3 messages", "is odd", "mend it")
    assert notes.sorted()[0][0] == "refused"
    assert notes.tallies["refused"].samples == [Sample("t.jsonl:3", "messages", "is odd", "mend it")]


def test_a_file_that_cannot_be_opened_is_named(finetune: Run, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").symlink_to("/proc/self/mem")  # even root cannot read its first bytes
    assert found(finetune, "t.jsonl")["file-unreadable"]["samples"][0]["where"] == "t.jsonl"


def test_a_list_too_large_for_memory_is_refused(finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.jsonl.MAX_JSON", 10)
    write_files(tmp_path, {"t.json": json.dumps(GOOD)})
    assert "jq -c '.[]' t.json" in found(finetune, "t.json")["file-too-large"]["samples"][0]["mend"]


def test_text_whose_end_is_not_learned_is_found(finetune: Run, tmp_path: Path, llama: Path) -> None:
    import shutil

    folder = shutil.copytree(llama, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    write_files(tmp_path, {"t.jsonl": lines([{"text": f"It is day {number}."} for number in range(12)])})
    assert found(finetune, "t.jsonl", f"model.name={folder}")["stop-not-learned"]["count"] == 12
    assert "stop-not-learned" not in found(finetune, "t.jsonl", f"model.name={llama}")


def test_reasoning_that_a_template_leaves_out_is_found(finetune: Run, tmp_path: Path, llama: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "because"}]
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, {"messages": turns}])})
    assert (
        found(finetune, "t.jsonl", f"model.name={llama}")["reasoning-unlearned"]["samples"][0]["where"] == "t.jsonl:21"
    )


def test_a_conversation_that_is_unrolled_is_counted(finetune: Run, tmp_path: Path, llama: Path) -> None:
    long = chat(*[("user", "one"), ("assistant", "two")] * 2)
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, long])})
    arguments = ("t.jsonl", f"model.name={llama}", f"model.chat_template={TEMPLATES / 'qwen3.jinja'}")
    assert found(finetune, *arguments)["row-unrolled"]["samples"][0]["text"] == "becomes 2 rows, one for each answer"
    assert "row-unrolled" not in found(finetune, *arguments, "method.learn=last")


def big_file(folder: Path) -> Path:
    """Rows with a bit of everything, some of them broken."""
    rows: list[Any] = []
    for number in range(400):
        said = "As an AI language model, I mail bob@corporate-mail.com." if number % 50 == 3 else f"It is {number % 7}."
        rows.append(chat(("user", f"What of {number}?"), ("assistant", said)))
        if number % 40 == 0:
            rows += [rows[-1], {"messages": "x"}, chat(("user", f"What of {number}?"), ("assistant", "nothing"))]
    path = folder / "big.jsonl"
    path.write_text("\n\n" + lines(rows) + '{"messages": [', encoding="utf-8")
    return path


def whole(path: Path, processes: int, **more: Any) -> Result:
    settings = CheckSettings()
    settings.check.processes, settings.check.near = processes, False
    for name, value in more.items():
        setattr(settings.data, name, value)
    return check([str(path)], settings)


def test_parts_and_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = big_file(tmp_path)
    expected = as_json(whole(path, 1), "")
    assert expected["errors"] == 11 and expected["rows"] == 430
    for size in (100, 1000, 7777):
        monkeypatch.setattr(pieces, "PART_BYTES", size)
        assert as_json(whole(path, 1), "") == expected
    monkeypatch.setattr(command, "PART_BYTES", 1000)
    assert as_json(whole(path, 3), "") == expected


@pytest.mark.parametrize(
    "content", [b"\n" * 5000, b" \n" * 5000 + b"\n", b"\xff\xfe" + "a\n".encode("utf-16-le") * 3000]
)
def test_a_file_without_rows_is_the_same_in_parts(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    expected = as_json(whole(tmp_path / "t.jsonl", 1), "")
    assert expected["errors"] == 1
    monkeypatch.setattr(pieces, "PART_BYTES", 1000)
    assert as_json(whole(tmp_path / "t.jsonl", 1), "") == expected


def test_a_file_of_no_layout_is_told_once_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(lines([{"a": number} for number in range(2000)]))
    monkeypatch.setattr(pieces, "PART_BYTES", 1000)
    (problem,) = as_json(whole(path, 1), "")["problems"]
    assert (problem["code"], problem["count"]) == ("layout-unknown", 1)


def test_a_limit_takes_the_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PART_BYTES", 1000)
    assert whole(big_file(tmp_path), 1, limit=50).rows == 50


def test_texts_on_disk_are_a_sequence() -> None:
    texts = Shelf()
    given = ["", "a", "ünï", "x" * 1000, "z"]
    for text in given:
        texts.add(text)
    assert texts[3:1] == [] and texts[::-1] == given[::-1]
    assert list(texts) == given and texts[1:4] == given[1:4] and texts[::2] == given[::2] and texts[-1] == "z"
    with pytest.raises(IndexError):
        texts[5]


def test_labels_are_counted_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.examine.sums.MOST_LABELS", 2)
    sums = Sums()
    for label in ("a", "b", "c", "a"):
        sums.add_label(label)
    assert (dict(sums.labels), sums.short) == ({"a": 2, "b": 1}, 4)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, on a file that takes it a while."""
    row = json.dumps(chat(("user", "word " * 60), ("assistant", "other " * 60)))
    (folder / "t.jsonl").write_text(f"{row}\n" * 100_000, encoding="utf-8")
    words = [sys.executable, "-m", "finetune", "data", "check", "t.jsonl", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, start_new_session=True, stdout=pipe, stderr=pipe)


def group(leader: int) -> list[int]:
    """The processes of a group that are alive."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == leader and state != "Z":
                alive.append(int(entry.name))
    return alive


def wait_for(count: int, leader: int) -> None:
    end = time.monotonic() + 60
    while len(group(leader)) < count and time.monotonic() < end:
        time.sleep(0.05)
    assert len(group(leader)) >= count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_interruption_ends_all_processes_at_once(processes: str, tmp_path: Path) -> None:
    process = start(tmp_path, f"check.processes={processes}")
    wait_for(1 if processes == "1" else 4, process.pid)  # with the one that tracks what processes share
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b""), err
    assert err.splitlines()[-1] == b"interrupted" and b"Traceback" not in err
    assert_all_end(process.pid, 5)  # Python's own tracker of shared things ends a moment after its parent


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_process_outlives_one_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "check.processes=2")
    wait_for(4, process.pid)
    time.sleep(1)
    process.kill()
    process.wait()
    assert_all_end(process.pid, 20)


def assert_all_end(number: int, seconds: float) -> None:
    """No process of the group is left after some time."""
    end = time.monotonic() + seconds
    while group(number) and time.monotonic() < end:
        time.sleep(0.05)
    assert group(number) == []
