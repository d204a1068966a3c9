"""Greedy answers in batches, and likelihoods, on small real models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

from finetune.evaluate.generate import IGNORED, Answer, generate, likelihoods

PROMPTS = [[5 + (7 * row + 3 * at) % 300 for at in range(length)] for row, length in enumerate([3, 40, 1, 17, 8, 25])]


@pytest.fixture(scope="module")
def tokenizer(random_model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(random_model_folder)


@pytest.fixture
def model(random_model_folder: Path) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(random_model_folder, dtype=torch.float32)
    torch.set_num_threads(threads)


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The most likely next tokens one by one, without cache, batch or mask."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def ask(model: Any, tokenizer: Any, prompts: list[list[int]], **changed: Any) -> list[Answer]:
    given: dict[str, Any] = {"stop_ids": (2,), "max_new_tokens": 12, "batch_size": 4, **changed}
    return generate(model, tokenizer, prompts, **given)


def test_batched_answers_are_those_of_plain_greedy_decoding(model: Any, tokenizer: Any) -> None:
    expected = [greedy(model.eval(), prompt, 12) for prompt in PROMPTS]
    assert all(2 not in ids for ids in expected), "none of these should stop"
    answers = ask(model, tokenizer, PROMPTS)
    assert texts(answers) == [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert [answer.tokens for answer in answers] == [12] * len(PROMPTS)
    assert not any(answer.stopped for answer in answers)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_the_batch_size_changes_no_answer(model: Any, tokenizer: Any, size: int) -> None:
    assert texts(ask(model, tokenizer, PROMPTS, batch_size=size)) == texts(ask(model, tokenizer, PROMPTS))


def test_an_answer_ends_before_the_stop_token(model: Any, tokenizer: Any) -> None:
    expected = greedy(model.eval(), PROMPTS[1], 12)
    stop = expected[4]
    first = expected.index(stop)
    answer = ask(model, tokenizer, PROMPTS, stop_ids=(2, stop))[1]
    assert answer.stopped
    assert answer.tokens == first
    assert answer.text == tokenizer.decode(expected[:first], skip_special_tokens=True)


def test_habits_of_the_model_do_not_leak_in(model: Any, tokenizer: Any) -> None:
    plain = texts(ask(model, tokenizer, PROMPTS))
    habits = GenerationConfig(do_sample=True, temperature=5.0, top_k=5, repetition_penalty=3.0, min_new_tokens=3)
    model.generation_config = habits
    assert texts(ask(model, tokenizer, PROMPTS)) == plain
    assert model.generation_config is habits


def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    ask(model, tokenizer, PROMPTS[:1])
    assert model.training
    model.eval()
    ask(model, tokenizer, PROMPTS[:1])
    assert not model.training


def test_an_adapter_answers_with_and_without_itself(model: Any, tokenizer: Any) -> None:
    plain = texts(ask(model, tokenizer, PROMPTS))
    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5))
    assert texts(ask(tuned, tokenizer, PROMPTS)) != plain
    assert texts(ask(tuned, tokenizer, PROMPTS)) == texts(ask(tuned, tokenizer, PROMPTS, batch_size=1))
    with tuned.disable_adapter():
        assert texts(ask(tuned, tokenizer, PROMPTS)) == plain


def test_a_prompt_near_the_context_says_less_and_its_neighbours_do_not() -> None:
    torch.manual_seed(0)
    # absolute positions: one step past the context is an error, not just a bad answer
    short = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    plain = Bytes()
    prompts = [list(range(10, 40)), [5, 6, 7], list(range(10, 32))]
    answers = generate(short, plain, prompts, stop_ids=(2,), max_new_tokens=10, batch_size=3, context=32)
    assert [answer.tokens for answer in answers] == [2, 10, 10]


class Bytes:
    """As much of a tokenizer as generation needs."""

    pad_token_id = 0

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def masked(ids: list[int], supervised: int) -> tuple[list[int], list[int]]:
    return ids, [IGNORED] * (len(ids) - supervised) + ids[len(ids) - supervised :]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_likelihoods_are_the_models_own_loss(model: Any, size: int) -> None:
    rows = [masked(PROMPTS[1], 30), masked(PROMPTS[3], 2), masked(PROMPTS[4], 8), masked(PROMPTS[5], 1)]
    found = likelihoods(model, rows, batch_size=size, pad_id=3)
    with torch.no_grad():
        for (ids, labels), one in zip(rows, found, strict=True):
            loss = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            count = sum(label != IGNORED for label in labels[1:])
            assert one.tokens == count
            assert one.nll == pytest.approx(float(loss) * count, rel=1e-4)


def test_rows_with_nothing_supervised_count_nothing(model: Any) -> None:
    rows = [([5, 6, 7], [IGNORED] * 3), masked([5, 6, 7], 1)]
    nothing, one = likelihoods(model, rows, batch_size=2, pad_id=3)
    assert (nothing.nll, nothing.tokens, one.tokens) == (0.0, 0, 1)


def test_logits_of_long_rows_are_made_in_smaller_batches(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [masked(prompt, len(prompt) // 2 + 1) for prompt in PROMPTS]
    whole = likelihoods(model, rows, batch_size=8, pad_id=3)
    sizes: list[int] = []
    model.register_forward_hook(lambda _, __, out: sizes.append(out.logits.numel()))
    monkeypatch.setattr("finetune.evaluate.generate.LOGITS", 320 * 30)
    parted = likelihoods(model, rows, batch_size=8, pad_id=3)
    assert max(sizes) <= 320 * 30
    assert [one.nll for one in parted] == pytest.approx([one.nll for one in whole], rel=1e-5)
