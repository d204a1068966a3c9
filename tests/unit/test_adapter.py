"""Adapters: targets checked one by one, sizes known beforehand, new rows alone, full-precision merges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.adapter import (
    add_adapter,
    check_targets,
    check_tuning,
    merge_base,
    new_token_ids,
    trainable_parameters,
    trainable_report,
)
from finetune.artefact import save_artefact
from finetune.config import FullTuning, LoraTuning, QloraTuning, TuningConfig
from finetune.model import load_model, plan_quantization
from finetune.model_files import ModelFacts, inspect_model
from finetune.tokenizer import load_tokenizer

NEW = ("<call>", "<done>")


@pytest.fixture(scope="module")
def facts(random_model_folder: Path) -> ModelFacts:
    return inspect_model(str(random_model_folder))


@pytest.fixture(scope="module")
def tied(tied_model_folder: Path) -> ModelFacts:
    return inspect_model(str(tied_model_folder))


def tuned(facts: ModelFacts, tuning: LoraTuning, new_tokens: tuple[str, ...] = (), **arguments: Any) -> Any:
    tokenizer = load_tokenizer(facts, new_tokens=new_tokens)
    quantization = plan_quantization(tuning)
    model = load_model(
        facts, precision="fp32", attention="sdpa", full=False, tokenizer=tokenizer, quantization=quantization
    )
    ids = new_token_ids(tokenizer, facts, new_tokens)
    return add_adapter(model, tuning, facts, seed=0, token_ids=ids, **arguments), tokenizer, ids


def logits(model: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[..., :320]


def stir(model: Any) -> None:
    """Stand in for training: move every trained number."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def test_a_wrong_target_is_named_with_what_the_model_has(facts: ModelFacts) -> None:
    faults, _ = check_targets(["q_proj", "q_prj", "lm_head", "w"], facts)
    assert [str(fault) for fault in faults[:1]] == [
        "tuning.targets: no layer matches 'q_prj'; the model has down_proj, gate_proj, k_proj, o_proj, "
        "q_proj, up_proj, v_proj; did you mean q_proj?"
    ]
    assert "lm_head cannot get an adapter" in str(faults[1]) and "modules_to_save" in faults[1].mend
    assert len(faults) == 3


def test_targets_resolve_to_layers(facts: ModelFacts) -> None:
    faults, names = check_targets(["all-linear"], facts)
    assert (faults, len(names)) == ([], 7)
    assert check_targets(["self_attn.q_proj"], facts) == ([], ("self_attn.q_proj",))
    assert "already includes" in check_targets(["all-linear", "q_proj"], facts)[0][0].what
    assert "names no layer" in check_targets([], facts)[0][0].what


def test_modules_to_save_are_checked(facts: ModelFacts, tied: ModelFacts) -> None:
    assert check_targets(["q_proj"], facts, ["lm_head", "embed_tokens", "norm"])[0] == []
    (fault,) = check_targets(["q_proj"], facts, ["lm_haed"])[0]
    assert fault.where == "tuning.modules_to_save" and fault.mend == "did you mean lm_head?"
    (fault,) = check_targets(["q_proj"], tied, ["lm_head"])[0]
    assert "shares its weights" in fault.what


@pytest.mark.parametrize(
    "tuning, where, what",
    [
        (LoraTuning(rank=65), "tuning.rank", "must be 1..64"),
        (LoraTuning(rank=3, initialization="orthogonal"), "tuning.rank", "must be even"),
        (LoraTuning(initialization="pissa", dora=True), "tuning.initialization", "tuning.dora"),
        (QloraTuning(initialization="pissa"), "tuning.initialization", "4 bits"),
        (QloraTuning(bits=8, dora=True), "tuning.dora", "tuning.bits=4"),
        (LoraTuning(start="merge"), "tuning.start", "holds no adapter"),
    ],
)
def test_tunings_that_do_not_fit_are_named(tuning: TuningConfig, where: str, what: str, facts: ModelFacts) -> None:
    (fault,) = check_tuning(tuning, facts)
    assert fault.where == where and what in str(fault)


@pytest.mark.parametrize(
    "tuning",
    [
        LoraTuning(),
        LoraTuning(rank=4, targets=["q_proj", "mlp.up_proj"]),
        LoraTuning(dora=True),
        LoraTuning(modules_to_save=["lm_head"]),
        LoraTuning(modules_to_save=["embed_tokens", "lm_head"], targets=["v_proj"]),
        LoraTuning(modules_to_save=["norm"]),
        QloraTuning(rank=8),
        QloraTuning(bits=8),
        QloraTuning(dora=True),
    ],
)
@pytest.mark.parametrize("new_tokens", [(), NEW])
def test_the_number_of_trained_parameters_is_known_beforehand(
    tuning: LoraTuning, new_tokens: tuple[str, ...], facts: ModelFacts
) -> None:
    model, _, ids = tuned(facts, tuning, new_tokens)
    report = trainable_report(model)
    assert report.trainable == trainable_parameters(facts, tuning, ids)
    added = 2 * len(new_tokens) * facts.hidden_size
    copies = sum(
        facts.other_sizes.get(name, 0) for name in facts.other_sizes if name.split(".")[-1] in tuning.modules_to_save
    )
    assert report.total >= facts.parameters + added
    assert 0 < report.share < 1 or copies


@pytest.mark.parametrize("modules", [[], ["embed_tokens"]])
def test_shared_embeddings_are_counted_once(modules: list[str], tied: ModelFacts) -> None:
    tuning = LoraTuning(modules_to_save=modules)
    model, _, ids = tuned(tied, tuning, NEW)
    assert trainable_report(model).trainable == trainable_parameters(tied, tuning, ids)


def test_full_tuning_trains_everything(facts: ModelFacts) -> None:
    tokenizer = load_tokenizer(facts, new_tokens=NEW)
    model = load_model(facts, precision="bf16", attention="sdpa", full=True, tokenizer=tokenizer)
    report = trainable_report(model)
    assert report.share == 1
    assert report.trainable == trainable_parameters(facts, FullTuning(), new_token_ids(tokenizer, facts, NEW))


def test_new_tokens_train_only_their_rows_and_stay_small(facts: ModelFacts, tied: ModelFacts, tmp_path: Path) -> None:
    for number, base in enumerate((facts, tied)):
        sizes = {}
        for new_tokens in ((), NEW):
            model, tokenizer, _ = tuned(base, LoraTuning(rank=2), new_tokens)
            trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            assert all("lora_" in name or "trainable_tokens_delta" in name for name in trained)
            folder = save_artefact(model, tokenizer, tmp_path / f"{number}{len(new_tokens)}", base)
            sizes[len(new_tokens)] = (folder / "adapter_model.safetensors").stat().st_size
        rows = 2 * base.hidden_size * 4 * (1 if base.tied_embeddings else 2)
        assert rows <= sizes[2] - sizes[0] < rows + 1000


def test_the_same_seed_gives_the_same_start(facts: ModelFacts) -> None:
    import torch

    first, second = (tuned(facts, LoraTuning())[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_settings_reach_peft(facts: ModelFacts) -> None:
    tuning = LoraTuning(rank=4, alpha=6.5, dropout=0.25, rslora=True, targets=["q_proj"], initialization="gaussian")
    config = tuned(facts, tuning)[0].peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (4, 6.5, 0.25, True)
    assert (config.target_modules, config.init_lora_weights) == ({"q_proj"}, "gaussian")
    assert tuned(facts, LoraTuning(rank=4))[0].peft_config["default"].lora_alpha == 8


def test_continuing_loads_the_adapter_to_train_it(facts: ModelFacts, tmp_path: Path) -> None:
    import torch

    model, tokenizer, _ = tuned(facts, LoraTuning(rank=4), NEW)
    stir(model)
    folder = save_artefact(model, tokenizer, tmp_path, facts)
    held = inspect_model(str(folder))
    assert "must say what becomes" in check_tuning(LoraTuning(), held)[0].what
    assert "not every weight" in check_tuning(FullTuning(start="continue"), held)[0].what
    assert check_tuning(LoraTuning(start="continue"), held) == []
    again = tuned(held, LoraTuning(start="continue"))[0]
    assert trainable_report(again).trainable == trainable_report(model).trainable
    assert torch.equal(logits(again), logits(model))


def test_merging_gives_a_base_that_answers_like_the_adapter(facts: ModelFacts, tmp_path: Path) -> None:
    import torch

    model, tokenizer, _ = tuned(facts, LoraTuning(rank=4), NEW)
    stir(model)
    held = inspect_model(str(save_artefact(model, tokenizer, tmp_path / "run", facts)))
    merged = merge_base(held, tmp_path / "base", load_tokenizer(held))
    assert merged.adapter is None and merged.vocab_size == 322
    assert merge_base(held, tmp_path / "base", load_tokenizer(held)) == merged
    fresh, _, ids = tuned(merged, LoraTuning(rank=2, start=None))
    assert ids == ()
    assert torch.allclose(logits(fresh), logits(model), atol=1e-4)
    assert not torch.allclose(logits(fresh), logits(tuned(facts, LoraTuning(rank=2))[0]), atol=1e-2)


def test_an_initialisation_that_changes_the_base_needs_a_folder(facts: ModelFacts) -> None:
    with pytest.raises(ValueError, match="needs a folder"):
        tuned(facts, LoraTuning(initialization="pissa"))


def test_ranks_over_the_width_are_compared_with_this_model(facts: ModelFacts) -> None:
    assert check_tuning(LoraTuning(rank=65), replace(facts, hidden_size=128)) == []
