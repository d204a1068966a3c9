"""What a run leaves: reloads with plain peft and transformers, and is proven to hold what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.adapter import add_adapter, keep_in_fp32, new_token_ids
from finetune.artefact import changed_since, compare_reloaded, save_artefact, snapshot
from finetune.config import FullTuning, LoraTuning, QloraTuning, TuningConfig
from finetune.errors import RunFailed
from finetune.model import load_model, plan_quantization
from finetune.model_files import ModelFacts, inspect_model
from finetune.tokenizer import load_tokenizer

NEW = ("<call>",)


@pytest.fixture(scope="module")
def facts(random_model_folder: Path) -> ModelFacts:
    return inspect_model(str(random_model_folder))


def build(facts: ModelFacts, tuning: TuningConfig, start: Path, new_tokens: tuple[str, ...] = NEW) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(facts, new_tokens=new_tokens)
    full, quantization = isinstance(tuning, FullTuning), plan_quantization(tuning)
    model: Any = load_model(
        facts, precision="fp32", attention="sdpa", full=full, tokenizer=tokenizer, quantization=quantization
    )
    if isinstance(tuning, LoraTuning):
        ids = new_token_ids(tokenizer, facts, new_tokens)
        model = add_adapter(model, tuning, facts, seed=0, token_ids=ids, start_folder=start)
    return model, tokenizer


def step(model: Any) -> None:
    """One real optimizer step."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids = torch.tensor([[5, 6, 7, 8, 9, 320 if model.config.vocab_size > 320 else 10]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def logits(model: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


TUNINGS: dict[str, LoraTuning] = {
    "lora": LoraTuning(rank=4),
    "dora": LoraTuning(rank=4, dora=True),
    "rslora": LoraTuning(rank=4, rslora=True),
    "pissa": LoraTuning(rank=4, initialization="pissa"),
    "pissa by iteration": LoraTuning(rank=4, initialization="pissa_niter_4"),
    "olora with rslora": LoraTuning(rank=4, initialization="olora", rslora=True),
    "orthogonal": LoraTuning(rank=4, initialization="orthogonal"),
    "with the head": LoraTuning(rank=4, modules_to_save=["lm_head"]),
    "with the embedding": LoraTuning(rank=4, modules_to_save=["embed_tokens"]),
    "with the last norm": LoraTuning(rank=4, modules_to_save=["norm"]),
}


@pytest.mark.parametrize("name", TUNINGS)
def test_adapters_reload_with_plain_peft(name: str, facts: ModelFacts, tmp_path: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    tuning = TUNINGS[name]
    changes = tuning.initialization.startswith(("pissa", "olora"))
    model, tokenizer = build(facts, tuning, tmp_path / "start")
    before = snapshot(model)
    step(model)
    changed_since(before, model)
    folder = save_artefact(model, tokenizer, tmp_path, facts, start_folder=tmp_path / "start" if changes else None)
    compare_reloaded(model, folder)
    assert folder == tmp_path / "adapter"
    again = AutoPeftModelForCausalLM.from_pretrained(str(folder))
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    assert not torch.allclose(logits(again)[..., :320], logits(build(facts, LoraTuning(), tmp_path, ())[0]), atol=1e-3)


@pytest.mark.parametrize("modules", [[], ["embed_tokens"]])
def test_shared_embeddings_reload_too(modules: list[str], tied_model_folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    facts = inspect_model(str(tied_model_folder))
    model, tokenizer = build(facts, LoraTuning(rank=4, modules_to_save=modules), tmp_path)
    step(model)
    folder = save_artefact(model, tokenizer, tmp_path, facts)
    compare_reloaded(model, folder)
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(str(folder))), logits(model), atol=1e-5)


def test_adapters_of_quantized_bases_reload(facts: ModelFacts, tmp_path: Path) -> None:
    model, tokenizer = build(facts, QloraTuning(rank=4), tmp_path)
    before = snapshot(model)
    step(model)
    changed_since(before, model)
    folder = save_artefact(model, tokenizer, tmp_path, facts)
    compare_reloaded(model, folder)
    assert inspect_model(str(folder)).adapter is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shared", [False, True])
def test_full_models_reload_with_plain_transformers(
    precision: str, shared: bool, random_model_folder: Path, tied_model_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = inspect_model(str(tied_model_folder if shared else random_model_folder))
    model, tokenizer = build(facts, FullTuning(), tmp_path)
    before = snapshot(model)
    step(model)
    changed_since(before, model)
    model.config.use_cache = False
    folder = save_artefact(model, tokenizer, tmp_path, facts, precision=precision)
    compare_reloaded(model, folder)
    written = inspect_model(str(folder))
    assert (folder, written.dtype, written.vocab_size) == (tmp_path / "model", precision, 321)
    assert written.parameters == sum(parameter.numel() for parameter in model.parameters())
    again = AutoModelForCausalLM.from_pretrained(str(folder))
    assert again.config.use_cache
    assert model.config.dtype == torch.float32 and not model.config.use_cache
    tolerance = 1e-5 if precision == "fp32" else 0.05
    assert torch.allclose(logits(again).float(), logits(model), atol=tolerance)
    reloaded = AutoTokenizer.from_pretrained(str(folder))
    assert reloaded("a<call>")["input_ids"] == tokenizer("a<call>")["input_ids"]
    assert reloaded.chat_template == tokenizer.chat_template


def test_adapters_name_the_base_that_they_need(facts: ModelFacts, tmp_path: Path) -> None:
    from dataclasses import replace

    model, tokenizer = build(facts, LoraTuning(), tmp_path)
    folder = save_artefact(model, tokenizer, tmp_path / "local", facts)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (facts.path, None)
    remote = replace(facts, hub_id="org/model", revision="c" * 40)
    folder = save_artefact(model, tokenizer, tmp_path / "hub", remote)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "c" * 40)


def test_a_step_that_changes_nothing_fails_the_run(facts: ModelFacts, tmp_path: Path) -> None:
    model, _ = build(facts, LoraTuning(), tmp_path)
    with pytest.raises(RunFailed, match="changed nothing"):
        changed_since(snapshot(model), model)


def test_numbers_that_are_none_fail_the_run(facts: ModelFacts, tmp_path: Path) -> None:
    import torch

    model, _ = build(facts, LoraTuning(), tmp_path)
    before = snapshot(model)
    with torch.no_grad():
        dict(model.named_parameters())[next(iter(before))].fill_(float("nan"))
    with pytest.raises(RunFailed, match="no longer finite"):
        changed_since(before, model)


def test_a_model_without_anything_to_train_fails(facts: ModelFacts, tmp_path: Path) -> None:
    model, _ = build(facts, LoraTuning(), tmp_path)
    model.requires_grad_(False)
    with pytest.raises(RunFailed, match="nothing is trained"):
        snapshot(model)


@pytest.mark.parametrize(
    "damage, message",
    [
        ("other", "differs from the trained"),
        ("zero", "all zeros"),
        ("nan", "not numbers"),
        ("none", "without any"),
    ],
)
@pytest.mark.parametrize("tuning", [LoraTuning(rank=4), FullTuning()])
def test_a_bad_save_fails_the_run(
    damage: str, message: str, tuning: TuningConfig, facts: ModelFacts, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model, tokenizer = build(facts, tuning, tmp_path)
    step(model)
    folder = save_artefact(model, tokenizer, tmp_path, facts)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    if damage == "none":
        path.unlink()
    else:
        for tensor in tensors.values():
            tensor.add_(1) if damage == "other" else tensor.fill_(0 if damage == "zero" else float("nan"))
        save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(RunFailed, match=message):
        compare_reloaded(model, folder)


def test_an_untrained_adapter_fails_the_comparison(facts: ModelFacts, tmp_path: Path) -> None:
    model, tokenizer = build(facts, LoraTuning(), tmp_path, ())
    folder = save_artefact(model, tokenizer, tmp_path, facts)
    with pytest.raises(RunFailed, match="nothing was learned"):
        compare_reloaded(model, folder)


@pytest.mark.parametrize("name", ["qlora", "eight bits", "pissa"])
def test_an_interrupted_run_ends_in_the_same_adapter(name: str, facts: ModelFacts, tmp_path: Path) -> None:
    import torch

    tuning = {
        "qlora": QloraTuning(rank=2, dropout=0.1),
        "eight bits": QloraTuning(rank=2, bits=8),
        "pissa": LoraTuning(rank=2, initialization="pissa_niter_4"),
    }[name]
    ends = []
    for resume in (None, str(tmp_path / "out" / "checkpoint-1")):
        trainer = sft_trainer(*build(facts, tuning, tmp_path / "start"), tmp_path / "out", steps=2)
        keep_in_fp32(trainer.model)
        trainer.train(resume_from_checkpoint=resume)
        ends.append({key: value for key, value in trainer.model.named_parameters() if value.requires_grad})
    assert {tensor.dtype for tensor in ends[0].values()} == {torch.float32}
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())


def sft_trainer(model: Any, tokenizer: Any, folder: Path, steps: int) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"input_ids": [5, 6, 320, 7], "labels": [-100, 6, 320, 7]}] * 2)
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_steps=1,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)


def test_trl_trains_new_rows_of_both_embeddings(
    random_model_folder: Path, tied_model_folder: Path, tmp_path: Path
) -> None:
    for number, folder in enumerate((random_model_folder, tied_model_folder)):
        model, tokenizer = build(inspect_model(str(folder)), LoraTuning(rank=2), tmp_path)
        trainer = sft_trainer(model, tokenizer, tmp_path / str(number), steps=1)
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        before = [layer.weight.detach().clone() for layer in layers]
        trainer.train()
        for layer, old in zip(layers, before, strict=True):
            assert (layer.weight.detach() != old).any(dim=1).nonzero().flatten().tolist() == [320]


def test_shared_out_weights_are_watched_too(random_model_folder: Path, tmp_path: Path) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = AutoModelForCausalLM.from_pretrained(random_model_folder)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        before = snapshot(model)
        with pytest.raises(RunFailed, match="changed nothing"):
            changed_since(before, model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2)
        changed_since(before, model)
    finally:
        dist.destroy_process_group()
