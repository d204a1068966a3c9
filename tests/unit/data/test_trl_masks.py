"""Our masks against those of TRL's training templates, for the families that TRL supports."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.data.encode import MASKED, Encoded, Encoder
from finetune.data.rows import Chat

SPEC = importlib.util.find_spec("trl")
assert SPEC is not None and SPEC.origin is not None
SHIPPED = Path(SPEC.origin).parent / "chat_templates"

# TRL's template, the family of ours whose special tokens it uses, and what TRL learns after the stop token as well.
SAME = [
    ("llama3", "llama3", ""),
    ("gemma", "gemma2", "\n"),
    ("gemma3", "gemma3", "\n"),
    ("qwen3", "qwen3", "\n"),
    ("phi3", "phi3", "\n<|endoftext|>"),
    ("qwen3_instruct_2507", "qwen3", "\n"),
]

ROWS = [
    Chat(
        (
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris is."},
        )
    ),
    Chat(
        (
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Norway?"},
            {"role": "assistant", "content": "Oslo"},
        )
    ),
]


def with_template(tokenizer: Any, name: str) -> Any:
    """The tokenizer with a template that TRL ships."""
    copy = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        bos_token=tokenizer.bos_token,
    )
    copy.chat_template = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
    return copy


def trl_labels(tokenizer: Any, row: Chat) -> tuple[list[int], list[int]]:
    """Ids and labels as TRL makes them of its training templates."""
    output = tokenizer.apply_chat_template(
        list(row.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(output["input_ids"], output["assistant_masks"], strict=True)
    return output["input_ids"], [token if learned else MASKED for token, learned in pairs]


def encoded(tokenizer: Any, row: Chat) -> Encoded:
    """One row, which must not be refused."""
    result = Encoder(tokenizer).encode([row])[0]
    assert isinstance(result, Encoded), result
    return result


@pytest.mark.parametrize(("name", "family_name", "_after"), SAME)
@pytest.mark.parametrize("row", ROWS, ids=["one", "two"])
def test_marked_templates_give_the_same_labels(
    name: str, family_name: str, _after: str, row: Chat, family: Callable[[str], Any]
) -> None:
    tokenizer = with_template(family(family_name), f"{name}_training")
    result = encoded(tokenizer, row)
    assert (result.input_ids, result.labels) == trl_labels(tokenizer, row)


@pytest.mark.parametrize(("name", "family_name", "after"), SAME)
@pytest.mark.parametrize("row", ROWS, ids=["one", "two"])
def test_unmarked_templates_give_the_same_up_to_the_stop_token(
    name: str, family_name: str, after: str, row: Chat, family: Callable[[str], Any]
) -> None:
    if name == "qwen3" and len(row.messages) > 2:
        pytest.skip("TRL's template keeps empty think blocks in earlier turns, the model's own does not")
    stock = with_template(family(family_name), name)
    training = with_template(family(family_name), f"{name}_training")
    result, (ids, labels) = encoded(stock, row), trl_labels(training, row)
    assert result.input_ids == ids
    differing = [i for i, (ours, theirs) in enumerate(zip(result.labels, labels, strict=True)) if ours != theirs]
    assert all(result.labels[i] == MASKED for i in differing)
    allowed = stock.encode(after, add_special_tokens=False)
    assert {ids[i] for i in differing} <= set(allowed)
    for index in differing:  # each follows the stop token of an answer
        begin = max(place for place in range(index) if result.labels[place] != MASKED)
        assert ids[begin] in Encoder(stock).stop_ids and index - begin <= len(allowed)


@pytest.mark.parametrize("name", ["qwen2_5", "deepseekv3"])
def test_generation_prompt_that_trl_learns_is_left_out(name: str, family: Callable[[str], Any]) -> None:
    tokenizer = with_template(family({"qwen2_5": "qwen2_5", "deepseekv3": "deepseek_v3"}[name]), f"{name}_training")
    result, (ids, labels) = encoded(tokenizer, ROWS[0]), trl_labels(tokenizer, ROWS[0])
    assert result.input_ids == ids
    first = next(index for index, label in enumerate(result.labels) if label != MASKED)
    theirs = next(index for index, label in enumerate(labels) if label != MASKED)
    header = {"qwen2_5": "\n", "deepseekv3": "<｜Assistant｜>"}[name]
    assert tokenizer.decode(ids[theirs:first]) == header
    assert result.labels[first:] == labels[first:]
