"""One directory, one run, one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.compose import Composed, compose, config_to_dict
from finetune.errors import UserError
from finetune.rundir import check_same_run, check_writable, claimed, run_directory, write_json


def composed(*overrides: str) -> Composed:
    return compose(["model.name=some/Model", "data.train=rows.jsonl", *overrides])


def stored(run_dir: Path, *overrides: str, steps: int = 10, finished: bool = False) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    plan = {
        "config": config_to_dict(composed(*overrides).config),
        "data": {"fingerprint": "a"},
        "batch": {"steps": steps, "effective": 8},
        "resolved": {"batching": "flat"},
    }
    write_json(run_dir / "plan.json", plan)
    (run_dir / "checkpoints" / "checkpoint-5").mkdir(parents=True, exist_ok=True)
    if finished:
        write_json(run_dir / "outcome.json", {"planned_steps": steps})


def test_the_same_command_finds_the_same_directory_and_another_another() -> None:
    first = run_directory(composed().config)
    assert first.name.startswith("sft-Model-")
    assert run_directory(composed().config) == first
    assert run_directory(composed("training.epochs=9", "training.save_every=3", "launch.processes=2").config) == first
    assert run_directory(composed("training.learning_rate=1e-3").config) != first
    assert run_directory(composed("seed=7").config) != first


def test_a_given_name_is_the_directory() -> None:
    assert run_directory(composed("name=mine", "output_dir=out").config) == Path("out/mine")


def test_a_changed_setting_is_refused_with_both_values_and_the_way_out(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(UserError) as error:
        check_same_run(tmp_path, composed("seed=7", "training.weight_decay=0.1").config, "a", 10, 8, "flat")
    said = [str(fault) for fault in error.value.faults]
    assert any(
        line.startswith("seed: was 42") and "is now 7" in line and "allow_change=[seed]" in line for line in said
    )
    assert any(line.startswith("training.weight_decay: was 0.0") for line in said)


def test_what_may_change_may_change(tmp_path: Path) -> None:
    stored(tmp_path)
    check_same_run(tmp_path, composed("training.epochs=9", "training.log_every=1").config, "a", 30, 8, "flat")
    check_same_run(tmp_path, composed("seed=7", "allow_change=[seed]").config, "a", 10, 8, "flat")


def test_other_rows_are_allowed_with_one_word(tmp_path: Path) -> None:
    stored(tmp_path)
    other = ("data.max_length=99", "data.limit=5")
    with pytest.raises(UserError) as error:
        check_same_run(tmp_path, composed(*other).config, "b", 10, 8, "flat")
    assert [str(fault).rpartition("allow it with ")[2] for fault in error.value.faults] == ["'allow_change=[data]'"] * 2
    check_same_run(tmp_path, composed(*other, "allow_change=[data]").config, "b", 10, 8, "flat")


@pytest.mark.parametrize("key", ["tuning.rank=4", "training.optimizer=adafactor", "tuning.dora=true"])
def test_what_decides_the_shape_of_the_weights_is_never_allowed(key: str, tmp_path: Path) -> None:
    stored(tmp_path)
    name = key.partition("=")[0]
    with pytest.raises(UserError, match=name) as error:
        check_same_run(tmp_path, composed(key, f"allow_change=[{name}]").config, "a", 10, 8, "flat")
    assert "allow it" not in str(error.value) and "resume=none" in str(error.value)


def test_another_tuning_is_one_fault_not_one_for_each_of_its_settings(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(UserError) as error:
        check_same_run(tmp_path, composed("tuning=full").config, "a", 10, 8, "flat")
    assert [fault.where for fault in error.value.faults] == ["tuning.option"]


def test_a_run_that_made_no_checkpoint_binds_nobody(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-5").rmdir()
    check_same_run(tmp_path, composed("tuning=full", "seed=7").config, "other", 10, 8, "flat")


def test_changed_rows_are_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(UserError, match="the rows differ"):
        check_same_run(tmp_path, composed().config, "other", 10, 8, "flat")


def test_a_batch_may_be_made_up_otherwise_but_not_be_another(tmp_path: Path) -> None:
    stored(tmp_path)
    other = ("training.batch_size=2", "training.accumulation=2", "launch.processes=2")
    check_same_run(tmp_path, composed(*other).config, "a", 10, 8, "flat")
    with pytest.raises(UserError, match=r"makes 16 rows a step.*has 8; choose them so that their product is 8"):
        check_same_run(tmp_path, composed("launch.processes=2").config, "a", 10, 16, "flat")


def test_an_order_of_rows_is_not_left_in_the_middle_of_a_run(tmp_path: Path) -> None:
    stored(tmp_path)
    check_same_run(tmp_path, composed("training.batching=padded").config, "a", 10, 8, "padded")
    with pytest.raises(UserError, match=r"set training\.batching=flat"):
        check_same_run(tmp_path, composed().config, "a", 10, 8, "grouped")


def test_a_finished_run_is_not_made_shorter(tmp_path: Path) -> None:
    stored(tmp_path, finished=True)
    with pytest.raises(UserError, match="5 steps would be fewer than the 10"):
        check_same_run(tmp_path, composed().config, "a", 5, 8, "flat")


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from finetune.rundir import claimed; import sys\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"running already .pid {other.pid} on "), claimed(tmp_path):
            pass
        other.kill()
        other.wait()
    with claimed(tmp_path):
        pass  # the lock of a killed process is nobody's


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "is not writable" in check_writable(tmp_path / "runs" / "x")[0].what


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file where a folder is wanted" in check_writable(tmp_path / "file" / "x")[0].what
    assert "is not a folder" in check_writable(tmp_path / "file")[0].what
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in check_writable(tmp_path / "link")[0].what
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    assert "holds files that are not of a run" in check_writable(tmp_path / "other")[0].what
    assert check_writable(tmp_path / "new" / "x") == []


def test_a_written_file_is_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})


def test_a_run_that_was_killed_before_its_plan_may_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".base.unfinished").mkdir()
    for name in ("config.yaml", "lineage.json", "preview.txt", ".plan.json.12.tmp"):
        (tmp_path / name).touch()
    assert "holds files that are not of a run" in check_writable(tmp_path)[0].what
    (tmp_path / ".lock").touch()
    assert check_writable(tmp_path) == []
    (tmp_path / "thesis.tex").touch()
    assert "holds files that are not of a run" in check_writable(tmp_path)[0].what
