"""`finetune runs list`: each state of a run, and what is no run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.rundir import LOCK, claimed, holder_of
from finetune.runs.listing import list_runs
from finetune.runs.record import read_run

Run = Callable[..., tuple[int, str, str]]
TRAIN = ("train", "model=tiny", "data.train=my.jsonl", "data.eval=held.jsonl")


@pytest.fixture
def place(evaluated_runs: Path, finetune: Run) -> Path:
    """A copy of the evaluated runs, in the folder that commands run in."""
    shutil.copytree(evaluated_runs, Path.cwd(), dirs_exist_ok=True)
    return Path("runs")


def listed(finetune: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = finetune("runs", "list", *arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    (run,) = [run for run in found["runs"] if run["name"] == name]
    return dict(run)


def test_runs_are_listed_newest_first_with_what_they_came_to(finetune: Run, place: Path) -> None:
    found = listed(finetune)
    assert [run["name"] for run in found["runs"]] == ["other", "good", "poor"]
    good = of(found, "good")
    stored = json.loads((place / "good" / "eval.json").read_text())
    tuned = next(rung for rung in stored["rungs"] if rung["name"] == "tuned")
    metrics = [json.loads(line) for line in (place / "good" / "metrics.jsonl").read_text().splitlines()]
    assert (good["state"], good["step"], good["steps"]) == ("finished", 30, 30)
    assert (good["method"], good["tuning"], good["model"]) == ("sft", "lora", "tiny")
    assert (good["rows"], good["held_out_rows"]) == (40, 12)
    assert good["train_loss"] == [row["loss"] for row in metrics if "loss" in row][-1]
    assert good["held_out_loss"] == min(row["eval_loss"] for row in metrics if "eval_loss" in row)
    assert good["evaluation"]["score"] == tuned["score"] == 1.0
    assert good["evaluation"]["interval"] == tuned["interval"]
    assert good["evaluation"]["verdict"] == stored["verdict"] == "better"
    assert good["evaluation"]["fingerprint"] == stored["held_out"]["fingerprint"]
    assert found["others"] == []


def test_the_list_for_a_person_has_a_line_for_each_run(finetune: Run, place: Path) -> None:
    code, out, err = finetune("runs", "list")
    assert (code, err) == (0, "")
    heads, *lines = out.splitlines()
    assert heads.split()[0] == "name" and len(lines) == 3
    assert "  loss   held-out loss  " in heads  # and not a count of rows
    assert lines[1].startswith("good   finished, 30 steps  sft, lora  tiny   40")
    assert "exact 100.0 %" in lines[1] and "better" in lines[1]


def test_the_order_is_that_of_the_last_training(finetune: Run, place: Path) -> None:
    later = time.time() + 60
    os.utime(place / "poor" / "outcome.json", (later, later))
    assert [run["name"] for run in listed(finetune)["runs"]] == ["poor", "other", "good"]


def test_an_interrupted_run_says_how_far_it_came(finetune: Run, place: Path) -> None:
    metrics = place / "stopped" / "metrics.jsonl"

    def stop() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if metrics.exists() and '"step": 2,' in metrics.read_text():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    watching = threading.Thread(target=stop, daemon=True)
    watching.start()
    code, _, err = finetune(*TRAIN, "name=stopped", "training.max_steps=400", "training.log_every=1")
    assert code == 130, err
    run = of(listed(finetune), "stopped")
    assert run["state"] == "interrupted" and run["steps"] == 400
    assert run["step"] >= 2
    assert run["step"] == json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert run["evaluation"] is None and run["said"] is None
    code, out, _ = finetune("runs", "list")
    assert f"interrupted at step {run['step']} of 400" in out


def test_a_failed_run_says_why_until_it_is_begun_again(finetune: Run, place: Path) -> None:
    code, _, err = finetune(*TRAIN, "name=wild", "training.max_steps=6", "training.learning_rate=1e30")
    assert code == 1
    run = of(listed(finetune), "wild")
    assert run["state"] == "failed" and run["steps"] == 6
    assert "became nan after step 1" in run["said"] and run["said"] in err
    assert (place / "wild" / "errors" / "rank-0.txt").read_text().startswith("Traceback")
    begun = (*TRAIN, "name=wild", "training.max_steps=1", "resume=none")
    assert finetune(*begun)[0] == 0
    assert of(listed(finetune), "wild")["state"] == "finished"


def test_a_run_that_another_process_holds_is_running(finetune: Run, place: Path) -> None:
    (place / "good" / "outcome.json").unlink()
    with claimed(place / "good"), claimed(place / "new"):
        found = listed(finetune)
        running = of(found, "good")
        assert (running["state"], running["step"]) == ("running", 30)
        assert running["said"].startswith(f"pid {os.getpid()} on ")
        assert of(found, "new")["state"] == "running"
    found = listed(finetune)
    assert of(found, "good")["state"] == "interrupted"
    assert of(found, "new")["state"] == "unstarted"


def test_looking_at_a_lock_does_not_keep_a_run_from_beginning(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    looking = threading.Event()

    def look() -> None:
        with open(tmp_path / LOCK, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            looking.set()
            time.sleep(0.02)

    watching = threading.Thread(target=look)
    watching.start()
    looking.wait()
    with claimed(tmp_path):
        assert holder_of(tmp_path) == (tmp_path / LOCK).read_text()
    watching.join()
    assert holder_of(tmp_path) is None


def test_an_evaluation_of_weights_that_were_replaced_does_not_count(finetune: Run, place: Path) -> None:
    shutil.copy(place / "poor" / "adapter" / "adapter_model.safetensors", place / "good" / "adapter")
    assert of(listed(finetune), "good")["evaluation"] is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("plan.json", "{", "plan.json: is damaged"),
        ("plan.json", "[]", "plan.json: is damaged"),
        ("plan.json", '"\ud800"', "plan.json: is damaged"),
        ("plan.json", "{}", "plan.json config.method.option: is missing"),
        ("outcome.json", '{"steps": "many", "planned_steps": 3}', "outcome.json steps: cannot be 'many'"),
        ("outcome.json", "null", "outcome.json: is damaged"),
        ("eval.json", '{"artefact": ', "eval.json: is damaged"),
        ("eval.json", '{"artefact": 3}', "eval.json artefact: cannot be 3"),
    ],
)
def test_a_damaged_run_is_named_beside_the_others(
    name: str, content: str, said: str, finetune: Run, place: Path
) -> None:
    (place / "good" / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    found = listed(finetune)
    assert [run["name"] for run in found["runs"]] == ["other", "poor"]
    (other,) = found["others"]
    assert f"{other['where']}: {other['what']}" == f"runs/good/{said}"
    code, out, err = finetune("runs", "list")
    assert (code, err) == (0, "")
    assert f"not listed: runs/good/{said}" in out


def test_metrics_that_a_kill_cut_short_count_as_far_as_they_are_whole(finetune: Run, place: Path) -> None:
    metrics = place / "good" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:5]) + lines[5][:40])
    (place / "good" / "outcome.json").unlink()
    run = of(listed(finetune), "good")
    assert run["step"] == 5 and run["train_loss"] == json.loads(lines[4])["loss"]
    metrics.write_bytes(b'{"loss"\xff\n"loss"\n' + b"\0" * 64)
    assert of(listed(finetune), "good")["step"] == 0


def test_what_is_no_run_is_named(finetune: Run, place: Path) -> None:
    (place / "notes").mkdir()
    (place / "notes" / "todo.txt").write_text("buy milk")
    (place / "empty").mkdir()
    (place / "file.txt").write_text("not a directory")
    (place / "gone").symlink_to("nowhere")
    (place / "evaluations" / "some-model").mkdir(parents=True)
    found = listed(finetune)
    assert [run["name"] for run in found["runs"]] == ["other", "good", "poor"]
    assert [other["where"] for other in found["others"]] == ["runs/empty", "runs/notes"]
    assert all("is no run" in other["what"] for other in found["others"])


def test_no_runs_are_no_error_but_a_wrong_folder_is(finetune: Run, tmp_path: Path) -> None:
    assert listed(finetune) == {"folder": "runs", "runs": [], "others": []}
    code, out, _ = finetune("runs", "list")
    assert code == 0 and "train one with `finetune train`" in out
    code, _, err = finetune("runs", "list", "nowhere")
    assert code == 2 and err == "error: nowhere: is no folder; name the output_dir of your runs\n"
    code, _, err = finetune("runs", "list", "a", "b")
    assert code == 2 and err.startswith("error: b: ")


def test_one_run_is_no_folder_of_runs(finetune: Run, place: Path) -> None:
    code, _, err = finetune("runs", "list", "runs/good")
    assert code == 2 and "write finetune runs show runs/good" in err


def test_hundreds_of_runs_are_listed_without_the_libraries_of_training(place: Path) -> None:
    for number in range(300):
        shutil.copytree(place / "good", place / f"copy-{number}", ignore=shutil.ignore_patterns("checkpoints"))
    code = (
        "import json, sys\n"
        "from finetune.cli import main\n"
        "code = main(['runs', 'list', '--json'])\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'hydra', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["runs"]) == 303
    assert all(run["evaluation"]["score"] == 1.0 for run in found["runs"] if run["name"].startswith("copy-"))


def test_listing_reads_neither_answers_nor_checkpoints(place: Path) -> None:
    (place / "good" / "answers.jsonl").unlink()
    (place / "good" / "answers.jsonl").mkdir()
    shutil.rmtree(place / "good" / "checkpoints")
    before = read_run(place / "good")
    assert before in list_runs(place).runs


def test_the_rows_of_a_stream_are_not_counted(finetune: Run, place: Path) -> None:
    """The plan of a stream knows its first window, and no number of epochs."""
    plan = json.loads((place / "good" / "plan.json").read_text())
    plan["batch"]["epochs"] = None
    (place / "good" / "plan.json").write_text(json.dumps(plan))
    assert of(listed(finetune), "good")["rows"] is None
    code, out, _ = finetune("runs", "list")
    assert code == 0 and "tiny   a stream" in out
    assert finetune("runs", "compare", "good", "poor")[0] == finetune("runs", "show", "good")[0] == 0


@pytest.mark.parametrize("damage", ["config", "weights", "gone"])
def test_a_finished_run_whose_result_is_damaged_says_so(finetune: Run, place: Path, damage: str) -> None:
    adapter = place / "good" / "adapter"
    if damage == "config":
        (adapter / "adapter_config.json").write_text("{")
    elif damage == "weights":
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        shutil.rmtree(adapter)
    found = listed(finetune)
    assert of(found, "good")["state"] == "finished" and of(found, "poor")["said"] is None
    expected = {"config": "not valid JSON", "weights": "cut short", "gone": "neither adapter nor model is there"}
    assert expected[damage] in of(found, "good")["said"]
    out = finetune("runs", "list")[1]
    assert [line.split()[0] for line in out.splitlines() if "damaged" in line] == ["good"]
