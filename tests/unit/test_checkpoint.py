"""A checkpoint counts only when it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.checkpoint import choose, find_newest, retain, seal, sweep, verify
from finetune.errors import UserError


def make(run_dir: Path, step: int, sealed: bool = True) -> Path:
    folder = run_dir / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * step)
    (folder / "optimizer.pt").write_bytes(b"o" * step)
    if sealed:
        seal(folder, {"step": step})
    return folder


def names(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints").iterdir()}


def test_a_sealed_checkpoint_verifies(tmp_path: Path) -> None:
    assert verify(make(tmp_path, 5)) is None


def test_one_whose_save_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, 5)
    make(tmp_path, 10, sealed=False)
    found = find_newest(tmp_path)
    assert found.newest and found.newest.step == 5
    assert "cut short" in found.skipped[0].what


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "adapter_model.safetensors is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 2,559 bytes instead of 2,560"),
        (lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]), "differs from what was saved"),
    ],
    ids=["missing", "cut", "flipped bit"],
)
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(tmp_path: Path, damage, said: str) -> None:
    make(tmp_path, 5)
    damage(make(tmp_path, 10) / "adapter_model.safetensors")
    found = choose(tmp_path, "auto")
    assert found.newest and found.newest.step == 5
    assert said in found.skipped[0].what


def test_when_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for step in (5, 10):
        (make(tmp_path, step) / "optimizer.pt").unlink()
    with pytest.raises(UserError) as error:
        choose(tmp_path, "auto")
    assert len(error.value.faults) == 2
    assert "resume=none" in str(error.value)


def test_killed_inside_the_first_save_the_run_starts_anew(tmp_path: Path) -> None:
    make(tmp_path, 5, sealed=False)
    assert choose(tmp_path, "auto").newest is None


def test_resume_must_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in"):
        choose(tmp_path, "must")


def test_resume_takes_the_path_of_a_checkpoint_or_says_what_one_looks_like(tmp_path: Path) -> None:
    make(tmp_path, 10)
    older = make(tmp_path, 5)
    chosen = choose(tmp_path, str(older)).newest
    assert chosen and chosen.step == 5
    with pytest.raises(UserError, match="is no checkpoint folder"):
        choose(tmp_path, str(tmp_path))


def test_resume_none_takes_none(tmp_path: Path) -> None:
    make(tmp_path, 5)
    assert choose(tmp_path, "none").newest is None


def test_superseded_checkpoints_go_but_the_best_stays(tmp_path: Path) -> None:
    folders = [make(tmp_path, step) for step in (1, 2, 3, 4)]
    retain(tmp_path, newest=4, keep=2, best=str(folders[0]))
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-3", "checkpoint-4"}


def test_nothing_is_deleted_before_the_newest_verifies(tmp_path: Path) -> None:
    for step in (1, 2):
        make(tmp_path, step)
    make(tmp_path, 3, sealed=False)
    retain(tmp_path, newest=3, keep=1, best=None)
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


def test_what_lies_beyond_the_step_that_a_run_continues_from_is_swept(tmp_path: Path) -> None:
    make(tmp_path, 5)
    make(tmp_path, 10, sealed=False)
    sweep(tmp_path, after=5)
    assert names(tmp_path) == {"checkpoint-5"}
