"""Models on the hub: their small files in the local cache, their weights' headers, later the weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NoReturn

from finetune.errors import UserError, did_you_mean
from finetune.model_files.weights import Tensor, Weights

SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "adapter_model.safetensors"]
CODE_FILES = ["*.py"]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository on the hub."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def nearby(name: str, folder: Path) -> str:
    """A hint naming a folder beside the one that was meant."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    near = did_you_mean(Path(name).name, names, say="{}")
    return f"did you mean the folder {folder / near}?" if near else ""


def _refuse(name: str, revision: str | None, error: Exception) -> NoReturn:
    """Say which of the hub's many failures it was, never with the token."""
    from huggingface_hub import errors as hub

    at = f"{name}@{revision}" if revision else name
    # With nothing in the cache, the client hides the hub's answer behind an error of its own.
    answer = error.__cause__ if isinstance(error, hub.LocalEntryNotFoundError) else error
    if isinstance(answer, hub.GatedRepoError):
        what = "is gated, and this machine's token has no access"
        mend = f"accept its licence at the hub's page of {name}, then set HF_TOKEN in the environment"
    elif isinstance(answer, hub.RevisionNotFoundError):
        what, mend = "the repository has no such revision", "check model.revision"
    elif isinstance(answer, hub.RepositoryNotFoundError):
        what = "no such folder here and no such repository on the hub"
        mend = nearby(name, Path()) or "check the spelling, and set HF_TOKEN in the environment if it is private"
    elif isinstance(answer, hub.HfHubHTTPError):
        what = f"the hub answered with error {answer.response.status_code}"
        mend = "try again later, or give a local folder"
        if answer.response.status_code in (401, 403):
            mend = "set HF_TOKEN in the environment to a token that can read it"
    else:
        what = "config.json is not in the local cache, and the hub cannot be reached"
        mend = "download it where there is a network, or give a local folder"
        mend = nearby(name, Path()) or mend
    raise UserError.at(at, what, mend) from error


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises when a file cannot be had, whichever HTTP library it stands on."""
    from huggingface_hub import errors as hub

    # Not one of the client's own names, but the one way to the library beneath that all its versions have.
    below: type[Exception] = hub.HTTPError  # type: ignore[attr-defined]
    return (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, below)


def small_files(name: str, revision: str | None, code: bool) -> Path:
    """The cached folder of a repository with everything but its weights; downloads what is not there yet."""
    from huggingface_hub import snapshot_download

    wanted = SMALL_FILES + (CODE_FILES if code else [])
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"])
    except _failures() as error:
        _refuse(name, revision, error)
    return Path(folder)


def remote_weights(name: str, commit: str) -> Weights:
    """The tensors of a repository's weight files, from their headers alone."""
    from huggingface_hub import errors as hub
    from huggingface_hub import get_safetensors_metadata

    try:
        metadata = get_safetensors_metadata(name, revision=commit)
    except hub.NotASafetensorsRepoError as error:
        mend = "use a revision with safetensors, or convert the weights in a sandbox"
        raise UserError.at(name, "has no safetensors weights; pickled ones can run code when loaded", mend) from error
    except hub.SafetensorsParsingError as error:
        raise UserError.at(name, "has a damaged weight file on the hub", "use another revision") from error
    except _failures() as error:
        mend = "download it where there is a network, or give a local folder"
        what = "model.safetensors is not in the local cache, and the hub cannot be reached"
        raise UserError.at(f"{name}@{commit}", what, mend) from error
    tensors = {
        tensor_name: Tensor(info.dtype, tuple(info.shape))
        for file in metadata.files_metadata.values()
        for tensor_name, info in file.tensors.items()
    }
    named = json.dumps({key: (tensor.dtype, tensor.shape) for key, tensor in sorted(tensors.items())})
    return Weights(tensors, hashlib.sha256(named.encode()).hexdigest())


def fetch_weights(name: str, commit: str) -> Path:
    """The cached folder of a repository with its weights; downloads what is not there yet."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=commit, allow_patterns=WEIGHT_FILES, ignore_patterns=["*/*"])
    except _failures() as error:
        _refuse(name, commit, error)
    return Path(folder)
