"""A model's weight files: which there are, whether they are whole, what shapes their headers name."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import Fault

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")

# The largest headers in use are a few MB. The limit is that of the safetensors library itself.
MAX_HEADER = 100_000_000
LFS_MARK = b"version https://git-lfs"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8}
PRECISIONS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}


@dataclass(frozen=True)
class Tensor:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Weights:
    """All tensors of a model, by name, and a digest that changes when a file does."""

    tensors: Mapping[str, Tensor]
    digest: str


class UnreadableWeights(Exception):
    """One file that cannot be used; becomes one fault of the list that is raised."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _stop(path: Path, what: str, mend: str = "download the file again") -> UnreadableWeights:
    return UnreadableWeights(Fault(str(path), what, mend))


def _raw_header(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start + file.read(len(LFS_MARK) - 8) == LFS_MARK:
            raise _stop(path, f"is a git-lfs pointer ({size} bytes) instead of weights", "run git lfs pull")
        if size < 8 or not any(start):
            state = "is empty" if size == 0 else f"is not a safetensors file ({size} bytes)"
            raise _stop(path, state)
        length = struct.unpack("<Q", start)[0]
        if length > min(size - 8, MAX_HEADER):
            raise _stop(path, f"names a header of {length} bytes, but the file has {size}")
        file.seek(8)
        return file.read(length)


def read_header(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """The tensors that one safetensors file holds, and its raw header; raises UnreadableWeights."""
    raw = _raw_header(path)
    try:
        header = json.loads(raw)
        tensors = {
            name: (
                Tensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"])),
                [int(offset) for offset in entry["data_offsets"]],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
        end = max((offsets[1] for _, offsets in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _stop(path, "has a damaged header") from error
    if not tensors:
        raise _stop(path, "holds no tensors")
    for name, (tensor, offsets) in tensors.items():
        width = BYTES.get(tensor.dtype)
        if width is not None and offsets[1] - offsets[0] != tensor.size * width:
            raise _stop(path, f"has a damaged header: the size of {name} is not that of its shape")
    expected, size = 8 + len(raw) + end, path.stat().st_size
    if size < expected:
        raise _stop(path, f"is cut short: {size} of {expected} bytes")
    return {name: tensor for name, (tensor, _) in tensors.items()}, raw


def _index(folder: Path) -> dict[str, str]:
    """The shard of each tensor."""
    path = folder / INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _stop(path, "is not a valid index of weight files") from error


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    names = sorted(set(_index(folder).values()))
    if any(Path(name).name != name for name in names):
        raise _stop(
            index,
            "names a weight file outside the model's folder",
            "download the model from a source you trust",
        )
    return [folder / name for name in names]


def weight_paths(folder: Path) -> list[Path]:
    """The weight files that a folder should have; raises UnreadableWeights when none can be used."""
    if (folder / INDEX).exists():
        return _shards(folder)
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        mend = "convert them to safetensors in a sandbox, or use a revision that has them"
        raise _stop(folder, f"has only pickled weights ({pickled[0]}), which can run code when loaded", mend)
    raise _stop(folder, f"has no weights ({SINGLE} or {INDEX})", "download the model's *.safetensors files too")


def has_all_files(folder: Path) -> bool:
    """Whether every weight file of a folder is there, whole or not."""
    try:
        return all(path.exists() for path in weight_paths(folder))
    except UnreadableWeights:
        return False


def read_weights(folder: Path) -> tuple[Weights, list[Fault]]:
    """The tensors of a folder's weight files, with the fault of each file that is missing or damaged."""
    try:
        paths = weight_paths(folder)
    except UnreadableWeights as error:
        return Weights({}, ""), [error.fault]
    tensors: dict[str, Tensor] = {}
    faults: list[Fault] = []
    digest = hashlib.sha256()
    for path in paths:
        if not path.exists():
            faults.append(Fault(str(path), f"is missing, but {INDEX} lists it", "download the missing file"))
            continue
        try:
            found, raw = read_header(path)
        except UnreadableWeights as error:
            faults.append(error.fault)
            continue
        tensors.update(found)
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        digest.update(raw)
    if not faults and (folder / INDEX).exists():
        faults = _index_faults(folder, tensors)
    return Weights(tensors, digest.hexdigest()), faults


def _index_faults(folder: Path, tensors: Mapping[str, Tensor]) -> list[Fault]:
    lost = sorted(set(_index(folder)) - set(tensors))
    if not lost:
        return []
    what = f"lists {len(lost)} tensors that no shard holds ({lost[0]})"
    return [Fault(str(folder / INDEX), what, "download the model again")]


def main_dtype(tensors: Iterable[Tensor]) -> str:
    """The number format that most of the weights are stored in, by the name our settings give it."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    if not sizes:
        return "fp32"
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return PRECISIONS.get(most, most.lower())
