"""What this machine has, found without importing torch."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import Fault
from finetune.model_files.architectures import package_folder

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "hydra-core")

# Older ones have a known hole (torch, transformers, hydra-core, datasets) or lack what a run stands on.
FLOORS: dict[str, tuple[str, str]] = {
    "torch": ("2.6", "older ones can run code from a weights file"),
    "transformers": ("5.17", "older ones can run code from a model's files, or load models in another way"),
    "hydra-core": ("1.3.8", "older ones can run code from a configuration"),
    "datasets": ("5", "older ones can run code from a dataset's files"),
    "trl": ("1.16", "older ones compute the loss in another way"),
    "peft": ("0.21", "older ones save and load adapters in another way"),
    "accelerate": ("1.15", "older ones do not fit this version of transformers"),
    "bitsandbytes": ("0.50", "older ones cannot train in 4 bits on every device"),
}

NVIDIA_QUERY = [
    "nvidia-smi",
    "--query-gpu=index,uuid,name,memory.total,compute_cap",
    "--format=csv,noheader,nounits",
]
MIB = 1024 * 1024


@dataclass(frozen=True)
class Machine:
    """The devices that a run can use, and the packages it stands on."""

    device: str  # cuda, mps or cpu
    device_name: str
    devices: int
    device_memory: int  # bytes of one device; of the computer for cpu
    bf16: bool  # trains well in bf16
    cores: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Gpu:
    """One line of what the driver reports."""

    name: str
    memory: int
    capability: tuple[int, int]


def look() -> Machine:
    """Look at this machine."""
    cores, versions = usable_cores(), package_versions()
    gpus = nvidia_gpus() if torch_backend() in ("cuda", "rocm") else []
    if gpus:
        # Every rank gets the same plan, so the weakest device decides.
        weakest = min(gpus, key=lambda gpu: gpu.memory)
        bf16 = all(gpu.capability >= (8, 0) for gpu in gpus)
        return Machine("cuda", weakest.name, len(gpus), weakest.memory, bf16, cores, versions)
    memory = usable_memory()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Machine("mps", "Apple GPU", 1, memory, False, cores, versions)
    # Most processors emulate bf16, slower than fp32; the others gain nothing on models they can train.
    return Machine("cpu", processor_name(), 1, memory, False, cores, versions)


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that a run stands on, and of Python."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def check_floors(versions: Mapping[str, str]) -> list[Fault]:
    """Packages that are missing, or too old to be safe or to work."""
    faults = []
    for name, (floor, why) in FLOORS.items():
        mend = f"pip install '{name}>={floor}'"
        have = versions.get(name)
        if have is None:
            faults.append(Fault(name, f"is not installed, {floor} or newer is needed", mend))
        elif _numbers(have) < _numbers(floor):
            faults.append(Fault(name, f"{have} is installed, {floor} or newer is needed: {why}", mend))
    return faults


def torch_backend() -> str:
    """What torch was built for (cuda, rocm or cpu), from its version file: importing it is slow."""
    try:
        tree = ast.parse((package_folder("torch") / "version.py").read_text(encoding="utf-8"))
    except (ModuleNotFoundError, OSError):
        return "cpu"
    built: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target: ast.expr = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
            built[target.id] = node.value.value
    return "cuda" if built.get("cuda") else "rocm" if built.get("hip") else "cpu"


def nvidia_gpus() -> list[Gpu]:
    """The NVIDIA devices that this process may use, in the order torch numbers them."""
    try:
        answer = subprocess.run(NVIDIA_QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(answer: str, visible: str | None) -> list[Gpu]:
    """The devices in nvidia-smi's answer that CUDA_VISIBLE_DEVICES leaves, by index or uuid."""
    found: dict[str, Gpu] = {}
    uuids: dict[str, str] = {}
    for line in answer.strip().splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 5:
            continue
        index, uuid, name, memory, capability = parts
        major, _, minor = capability.partition(".")
        if memory.isdecimal() and major.isdecimal() and minor.isdecimal():
            found[index] = Gpu(name, int(memory) * MIB, (int(major), int(minor)))
            uuids[index] = uuid
    if visible is None:
        return list(found.values())
    chosen = []
    for word in (word.strip() for word in visible.split(",")):
        matches = [index for index in found if word == index or (word and uuids[index].startswith(word))]
        if len(matches) != 1:
            break  # CUDA itself ignores everything from the first unknown name on
        chosen.append(found[matches[0]])
    return chosen


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes of memory of the computer, or of the container when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(limit for limit in _container_limits() if limit > 0)])


def _container_limits() -> list[int]:
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            limits.append(int(text))
    return limits


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
