"""Base models in memory: number formats, quantization, a row for every token, no invented weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FullTuning, LoraTuning, QloraTuning
from finetune.errors import UserError
from finetune.model import QuantizationPlan, load_model, plan_quantization, weights_precision
from finetune.model_files import ModelFacts, inspect_model
from finetune.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def facts(random_model_folder: Path) -> ModelFacts:
    return inspect_model(str(random_model_folder))


def load(facts: ModelFacts, precision: str = "fp32", full: bool = False, **arguments: Any) -> Any:
    tokenizer = load_tokenizer(facts, new_tokens=arguments.pop("new_tokens", ()))
    return load_model(
        facts,
        precision=precision,
        attention=arguments.pop("attention", "sdpa"),
        full=full,
        tokenizer=tokenizer,
        **arguments,
    )


@pytest.mark.parametrize(
    "precision, full, held",
    [("fp32", False, "fp32"), ("bf16", False, "bf16"), ("bf16", True, "fp32"), ("fp16", True, "fp32")],
)
def test_trained_weights_stay_in_fp32(precision: str, full: bool, held: str, facts: ModelFacts) -> None:
    import torch

    assert weights_precision(precision, full) == held
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {parameter.dtype for parameter in load(facts, precision, full).parameters()} == {names[held]}


def test_quantization_follows_the_tuning() -> None:
    assert plan_quantization(LoraTuning()) is None
    assert plan_quantization(FullTuning()) is None
    assert plan_quantization(QloraTuning()) == QuantizationPlan(4, "nf4", True)
    assert plan_quantization(QloraTuning(bits=8)) == QuantizationPlan(8, "nf4", True)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_four_bit_weights_are_held_as_asked(quant_type: str, double: bool, facts: ModelFacts) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    model = load(facts, "bf16", quantization=QuantizationPlan(4, quant_type, double))
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear4bit) and layer.compute_dtype == torch.bfloat16
    assert layer.weight.quant_type == quant_type
    assert layer.weight.quant_state.nested is double
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [4, 8])
def test_an_evaluation_changes_no_gradient_through_quantized_weights(bits: int, facts: ModelFacts) -> None:
    import torch

    model = load(facts, quantization=QuantizationPlan(bits, "nf4", True))
    ids = torch.arange(40).reshape(2, 20)

    def gradient() -> torch.Tensor:
        model.train()
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embedded, labels=ids).loss.backward()
        assert embedded.grad is not None
        return embedded.grad

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(ids)
    assert torch.equal(before, gradient())


def test_eight_bit_weights_are_held_as_asked(facts: ModelFacts) -> None:
    import torch
    from bitsandbytes.nn import Linear8bitLt

    layer = load(facts, "bf16", quantization=QuantizationPlan(8, "nf4", True)).model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear8bitLt) and layer.weight.dtype == torch.int8


def test_sharded_four_bit_weights_pose_as_the_precision(facts: ModelFacts) -> None:
    import torch

    model = load(facts, "bf16", quantization=QuantizationPlan(4, "nf4", True), sharded=True)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_the_model_learns_how_rows_pad_and_end(facts: ModelFacts) -> None:
    model = load(facts)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 3
    assert model.generation_config.eos_token_id == 2


def test_a_stop_token_of_the_tokenizer_is_added(random_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_model_folder, tmp_path / "model"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [0, 1]}))
    assert load(inspect_model(str(folder))).generation_config.eos_token_id == [0, 1, 2]


@pytest.mark.parametrize("shared", [False, True])
def test_new_rows_are_the_mean_of_the_old(shared: bool, random_model_folder: Path, tied_model_folder: Path) -> None:
    import torch

    facts = inspect_model(str(tied_model_folder if shared else random_model_folder))
    model, before = load(facts, new_tokens=("<a>", "<b>")), load(facts)
    for grown, old in (
        (model.get_input_embeddings(), before.get_input_embeddings()),
        (model.get_output_embeddings(), before.get_output_embeddings()),
    ):
        assert grown.weight.shape[0] == 322
        assert torch.equal(grown.weight[:320], old.weight)
        for row in (320, 321):
            assert torch.allclose(grown.weight[row], old.weight.mean(dim=0), atol=1e-7)
    assert model.config.vocab_size == 322
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is shared


def test_spare_rows_are_used_before_any_is_added(tmp_path: Path) -> None:
    from models import save_llama, save_tokenizer

    save_llama(tmp_path, vocab_size=384)
    save_tokenizer(tmp_path)
    assert load(inspect_model(str(tmp_path)), new_tokens=("<a>",)).get_input_embeddings().weight.shape[0] == 384


def test_missing_weights_are_refused_instead_of_drawn_at_random(random_model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(random_model_folder, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights that LlamaForCausalLM needs: model\.layers\.1\.mlp\.up_proj"):
        load(inspect_model(str(folder)))


def test_an_attention_kernel_that_is_not_installed_is_named(facts: ModelFacts) -> None:
    with pytest.raises(UserError, match=r"model\.attention: .*; use model\.attention=sdpa"):
        load(facts, "bf16", attention="flash_attention_2")
