"""What this machine has, found without importing torch."""

from __future__ import annotations

from dataclasses import dataclass


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


def look() -> Machine:
    """Look at this machine."""
    raise NotImplementedError
