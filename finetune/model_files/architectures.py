"""Which architectures can be trained, read from transformers' source: importing its tables costs torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

# Families named to a user whose model is not among them.
FAMILIES = (
    "Llama",
    "Qwen",
    "Mistral",
    "Gemma (text)",
    "Phi",
    "SmolLM",
    "OLMo",
    "Granite",
    "DeepSeek",
    "GPT-2",
)

# Architectures of the causal table that are decoders under another name than …ForCausalLM.
OTHER_DECODERS = ("GPT2LMHeadModel", "OpenAIGPTLMHeadModel")

# Families whose layers keep their weight as (in, out) instead of (out, in).
TRANSPOSED = ("gpt2", "gpt-sw3", "openai-gpt")


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {package} is not installed", name=package)
    return Path(spec.origin).parent


def _table(file: str, name: str) -> dict[str, str]:
    path = package_folder("transformers") / "models" / "auto" / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if name in names:
                return dict(ast.literal_eval(node.value.args[0]))
    raise LookupError(f"{path} has no table {name}; this version of transformers is not supported")


@functools.cache
def causal_architectures() -> dict[str, str]:
    """Model types that transformers can load as a causal language model, with the architecture of each."""
    return _table("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


@functools.cache
def scoring_architectures() -> dict[str, str]:
    """Model types of decoders that transformers can load to give a text a score, with the architecture of each."""
    return _table("modeling_auto.py", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES")


@functools.cache
def reads_last_token(model_type: str) -> bool:
    """Whether its scoring architecture reads a layer called `score` at the last token, as decoders do.

    Others pool the first token, or have an encoder: the same name of architecture says nothing of that.
    """
    architecture = scoring_architectures().get(model_type)
    if architecture is None or not is_decoder(causal_architectures().get(model_type, "")):
        return False
    folder = _table("auto_mappings.py", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME").get(model_type, model_type)
    for path in (package_folder("transformers") / "models" / folder.replace("-", "_")).glob("modeling_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == architecture:
                source = ast.unparse(node)
                return "GenericForSequenceClassification" in source or "self.score = " in source
    return False


@functools.cache
def model_types() -> frozenset[str]:
    """Every model type that transformers knows."""
    return frozenset(_table("auto_mappings.py", "CONFIG_MAPPING_NAMES"))


def is_decoder(architecture: str) -> bool:
    """Whether the name is that of a decoder-only language model."""
    return architecture.endswith("ForCausalLM") or architecture in OTHER_DECODERS
