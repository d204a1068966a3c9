"""What a model is, read from its files alone: no torch, no weights in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError
from finetune.model_files import hub
from finetune.model_files.adapters import CONFIG as ADAPTER_CONFIG
from finetune.model_files.adapters import WEIGHTS as ADAPTER_WEIGHTS
from finetune.model_files.adapters import AdapterFacts, check_adapter_fits, is_adapter, read_adapter
from finetune.model_files.architectures import TRANSPOSED
from finetune.model_files.config import (
    CONTEXT,
    HEADS,
    HIDDEN,
    LAYERS,
    architecture_of,
    config_faults,
    first_number,
    quantization_of,
    read_config,
)
from finetune.model_files.scoring import CAUSAL, SCORE, is_scoring
from finetune.model_files.weights import Tensor, Weights, has_all_files, main_dtype, read_weights

__all__ = ["AdapterFacts", "ModelFacts", "check_quantization", "digest_of", "inspect_model"]

MAX_ADAPTERS = 8  # adapters on adapters; a chain longer than this is a loop
EMBEDDING = re.compile(r"^score$|(^|\.)(\w*embed\w*|wte|wpe|lm_head)$")
INPUT = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed)\.weight$")
OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
# What a mixture of experts fuses when it is loaded, and every layer whose name peft takes for a fused one.
EXPERT = re.compile(r"\.experts?\.|\.(gate|router|router\.\w+|gate_proj|up_proj|down_proj|w[123])$")


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
    heads: int = 1  # of attention
    embeddings: tuple[str, ...] = (
        "embed_tokens",
        "lm_head",
    )  # what this family calls its input and output embedding
    quantization: str | None = None  # such as "gptq 4 bits", when the stored weights are quantized
    other_sizes: Mapping[str, int] = field(default_factory=dict)  # numbers in each module that is not a linear layer
    hub_id: str | None = None  # where the weights are fetched from, when the model is on the hub
    trust_remote_code: bool = False  # the user's word that this very commit's code may run
    head: str = CAUSAL  # what it is loaded to give: words, or one number for a text
    new_head: bool = False  # the layer that gives the number is in no file: it is drawn at random


def inspect_model(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    *,
    any_text: bool = False,
    scores: bool = False,
) -> ModelFacts:
    """Read a model's files; every fault found in them is raised at once as a UserError.

    When the name holds an adapter, the facts are those of its base, with the adapter's beside them. With `any_text`
    the model is only to read texts, and may be an encoder; with `scores` it may be a reward model.
    """
    try:
        return _inspect(name, revision, trust_remote_code, depth=0, any_text=any_text, scores=scores)
    except PermissionError as error:
        raise UserError.at(str(error.filename or name), "cannot be read: permission denied", "chmod it") from error


def _inspect(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    depth: int,
    any_text: bool = False,
    scores: bool = False,
) -> ModelFacts:
    if depth > MAX_ADAPTERS:
        raise UserError.at(name, "its adapters name each other as their base", "name a base model")
    folder, hub_id = _locate(name, revision, trust_remote_code)
    if is_adapter(folder):
        return _inspect_adapter(name, folder, trust_remote_code, depth, scores)
    commit = folder.name if hub_id else None
    config = read_config(folder)
    faults = config_faults(folder, config, commit, revision, trust_remote_code, any_text, scores)
    if faults:
        raise UserError(faults)
    weights = _weights(folder, hub_id, commit)
    facts = _facts(name, folder, config, weights)
    facts = replace(facts, revision=commit, hub_id=hub_id, trust_remote_code=trust_remote_code)
    if facts.quantization is None:
        _check_agreement(folder, config, facts, weights)
    return facts


def _inspect_adapter(name: str, folder: Path, trust_remote_code: bool, depth: int, scores: bool) -> ModelFacts:
    adapter = read_adapter(folder, scores)
    base_name = adapter.base_name
    beside = folder / base_name
    if not Path(base_name).exists() and not hub.is_hub_id(base_name) and not beside.exists():
        mend = f"put the base model there, or correct the path {hub.nearby(base_name, folder.parent)}"
        raise UserError.at(
            f"{folder}/adapter_config.json base_model_name_or_path", f"{base_name} is missing", mend.strip()
        )
    base = _inspect(base_name, adapter.base_revision, trust_remote_code, depth + 1, scores=adapter.scores)
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
            raise UserError.at(
                "model.revision", f"the embedded model is {tiny.REVISION}, not {revision}", "leave it out"
            )
        return Path(tiny.PATH), None
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_revision(name, revision)
        return _inside_run(path.resolve()), None
    if path.exists():
        raise UserError.at(name, "is a file, not a model's folder", f"name the folder: {path.parent}")
    if not hub.is_hub_id(name):
        raise UserError.at(name, "no such folder", _hint(name, path))
    return hub.small_files(name, revision, code), name


def _hint(name: str, path: Path) -> str:
    """What was probably meant by a name that is neither a folder nor a hub id."""
    bare, at, revision = name.partition("@")
    page = re.match(r"https?://[^/]+/([^/?#]+/[^/?#]+)", name)
    if page and hub.is_hub_id(page[1]):
        return f"for a model of the hub write model.name={page[1]}"
    if at and revision and hub.is_hub_id(bare):
        return f"write model.name={bare} model.revision={revision}"
    near = hub.nearby(name, path.parent)
    return near or "give a folder with config.json, or a hub id such as Qwen/Qwen3-0.6B"


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
    rows = _embedding_rows(weights.tensors)
    linear = _linear_shapes(weights.tensors, model_type)
    return ModelFacts(
        name=name,
        path=str(folder),
        revision=None,
        model_type=model_type,
        architecture=architecture_of(config),
        hidden_size=first_number(config, HIDDEN) or 0,
        layers=first_number(config, LAYERS) or 0,
        vocab_size=rows or first_number(config, ("vocab_size",)) or 0,
        context=first_number(config, CONTEXT),
        parameters=_parameters(weights.tensors, tied),
        dtype=main_dtype(weights.tensors.values()),
        tied_embeddings=tied,
        linear_shapes=linear,
        other_sizes=_other_sizes(weights.tensors, linear),
        fingerprint=digest,
        heads=first_number(config, HEADS) or 1,
        embeddings=_embedding_names(weights.tensors),
        quantization=quantization_of(config),
        head=SCORE if is_scoring(config, architecture_of(config)) else CAUSAL,
    )


def _embedding_names(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    found = [name for name in tensors if INPUT.search(name) or OUTPUT.search(name)]
    return tuple(name.removesuffix(".weight").rpartition(".")[2] for name in found)


def _embedding_rows(tensors: Mapping[str, Tensor]) -> int | None:
    for name, tensor in tensors.items():
        if INPUT.search(name):
            return tensor.shape[0]
    return None


def _parameters(tensors: Mapping[str, Tensor], tied: bool) -> int:
    return sum(tensor.size for name, tensor in tensors.items() if not (tied and name == "lm_head.weight"))


def _linear_shapes(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, tuple[int, int]]:
    """The layers that can get an adapter; in a mixture of experts those outside its experts."""
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
    """Embeddings, norms, output layer, and each layer's experts as the one module that loading makes."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if module not in linear:
            fused = re.sub(r"\.experts\..*", ".experts", module)
            sizes[fused] = sizes.get(fused, 0) + tensor.size
    return sizes


def digest_of(facts: ModelFacts) -> str:
    """A hash of the weights that a model has in memory: its base's, and those of the adapter on it."""
    if facts.adapter is None:
        return facts.fingerprint
    digest = hashlib.sha256(facts.fingerprint.encode())
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        digest.update(hashlib.sha256((Path(facts.adapter.path) / name).read_bytes()).digest())
    return digest.hexdigest()


def check_quantization(facts: ModelFacts, tuning: str) -> list[Fault]:
    """The fault of a base whose stored weights are quantized already: training starts from full ones."""
    if facts.quantization is None:
        return []
    what = f"the weights are stored quantized ({facts.quantization}), which tuning={tuning} cannot start from"
    return [Fault(facts.name, what, "name the unquantized model; tuning=qlora quantizes it while loading")]


def _check_agreement(folder: Path, config: Mapping[str, Any], facts: ModelFacts, weights: Weights) -> None:
    """Refuse a configuration of other weights: what is missing would be filled with noise."""
    path = str(folder / "config.json")
    faults = []
    stated = first_number(config, ("vocab_size",))
    if stated != facts.vocab_size:
        what = f"is {stated}, but the embedding has {facts.vocab_size} rows"
        faults.append(Fault(f"{path} vocab_size", what, "use the configuration that belongs to these weights"))
    numbers = {
        int(found[1]) for name in weights.tensors if (found := re.search(r"\.(?:layers|h)\.(\d+)\.", f".{name}"))
    }
    if numbers and max(numbers) + 1 < facts.layers:
        what = f"names {facts.layers} layers, but the weights hold {max(numbers) + 1}"
        faults.append(Fault(path, what, "use the configuration that belongs to these weights"))
    if faults:
        raise UserError(faults)
