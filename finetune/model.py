"""The base model in memory: its number format, its quantization, its embedding's size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import QloraTuning, TuningConfig
from finetune.errors import RunFailed, UserError, first_line, listed
from finetune.model_files import ModelFacts, hub

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel


@dataclass(frozen=True)
class QuantizationPlan:
    """How the base's weights are held while an adapter is trained."""

    bits: int
    quant_type: str
    double_quantization: bool


def plan_quantization(tuning: TuningConfig) -> QuantizationPlan | None:
    """The quantization that a tuning asks for."""
    if not isinstance(tuning, QloraTuning):
        return None
    return QuantizationPlan(tuning.bits, tuning.quant_type, tuning.double_quantization)


def torch_dtype(precision: str) -> torch.dtype:
    """torch's own name of a number format."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def weights_precision(precision: str, full: bool) -> str:
    """The number format that the weights are held in while training in `precision`.

    Frozen weights are held in the training precision: they only enter products. Weights that are trained
    stay in fp32, and autocast computes in the training precision, which is what Trainer's `bf16=True`
    expects: a step is often smaller than bf16 or fp16 can add to a weight, and would be lost. That costs 4
    bytes a weight. An adapter's own weights are fp32 in any case.
    """
    return "fp32" if full else precision


def load_model(
    facts: ModelFacts,
    *,
    precision: str,
    attention: str,
    full: bool,
    tokenizer: Any,
    quantization: QuantizationPlan | None = None,
    device: str = "cpu",
    local_rank: int = 0,
    sharded: bool = False,
) -> PreTrainedModel:
    """The base model, ready to be trained or to get an adapter; one that it has is not loaded here.

    Weights are in the computer's memory and Trainer moves them, except quantized ones, which are loaded on
    this rank's own device. Under FSDP or ZeRO-3 (`sharded`), TRL's arguments must exist before this is
    called.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    folder = fetched_folder(facts)
    disable_progress_bar()
    held = torch_dtype(weights_precision(precision, full))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=held,
            attn_implementation=attention,
            quantization_config=_bitsandbytes(quantization, precision, sharded) if quantization else None,
            device_map={"": _device_name(device, local_rank)} if quantization else None,
            trust_remote_code=facts.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except ImportError as error:
        raise UserError.at("model.attention", first_line(error), "use model.attention=sdpa") from error
    _check_loaded(facts, info)
    prepare_tokens(model, tokenizer, facts)
    if quantization is not None:
        _keep_gradients(model)
    return model


def _keep_gradients(model: PreTrainedModel) -> None:
    """Keep 4-bit weights as they are when the model is evaluated on a CPU.

    bitsandbytes would rewrite them, for good, for a kernel that is faster and has no gradient: every step after the
    first evaluation would learn from wrong gradients, and nothing would say so.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_reader(facts: ModelFacts, *, precision: str, device: str) -> PreTrainedModel:
    """A text model without its head, on the device, for what its last layer makes of a text."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    folder = fetched_folder(facts)
    disable_progress_bar()
    model, info = AutoModel.from_pretrained(
        str(folder),
        dtype=torch_dtype(precision),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    # What pools the last layer stands behind it, and many a file of an encoder lacks it.
    lacking = [name for name in info["missing_keys"] if not str(name).startswith("pooler.")]
    _check_loaded(facts, {**info, "missing_keys": lacking})
    return model.to(device).eval()


def fetched_folder(facts: ModelFacts) -> Path:
    """The folder with the model's weights, downloaded first when it is on the hub."""
    if facts.hub_id is not None and facts.revision is not None:
        return hub.fetch_weights(facts.hub_id, facts.revision)
    return Path(facts.path)


def _device_name(device: str, local_rank: int) -> str | int:
    return local_rank if device == "cuda" else device


def _bitsandbytes(plan: QuantizationPlan, precision: str, sharded: bool) -> BitsAndBytesConfig:
    import torch
    from transformers import BitsAndBytesConfig

    if plan.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quant_type,
        bnb_4bit_use_double_quant=plan.double_quantization,
        bnb_4bit_compute_dtype=torch_dtype(precision),
        # FSDP shards weights of one type together, so the packed bits then pose as that type.
        bnb_4bit_quant_storage=torch_dtype(precision) if sharded else torch.uint8,
    )


def _check_loaded(facts: ModelFacts, info: dict[str, Any]) -> None:
    """transformers fills weights that a file lacks with noise, and only warns."""
    missing = sorted(str(name) for name in info["missing_keys"])
    shapes = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if missing or shapes:
        what = f"lacks weights that {facts.architecture} needs: {listed(missing + shapes, most=4)}"
        raise UserError.at(facts.path, what, "download the model again, or use the configuration that belongs to it")


def prepare_tokens(model: PreTrainedModel, tokenizer: Any, facts: ModelFacts) -> None:
    """Give the model a row for every token, and tell it how rows are padded and answers end."""
    size = len(tokenizer)
    if size > facts.vocab_size:
        _grow(model, size, facts.vocab_size)
    model.config.pad_token_id = tokenizer.pad_token_id
    settings = model.generation_config
    if settings is None:
        raise RunFailed(f"{facts.architecture} cannot generate text")
    settings.pad_token_id = tokenizer.pad_token_id
    ends = settings.eos_token_id
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in known:
        settings.eos_token_id = [*known, tokenizer.eos_token_id]


def _grow(model: PreTrainedModel, size: int, old: int) -> None:
    """Add rows to the embeddings, each the mean of the old ones: in the middle of what the model has seen.

    transformers' own choice draws them at random, so that the same model would differ from rank to rank.
    """
    import torch

    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                weight = layer.weight
                weight[old:] = weight[:old].float().mean(dim=0).to(weight.dtype)
