"""`finetune runs show` and `verify`: one run, from its directory."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.rundir import claimed
from finetune.runs.find import find_run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(evaluated_runs: Path, finetune: Run) -> Path:
    """A copy of the evaluated runs, in the folder that commands run in."""
    shutil.copytree(evaluated_runs, Path.cwd(), dirs_exist_ok=True)
    return Path("runs")


def shown(finetune: Run, name: str) -> dict[str, Any]:
    code, out, err = finetune("runs", "show", name, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def test_a_run_is_shown_with_all_that_belongs_to_it(finetune: Run, place: Path) -> None:
    found, run = shown(finetune, "good"), place / "good"
    rate = next(entry for entry in found["settings"] if entry["key"] == "training.learning_rate")
    assert rate == {"key": "training.learning_rate", "value": "0.01", "source": "override"}
    alpha = next(entry for entry in found["settings"] if entry["key"] == "tuning.alpha")
    assert alpha["value"] == "32.0" and alpha["source"] == "plan: twice the rank"
    assert "training.scheduler" not in {entry["key"] for entry in found["settings"]}
    assert found["artefact"]["path"] == "runs/good/adapter"
    assert found["artefact"]["bytes"] == sum(path.stat().st_size for path in (run / "adapter").iterdir())
    assert found["artefact"]["digest"] == found["evaluation"]["artefact"]
    assert [(one["step"], one["wrong"]) for one in found["checkpoints"]] == [(15, None), (30, None)]
    assert found["lineage"] == json.loads((run / "lineage.json").read_text())
    assert found["evaluation"] == json.loads((run / "eval.json").read_text())


def test_the_page_for_a_person_has_every_section(finetune: Run, place: Path) -> None:
    code, out, _ = finetune("runs", "show", "runs/good")
    assert code == 0
    for line in ("good: finished, 30 steps", "settings that are not defaults", "checkpoints", "lineage", "next"):
        assert line in out.splitlines()
    assert "better: tuned against base" in out
    assert "runs/good/checkpoints/checkpoint-30" in out
    assert "\n  evaluate  finetune evaluate runs/good\n" in out


def test_the_commands_that_are_shown_do_what_they_say(finetune: Run, place: Path) -> None:
    commands = shown(finetune, "good")["commands"]
    assert list(commands) == ["evaluate", "load", "train on"]
    assert commands["evaluate"] == "finetune evaluate runs/good"
    space: dict[str, Any] = {}
    exec(commands["load"], space)
    assert type(space["model"]).__name__ == "PeftModelForCausalLM"
    words = shlex.split(commands["train on"].replace("FILE", "others.jsonl"))
    code, out, err = finetune("plan", *words[2:])
    assert code == 0, err
    assert "finetune train model.name=runs/good tuning.start=continue data.train=others.jsonl" in out


def test_an_unfinished_run_is_shown_with_the_command_that_continues_it(finetune: Run, place: Path) -> None:
    for name in ("outcome.json", "eval.json", "answers.jsonl", "report.html"):
        (place / "good" / name).unlink()
    shutil.rmtree(place / "good" / "adapter")
    (place / "good" / "checkpoints" / "checkpoint-30" / "optimizer.pt").unlink()
    found = shown(finetune, "good")
    assert found["state"] == "interrupted"
    assert found["artefact"] is None and found["evaluation"] is None
    assert found["checkpoints"][1]["wrong"] == "optimizer.pt is missing"
    words = shlex.split(found["commands"]["continue"])
    assert list(found["commands"]) == ["continue"]
    code, _, err = finetune(*words[1:])
    assert code == 0, err
    assert "continuing from step 15 of 30" in err


def test_a_run_that_never_started_is_shown_as_such(finetune: Run, place: Path) -> None:
    with claimed(place / "new"):
        pass
    code, out, _ = finetune("runs", "show", "new")
    assert code == 0 and out.startswith("new: claimed, never started\n")
    assert shown(finetune, "new")["commands"] == {}


@pytest.mark.parametrize("name", ["plan.json", "lineage.json", "eval.json"])
def test_a_damaged_file_is_named(name: str, finetune: Run, place: Path) -> None:
    (place / "good" / name).write_text("{")
    code, out, err = finetune("runs", "show", "good")
    assert (code, out) == (2, "")
    assert err == f"error: runs/good/{name}: is damaged; restore it, or make it anew\n"


def test_runs_are_found_by_path_name_and_beginning(place: Path) -> None:
    assert find_run("good") == find_run("runs/good") == find_run("go") == find_run("runs/go") == place / "good"
    assert find_run(str((place / "good").resolve())) == (place / "good").resolve()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("goud", "goud: no run directory of that path, or of that name under runs; did you mean runs/good?"),
        ("runs/othr", "did you mean runs/other?"),
        ("zzz", "there are good, other, poor"),
        ("", "there are good, other, poor"),
        ("x" * 300, "there are good, other, poor"),
        ("nowhere/x", "of that name under nowhere; train one with `finetune train`"),
    ],
)
def test_a_run_that_is_not_there_is_refused_with_the_nearest(target: str, said: str, place: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_run(target)
    assert said in str(caught.value)


def test_a_beginning_of_several_names_is_refused_with_all_of_them(finetune: Run, place: Path) -> None:
    shutil.copytree(place / "good", place / "goods")
    code, _, err = finetune("runs", "show", "goo")
    assert code == 2 and err == "error: goo: begins the names of several runs; name one of good, goods\n"
    assert find_run("good") == place / "good"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "runs show: no run is given; name one, such as finetune runs show runs/my-run"),
        (("good", "poor"), "poor: `finetune runs show` takes one run and nothing else; leave it out"),
        (("my.jsonl",), "my.jsonl: no run directory of that path"),
        ((".",), ".: is no run: it has no plan.json"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], said: str, finetune: Run, place: Path) -> None:
    code, out, err = finetune("runs", "show", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")


# Verify


def parts(finetune: Run, name: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code, out, _ = finetune("runs", "verify", name, "--json")
    found = json.loads(out)
    assert found["whole"] is (code == 0)
    return code, {part["path"]: part for part in found["parts"]}


def flip(path: Path, at: int = -5) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_run_as_training_left_it_is_whole(finetune: Run, place: Path) -> None:
    code, found = parts(finetune, "good")
    assert code == 0
    wanted = ["plan.json", "lineage.json", "outcome.json", "eval.json", "metrics.jsonl", "answers.jsonl",
              "checkpoints/checkpoint-15", "checkpoints/checkpoint-30", "adapter"]  # fmt: skip
    assert list(found) == [f"runs/good/{name}" for name in wanted]
    assert all(part["wrong"] is None for part in found.values())


DAMAGE = [
    ("checkpoints/checkpoint-15", "optimizer.pt", "optimizer.pt differs from what was saved"),
    ("adapter", "adapter_model.safetensors", "holds other weights than those that eval.json is of"),
    ("plan.json", "", "is damaged"),
    ("eval.json", "", "is damaged"),
]


@pytest.mark.parametrize(("part", "file", "said"), DAMAGE, ids=[part for part, _, _ in DAMAGE])
def test_one_changed_bit_is_found_and_ends_with_3(part: str, file: str, said: str, finetune: Run, place: Path) -> None:
    path = place / "good" / part
    flip(path / file) if file else path.write_bytes(path.read_bytes()[:-4])
    code, found = parts(finetune, "good")
    assert code == 3
    assert [name for name, one in found.items() if one["wrong"]] == [str(path)]
    assert found[str(path)]["wrong"] == said
    code, out, err = finetune("runs", "verify", "good")
    assert code == 3
    assert f"broken     {path}: {said}" in out.splitlines()
    assert err == f"error: runs/good: 1 part broken: {path} {said}\n"


def test_an_adapter_that_was_cut_short_or_lost_is_broken(finetune: Run, place: Path) -> None:
    weights = place / "poor" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, found = parts(finetune, "poor")
    assert code == 3 and "adapter_model.safetensors is cut short" in found["runs/poor/adapter"]["wrong"]
    shutil.rmtree(place / "poor" / "adapter")
    code, found = parts(finetune, "poor")
    assert code == 3 and "neither adapter nor model is there" in found["runs/poor"]["wrong"]


def test_what_an_interruption_cut_short_is_not_broken(finetune: Run, place: Path) -> None:
    run = place / "good"
    for name in ("outcome.json", "eval.json", "answers.jsonl"):
        (run / name).unlink()
    (run / "checkpoints" / "checkpoint-30" / "MANIFEST.json").unlink()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    code, found = parts(finetune, "good")
    assert code == 0
    short = {name for name, part in found.items() if part["cut_short"]}
    assert short == {str(run / name) for name in ("checkpoints/checkpoint-30", "metrics.jsonl", "adapter")}


@pytest.mark.parametrize(
    "manifest", ["[]", '{"files": []}', '{"files": {"optimizer.pt": 3}}', '{"files": {"a": {}}}', "{"]
)
def test_a_manifest_that_says_nothing_is_named(manifest: str, finetune: Run, place: Path) -> None:
    folder = place / "good" / "checkpoints" / "checkpoint-30"
    (folder / "MANIFEST.json").write_text(manifest)
    code, found = parts(finetune, "good")
    assert code == 3 and found[str(folder)]["wrong"] == "its manifest is unreadable"
    assert shown(finetune, "good")["checkpoints"][1]["wrong"] == "its manifest is unreadable"
