"""What a machine has: devices from the driver's answer, memory, cores, and the packages a run stands on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from finetune.machine import FLOORS, MIB, PACKAGES, check_floors, look, parse_gpus, torch_backend

ANSWER = """0, GPU-aa11, NVIDIA H100 80GB HBM3, 81559, 9.0
1, GPU-bb22, Tesla T4, 15360, 7.5
2, GPU-bb33, NVIDIA A100-SXM4-40GB, 40960, 8.0
"""


def test_this_machine_is_described_without_torch() -> None:
    code = "import sys; from finetune.machine import look; look(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_device_is_the_one_torch_finds() -> None:
    import torch

    machine = look()
    assert (machine.device == "cuda") == torch.cuda.is_available()
    assert torch_backend() == ("cuda" if torch.version.cuda else "rocm" if torch.version.hip else "cpu")
    if machine.device == "cuda":
        assert machine.devices == torch.cuda.device_count()
    assert machine.cores == len(os.sched_getaffinity(0))
    pages = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < machine.device_memory <= max(pages, machine.device_memory if machine.device == "cuda" else pages)


def test_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = dict(re.split(r">=", entry.split(",")[0]) for entry in project["dependencies"] if ">=" in entry)
    assert {name: floor for name, (floor, _) in FLOORS.items()} == {name: asked[name] for name in FLOORS}


def test_versions_are_those_installed() -> None:
    versions = look().versions
    assert {name: versions[name] for name in PACKAGES} == {name: version(name) for name in PACKAGES}
    assert versions["python"].split(".")[0] == "3"
    assert check_floors(versions) == []


@pytest.mark.parametrize(
    "visible, names",
    [
        (None, ["NVIDIA H100 80GB HBM3", "Tesla T4", "NVIDIA A100-SXM4-40GB"]),
        ("1", ["Tesla T4"]),
        ("2,0", ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"]),
        ("GPU-bb33", ["NVIDIA A100-SXM4-40GB"]),
        ("GPU-bb", []),
        ("0,7,1", ["NVIDIA H100 80GB HBM3"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_visible_devices_count(visible: str | None, names: list[str]) -> None:
    assert [gpu.name for gpu in parse_gpus(ANSWER, visible)] == names


def test_memory_and_capability_are_read() -> None:
    first, second, _ = parse_gpus(ANSWER, None)
    assert first.memory == 81559 * MIB
    assert (first.capability, second.capability) == ((9, 0), (7, 5))


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, GPU-a, Odd, [N/A], 9.0\n"])
def test_answers_without_devices_are_none(answer: str) -> None:
    assert parse_gpus(answer, None) == []


@pytest.mark.parametrize("name", FLOORS)
def test_old_packages_are_named_with_both_versions(name: str) -> None:
    floor, _ = FLOORS[name]
    (fault,) = check_floors({**{key: "99.0" for key in FLOORS}, name: "0.1.dev0+cpu"})
    assert fault.where == name
    assert "0.1.dev0+cpu is installed" in fault.what and f"{floor} or newer" in fault.what
    assert fault.mend == f"pip install '{name}>={floor}'"


def test_all_missing_packages_are_named_at_once() -> None:
    faults = check_floors({})
    assert [fault.where for fault in faults] == list(FLOORS)
    assert all("is not installed" in fault.what for fault in faults)


@pytest.mark.parametrize(
    "have, sound",
    [("2.6.0", True), ("2.13.0+cpu", True), ("2.5.9", False), ("2.6.0rc1", True), ("10.0", True)],
)
def test_versions_compare_by_number(have: str, sound: bool) -> None:
    versions = {**{key: "99.0" for key in FLOORS}, "torch": have}
    assert (check_floors(versions) == []) is sound
