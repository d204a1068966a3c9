"""The reference is what training starts from, whatever that is; and a run that has another one does not begin."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from building import built
from finished import save_tuned
from rows import pair_row, vote_row, worded, write_rows

from finetune import checkpoint
from finetune.errors import RunFailed
from finetune.methods.reference import COPY, most_apart

Run = Callable[..., tuple[int, str, str]]
COMMON = (
    "training.batch_size=4", "training.log_every=1", "training.learning_rate=1e-2", "training.scheduler=constant",
    "data.eval_share=0",
)  # fmt: skip
NEW = "tuning.new_tokens=[<new>]"


def new_row(number: int) -> dict[str, Any]:
    return pair_row(number, "<new> violet", "<new> umber")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [new_row(number) for number in range(12)])


@pytest.fixture(scope="session")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("votes") / "votes.jsonl", [vote_row(number) for number in range(12)])


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """A run directory with an adapter that says something else than its base."""
    folder = tmp_path_factory.mktemp("adapted")
    save_tuned(llama, folder, "lora")
    return folder / "adapter"


@pytest.fixture(scope="session")
def widened(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """The same with a token of its own, whose rows are trained."""
    from finetune.cli import main

    folder = tmp_path_factory.mktemp("widened")
    file = write_rows(folder / "rows.jsonl", [worded(number, "<new> violet") for number in range(12)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = (f"model.name={llama}", f"data.train={file}", NEW, "training.max_steps=3", "name=x")
        assert main(["train", *COMMON, *given]) == 0
    return folder / "runs" / "x" / "adapter"


STARTS: dict[str, tuple[str, ...]] = {
    "base": ("model.name={llama}",),
    "base, rank-stabilised, drawn": ("model.name={llama}", "tuning.initialization=gaussian", "tuning.rslora=true"),
    "base, dora": ("model.name={llama}", "tuning.dora=true"),
    "base, orthogonal": ("model.name={llama}", "tuning.initialization=orthogonal"),
    "base, pissa": ("model.name={llama}", "tuning.initialization=pissa"),
    "base, olora": ("model.name={llama}", "tuning.initialization=olora"),
    "base, modules": ("model.name={llama}", "tuning.modules_to_save=[embed_tokens,norm]"),
    "base, new tokens": ("model.name={llama}", NEW),
    "base in 4 bits": ("model.name={llama}", "tuning=qlora"),
    "base in 8 bits": ("model.name={llama}", "tuning=qlora", "tuning.bits=8"),
    "adapter": ("model.name={adapted}", "tuning.start=continue"),
    "adapter over 4 bits": ("model.name={adapted}", "tuning.start=continue", "tuning=qlora"),
    "adapter with new tokens": ("model.name={widened}", "tuning.start=continue"),
    "adapter with new tokens over 4 bits": ("model.name={widened}", "tuning.start=continue", "tuning=qlora"),
    "merged adapter": ("model.name={adapted}", "tuning.start=merge"),
    "merged adapter, all weights": ("model.name={adapted}", "tuning.start=merge", "tuning=full"),
    "all weights": ("model.name={llama}", "tuning=full"),
    "all weights, new tokens": ("model.name={llama}", "tuning=full", NEW),
}


@pytest.fixture
def settings(llama: Path, adapted: Path, widened: Path, pairs: Path) -> Callable[[str], tuple[str, ...]]:
    def of(start: str) -> tuple[str, ...]:
        named = (one.format(llama=llama, adapted=adapted, widened=widened) for one in STARTS[start])
        return (*named, "method=dpo", f"data.train={pairs}", "training.max_steps=2", *COMMON)

    return of


@pytest.mark.parametrize("start", STARTS)
def test_the_first_loss_is_that_of_a_model_that_is_its_reference(
    finetune: Run, tmp_path: Path, settings: Callable[[str], tuple[str, ...]], start: str
) -> None:
    code, _, err = finetune("train", *settings(start), "name=x")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "x"
    first, second = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert abs(second["rewards/margins"]) > 1e-3, "the second step sees another model than the reference"
    said = json.loads((run_dir / "lineage.json").read_text())["reference"]
    assert f"reference: {said}; the same as the model" in err


@pytest.mark.parametrize("start", ["adapter", "adapter over 4 bits", "all weights", "base, pissa"])
def test_votes_begin_where_training_does_too(
    finetune: Run, tmp_path: Path, settings: Callable[[str], tuple[str, ...]], votes: Path, start: str
) -> None:
    given = [one for one in settings(start) if not one.startswith(("method=", "data.train="))]
    code, _, err = finetune("train", *given, "method=kto", f"data.train={votes}", "name=x")
    assert code == 0, err
    first = json.loads((tmp_path / "runs" / "x" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.5, abs=1e-3) and first["kl"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "start", ["base, pissa", "base, olora", "adapter", "adapter over 4 bits", "adapter with new tokens"]
)
def test_the_reference_changes_nothing_of_the_model(
    tmp_path: Path, settings: Callable[[str], tuple[str, ...]], start: str
) -> None:
    from finetune import weights
    from finetune.tokenizer import load_tokenizer

    plan, trainer, _ = built(tmp_path, *settings(start))
    plain = weights.load(plan, load_tokenizer(plan.model, None, tuple(plan.config.tuning.new_tokens)))
    ids = torch.arange(8, 40).reshape(2, 16)
    with torch.no_grad():
        expected, found = (model.eval()(ids).logits for model in (plain, trainer.model))
    assert torch.allclose(expected, found, atol=1e-5)


def perturbed(trainer: Any) -> None:
    next(tensor for name, tensor in trainer.model.named_parameters() if f".{COPY}." in name).data += 0.05


def removed(trainer: Any) -> None:
    trainer.model.delete_adapter(COPY)


def another(trainer: Any) -> None:
    next(iter(trainer.ref_model.parameters())).data *= 1.1


@pytest.mark.parametrize(("start", "planted"), [("adapter", perturbed), ("adapter", removed), ("all weights", another)])
def test_a_run_with_another_reference_does_not_begin(
    tmp_path: Path, settings: Callable[[str], tuple[str, ...]], start: str, planted: Callable[[Any], None]
) -> None:
    plan, trainer, _ = built(tmp_path, *settings(start), then=planted)
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    assert most_apart(trainer) > 1e-3
    with pytest.raises(RunFailed, match=r"differs by .* nats between the model and its reference") as caught:
        trainer.train()
    assert plan.model.name in str(caught.value) and trainer.state.global_step == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.named_parameters())


def test_a_copy_of_a_new_adapter_may_go_because_without_it_the_base_is_the_reference(
    tmp_path: Path, settings: Callable[[str], tuple[str, ...]]
) -> None:
    assert most_apart(built(tmp_path, *settings("base"), then=removed).trainer) == 0


def test_a_checkpoint_with_another_reference_is_not_continued(
    finetune: Run, tmp_path: Path, settings: Callable[[str], tuple[str, ...]]
) -> None:
    from safetensors.torch import load_file, save_file

    assert finetune("train", *settings("adapter"), "name=x")[0] == 0
    folder = tmp_path / "runs" / "x" / "checkpoints" / "checkpoint-2"
    file = folder / COPY / "adapter_model.safetensors"
    manifest = checkpoint.read_manifest(folder)
    assert f"{COPY}/{file.name}" in manifest.pop("files"), "a damaged copy would not be noticed"
    tensors = load_file(file)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    checkpoint.seal(folder, manifest)
    longer = [*settings("adapter"), "name=x"]
    longer[longer.index("training.max_steps=2")] = "training.max_steps=4"
    code, _, err = finetune("train", *longer)
    assert code == 1 and "the checkpoint's reference is not the adapter" in err, err
