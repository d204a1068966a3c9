"""The adapter at a part of its strength: at 0 the base, at 1 the tuned model, between them the line between both."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder
from finetune.data.rows import Chat, Text
from finetune.errors import UserError
from finetune.evaluate.beyond import Beyond
from finetune.evaluate.climb import run_ladder, run_text_ladder
from finetune.evaluate.contest import Contest
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import BASE, TUNED, Evaluation, as_json
from finetune.evaluate.local import LocalEngine, Models, adapter_models
from finetune.evaluate.questions import Speech
from finetune.evaluate.stats import mean_interval
from finetune.evaluate.strengths import at_strength, check_strengths

IDS = torch.tensor([[5, 300, 301, 17, 42, 9, 302, 77]])
ALL = "all-linear"
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "lora of embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora of embeddings": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    "new tokens": {"trainable_token_indices": [300, 301]},
    "new tokens on both sides": {"trainable_token_indices": {"embed_tokens": [300, 301], "lm_head": [300, 301]}},
    "whole module": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def tuned_model(folder: Path, settings: dict[str, Any]) -> PeftModel:
    """A model whose adapter changes every weight that it may change, as loaded from a folder."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(**{"r": 4, "target_modules": ALL, "init_lora_weights": False, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_ends_are_base_and_tuned_model_to_the_bit(random_model_folder: Path, kind: str) -> None:
    model = tuned_model(random_model_folder, ADAPTERS[kind])
    whole = logits(model)
    with model.disable_adapter():
        base = logits(model)
    assert not torch.allclose(base, whole, atol=1e-3)
    with at_strength(model, 1.0):
        assert torch.equal(logits(model), whole)
    with at_strength(model, 0.0):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), whole)  # nothing is left of it
    with model.disable_adapter():
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("strength", [0.3, 1.4])
def test_between_the_ends_every_weight_lies_on_the_line(random_model_folder: Path, kind: str, strength: float) -> None:
    _check_line(random_model_folder, ADAPTERS[kind], strength)


def _check_line(folder: Path, settings: dict[str, Any], strength: float) -> None:
    model = tuned_model(folder, settings)
    with at_strength(model, strength):
        scaled = logits(model)
    merged = model.merge_and_unload().state_dict()
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in expected.named_parameters():
            weight.lerp_(merged[name], strength)
    assert torch.allclose(scaled, logits(expected), atol=2e-4)


def test_new_tokens_of_tied_embeddings_are_scaled_once(tied_model_folder: Path) -> None:
    model = tuned_model(tied_model_folder, {"trainable_token_indices": [300, 301]})
    whole = logits(model)
    with model.disable_adapter():
        base = logits(model)
    with at_strength(model, 0.0):
        assert torch.equal(logits(model), base)
    with at_strength(model, 1.0):
        assert torch.equal(logits(model), whole)
    _check_line(tied_model_folder, {"trainable_token_indices": [300, 301]}, 0.5)


def test_a_failure_inside_leaves_the_model_as_it_was(random_model_folder: Path) -> None:
    model = tuned_model(random_model_folder, {"use_dora": True})
    whole = logits(model)
    with pytest.raises(RuntimeError), at_strength(model, 0.2):
        raise RuntimeError
    assert torch.equal(logits(model), whole)


HELD_OUT = [
    Chat(({"role": "user", "content": f"fox {n}"}, {"role": "assistant", "content": "a jug of dog"})) for n in range(4)
]


@pytest.fixture(scope="module")
def speech(random_model_folder: Path) -> Speech:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)


@pytest.fixture(scope="module")
def models(random_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Models]:
    folder = tmp_path_factory.mktemp("adapter")
    tuned_model(random_model_folder, {}).save_pretrained(str(folder))

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(random_model_folder, dtype=torch.float32)

    return lambda: adapter_models(load, folder)


def contest_of(models: Models, speech: Speech, folder: Path) -> Contest:
    judged, base = (
        LocalEngine(name, speech, opened, Kept.open(folder, f"{name} weights"), 4)
        for name, opened in ((TUNED, models.tuned), (BASE, models.base))
    )
    return Contest(judged, base, models=models, speech=speech, adapter=folder)


SETTINGS = EvaluateConfig(
    rungs=["base"], metric="f1", max_new_tokens=8, neutral_rows=4, neutral_tokens=4, strengths=[1, 0.5, 0]
)

GROUPS = ("one", "one", "two", "three")  # of the rows


def climb(contest: Contest, rows: list[Any], folder: Path) -> tuple[Evaluation, Beyond]:
    """The ladder, and the sweep with what is kept in a folder of its own, so that both ends are computed."""
    beyond = Beyond.of(contest, SETTINGS, 1, folder)
    if isinstance(rows[0], Text):
        return run_text_ladder(contest, rows, seed=1, clusters=GROUPS, aside=beyond.measure), beyond
    choices = Kept.open(folder, "choices")
    ladder = run_ladder(contest, rows, [], SETTINGS, seed=1, choices=choices, clusters=GROUPS, aside=beyond.measure)
    return ladder, beyond


@pytest.mark.parametrize("shape", ["chat", "text"])
def test_the_ends_of_a_sweep_are_the_rungs(
    models: Callable[[], Models], speech: Speech, tmp_path: Path, shape: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"bias": "none"}), encoding="utf-8")
    rows: list[Any] = (
        list(HELD_OUT) if shape == "chat" else [Text(f"The fox {n} jumps over the dog.") for n in range(4)]
    )
    evaluation, beyond = climb(contest_of(models(), speech, tmp_path), rows, tmp_path / "sweep")
    none, half, whole = beyond.found["strengths"]
    metric = evaluation.metric
    rungs = {rung.name: rung.values(metric) for rung in evaluation.rungs}
    assert (none["strength"], half["strength"], whole["strength"]) == (0, 0.5, 1)
    assert none["score"] == fmean(rungs[BASE])
    assert whole["score"] == fmean(rungs[TUNED])
    shown = {rung["name"]: rung["interval"] for rung in as_json(evaluation)["rungs"]}
    assert (none["score_interval"], whole["score_interval"]) == (shown[BASE], shown[TUNED])
    assert shown[TUNED] != list(mean_interval(rungs[TUNED], 1)) or shape == "chat"
    assert whole["score"] != none["score"] or shape == "chat"
    kl = beyond.found["forgetting"]["measures"][0]
    assert (none["kl"], none["kl_interval"]) == (0.0, [0.0, 0.0])
    assert (whole["kl"], whole["kl_interval"]) == (kl["change"], kl["interval"])
    assert 0 < half["kl"] < whole["kl"]
    assert (half["rows"], half["prompts"]) == (4, 4)


def test_a_sweep_that_is_kept_opens_no_model(models: Callable[[], Models], speech: Speech, tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("a model was opened")

    (tmp_path / "adapter_config.json").write_text(json.dumps({"bias": "none"}), encoding="utf-8")
    contest = contest_of(models(), speech, tmp_path)
    _, first = climb(contest, HELD_OUT, tmp_path)
    closed = contest_of(Models(never, never), speech, tmp_path)
    _, again = climb(closed, HELD_OUT, tmp_path)
    assert again.found == first.found
    with pytest.raises(AssertionError, match="opened"):
        beyond = Beyond.of(closed, replace(SETTINGS, strengths=[0.6]), 1, tmp_path)
        beyond.measure(lambda engine: [1.0, 0.0], lambda scores: [0.0, 1.0])


def test_what_has_no_strength_is_refused(models: Callable[[], Models], speech: Speech, tmp_path: Path) -> None:
    contest = contest_of(models(), speech, tmp_path)
    cases = [
        (replace(contest, adapter=None), "every weight was trained"),
        (Contest(contest.judged), "nothing was tuned"),
    ]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"bias": "all"}), encoding="utf-8")
    for which, says in [*cases, (contest, "bias=all")]:
        check_strengths(which, [])
        with pytest.raises(UserError) as caught:
            check_strengths(which, [0.5])
        (fault,) = caught.value.faults
        assert fault.where == "evaluate.strengths"
        assert says in fault.what
    with pytest.raises(UserError):
        Beyond.of(replace(contest, adapter=None), SETTINGS, 1, tmp_path)
