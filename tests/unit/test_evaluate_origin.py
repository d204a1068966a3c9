"""What the adapter or model of a run may be asked, wherever it lies, and what becomes of one that is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from finished import Runs, asked_row, finished_run, save_tuned
from rows import write_rows

from finetune.errors import Fault, UserError
from finetune.evaluate.run import plan_evaluation

Finetune = Callable[..., tuple[int, str, str]]
LEAKY, CLEAN = "data.eval=leaky.jsonl", "data.eval=clean.jsonl"
UNKNOWN = "no run is known that made it"


@pytest.fixture
def make_run(tmp_path: Path, finetune: Finetune, random_model_folder: Path) -> Runs:
    write_rows(tmp_path / "leaky.jsonl", [asked_row(number) for number in (50, 3, 51, 7)])
    write_rows(tmp_path / "clean.jsonl", [asked_row(number) for number in range(40, 44)])
    return partial(finished_run, tmp_path, random_model_folder)


def refused(*arguments: str) -> tuple[Fault, ...]:
    with pytest.raises(UserError) as caught:
        plan_evaluation(arguments)
    return caught.value.faults


def in_the_run(run_dir: Path) -> str:
    return f"{run_dir}/adapter"


def in_a_checkpoint(run_dir: Path) -> str:
    folder = run_dir / "checkpoints" / "checkpoint-5"
    save_tuned(Path((run_dir.parent / "base").read_text()), folder, "lora", seed=7)
    for path in (folder / "adapter").iterdir():
        path.rename(folder / path.name)
    return str(folder)


def behind_a_link(run_dir: Path) -> str:
    Path("link").symlink_to(run_dir / "adapter")
    return "link"


def copied(run_dir: Path) -> str:
    shutil.copytree(run_dir / "adapter", "copy")
    return "copy"


def copied_and_renamed(run_dir: Path) -> str:
    shutil.copytree(run_dir / "adapter", "elsewhere/adapter")
    return "elsewhere/adapter"


def copy_of_a_checkpoint(run_dir: Path) -> str:
    shutil.copytree(in_a_checkpoint(run_dir), "copy")
    return "copy"


@pytest.mark.parametrize(
    "placed", [in_the_run, in_a_checkpoint, behind_a_link, copied, copied_and_renamed, copy_of_a_checkpoint]
)
def test_an_adapter_has_seen_what_its_run_was_trained_on(
    make_run: Runs, random_model_folder: Path, placed: Callable[[Path], str]
) -> None:
    run_dir = make_run()
    make_run("name=another", seed=1)  # of the same size, found before it, and not the one
    (run_dir.parent / "base").write_text(str(random_model_folder))
    adapter, said = placed(run_dir), refused("mine", LEAKY)
    (found,) = refused(adapter, LEAKY)
    assert replace(found, what=found.what.replace(f"{Path.cwd()}/", "")) == said[0]  # a link leads to the whole path
    assert "trained on too, at runs/mine training row 4" in said[0].what
    (subject,) = plan_evaluation([adapter, CLEAN]).subjects
    assert subject.kind == "adapter"
    assert subject.made_by is not None and Path(subject.made_by.run_dir).samefile(run_dir)


def test_a_whole_model_has_seen_what_its_run_was_trained_on(make_run: Runs) -> None:
    run_dir = make_run(tuning="full")
    said = refused("mine", LEAKY)
    shutil.copytree(run_dir / "model", "copy")
    assert refused("runs/mine/model", LEAKY) == refused("copy", LEAKY) == said


def test_a_later_target_has_seen_what_its_run_was_trained_on(make_run: Runs, tmp_path: Path) -> None:
    make_run()
    write_rows(tmp_path / "greedy.jsonl", [asked_row(number) for number in range(5, 28)])
    make_run("name=greedy", "data.train=greedy.jsonl", "data.eval=null", "data.eval_share=0", seed=1)
    assert refused("mine", "runs/greedy/adapter") == refused("mine", "greedy")
    plan_evaluation(["mine", "runs/mine/adapter"])  # the run's own held-out rows


def test_of_what_no_run_made_it_is_said_once_that_nobody_knows(
    make_run: Runs, random_model_folder: Path, finetune: Finetune
) -> None:
    shutil.move(make_run() / "adapter", "lone")
    shutil.rmtree("runs/mine")
    given = (
        "evaluate",
        "lone",
        str(random_model_folder),
        LEAKY,
        "evaluate.max_new_tokens=2",
        "evaluate.neutral_rows=2",
    )
    code, _, err = finetune(*given)
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if UNKNOWN in line)
    assert line.startswith(f"warning: lone: {UNKNOWN}, so nothing shows that it has not seen these rows; ")
    _, _, err = finetune("evaluate", str(random_model_folder), LEAKY, "evaluate.max_new_tokens=2")
    assert f"warning: {random_model_folder}: {UNKNOWN}" in err


def test_of_a_run_its_adapter_and_its_base_nothing_has_to_be_said(
    make_run: Runs, random_model_folder: Path, finetune: Finetune
) -> None:
    make_run()
    targets = ("mine", copied(Path("runs/mine")), random_model_folder)
    code, _, err = finetune("evaluate", *targets, CLEAN, "evaluate.neutral_rows=2")
    assert code == 0, err
    assert UNKNOWN not in err and "base: 4 answers" in err
    assert f"{random_model_folder}: " not in err  # the base again: nothing is left to answer


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_damaged_weights_are_named_before_anything_is_answered(make_run: Runs, finetune: Finetune) -> None:
    make_run("name=first")
    make_run("name=second", seed=1)
    make_run("name=whole", tuning="full")
    cut_short(Path("runs/second/adapter/adapter_model.safetensors"))
    cut_short(Path("runs/whole/model/model.safetensors"))
    for targets in (["second"], ["first", "second"], ["whole"], ["first", "second", "whole"]):
        code, out, err = finetune("evaluate", *targets)
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == len(targets) - ("first" in targets)
        for name in {*targets} - {"first"}:
            file = "model/model.safetensors" if name == "whole" else "adapter/adapter_model.safetensors"
            assert f"error: runs/{name}/{file}: is cut short: " in err
        assert err.count("put it back from a copy, or train the run anew with resume=none") == len(err.splitlines())
    assert not Path("runs/.answers").exists()


@pytest.mark.parametrize(
    ("tuning", "gone", "where", "what"),
    [
        ("lora", "adapter", "runs/mine", "the run has finished, but its adapter/ is not there"),
        ("full", "model", "runs/mine", "the run has finished, but its model/ is not there"),
        ("lora", "adapter/adapter_config.json", "runs/mine/adapter/adapter_config.json", "is missing"),
        ("lora", "adapter/adapter_model.safetensors", "runs/mine/adapter/adapter_model.safetensors", "is missing"),
        ("full", "model/config.json", "runs/mine/model/config.json", "is missing"),
        ("full", "model/model.safetensors", "runs/mine/model", "has no weights"),
    ],
)
def test_a_run_without_its_adapter_or_model_is_refused(
    make_run: Runs, tuning: str, gone: str, where: str, what: str
) -> None:
    path = make_run(tuning=tuning) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (fault,) = refused("mine")
    assert fault.where == where
    assert fault.what.startswith(what)
    assert "resume=none" in fault.mend


def test_a_run_whose_base_is_damaged_or_gone_is_refused(
    make_run: Runs, tmp_path: Path, random_model_folder: Path
) -> None:
    base = shutil.copytree(random_model_folder, tmp_path / "base")
    make_run(f"model.name={base}")
    cut_short(base / "model.safetensors")
    (fault,) = refused("mine")
    assert fault.where == str(base / "model.safetensors") and fault.what.startswith("is cut short")
    shutil.rmtree(base)
    (fault,) = refused("mine")
    assert fault.where == str(base) and "has no weights" in fault.what
