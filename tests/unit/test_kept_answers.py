"""Answers are computed once: kept through kills, found without a model, and never taken from another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from finished import Runs, finished_run, read_lines
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.evaluate.kept import Kept, contents_digest, key_of
from finetune.evaluate.run import evaluate, plan_evaluation

ROOT = Path(__file__).resolve().parents[2]
COUNTED = """
import json, sys, time
from finetune.cli import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "peft", "datasets"} & set(sys.modules))
print(json.dumps({"code": code, "heavy": heavy, "seconds": time.process_time()}), file=sys.stderr)
"""


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_model_folder: Path) -> Runs:
    monkeypatch.chdir(tmp_path)
    return partial(finished_run, tmp_path, random_model_folder)


def started(program: Sequence[str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "evaluate", *arguments]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """eval.json, and what running the command in a process of its own took."""
    process = started(["-c", COUNTED], *arguments, "--json")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out), json.loads(err.splitlines()[-1])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_second_time_no_model_is_loaded_nor_torch_imported(make_run: Runs, tuning: str) -> None:
    make_run(tuning=tuning)
    first = evaluate(plan_evaluation(["mine"]))
    again, took = run("mine")
    assert (took["code"], took["heavy"]) == (0, [])
    assert took["seconds"] < 5
    assert again == json.loads(json.dumps(first))  # to the last digit, seconds among them
    other, took = run("mine", "evaluate.metric=f1")
    assert (took["heavy"], other["metric"]) == ([], "f1")
    assert took["seconds"] < 5
    assert [rung["scores"] for rung in other["rungs"]] == [rung["scores"] for rung in first["rungs"]]


def test_fewer_rows_or_rungs_are_there_already_and_more_need_only_theirs(make_run: Runs) -> None:
    make_run()
    evaluate(plan_evaluation(["mine", "evaluate.rows=6"]))
    before = kept_lines()
    evaluate(plan_evaluation(["mine", "evaluate.rows=6", "evaluate.rungs=[base]"]))
    assert kept_lines() == before
    evaluate(plan_evaluation(["mine", "evaluate.rows=10", "evaluate.rungs=[base]"]))
    # of 4 new rows an answer and a likelihood, from the base and from the tuned model
    assert kept_lines() - before == 4 * 2 * 2


def kept_lines() -> int:
    return sum(len(read_lines(path)) for path in Path("runs/.answers").glob("*.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_evaluation_goes_on_where_it_was(make_run: Runs, number: signal.Signals) -> None:
    make_run("evaluate.max_new_tokens=100")
    process = started(["-m", "finetune"], "mine", "evaluate.batch_size=1")
    kept = Path("runs/.answers")
    wait_for(lambda: any(len(path.read_bytes().splitlines()) > 2 for path in kept.glob("*.jsonl")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert err.splitlines()[-1].startswith("interrupted; answers are kept in runs/.answers; the same command")
    assert not Path("runs/mine/eval.json").exists()
    (path,) = kept.glob("*.jsonl")
    before = read_lines(path)
    with path.open("ab") as file:
        file.write(b'{"key": "cut sho')  # as a kill in the middle of a write leaves it
    result = evaluate(plan_evaluation(["mine"]))
    assert result["held_out"]["rows"] == 10
    after = read_lines(path)
    assert after[: len(before)] == before
    assert set(Counter(one["key"] for one in after).values()) == {1}  # nothing was answered twice


def wait_for(done: Any, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 120
    while not done():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_one_changed_weight_of_the_adapter_is_another_model(make_run: Runs) -> None:
    run_dir = make_run()
    first = evaluate(plan_evaluation(["mine"]))
    size = change_a_weight(run_dir / "adapter" / "adapter_model.safetensors")
    second = evaluate(plan_evaluation(["mine"]))
    assert (run_dir / "adapter" / "adapter_model.safetensors").stat().st_size == size
    assert second["targets"][0]["identity"] != first["targets"][0]["identity"]
    assert second["rungs"][3]["nll_per_token"] != first["rungs"][3]["nll_per_token"]
    assert second["rungs"][0] == first["rungs"][0]  # the base is still the same


def test_one_changed_weight_of_the_base_is_another_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_model_folder: Path
) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    base = Path(shutil.copytree(random_model_folder, tmp_path / "base"))
    finished_run(tmp_path, base)
    first = evaluate(plan_evaluation(["mine"]))
    change_a_weight(base / "model.safetensors")
    second = evaluate(plan_evaluation(["mine"]))
    for rung in ("base", "tuned"):
        before, after = (next(one for one in found["rungs"] if one["name"] == rung) for found in (first, second))
        assert after["nll_per_token"] != before["nll_per_token"]


def change_a_weight(path: Path) -> int:
    """Change one number in a file of weights, whose size stays."""
    tensors = load_file(path)
    name = min(name for name in tensors if "layers.0" in name and "lora_A" not in name and tensors[name].dim() == 2)
    tensors[name][0, 0] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    return path.stat().st_size


def test_number_format_and_prompt_are_part_of_what_is_kept(make_run: Runs) -> None:
    make_run()
    make_run("name=coarse", tuning="qlora")  # the very same adapter, over a base in 4 bits
    adapters = {
        name: Path(f"runs/{name}/adapter/adapter_model.safetensors").read_bytes() for name in ("mine", "coarse")
    }
    assert adapters["mine"] == adapters["coarse"]
    first, coarse = (evaluate(plan_evaluation([name])) for name in adapters)
    assert first["targets"][0]["identity"] != coarse["targets"][0]["identity"]
    assert first["rungs"][0]["nll_per_token"] != coarse["rungs"][0]["nll_per_token"]
    assert len({key_of("answer", ids, room, (2,)) for ids in ((1, 2), (1, 3)) for room in (4, 5)}) == 4


def test_lines_that_cannot_be_read_are_as_good_as_not_there(tmp_path: Path) -> None:
    kept = Kept.open(tmp_path, "engine")
    kept.add({"a": {"text": "one"}, "b": {"text": "two \udce9 \u2028 \n"}})
    path = tmp_path / "engine.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"one"', b'"one') + b"garbage\n" + b'{"key": "c", "value": {"te')
    kept = Kept.open(tmp_path, "engine")
    assert kept.found == {"b": {"text": "two \udce9 \u2028 \n"}}
    kept.add({"d": {"text": "four"}})
    assert set(Kept.open(tmp_path, "engine").found) == {"b", "d"}
    assert Kept.open(tmp_path, "other").found == {}


def test_two_evaluations_at_once_do_not_spoil_each_others_lines(tmp_path: Path) -> None:
    first, second = Kept.open(tmp_path, "engine"), Kept.open(tmp_path, "engine")
    for number in range(20):
        first.add({f"a{number}": {"text": "x" * 5000}})
        second.add({f"b{number}": {"text": "y" * 5000}})
    assert len(Kept.open(tmp_path, "engine").found) == 40


def test_a_file_that_did_not_change_is_not_read_again_and_one_that_did_is(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights", tmp_path / "answers"
    path.write_bytes(b"some weights")
    past = time.time_ns() - 10**10
    first = contents_digest([path], folder)
    assert not (folder / "digests.json").exists(), "a file so fresh may change again unseen"
    os.utime(path, ns=(past, past))
    known = {f"{path}:{path.stat().st_size}": "no state of this file"}
    folder.mkdir()
    (folder / "digests.json").write_text(json.dumps(known), encoding="utf-8")
    assert contents_digest([path], folder) == first
    path.write_bytes(b"some Weights")
    os.utime(path, ns=(past, past))  # size and time of writing are as before
    assert contents_digest([path], folder) != first
    (folder / "digests.json").write_text("damaged", encoding="utf-8")
    assert contents_digest([path], folder) != first


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_asked(make_run: Runs) -> None:
    make_run()
    Path("runs/.answers").write_text("not a folder", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        evaluate(plan_evaluation(["mine"]))
    assert caught.value.faults[0].where == "runs/.answers"
