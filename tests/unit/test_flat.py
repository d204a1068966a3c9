"""A model that looks across the rows of a flat batch is found out before it is trained on one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.errors import RunFailed
from finetune.flat import check
from finetune.tiny import PATH

TEXTS = ("Ada wants three lamps and a very long ladder, please.", "Where is the kettle of Ben?")


def rows() -> list[dict[str, list[int]]]:
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    return [{"input_ids": tokenizer(text)["input_ids"]} for text in TEXTS]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_that_keeps_rows_apart_passes_and_stays_in_its_mode(attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(PATH, dtype="float32", attn_implementation=attention).train()
    check(model, rows(), nullcontext())
    assert model.training


def test_one_that_looks_across_is_refused_with_the_way_out() -> None:
    model = AutoModelForCausalLM.from_pretrained(PATH, dtype="float32")
    forward = model.forward

    def without_positions(**given: object) -> object:
        # What a family does whose attention ignores positions: one row of all tokens.
        given.pop("position_ids", None)
        return forward(**given)

    model.forward = without_positions
    with pytest.raises(RunFailed, match=r"training\.batching=grouped"):
        check(model, rows(), nullcontext())
