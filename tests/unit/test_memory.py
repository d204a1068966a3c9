"""The memory estimate: every term from what is known, compared with what real models keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.adapter import add_adapter, trainable_parameters
from finetune.config import FullTuning, LoraTuning, QloraTuning, TuningConfig
from finetune.model import load_model, plan_quantization
from finetune.model_files import ModelFacts, inspect_model
from finetune.plan.memory import LOGITS_TILE, MemoryEstimate, estimate
from finetune.tokenizer import load_tokenizer


def llama_8b() -> ModelFacts:
    """The shapes of an 8B Llama, whose needs are widely known."""
    shapes = {}
    for layer in range(32):
        for name, shape in {
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "mlp.gate_proj": (14336, 4096),
            "mlp.up_proj": (14336, 4096),
            "mlp.down_proj": (4096, 14336),
        }.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    linear = sum(rows * columns for rows, columns in shapes.values())
    embeddings = 128256 * 4096
    return ModelFacts(
        name="8b",
        path="8b",
        revision=None,
        model_type="llama",
        architecture="LlamaForCausalLM",
        hidden_size=4096,
        layers=32,
        vocab_size=128256,
        context=8192,
        parameters=linear + 2 * embeddings,
        dtype="bf16",
        tied_embeddings=False,
        linear_shapes=shapes,
        fingerprint="",
        heads=32,
    )


def need(tuning: TuningConfig | None = None, facts: ModelFacts | None = None, **changes: Any) -> MemoryEstimate:
    tuning, facts = tuning or LoraTuning(), facts or llama_8b()
    settings: dict[str, Any] = {
        "tuning": tuning,
        "trainable": trainable_parameters(facts, tuning),
        "precision": "bf16",
        "micro_batch": 4,
        "longest": 1024,
        "gradient_checkpointing": True,
        "optimizer": "adamw_torch",
        **changes,
    }
    return estimate(facts, **settings)


@pytest.mark.parametrize(
    "more, less",
    [
        ({"micro_batch": 8}, {}),
        ({"longest": 2048}, {}),
        ({"gradient_checkpointing": False}, {}),
        ({"precision": "fp32"}, {}),
        ({}, {"optimizer": "adamw_8bit"}),
        ({}, {"optimizer": "adafactor"}),
        ({"attention": "eager"}, {}),
        ({"processes": 2}, {}),
        ({}, {"parallel": "fsdp", "processes": 2}),
        ({"parallel": "fsdp", "processes": 2}, {"parallel": "fsdp", "processes": 4}),
        ({"parallel": "zero3", "processes": 2}, {"parallel": "zero3", "processes": 2, "offload": True}),
        ({"tuning": FullTuning(), "trainable": llama_8b().parameters}, {}),
        ({}, {"tuning": QloraTuning(bits=8)}),
        ({"tuning": QloraTuning(bits=8)}, {"tuning": QloraTuning()}),
        ({"tuning": QloraTuning(double_quantization=False)}, {"tuning": QloraTuning()}),
    ],
)
def test_what_needs_more_is_estimated_as_more(more: dict[str, Any], less: dict[str, Any]) -> None:
    assert need(**more).total > need(**less).total


def test_the_total_is_the_sum_of_its_parts() -> None:
    found = need()
    parts = (found.weights, found.adapter, found.gradients, found.optimizer, found.activations, found.runtime)
    assert found.total == sum(parts) and min(parts) > 0


def test_known_sizes_of_an_8b_model() -> None:
    assert need().weights == pytest.approx(16.06e9, rel=0.01)
    assert need(QloraTuning()).weights == pytest.approx(5.7e9, rel=0.05)
    full = need(FullTuning())
    assert full.weights + full.gradients + full.optimizer == pytest.approx(16 * 8.03e9 + 2 * 6.98e9, rel=0.01)
    assert need(QloraTuning(), micro_batch=1).total < 16 * 2**30


@pytest.mark.parametrize("tuning", [LoraTuning(rank=4), QloraTuning(rank=4), FullTuning()])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_agree_with_what_a_real_model_keeps(
    tuning: TuningConfig, checkpointing: bool, precision: str, random_model_folder: Path
) -> None:
    facts = inspect_model(str(random_model_folder))
    found = estimate(
        facts,
        tuning=tuning,
        trainable=trainable_parameters(facts, tuning),
        precision=precision,
        micro_batch=4,
        longest=64,
        gradient_checkpointing=checkpointing,
        optimizer="adamw_torch",
    )
    number = 4 if precision == "fp32" else 2
    # The loss works on its tile after the layers, so what they keep is measured without it.
    loss = 4 * 64 * (LOGITS_TILE[1] + facts.hidden_size) * (number + 4)
    layers = found.activations - loss
    measured = kept_bytes(facts, tuning, precision, checkpointing)
    if checkpointing:
        # Of the layer that is recomputed, nothing is kept yet.
        assert measured < layers
    else:
        assert measured / 1.5 < layers < measured * 1.5


def kept_bytes(facts: ModelFacts, tuning: TuningConfig, precision: str, checkpointing: bool) -> int:
    """Bytes that autograd keeps of a forward pass through the layers, without weights, each once."""
    import torch

    tokenizer = load_tokenizer(facts)
    model: Any = load_model(
        facts,
        precision=precision,
        attention="sdpa",
        full=isinstance(tuning, FullTuning),
        tokenizer=tokenizer,
        quantization=plan_quantization(tuning),
    )
    if isinstance(tuning, LoraTuning):
        model = add_adapter(model, tuning, facts, seed=0)
        model.enable_input_require_grads()
    backbone = model.get_base_model().model if isinstance(tuning, LoraTuning) else model.model
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        result = backbone(input_ids=torch.arange(256).reshape(4, 64)).last_hidden_state
    assert result.requires_grad
    # Copies of weights that autocast makes are counted among the weights.
    linear = sum(rows * columns for rows, columns in facts.linear_shapes.values())
    copies = 2 * linear if isinstance(tuning, FullTuning) and precision == "bf16" else 0
    return sum(kept.values()) - (0 if checkpointing else copies)


def test_shapes_decide_not_names() -> None:
    facts = llama_8b()
    renamed = replace(facts, linear_shapes={f"h.{name}": shape for name, shape in facts.linear_shapes.items()})
    assert need(facts=renamed).activations == need().activations
