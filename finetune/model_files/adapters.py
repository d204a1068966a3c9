"""An adapter's folder, checked before peft reads it: its configuration can name code to import."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError, did_you_mean
from finetune.model_files.architectures import package_folder
from finetune.model_files.weights import Tensor, UnreadableWeights, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG = 10_000_000
SCORING = "SEQ_CLS"  # peft's name for a task that gives scores
REQUIRED: dict[str, tuple[tuple[type, ...], str]] = {
    "peft_type": ((str,), "text"),
    "base_model_name_or_path": ((str,), "text"),
    "r": ((int,), "a whole number"),
    "lora_alpha": ((int, float), "a number"),
    "target_modules": ((list, str), "a list of names"),
}
# Keys that make peft import a module or run another library; none of them is needed for a language model.
IMPORTING = ("megatron_config", "arrow_config", "layer_replication", "runtime_config")


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter that `model.name` holds."""

    path: str
    base_name: str
    rank: int
    peft_type: str
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    base_revision: str | None = None
    scores: bool = False  # of a reward model: its score is among the weights


@functools.cache
def _known_keys() -> frozenset[str]:
    """The settings that the installed peft has for LoRA, read from its source: importing it costs torch."""
    keys: set[str] = set()
    for file, names in (
        ("tuners/lora/config.py", {"LoraConfig"}),
        ("config.py", {"PeftConfigMixin", "PeftConfig"}),
    ):
        tree = ast.parse((package_folder("peft") / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                keys |= {
                    item.target.id
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                }
    return frozenset(keys)


def _read_config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG:
        raise UserError.at(str(path), "is larger than any adapter's configuration", "download the adapter again")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError.at(str(path), f"is not valid JSON ({error})", "download the adapter again") from error
    if not isinstance(config, dict):
        raise UserError.at(str(path), "must be a JSON object", "download the adapter again")
    return config


def _required_faults(path: str, config: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for key, (types, wanted) in REQUIRED.items():
        value = config.get(key)
        if value is None:
            faults.append(Fault(f"{path} {key}", "is missing", "save the adapter again with peft's save_pretrained"))
        elif not isinstance(value, types) or isinstance(value, bool):
            faults.append(Fault(f"{path} {key}", f"must be {wanted}, got {value!r:.60}", "save the adapter again"))
        elif isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            faults.append(Fault(f"{path} {key}", "must be a list of names", "save the adapter again"))
    return faults


def _value_faults(path: str, config: Mapping[str, Any], scores: bool) -> list[Fault]:
    faults = []
    kind, rank, task = config.get("peft_type"), config.get("r"), config.get("task_type")
    if isinstance(kind, str) and kind != "LORA":
        faults.append(Fault(f"{path} peft_type", f"{kind!r:.60} is not supported", "use an adapter of type LORA"))
    if isinstance(rank, int) and not isinstance(rank, bool) and not 1 <= rank <= 4096:
        faults.append(Fault(f"{path} r", f"must be 1..4096, got {rank}", "save the adapter again"))
    if task == SCORING and not scores:
        mend = "name a language model; a reward model is used by method.rewards"
        faults.append(Fault(f"{path} task_type", f"is {task!r}: the adapter gives texts a score", mend))
    elif task not in (None, "CAUSAL_LM", SCORING):
        what = f"is {task!r:.60}, not an adapter of a language model"
        faults.append(Fault(f"{path} task_type", what, "use one trained with task_type CAUSAL_LM"))
    return faults


def _code_faults(path: str, config: Mapping[str, Any]) -> list[Fault]:
    faults = []
    mapping = config.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    if library is not None and str(library).split(".")[0] != "transformers":
        what = f"names the foreign module {str(library)!r:.80} to import"
        faults.append(Fault(f"{path} auto_mapping.parent_library", what, "set auto_mapping to null if you trust it"))
    for key in IMPORTING:
        if config.get(key):
            faults.append(Fault(f"{path} {key}", "is not supported", "set it to null or use another adapter"))
    for key in sorted(set(config) - _known_keys() - set(IMPORTING)):
        if config[key]:
            hint = did_you_mean(key, _known_keys()) or "upgrade peft or use another adapter"
            faults.append(Fault(f"{path} {key}", "is a setting that the installed peft does not know", hint))
    return faults


def read_adapter(folder: Path, scores: bool = False) -> AdapterFacts:
    """An adapter's configuration, checked; every fault is raised at once. With `scores` it may be a reward model's."""
    path = folder / CONFIG
    config = _read_config(path)
    where = str(path)
    faults = _required_faults(where, config) + _value_faults(where, config, scores) + _code_faults(where, config)
    weights = folder / WEIGHTS
    if not weights.exists():
        only = (
            "has only pickled weights (adapter_model.bin)" if (folder / "adapter_model.bin").exists() else "is missing"
        )
        faults.append(Fault(str(weights), only, "save the adapter again as safetensors"))
    if not faults:
        faults = _rank_faults(weights, config)
    if faults:
        raise UserError(faults)
    targets = config["target_modules"]
    return AdapterFacts(
        path=str(folder),
        base_name=config["base_model_name_or_path"],
        rank=config["r"],
        peft_type=config["peft_type"],
        alpha=float(config["lora_alpha"]),
        targets=(targets,)
        if isinstance(targets, str)
        else tuple(sorted({name.rpartition(".")[2] for name in targets})),
        base_revision=config.get("revision"),
        scores=config.get("task_type") == SCORING,
    )


def _rank_faults(weights: Path, config: Mapping[str, Any]) -> list[Fault]:
    """The fault of weights that have another rank than their configuration says."""
    try:
        tensors, _ = read_header(weights)
    except UnreadableWeights as error:
        return [error.fault]
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name and len(tensor.shape) == 2}
    if config.get("rank_pattern") or not ranks or ranks == {config["r"]}:
        return []
    found = " and ".join(str(rank) for rank in sorted(ranks))
    what = f"has matrices of rank {found}, but {CONFIG} says {config['r']}"
    return [Fault(str(weights), what, "use the configuration that was saved with these weights")]


def _layer_of(name: str) -> tuple[str, str] | None:
    """The base layer and the matrix (A or B) that a tensor belongs to, if it is one of LoRA's two."""
    for matrix in ("A", "B"):
        suffix = f".lora_{matrix}.weight"
        if name.endswith(suffix):
            return name.removesuffix(suffix).removeprefix("base_model.model."), matrix
    return None


def check_adapter_fits(adapter: AdapterFacts, base_name: str, shapes: Mapping[str, tuple[int, int]]) -> list[Fault]:
    """The faults of an adapter that was not made for these linear layers: one for each kind of layer."""
    path = Path(adapter.path) / WEIGHTS
    try:
        tensors, _ = read_header(path)
    except UnreadableWeights as error:
        return [error.fault]
    mend = f"use the base that it was trained on ({adapter.base_name})"
    faults: dict[str, Fault] = {}
    for name, tensor in tensors.items():
        what = _mismatch(name, tensor, shapes)
        if what:
            kind = name.split(".")[-3]
            faults.setdefault(kind, Fault(f"{path} {name}", f"{what} in {base_name}", mend))
    return list(faults.values())


def _mismatch(name: str, tensor: Tensor, shapes: Mapping[str, tuple[int, int]]) -> str:
    found = _layer_of(name)
    if found is None or len(tensor.shape) != 2:
        return ""
    layer, matrix = found
    # A checkpoint may leave out the name of the outermost module, which the adapter's names hold.
    shape = shapes.get(layer) or shapes.get(layer.partition(".")[2])
    if shape is None:
        return "has no layer of this name" if shapes and layer.split(".")[-1] not in ("lm_head", "embed_tokens") else ""
    out_size, in_size = shape
    have = tensor.shape[1] if matrix == "A" else tensor.shape[0]
    want = in_size if matrix == "A" else out_size
    side = "inputs" if matrix == "A" else "outputs"
    return "" if have == want else f"is for a layer of {have} {side}, but it has {want}"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()
