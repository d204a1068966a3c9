"""RLOO, and the leash of both methods: the start is proven, kept, and not part of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sampled import but, metrics, same_weights, samples

Run = Callable[..., tuple[int, str, str]]
PROVEN = "the same as the model on the first rows (within 0e+00 nats a token)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "is_tied"),
    [
        (("method=rloo",), True),
        (("method=rloo", "method.beta=0", "tuning.initialization=pissa"), False),
        (("method=grpo", "method.beta=0.1", "tuning.initialization=pissa", "method.iterations=2"), True),
        (("method=grpo", "method.beta=0.1", "tuning=full"), True),
    ],
)  # fmt: skip
def test_a_run_cut_in_two_ends_in_the_same_weights(
    finetune: Run, tmp_path: Path, command: tuple[str, ...], settings: tuple[str, ...], is_tied: bool
) -> None:
    full = "tuning=full" in settings
    given = tuple(one for one in command if not (full and one.startswith("tuning.")))
    run = but(given, *settings, "training.save_every=2", "training.batch_size=32", "data.eval_share=0")
    code, _, err = finetune("train", *run, "name=whole", "training.max_steps=4")
    assert code == 0, err
    assert (PROVEN in err) == is_tied
    code, _, err = finetune("train", *run, "name=cut", "training.max_steps=2")
    assert code == 0, err
    code, out, err = finetune("train", *run, "name=cut", "training.max_steps=4", "--json")
    assert code == 0 and json.loads(out)["status"] == "resumed", err
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    assert same_weights(whole, cut) and metrics(whole) == metrics(cut) and samples(whole) == samples(cut)
    assert bool(metrics(whole, "kl")) == is_tied
    assert not list(whole.glob("adapter/*/")) and not list(whole.glob("model/*/"))
    lineage = json.loads((whole / "lineage.json").read_text())
    assert (lineage["reference"] is not None) == is_tied


def test_it_learns_what_is_paid(finetune: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    settings = ("method=rloo", "training.max_steps=16", "training.batch_size=64", "training.learning_rate=3e-3")
    code, _, err = finetune("train", *but(command, *settings, "data.eval_share=0", "name=x"))
    assert code == 0, err
    paid = metrics(tmp_path / "runs" / "x")
    assert sum(paid[-4:]) > sum(paid[:4]) + 0.2


@pytest.mark.slow
def test_a_leash_holds(finetune: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    moved = {}
    for beta in ("0.001", "1"):
        settings = ("method=rloo", f"method.beta={beta}", "training.max_steps=16", "training.batch_size=16")
        name = f"beta-{beta}"
        code, _, err = finetune("train", *but(command, *settings, f"name={name}", "data.eval_share=0"))
        assert code == 0, err
        moved[beta] = sum(map(abs, metrics(tmp_path / "runs" / name, "kl")[-4:]))
    assert moved["1"] < moved["0.001"]


def test_a_leash_to_files_that_lack_new_tokens_is_refused(finetune: Run, command: tuple[str, ...]) -> None:
    given = tuple(one for one in command if not one.startswith("tuning."))
    settings = ("method=rloo", "tuning=full", "tuning.new_tokens=[<json>]")
    code, _, err = finetune("plan", *but(given, *settings))
    assert code == 2 and "method.beta: ties the model to what its files hold" in err
