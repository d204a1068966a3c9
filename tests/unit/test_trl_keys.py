"""The arguments that are passed on to TRL, checked against its source."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest

from finetune.methods import METHODS
from finetune.settings.trl_keys import check_trl, trl_arguments


@pytest.mark.parametrize("method", METHODS)
def test_the_names_are_those_of_the_real_dataclass(method: str) -> None:
    module, name = METHODS[method].TRL_CONFIG
    real = getattr(importlib.import_module(module), name)
    assert set(trl_arguments(method)) == {item.name for item in dataclasses.fields(real) if item.init}


@pytest.mark.parametrize("method", METHODS)
def test_what_we_own_exists_in_trl(method: str) -> None:
    former = {"warmup_ratio"}  # gone from transformers 5, still in many people's configurations
    assert set(METHODS[method].OWNED) - former <= set(trl_arguments(method))


IDLE = ("do_train", "do_eval", "do_predict", "project", "trackio_space_id", "save_on_each_node", "dataloader_drop_last")


@pytest.mark.parametrize("key", IDLE)
@pytest.mark.parametrize("method", METHODS)
def test_what_would_have_no_effect_is_refused_with_our_key(method: str, key: str) -> None:
    (fault,) = check_trl(method, key, True, f"method.trl.{key}")
    assert METHODS[method].OWNED[key] in f"{fault.what} {fault.mend}"


def test_reading_the_names_imports_neither_trl_nor_torch() -> None:
    code = (
        "import sys; from finetune.settings.trl_keys import trl_arguments; assert len(trl_arguments('sft')) > 100; "
        "assert not {'torch', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("neftune_noise_alpha", 5.0),
        ("neftune_noise_alpha", 5),
        ("neftune_noise_alpha", None),
        ("lr_scheduler_kwargs", {"a": 1}),
        ("torch_compile", True),
        ("dataloader_num_workers", 2),
    ],
)
def test_right_arguments_pass(key: str, value: object) -> None:
    assert check_trl("sft", key, value, "here") == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bta", 1, "here: TRL's SFTConfig has no argument bta; see the documentation of SFTConfig"),
        (
            "adam_bta1",
            1,
            "here: TRL's SFTConfig has no argument adam_bta1; did you mean method.trl.adam_beta1?",
        ),
        (
            "learning_rte",
            1,
            "here: TRL's SFTConfig has no argument learning_rte; did you mean training.learning_rate?",
        ),
        (
            "learning_rate",
            1e-4,
            "here: learning_rate is set by training.learning_rate; use training.learning_rate",
        ),
        ("torch_compile", "abc", "here: 'abc' is not true or false; TRL's SFTConfig takes bool"),
        ("torch_compile", 1, "here: 1 is not true or false; TRL's SFTConfig takes bool"),
        ("dataloader_num_workers", True, "here: True is not a whole number; TRL's SFTConfig takes int"),
        ("adam_beta1", "x", "here: 'x' is not a number; TRL's SFTConfig takes float"),
    ],
)
def test_wrong_arguments_are_named(key: str, value: object, said: str) -> None:
    assert [str(fault) for fault in check_trl("sft", key, value, "here")] == [said]
