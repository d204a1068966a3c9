"""What no configuration may hold: Hydra's own settings, names of code, references outside it, secrets."""

from __future__ import annotations

import re
from typing import Any

from finetune.errors import Fault

CODE_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
SECRET_KEY = re.compile(
    r"(^|[._])((hf|hub|auth|access|api|wandb)_?token|token|(\w+_)?api_?key|password|passwd|secret(_key)?|access_key)$",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bwandb_v1_\w{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
)
# TRL's names for tokens of the vocabulary, which are no secrets.
WORDS = ("eos_token", "pad_token")
REFERENCE = re.compile(r"\$\{\s*(?:([\w.]+)\s*:)?\s*([^},]*)")


def refused(key: str, value: Any, where: str) -> Fault | None:
    """Why this assignment may not stand in a configuration, if so. A secret is never repeated."""
    if _is_secret(key, value):
        return Fault(where, "looks like a secret", "put it in the environment, not in a configuration")
    if name := _code_key(key, value):
        return Fault(
            where,
            f"{name} is not supported",
            "a configuration names options, never code; see `finetune train --help`",
        )
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return Fault(where, "Hydra's own settings are not used here", "remove it; output_dir says where runs go")
    for text in _texts(value):
        if match := REFERENCE.search(text):
            return _reference_fault(where, key, *match.groups())
    return None


def _reference_fault(where: str, key: str, resolver: str | None, argument: str) -> Fault:
    """A configuration is the same on every machine and reads from the top: it refers to nothing."""
    name = argument.strip()
    if resolver is None:
        return Fault(where, f"the reference ${{{name}}} is not supported", "write the value")
    if resolver in ("oc.env", "env"):
        mend = f"""write the value, or let the shell put it in: {key}="${name}\""""
        return Fault(where, f"the environment variable {name} is not read here", mend)
    return Fault(where, f"${{{resolver}:{name}}} is not supported", "write the value")


def _is_secret(key: str, value: Any) -> bool:
    given = value is not None and value != "null"
    named = bool(SECRET_KEY.search(key)) and key.rpartition(".")[2] not in WORDS
    return given and (named or any(SECRET_VALUE.search(text) for text in _texts(value)))


def _code_key(key: str, value: Any) -> str | None:
    if found := next((part for part in re.split(r"[./]", key) if part in CODE_KEYS), None):
        return found
    for part in _keys(value):
        if part in CODE_KEYS:
            return part
    if isinstance(value, str):
        return next((name for name in CODE_KEYS if name in value and "{" in value), None)
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*map(str, value), *(key for item in value.values() for key in _keys(item))]
    return [key for item in value for key in _keys(item)] if isinstance(value, list) else []
