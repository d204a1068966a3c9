"""The facts that a plan stands on: the model from its files, the rows prepared, the machine looked at."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune import adapter
from finetune.config import RunConfig
from finetune.data.prepare import PreparedData, prepare
from finetune.data.preview import sample
from finetune.errors import UserError
from finetune.failures import explained
from finetune.machine import Machine
from finetune.methods import METHODS
from finetune.model_files import ModelFacts, inspect_model
from finetune.model_files.scoring import SCORE, with_score
from finetune.rundir import run_directory
from finetune.tokenizer import load_with_padding, stop_ids


@dataclass(frozen=True)
class Facts:
    """What was found out before deciding anything."""

    model: ModelFacts
    data: PreparedData
    machine: Machine
    flash_attention: bool  # the package is installed
    padding: str = ""  # the padding token, and why it is that one
    preview: str = ""  # one row as the model will see it
    new_rows: tuple[int, ...] = ()  # ids of the tokens whose rows are added or trained by themselves
    vocabulary: Mapping[str, int] = field(default_factory=dict)  # token → id
    frozen: Mapping[str, ModelFacts] = field(default_factory=dict)  # models that are only read, by their role


def gather(config: RunConfig, machine: Machine, *, with_frozen: bool = True) -> Facts:
    """Read the model's files and prepare the rows; models that are only read are left out where they are yet to be."""
    method = METHODS[config.method.option]
    name, revision, code = config.model.name, config.model.revision, config.model.trust_remote_code
    model = inspect_model(name, revision, code, scores=method.HEAD == SCORE)
    model = with_score(model) if method.HEAD == SCORE else model
    max_length = longest_row(config.data.max_length, model)
    named = method.frozen_models(config.method) if with_frozen else {}
    frozen = {role: inspect_model(one.name, one.revision) for role, one in named.items()}
    tokenizer, padding = load_with_padding(model, config.model.chat_template, tuple(config.tuning.new_tokens))
    cache = run_directory(config).parent / ".prepared"
    with explained(cache):
        data = prepare(
            config.data,
            learn=method.learned_tokens(config.method),
            shapes=method.ROW_SHAPE,
            tokenizer=tokenizer,
            stop_ids=stop_ids(model, tokenizer),
            max_length=max_length,
            seed=config.seed,
            cache=str(cache),
        )
    new_rows = adapter.new_token_ids(tokenizer, model, config.tuning.new_tokens)
    flash_attention = importlib.util.find_spec("flash_attn") is not None
    return Facts(
        model=model,
        data=data,
        machine=machine,
        flash_attention=flash_attention,
        padding=f"{padding.token} ({padding.reason})",
        preview=sample(data, tokenizer),
        new_rows=new_rows,
        vocabulary=tokenizer.get_vocab(),
        frozen=frozen,
    )


def longest_row(asked: int | None, model: ModelFacts) -> int:
    """The most tokens of a row: what is asked for, or else what the model takes."""
    if asked and model.context and asked > model.context:
        what = f"{asked} is more than the model's context of {model.context} tokens"
        raise UserError.at("data.max_length", what, f"use at most {model.context}")
    return asked or longest_possible(model)


def longest_possible(model: ModelFacts) -> int:
    """The longest row that a model takes, where nothing shorter is asked for."""
    return model.context or 4096
