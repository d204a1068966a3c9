"""Preparing rows once: what is kept, when it is found again, and what happens to long rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import question

from finetune.config import DataConfig
from finetune.data import prepare as prepare_module
from finetune.data.encode import Encoder
from finetune.data.prepare import PreparedData, lengths, open_rows, prepare, read_rows
from finetune.data.rows import Chat
from finetune.errors import UserError

Run = Callable[..., PreparedData]


@pytest.fixture
def path(write_rows: Callable[..., str]) -> str:
    """A file of thirty questions."""
    return write_rows([question(number) for number in range(30)])


def test_facts_tell_what_lies_on_disk(path: str, run_prepare: Run, family: Callable[[str], Any]) -> None:
    prepared = run_prepare(path)
    rows = open_rows(prepared.train)
    assert rows.column_names == ["input_ids", "labels"]
    facts = prepared.train
    assert facts.rows == len(rows) == len(lengths(facts))
    assert facts.tokens == sum(map(len, rows["input_ids"])) == lengths(facts).sum()
    assert facts.longest == lengths(facts).max()
    assert facts.supervised_tokens == sum(label != -100 for labels in rows["labels"] for label in labels)
    assert (prepared.shape, facts.truncated, facts.dropped) == ("chat", 0, 0)
    assert prepared.stop_ids == (family("smollm2").eos_token_id,)


def test_tokens_on_disk_are_those_of_the_encoder(path: str, run_prepare: Run, family: Callable[[str], Any]) -> None:
    prepared = run_prepare(path)
    kept = list(read_rows(prepared.train))
    assert isinstance(kept[0], Chat)
    encoder = Encoder(family("smollm2"))
    for row, tokens in zip(encoder.encode(kept), open_rows(prepared.train), strict=True):
        assert (row.input_ids, row.labels) == (tokens["input_ids"], tokens["labels"])  # type: ignore[union-attr]


def test_rows_are_memory_mapped(path: str, run_prepare: Run) -> None:
    rows = open_rows(run_prepare(path).train)
    assert rows.cache_files[0]["filename"].endswith(".arrow")


def test_second_run_finds_the_rows_without_reading_them(
    path: str, run_prepare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_prepare(path)

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(prepare_module, "pieces", fail)
    assert run_prepare(path) == first


@pytest.mark.parametrize(
    "change",
    [{"learn": "last"}, {"max_length": 100}, {"eval_share": 0.3}, {"limit": 5}, {"on_long": "drop"}],
    ids=str,
)
def test_other_settings_are_another_fingerprint(change: dict[str, Any], path: str, run_prepare: Run) -> None:
    assert run_prepare(path).fingerprint != run_prepare(path, **change).fingerprint


def test_other_template_or_rows_are_another_fingerprint(
    path: str, run_prepare: Run, family: Callable[[str], Any], write_rows: Callable[..., str]
) -> None:
    first = run_prepare(path)
    assert run_prepare(path, tokenizer=family("qwen3")).fingerprint != first.fingerprint
    write_rows([question(number) for number in range(31)])
    assert run_prepare(path).fingerprint != first.fingerprint


def test_same_rows_under_another_name_are_the_same_fingerprint(
    path: str, run_prepare: Run, write_rows: Callable[..., str]
) -> None:
    other = write_rows([question(number) for number in range(30)], "other.jsonl")
    assert run_prepare(path) == run_prepare(other)


def test_damaged_folder_is_made_anew(path: str, run_prepare: Run) -> None:
    first = run_prepare(path)
    arrow = next(Path(first.train.path).glob("*.arrow"))
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[:-10])
    assert run_prepare(path) == first
    assert arrow.read_bytes() == whole
    Path(first.folder, "prepared.json").write_text("{")
    assert run_prepare(path) == first
    assert json.loads(Path(first.folder, "prepared.json").read_text())["fingerprint"] == first.fingerprint


def test_preparing_is_the_same_every_time(path: str, family: Callable[[str], Any], tmp_path: Path) -> None:
    contents = []
    for cache in ("one", "two"):
        prepared = prepare(
            DataConfig(train=path),
            learn="assistant",
            shapes=("chat",),
            tokenizer=family("llama3"),
            max_length=200,
            seed=1,
            cache=str(tmp_path / cache),
        )
        contents.append([next(Path(prepared.train.path).glob("*.arrow")).read_bytes(), prepared.fingerprint])
    assert contents[0] == contents[1]


def test_two_at_once_prepare_the_same_folder_once(path: str, run_prepare: Run, tmp_path: Path) -> None:
    results: list[PreparedData] = []
    threads = [threading.Thread(target=lambda: results.append(run_prepare(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == 1
    folders = [item.name for item in (tmp_path / "cache").iterdir() if item.is_dir()]
    assert folders == [results[0].fingerprint]


def test_failed_preparation_leaves_no_rows(path: str, run_prepare: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run_prepare(path, max_length=20)
    assert not (tmp_path / "cache").exists()


def long_rows(write_rows: Callable[..., str]) -> str:
    """Rows of which two are long: one with a long answer, one with a long question."""
    long_question = {"role": "user", "content": "Norway " * 100}
    rows = [question(number) for number in range(8)]
    rows += [question(8, "Oslo " * 100), {"messages": [long_question, question(9)["messages"][1]]}]
    return write_rows(rows)


def test_long_rows_fail_by_default_with_all_their_places(write_rows: Callable[..., str], run_prepare: Run) -> None:
    path = long_rows(write_rows)
    with pytest.raises(UserError) as caught:
        run_prepare(path, max_length=80)
    assert sorted(fault.where for fault in caught.value.faults) == [f"{path}:10", f"{path}:9"]
    assert all("data.on_long=truncate" in fault.mend for fault in caught.value.faults)


def test_long_rows_are_dropped_and_counted(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(long_rows(write_rows), max_length=80, on_long="drop", eval_share=0)
    assert (prepared.train.rows, prepared.train.dropped, prepared.train.truncated) == (8, 2, 0)


def test_truncation_counts_and_refuses_a_row_that_loses_its_answer(
    write_rows: Callable[..., str], run_prepare: Run
) -> None:
    path = long_rows(write_rows)
    with pytest.raises(UserError) as caught:
        run_prepare(path, max_length=80, on_long="truncate", eval_share=0)
    (fault,) = caught.value.faults
    assert fault.where == f"{path}:10" and "all that is learned lies beyond" in fault.what
    prepared = run_prepare(path, max_length=80, on_long="truncate", eval_share=0, limit=9)
    assert (prepared.train.rows, prepared.train.truncated, prepared.train.longest) == (9, 1, 80)


def test_all_rows_dropped_is_a_fault(path: str, run_prepare: Run) -> None:
    with pytest.raises(UserError, match="was dropped"):
        run_prepare(path, max_length=20, on_long="drop")


def test_stop_token_that_the_tokenizer_does_not_know_is_said(
    path: str, run_prepare: Run, family: Callable[[str], Any]
) -> None:
    prepared = run_prepare(path, tokenizer=family("gemma2"))
    assert any("<end_of_turn>" in warning for warning in prepared.warnings)


def test_held_out_fingerprint_is_of_the_held_out_rows_alone(path: str, run_prepare: Run, write_rows: Any) -> None:
    held = write_rows([question(number) for number in range(50, 55)], "eval.jsonl")
    one, two = run_prepare(path, eval=held), run_prepare(path, eval=held, limit=20)
    assert one.held_out_fingerprint == two.held_out_fingerprint is not None
    assert one.fingerprint != two.fingerprint


def test_preparing_imports_nothing_slow(path: str, tmp_path: Path, bare_backend: str) -> None:
    (tmp_path / "backend.json").write_text(bare_backend)
    code = (
        "import sys\nfrom transformers import PreTrainedTokenizerFast\n"
        "from finetune.config import DataConfig\nfrom finetune.data.prepare import prepare, read_rows, lengths\n"
        f"tokenizer = PreTrainedTokenizerFast(tokenizer_file={str(tmp_path / 'backend.json')!r}, eos_token='Oslo')\n"
        "tokenizer.chat_template = \"{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
        '{% if add_generation_prompt %}assistant:{% endif %}"\n'
        f"p = prepare(DataConfig(train={path!r}), learn='assistant', shapes=('chat',), tokenizer=tokenizer, "
        f"max_length=99, seed=1, cache={str(tmp_path / 'cache')!r})\n"
        "list(read_rows(p.train)), lengths(p.train)\n"
        "print(sorted({'torch', 'datasets', 'trl', 'accelerate', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "USE_TORCH": "1"},
    )
    assert done.stdout.strip() == "[]"
