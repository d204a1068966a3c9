"""What a model is, read from its files alone: no torch, no weights in memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune import hub
from finetune.adapter_files import AdapterFacts, check_adapter_fits, is_adapter, read_adapter
from finetune.architectures import FAMILIES, TRANSPOSED, causal_architectures, is_decoder, model_types
from finetune.errors import Fault, UserError, did_you_mean
from finetune.weight_files import Tensor, Weights, has_all_files, main_dtype, read_weights

__all__ = ["AdapterFacts", "ModelFacts", "check_quantization", "inspect_model"]

MAX_CONFIG = 10_000_000
MAX_ADAPTERS = 8  # adapters on adapters; a chain longer than this is a loop
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")

# The names that families give to the same number.
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
OTHER_INPUTS = ("vision_config", "audio_config", "image_token_id", "image_token_index")

EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|lm_head)$")
OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
EXPERT = re.compile(r"\.experts?\.|\.(gate|router|router\.\w+)$")


@dataclass(frozen=True)
class ModelFacts:
    """A base model on disk (or in the hub's cache), as far as its files tell."""

    name: str  # as the user gave it
    path: str  # the folder that holds config.json and weights
    revision: str | None
    model_type: str  # such as llama
    architecture: str  # such as LlamaForCausalLM
    hidden_size: int
    layers: int
    vocab_size: int  # rows of the input embedding
    context: int | None  # longest sequence it was made for
    parameters: int
    dtype: str  # of the stored weights: fp32, bf16, fp16, or the file's own name for another
    tied_embeddings: bool
    linear_shapes: Mapping[str, tuple[int, int]]  # full name of each linear layer (lm_head left out) → (out, in)
    fingerprint: str  # changes when configuration or weights change
    adapter: AdapterFacts | None = None
    quantization: str | None = None  # such as "gptq 4 bits", when the stored weights are quantized
    other_sizes: Mapping[str, int] = field(default_factory=dict)  # numbers in each module that is not a linear layer
    hub_id: str | None = None  # where the weights are fetched from, when the model is on the hub
    trust_remote_code: bool = False  # the user's word that this very commit's code may run


def inspect_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelFacts:
    """Read a model's files; every fault found in them is raised at once as a UserError.

    When the name holds an adapter, the facts are those of its base, with the adapter's beside them.
    """
    return _inspect(name, revision, trust_remote_code, depth=0)


def _inspect(name: str, revision: str | None, trust_remote_code: bool, depth: int) -> ModelFacts:
    if depth > MAX_ADAPTERS:
        raise UserError.at(name, "its adapters name each other as their base", "name a base model")
    folder, hub_id = _locate(name, revision, trust_remote_code)
    if is_adapter(folder):
        return _inspect_adapter(name, folder, trust_remote_code, depth)
    commit = folder.name if hub_id else None
    config = _read_config(folder)
    faults = _config_faults(folder, config, commit, revision, trust_remote_code)
    if faults:
        raise UserError(faults)
    weights = _weights(folder, hub_id, commit)
    facts = _facts(name, folder, config, weights)
    facts = replace(facts, revision=commit, hub_id=hub_id, trust_remote_code=trust_remote_code)
    if facts.quantization is None:
        _check_agreement(folder, config, facts, weights)
    return facts


def _inspect_adapter(name: str, folder: Path, trust_remote_code: bool, depth: int) -> ModelFacts:
    adapter = read_adapter(folder)
    base_name = adapter.base_name
    beside = folder / base_name
    if not Path(base_name).exists() and not hub.is_hub_id(base_name) and not beside.exists():
        mend = f"put the base model there, or correct base_model_name_or_path {hub.nearby(base_name, folder.parent)}"
        raise UserError.at(f"{folder}/adapter_config.json base_model_name_or_path", f"{base_name} is missing", mend.strip())
    base = _inspect(base_name, adapter.base_revision, trust_remote_code, depth + 1)
    if base.adapter is not None:
        what = f"its base {base_name} is itself an adapter"
        raise UserError.at(str(folder), what, "merge that one into its base first")
    faults = [] if base.quantization else check_adapter_fits(adapter, base_name, base.linear_shapes)
    if faults:
        raise UserError(faults)
    return replace(base, name=name, adapter=adapter)


def _locate(name: str, revision: str | None, code: bool) -> tuple[Path, str | None]:
    """The folder of a model, and its hub id when that folder is in the hub's cache."""
    if name == "tiny":
        from finetune import tiny

        if revision not in (None, tiny.REVISION):
            raise UserError.at("model.revision", f"the embedded model is {tiny.REVISION}, not {revision}", "leave it out")
        return Path(tiny.PATH), None
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_revision(name, revision)
        return _inside_run(path.resolve()), None
    if path.exists():
        raise UserError.at(name, "is a file, not a model's folder", f"name the folder: {path.parent}")
    if not hub.is_hub_id(name):
        hint = hub.nearby(name, path.parent) or "give a folder with config.json, or a hub id such as Qwen/Qwen3-0.6B"
        raise UserError.at(name, "no such folder", hint)
    return hub.small_files(name, revision, code), name


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        what = f"{revision!r} has no effect on the local folder {name}"
        raise UserError.at("model.revision", what, "leave it out, or give a hub id")


def _inside_run(folder: Path) -> Path:
    """A run's directory stands for what the run made."""
    if (folder / "config.json").exists() or is_adapter(folder) or not (folder / "lineage.json").exists():
        return folder
    for part in ("adapter", "model"):
        if (folder / part).is_dir():
            return folder / part
    raise UserError.at(str(folder), "this run has no adapter/ or model/ yet", "let it finish: run finetune train again")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        entries = sorted(entry.name for entry in folder.iterdir())[:5]
        has = f"it has {', '.join(entries)}" if entries else "it is empty"
        raise UserError.at(str(path), f"is missing ({has})", "name the folder of a model or of an adapter")
    if path.stat().st_size > MAX_CONFIG:
        raise UserError.at(str(path), "is larger than any model's configuration", "download the model again")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError.at(str(path), f"is not valid JSON ({error})", "download the file again") from error
    if not isinstance(config, dict):
        raise UserError.at(str(path), "must be a JSON object", "download the file again")
    return config


def _config_faults(
    folder: Path, config: Mapping[str, Any], commit: str | None, revision: str | None, trust_remote_code: bool
) -> list[Fault]:
    path = str(folder / "config.json")
    model_type = config.get("model_type")
    if config.get("auto_map") and not _is_known(model_type):
        return _code_faults(path, commit, revision, trust_remote_code)
    if not isinstance(model_type, str) or not model_type:
        return [Fault(f"{path} model_type", "is missing", "download the model again, or name another folder")]
    if not _is_known(model_type):
        hint = did_you_mean(model_type, model_types()) or "upgrade transformers, or use another model"
        return [Fault(f"{path} model_type", f"{model_type!r:.60} is unknown to the installed transformers", hint)]
    return _family_faults(path, config, model_type) + _number_faults(path, config)


def _is_known(model_type: object) -> bool:
    return model_type in model_types() or model_type in causal_architectures()


def _code_faults(path: str, commit: str | None, revision: str | None, trust_remote_code: bool) -> list[Fault]:
    if not trust_remote_code:
        mend = "if you trust it, set model.trust_remote_code=true and model.revision to a full commit"
        return [Fault(f"{path} auto_map", "this model needs Python code from its own repository", mend)]
    if commit is not None and not FULL_COMMIT.fullmatch(revision or ""):
        what = "running a repository's code needs model.revision as a full commit of 40 digits"
        return [Fault("model.revision", what, f"set model.revision={commit} after reading its code")]
    return []


def _family_faults(path: str, config: Mapping[str, Any], model_type: str) -> list[Fault]:
    named = config.get("architectures") or [causal_architectures().get(model_type, "")]
    architecture = str(named[0]) if isinstance(named, list) else str(named)
    families = f"use a decoder-only language model: {', '.join(FAMILIES)}"
    if config.get("is_encoder_decoder"):
        return [Fault(f"{path} architectures", f"{architecture or model_type} is an encoder-decoder model", families)]
    if any(config.get(key) is not None for key in OTHER_INPUTS):
        what = f"{architecture or model_type} takes images or sound, which is not supported"
        return [Fault(f"{path} architectures", what, families)]
    if not is_decoder(architecture) or architecture not in causal_architectures().values():
        what = f"{architecture or model_type} is not a decoder-only language model"
        return [Fault(f"{path} architectures", what, families)]
    return []


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _number_faults(path: str, config: Mapping[str, Any]) -> list[Fault]:
    wanted = (HIDDEN, LAYERS, ("vocab_size",))
    return [
        Fault(f"{path} {names[0]}", "is missing or not a positive whole number", "download the model again")
        for names in wanted
        if _first(config, names) is None
    ]


def _weights(folder: Path, hub_id: str | None, commit: str | None) -> Weights:
    if hub_id is not None and commit is not None and not has_all_files(folder):
        # Only the small files came along; the weights themselves are fetched when the model is loaded.
        return hub.remote_weights(hub_id, commit)
    weights, faults = read_weights(folder)
    if faults:
        raise UserError(faults)
    return weights


def _facts(name: str, folder: Path, config: Mapping[str, Any], weights: Weights) -> ModelFacts:
    model_type = str(config["model_type"])
    tied = bool(config.get("tie_word_embeddings", not any(OUTPUT.search(tensor) for tensor in weights.tensors)))
    digest = hashlib.sha256((folder / "config.json").read_bytes() + weights.digest.encode()).hexdigest()
    named = config.get("architectures") or [causal_architectures().get(model_type, "")]
    rows = _embedding_rows(weights.tensors)
    linear = _linear_shapes(weights.tensors, model_type)
    return ModelFacts(
        name=name,
        path=str(folder),
        revision=None,
        model_type=model_type,
        architecture=str(named[0]),
        hidden_size=_first(config, HIDDEN) or 0,
        layers=_first(config, LAYERS) or 0,
        vocab_size=rows or _first(config, ("vocab_size",)) or 0,
        context=_first(config, CONTEXT),
        parameters=_parameters(weights.tensors, tied),
        dtype=main_dtype(weights.tensors.values()),
        tied_embeddings=tied,
        linear_shapes=linear,
        other_sizes=_other_sizes(weights.tensors, linear),
        fingerprint=digest,
        quantization=_quantization(config),
    )


def _embedding_rows(tensors: Mapping[str, Tensor]) -> int | None:
    for name, tensor in tensors.items():
        if re.search(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed)\.weight$", name):
            return tensor.shape[0]
    return None


def _parameters(tensors: Mapping[str, Tensor], tied: bool) -> int:
    return sum(tensor.size for name, tensor in tensors.items() if not (tied and name == "lm_head.weight"))


def _linear_shapes(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, tuple[int, int]]:
    """The layers that can get an adapter; experts of a mixture are left out, as they are fused when loaded."""
    has_experts = any(".experts." in name for name in tensors)
    shapes = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if layer == name or len(tensor.shape) != 2 or EMBEDDING.search(layer):
            continue
        if has_experts and EXPERT.search(layer):
            continue
        out_size, in_size = reversed(tensor.shape) if model_type in TRANSPOSED else tensor.shape
        shapes[layer] = (out_size, in_size)
    return shapes


def _other_sizes(tensors: Mapping[str, Tensor], linear: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Embeddings, norms, output layer, and each layer's experts as the one module that they become when loaded."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if module not in linear:
            fused = re.sub(r"\.experts\..*", ".experts", module)
            sizes[fused] = sizes.get(fused, 0) + tensor.size
    return sizes


def _quantization(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in found else "unknown"))
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    return f"{method} {bits} bits" if bits else method


def check_quantization(facts: ModelFacts, tuning: str) -> list[Fault]:
    """The fault of a base whose stored weights are quantized already: its full weights are what is trained from."""
    if facts.quantization is None:
        return []
    what = f"the weights are stored quantized ({facts.quantization}), which tuning={tuning} cannot start from"
    return [Fault(facts.name, what, "name the unquantized model; tuning=qlora quantizes it while loading")]


def _check_agreement(folder: Path, config: Mapping[str, Any], facts: ModelFacts, weights: Weights) -> None:
    """Refuse a configuration that does not belong to its weights: what is missing would be filled with noise."""
    path = str(folder / "config.json")
    faults = []
    stated = _first(config, ("vocab_size",))
    if stated != facts.vocab_size:
        what = f"is {stated}, but the embedding has {facts.vocab_size} rows"
        faults.append(Fault(f"{path} vocab_size", what, "use the configuration that belongs to these weights"))
    numbers = {int(found[1]) for name in weights.tensors if (found := re.search(r"\.(?:layers|h)\.(\d+)\.", f".{name}"))}
    if numbers and max(numbers) + 1 < facts.layers:
        what = f"names {facts.layers} layers, but the weights hold {max(numbers) + 1}"
        faults.append(Fault(path, what, "use the configuration that belongs to these weights"))
    if faults:
        raise UserError(faults)
