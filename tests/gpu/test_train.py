"""What only a GPU shows: bf16, 4-bit, fused kernels, several devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

Run = Callable[..., tuple[int, str, str]]


def plan_of(run_dir: Path) -> dict[str, object]:
    return dict(json.loads((run_dir / "plan.json").read_text())["resolved"])


@pytest.mark.parametrize("tuning", ["lora", "qlora", "full"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_each_tuning_learns_in_the_precision_of_the_device(
    finetune: Run, tmp_path: Path, chat_file: Path, tuning: str, checkpointing: str
) -> None:
    code, out, err = finetune(
        "train", "model=tiny", f"tuning={tuning}", f"data.train={chat_file}", "training.epochs=4", "name=x",
        "training.batch_size=4", f"training.gradient_checkpointing={checkpointing}", "training.log_every=1", "--json",
    )  # fmt: skip
    assert code == 0, err
    losses = [json.loads(line) for line in (tmp_path / "runs" / "x" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    wanted = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    assert plan_of(tmp_path / "runs" / "x")["precision"] == wanted
    assert json.loads(out)["status"] == "finished"


def test_eight_bits_train(finetune: Run, chat_file: Path) -> None:
    code, _, err = finetune(
        "train", "model=tiny", "tuning=qlora", "tuning.bits=8", f"data.train={chat_file}", "training.max_steps=4"
    )
    assert code == 0, err


def test_a_stopped_run_continues_on_the_gpu(finetune: Run, tmp_path: Path, chat_file: Path) -> None:
    command = ("train", "model=tiny", f"data.train={chat_file}", "training.epochs=300", "name=x", "--json")
    assert finetune(*command, "training.max_time=2s")[0] == 75
    code, _, err = finetune(*command[:3], "training.epochs=301", *command[4:], "training.max_time=2s")
    assert code in (0, 75), err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_gpus_train_one_run(finetune: Run, tmp_path: Path, chat_file: Path, parallel: str) -> None:
    code, _, err = finetune(
        "train", "model=tiny", f"data.train={chat_file}", "training.max_steps=4", "launch.processes=2",
        f"parallel={parallel}", "name=x",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "runs" / "x" / "adapter" / "adapter_model.safetensors").exists()
