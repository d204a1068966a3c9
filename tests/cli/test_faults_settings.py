"""The fault table, rows 10–12, 23, 87 and 91–95: settings that this machine, these rows or their kind do not bear.

Rows that composing decides alone stand in test_config_faults.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import GOOD, Refused, Run, lines, refuse, write_files

from finetune.machine import look

START = ("model=tiny", "data.train=t.jsonl")
MACHINE = look()
HAS = f"this machine has {MACHINE.devices} × {MACHINE.device_name}"
on_cpu = pytest.mark.skipif(MACHINE.device == "cuda", reason="a GPU can do all of it")

ALWAYS: list[tuple[int, tuple[str, ...], str]] = [
    (10, ("tuning=full", "tuning.bits=4"), "tuning.bits: tuning=full has no such setting; tuning=qlora has it"),
    (10, ("tuning=lora", "tuning.bits=4"), "tuning.bits: tuning=lora has no such setting; tuning=qlora has it"),
    (10, ("tuning=qlora", "tuning.bits=8", "tuning.quant_type=nf4"), "tuning.quant_type: has no effect with tuning.bits=8; leave it out"),
    (23, ("data.eval_share=1.5",), "data.eval_share: must be in [0, 1), got 1.5"),
    (23, ("training.eval_every=100",), "training.eval_every: 100 is more than the run's 7 steps; use at most 7"),
    (23, ("data.eval_share=0", "training.eval_every=1"), "training.eval_every: there are no held-out rows to measure on; give data.eval or data.eval_share"),
    (23, ("data.eval=t.jsonl", "data.eval_share=0.5"), "data.eval_share: has no effect when data.eval gives the held-out rows; leave one of them out"),
    (9, ("training.max_steps=100000000000",), "training.max_steps: 100,000,000,000 steps of 8 rows are more than a run can order (1,000,000,000); lower it"),
    (9, ("training.epochs=1e30",), "training.epochs: "),
    (9, ("training.epochs=0.01",), "training.batch_size: 19 rows in 0.01 epochs cannot fill one batch of 8 × 1 × 1 = 8 rows; use a smaller batch, more epochs"),
    (9, ("training.max_time=1d",), "training.max_time: '1d' is no duration; write it like 90m, 3h or 1h30m"),
    (26, ("training.scheduler=constant", "training.warmup=0.1"), "training.warmup: has no effect with training.scheduler=constant; use training.scheduler=constant_with_warmup"),
    (23, ("training.warmup=1000",), "training.warmup: 1000 warm-up steps leave nothing of the run's 7; use a share such as 0.05"),
    (17, ("allow_change=[foo]",), "allow_change: 'foo' is not a setting; leave it out"),
    (1, ("--training.epochs=3",), "--training.epochs=3: `finetune train` has no such flag; known are --recipe, --cfg, --json, --debug, --help; a setting has no dashes: training.epochs=3"),
    (19, ("--recipe=",), "--recipe: nothing stands after `=`; write --recipe NAME"),
    (21, ("",), "an empty argument: is not a setting; write key=value"),
    (93, ("name=größe",), "name: 'größe' cannot name a run; use letters, digits"),
    (93, ("name=.prepared",), "name: '.prepared' cannot name a run; use letters, digits"),
]  # fmt: skip
ON_CPU: list[tuple[int, tuple[str, ...], str]] = [
    (87, ("method.trl.activation_offloading=true",), "method.trl.activation_offloading: needs a GPU; this machine has"),
    (11, ("model.precision=bf16",), f"model.precision: {MACHINE.device_name} does not compute in bf16; set model.precision=fp32"),
    (11, ("model.precision=fp16",), f"model.precision: fp16 needs an NVIDIA GPU; {HAS}; set model.precision=fp32"),
    (12, ("tuning=qlora", "training.optimizer=paged_adamw_8bit"), f"training.optimizer: paged_adamw_8bit needs an NVIDIA GPU; {HAS}; use adamw_torch"),
    (87, ("model.attention=flash_attention_2",), f"model.attention: flash_attention_2 needs an NVIDIA GPU; {HAS}; use sdpa"),
    (87, ("parallel=fsdp", "launch.processes=2"), f"parallel: fsdp needs GPUs, and this machine has {MACHINE.device_name}; use parallel=ddp"),
    (87, ("parallel=zero3", "launch.processes=2"), f"parallel: zero3 needs GPUs, and this machine has {MACHINE.device_name}; use parallel=ddp"),
    (87, ("launch.processes=100000",), "launch.processes: 100000 are asked for, and this machine has "),
    (87, ("launch=inline", "launch.processes=2"), "launch.processes: launch=inline runs one process, not 2; use launch=accelerate"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "more", "said"), ALWAYS, ids=[f"{row}-{' '.join(more)!a}" for row, more, _ in ALWAYS])
def test_settings_that_mean_nothing_are_refused(
    row: int, more: tuple[str, ...], said: str, finetune: Run, tmp_path: Path
) -> None:
    refuse(Refused(row, "", said, (*START, *more), {"t.jsonl": lines(GOOD)}, keeps=True), finetune, tmp_path)


@on_cpu
@pytest.mark.parametrize(("row", "more", "said"), ON_CPU, ids=[f"{row}-{' '.join(more)!a}" for row, more, _ in ON_CPU])
def test_what_this_machine_cannot_do_is_refused(
    row: int, more: tuple[str, ...], said: str, finetune: Run, tmp_path: Path
) -> None:
    refuse(Refused(row, "", said, (*START, *more), {"t.jsonl": lines(GOOD)}, keeps=True), finetune, tmp_path)


def test_row_12_qlora_needs_its_package(finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python keeps of a module that cannot be imported
    said = "tuning: qlora needs the package bitsandbytes, which is not installed; pip install "
    refuse(Refused(12, "", said, (*START, "tuning=qlora"), {"t.jsonl": lines(GOOD)}, keeps=True), finetune, tmp_path)


@pytest.mark.parametrize("package", ["hydra-core", "transformers", "torch"])
def test_row_92_a_package_with_a_known_hole_is_refused(
    package: str, finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site" / f"{package.replace('-', '_')}-1.3.1.dist-info"
    write_files(folder, {"METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.3.1\n"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    said = f"{package}: 1.3.1 is installed, "
    err = refuse(Refused(92, "", said, START, {"t.jsonl": lines(GOOD)}, keeps=True), finetune, tmp_path)
    assert f"; pip install '{package}>=" in err


def test_row_91_a_port_in_use_is_named(finetune: Run, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        more = ("launch=accelerate", "training.batch_size=2", f"launch.port={port}")
        said = f"launch.port: {port} cannot be used (address already in use); give another one, or leave it out"
        refuse(Refused(91, "", said, (*START, *more), {"t.jsonl": lines(GOOD)}, keeps=True), finetune, tmp_path)
    assert finetune("plan", *START, *more)[0] == 0


def command(folder: Path, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    values = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    kept = {name: value for name, value in values.items() if value is not None}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=kept, capture_output=True, text=True, encoding="utf-8"
    )


def test_row_95_without_home_locale_or_cache_a_run_works(tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    bare = {"HOME": None, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "HF_HOME": "/proc/nowhere"}
    done = command(tmp_path, "-m", "finetune", "train", *START, "training.max_steps=1", "name=x", **bare)
    assert done.returncode == 0, done.stderr
    assert "next: finetune evaluate runs/x" in done.stdout and "8 ? 1 ? 1 = 8 rows a step" in done.stdout


PROBE = """
import sys
from finetune.cli import main
code = main(sys.argv[1:])
print(code, sorted({"torch", "trl", "peft", "accelerate"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("model=tiny", "data.train=t.jsonl", "data.max_length=2"),
        ("model=tiny", "data.train=none.jsonl"),
        ("model.name=none", "data.train=t.jsonl"),
        ("model=tiny", "data.train=t.jsonl", "training.eval_every=100", "tuning.targets=[none]"),
        ("model=tiny", "data.train=t.jsonl", "resume=must"),
    ],
    ids=["rows", "files", "models", "settings", "runs"],
)
def test_nothing_heavy_is_loaded_to_refuse(arguments: tuple[str, ...], tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    done = command(tmp_path, "-c", PROBE, "train", *arguments)
    assert done.stdout == "2 []\n", done.stderr
