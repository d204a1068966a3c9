"""What a machine that gives out says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetune.errors import RunFailed
from finetune.failures import explained


def test_a_full_disk_names_the_place_the_room_and_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught, explained(tmp_path / "runs" / "x", then="finetune train"):
        raise OSError(errno.ENOSPC, "No space left on device")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/runs/x: disk full while writing, ") and " free; free space there" in said
    assert said.endswith("then continue with:\n  finetune train")


def test_row_88_memory_that_no_machine_has(tmp_path: Path) -> None:
    import torch

    with pytest.raises(RunFailed, match=r"^out of memory.*; lower it$"), explained(tmp_path, "lower it"):
        torch.empty(2**60)
    with pytest.raises(RunFailed, match="out of memory"), explained(tmp_path):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "No such file")])
def test_other_errors_pass(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, explained(tmp_path):
        raise error
    assert caught.value is error
