"""What a run leaves behind: the saved adapter or model, and the proof that it holds what was trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RunFailed, listed
from finetune.model_files import ModelFacts
from finetune.model_files.adapters import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch

ADAPTER, MODEL = "adapter", "model"
CARD = "README.md"
WATCHED = 8  # tensors that are looked at after the first step
WATCHED_NUMBERS = 1_000_000  # of each, so that a full model is not copied


def snapshot(model: Any) -> dict[str, str]:
    """Digests of some trained tensors, spread over the model, to see later whether training changed them.

    The A matrices of a new adapter cannot change in the first step: B is zero, and no gradient reaches
    them. Rows of an embedding change only when their token occurs. Both are left out where there is
    anything else.
    """
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    if not trained:
        raise RunFailed("nothing is trained: no parameter of the model has a gradient")
    moving = [name for name in trained if "lora_A" not in name and "embed" not in name] or list(trained)
    step = max(1, len(moving) // WATCHED)
    return {name: _digest(trained[name]) for name in moving[::step][:WATCHED]}


def _digest(tensor: torch.Tensor) -> str:
    import torch

    part = _local(tensor).flatten()[:WATCHED_NUMBERS].to("cpu").contiguous()
    return hashlib.sha256(part.view(torch.uint8).numpy().tobytes()).hexdigest()


def _local(tensor: Any) -> torch.Tensor:
    """What this rank holds of a tensor that FSDP (a DTensor) or ZeRO-3 (`ds_tensor`) has shared out."""
    part = tensor.ds_tensor if hasattr(tensor, "ds_tensor") else tensor
    part = part.to_local() if hasattr(part, "to_local") else part
    return part.detach()


def changed_since(before: Mapping[str, str], model: Any) -> None:
    """Fail the run if training changed none of the tensors of a `snapshot`, or made one not a number.

    To be called after the first step whose learning rate was above zero: a warm-up begins with zero.
    """
    import torch

    now = dict(model.named_parameters())
    broken = [name for name in before if not torch.isfinite(_local(now[name])).all()]
    if broken:
        raise RunFailed(
            f"{listed(broken, most=3)} is no longer finite after the first step; lower training.learning_rate"
        )
    if all(_digest(now[name]) == digest for name, digest in before.items()):
        names = listed(sorted(before), most=3)
        raise RunFailed(f"the first step changed nothing in {names}: the adapter is not being trained")


def save_artefact(
    model: Any,
    tokenizer: Any,
    run_dir: Path,
    facts: ModelFacts,
    *,
    precision: str = "fp32",
    start_folder: Path | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
    remark: str = "",
) -> Path:
    """Write `adapter/` or `model/` with its tokenizer, for plain peft or transformers to load.

    A full model is written in `precision`, the format that training computed in: fp32 masters would double
    its size and add nothing that was ever used. `state` holds the gathered weights when ranks hold shards
    of them. `remark` is what whoever reads the adapter's card has to know.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        folder = run_dir / ADAPTER
        _save_adapter(model, folder, facts, start_folder, state)
    else:
        folder = run_dir / MODEL
        _save_full(model, folder, precision, state)
    _add_to_card(folder / CARD, remark)
    tokenizer.save_pretrained(str(folder))
    return folder


def _add_to_card(card: Path, remark: str) -> None:
    """Write a remark under the card that peft has made; where there is no card there is nothing to add to."""
    if remark and card.is_file():
        text = card.read_text(encoding="utf-8").rstrip()
        card.write_text(f"{text}\n\n## Evaluation\n\n{remark}.\n", encoding="utf-8")


def _save_adapter(
    model: Any,
    folder: Path,
    facts: ModelFacts,
    start_folder: Path | None,
    state: Mapping[str, torch.Tensor] | None,
) -> None:
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path = facts.hub_id or facts.path
    config.revision = facts.revision if facts.hub_id else None
    # New rows are saved by themselves; whole embeddings would make gigabytes of a small adapter.
    model.save_pretrained(
        str(folder),
        state_dict=state,
        selected_adapters=[model.active_adapter],  # a trainer may have added one as its reference
        save_embedding_layers=False,
    )
    if start_folder is not None:
        _make_ordinary(folder, start_folder)


def _make_ordinary(folder: Path, start_folder: Path) -> None:
    """Rewrite a saved adapter whose start changed the base (PiSSA, OLoRA) as one for the unchanged base.

    Training saw W - B0·A0 + B·A for each weight W. The same sum is W + [B, -B0]·[A; A0]: an ordinary
    adapter of twice the rank. peft can do this too, but it loads a second adapter into the live model and
    loses trained rows.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors, start = load_file(folder / WEIGHTS), load_file(start_folder / WEIGHTS)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            tensors[name] = torch.cat([tensor, start[name].to(tensor.dtype)], dim=0)
        elif ".lora_B." in name:
            tensors[name] = torch.cat([tensor, -start[name].to(tensor.dtype)], dim=1)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    # The scale alpha/r (alpha/√r with rsLoRA) stays what it was.
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config["r"] *= 2
    config["init_lora_weights"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _save_full(model: Any, folder: Path, precision: str, state: Mapping[str, torch.Tensor] | None) -> None:
    from finetune.model import torch_dtype

    dtype = torch_dtype(precision)
    tensors = model.state_dict() if state is None else state
    # A shared weight is written once; transformers finds sharing by memory, which casting parts.
    shared = set(model.all_tied_weights_keys)
    cast = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name not in shared
    }
    held, model.config.dtype = model.config.dtype, dtype
    # Trainer switches the cache off for training; whoever loads the model wants it for generating.
    cached, model.config.use_cache = model.config.use_cache, True
    model.save_pretrained(str(folder), state_dict=cast, safe_serialization=True)
    model.config.dtype, model.config.use_cache = held, cached


def compare_reloaded(model: Any, folder: Path) -> None:
    """Fail the run unless the tensors on disk are those in memory, finite, and not all zero."""
    saved = _read_saved(folder)
    if not saved:
        raise RunFailed(f"{folder} was saved without any weights")
    _check_sound(saved, folder)
    memory = _in_memory(model)
    shared = [name for name in saved if name in memory]
    if not shared:
        raise RunFailed(f"{folder} holds other weights than the trained model: {listed(sorted(saved), most=3)}")
    wrong = [name for name in shared if not _same(memory[name], saved[name])]
    if wrong:
        raise RunFailed(f"{folder} differs from the trained weights in {listed(wrong, most=3)}; the save is not usable")


def _read_saved(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def _check_sound(saved: Mapping[str, torch.Tensor], folder: Path) -> None:
    import torch

    broken = [name for name, tensor in saved.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise RunFailed(f"{folder} has weights that are not numbers: {listed(broken, most=3)}")
    trained = [name for name in saved if ".lora_B." in name or "lora_" not in name]
    if not any(bool(saved[name].any()) for name in trained):
        raise RunFailed(f"{folder} is all zeros: nothing was learned")


def _in_memory(model: Any) -> dict[str, torch.Tensor]:
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(model, PeftModel):
        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    return dict(model.state_dict())


def _same(memory: torch.Tensor, saved: torch.Tensor) -> bool:
    import torch

    if memory.dim() != saved.dim():
        return False
    # A rewritten adapter (PiSSA, OLoRA) begins with what was trained.
    part = saved[tuple(slice(size) for size in memory.shape)]
    return bool(torch.equal(memory.detach().to("cpu", saved.dtype), part))
