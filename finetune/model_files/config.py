"""A model's config.json: whether it is sound, and whether it is of a kind that can be trained. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError, did_you_mean
from finetune.model_files.architectures import FAMILIES, causal_architectures, is_decoder, model_types
from finetune.model_files.scoring import is_scoring, score_faults

MAX_CONFIG = 10_000_000
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")

# The names that families give to the same number.
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
OTHER_INPUTS = ("vision_config", "audio_config", "image_token_id", "image_token_index")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a model's folder."""
    path = folder / "config.json"
    if not path.is_file():
        entries = sorted(entry.name for entry in folder.iterdir())[:5]
        has = f"it has {', '.join(entries)}" if entries else "it is empty"
        raise UserError.at(str(path), f"is missing ({has})", "name the folder of a model or of an adapter")
    if path.stat().st_size > MAX_CONFIG:
        raise UserError.at(str(path), "is larger than any model's configuration", "download the model again")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError.at(str(path), f"is not valid JSON ({error})", "download the file again") from error
    if not isinstance(config, dict):
        raise UserError.at(str(path), "must be a JSON object", "download the file again")
    return config


def config_faults(
    folder: Path,
    config: Mapping[str, Any],
    commit: str | None,
    revision: str | None,
    trust_remote_code: bool,
    any_text: bool = False,
    scores: bool = False,
) -> list[Fault]:
    """What keeps a model from being trained, as far as its configuration tells.

    With `any_text` what keeps it from reading texts: it need not be a decoder, and runs no code of its own. With
    `scores` it may give scores instead of words.
    """
    path = str(folder / "config.json")
    model_type = config.get("model_type")
    code = config.get("auto_map")
    if code and any_text and not _is_known(model_type):
        mend = "name a model of a kind that transformers has itself"
        return [Fault(f"{path} auto_map", "this model needs Python code from its own repository", mend)]
    if code and (trust_remote_code or not _is_known(model_type)):
        return _code_faults(path, code, commit, revision, trust_remote_code)
    if trust_remote_code:
        what = "has no effect: this model needs no code of its own"
        return [Fault("model.trust_remote_code", what, "leave it out")]
    if not isinstance(model_type, str) or not model_type:
        return [Fault(f"{path} model_type", "is missing", "download the model again, or name another folder")]
    if not _is_known(model_type):
        hint = did_you_mean(model_type, model_types()) or "upgrade transformers, or use another model"
        return [Fault(f"{path} model_type", f"{model_type!r:.60} is unknown to the installed transformers", hint)]
    family = _family_faults(path, config, model_type, any_text, scores)
    return family + _number_faults(path, config)


def _is_known(model_type: object) -> bool:
    return model_type in model_types() or model_type in causal_architectures()


def _code_faults(
    path: str, code: object, commit: str | None, revision: str | None, trust_remote_code: bool
) -> list[Fault]:
    if not trust_remote_code:
        mend = "if you trust it, set model.trust_remote_code=true and model.revision to a full commit"
        return [Fault(f"{path} auto_map", "this model needs Python code from its own repository", mend)]
    if commit is not None and not FULL_COMMIT.fullmatch(revision or ""):
        what = "running a repository's code needs model.revision as a full commit of 40 digits"
        return [Fault("model.revision", what, f"set model.revision={commit} after reading its code")]
    if "--" in str(code):
        # `repository--module` is fetched from that repository as it is today, whatever revision was read.
        what = "names code of another repository, which no revision pins"
        return [Fault(f"{path} auto_map", what, "copy that code into the model's folder and name it there")]
    return []


def _family_faults(path: str, config: Mapping[str, Any], model_type: str, any_text: bool, scores: bool) -> list[Fault]:
    architecture = architecture_of(config)
    families = f"use a decoder-only language model: {', '.join(FAMILIES)}"
    if any_text:
        families = "use an encoder or a decoder of texts, such as a model for embeddings"
    if config.get("is_encoder_decoder"):
        return [Fault(f"{path} architectures", f"{architecture or model_type} is an encoder-decoder model", families)]
    if any(config.get(key) is not None for key in OTHER_INPUTS):
        what = f"{architecture or model_type} takes images or sound, which is not supported"
        return [Fault(f"{path} architectures", what, families)]
    if any_text:
        return []
    if is_scoring(config, architecture) and is_decoder(causal_architectures().get(model_type, "")):
        if scores:
            return score_faults(path, config)
        what = f"{architecture} gives texts a score, and writes none"
        return [Fault(f"{path} architectures", what, "name a language model; a reward model is used by method.rewards")]
    if not is_decoder(architecture) or architecture not in causal_architectures().values():
        what = f"{architecture or model_type} is not a decoder-only language model"
        return [Fault(f"{path} architectures", what, families)]
    return []


def first_number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The positive whole number under the first of these names that has one."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that a configuration names, or that its model type stands for."""
    named = config.get("architectures") or [causal_architectures().get(str(config.get("model_type")), "")]
    return str(named[0]) if isinstance(named, list) else str(named)


def _number_faults(path: str, config: Mapping[str, Any]) -> list[Fault]:
    wanted = (HIDDEN, LAYERS, ("vocab_size",))
    return [
        Fault(f"{path} {names[0]}", "is missing or not a positive whole number", "download the model again")
        for names in wanted
        if first_number(config, names) is None
    ]


def quantization_of(config: Mapping[str, Any]) -> str | None:
    """How a model's stored weights are quantized, in words, if they are."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in found else "unknown"))
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    return f"{method} {bits} bits" if bits else method
