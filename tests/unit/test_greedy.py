"""Answers of many rows at once against the library's `generate`, one row at a time: the same tokens, and less work."""

import runpy
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune import tiny
from finetune.data.build.draw import drawing
from finetune.endpoint.asked import Sampling
from finetune.evaluate.generate import IGNORED, generate, likelihoods
from finetune.evaluate.prefix import groups, is_plain

SHARED = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 160, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 12, "layer_types": WINDOWS},
    "mistral": {"sliding_window": 12},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160},  # learned positions
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},  # a state that no cache of columns holds
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 160},  # takes no positions
}
ROOM, CONTEXT = 20, 160


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Numbers:
    """As much of a tokenizer as generation needs: the ids themselves."""

    pad_token_id = 0

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


@cache
def family(name: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHARED | FAMILIES[name])
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def drawn(count: int, seed: int) -> list[int]:
    dice = Random(seed)
    return [dice.randrange(5, 300) for _ in range(count)]


def mixed_prompts() -> list[list[int]]:
    """Some begin alike, some of them go on alike, some are alone, one stands there twice, some nearly fill the context."""
    one, two = drawn(40, 1), drawn(60, 2)
    few = [one + drawn(length, 100 + length) for length in (3, 20, 9, 1, 33, 6)]
    more = [one + two + drawn(length, 200 + length) for length in (4, 11, 2, 19, 50, 55)]
    alone = [drawn(length, 300 + length) for length in (5, 50, 1)]
    return [*few, *more, *alone, list(few[1]), list(one), one + two]


def alone(
    model: Any, prompt: Sequence[int], stops: Sequence[int], room: int = ROOM, context: int = CONTEXT
) -> list[int]:
    """What the library says to a single prompt."""
    ids = torch.tensor([list(prompt)])
    most = max(1, min(room, context - len(prompt)))
    settings = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=list(stops), pad_token_id=0)
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return list(said[0, len(prompt) :].tolist())


def stops_of(answers: list[list[int]]) -> list[int]:
    """Tokens that end the answers at many different places."""
    common = Counter(token for ids in answers for token in ids).most_common(14)
    return [2, *(token for token, _ in common[7:])]


def shown(ids: list[int], stops: Sequence[int]) -> tuple[str, bool]:
    said = [token for token in ids if token not in stops]
    return " ".join(map(str, said)), len(said) < len(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_the_library_one_row_at_a_time(name: str) -> None:
    model, prompts = family(name), mixed_prompts()
    stops = stops_of([alone(model, prompt, [2]) for prompt in prompts])
    single = [alone(model, prompt, stops) for prompt in prompts]
    assert len({len(ids) for ids in single}) >= 4, "the answers should end at different places"
    expected = [shown(ids, stops) for ids in single]
    for size in (1, 4, 32):
        answers = generate(
            model, Numbers(), prompts, stop_ids=stops, max_new_tokens=ROOM, batch_size=size, context=CONTEXT
        )
        assert [(answer.text, answer.stopped) for answer in answers] == expected, size
        assert [answer.tokens for answer in answers] == [len(text.split()) for text, _ in expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_likelihoods_are_those_of_one_row_at_a_time(name: str) -> None:
    model = family(name)
    rows = [(ids, [IGNORED] * (len(ids) - 5) + ids[-5:]) for ids in mixed_prompts() if len(ids) > 5]
    found = likelihoods(model, rows, batch_size=4, pad_id=0)
    for (ids, labels), one in zip(rows, found, strict=True):
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert one.tokens == 5
        assert one.nll == pytest.approx(float(loss) * 5, rel=1e-5)


def test_which_models_share_a_prefix() -> None:
    shared = {name for name in FAMILIES if is_plain(family(name))}
    assert shared == FAMILIES.keys() - {"lfm2", "mpt"}


@pytest.fixture(scope="module")
def few_shot() -> list[list[int]]:
    """Questions to the embedded model, all with the same examples before them."""
    from finetune.tiny import curriculum

    tokenizer = AutoTokenizer.from_pretrained(tiny.PATH)
    examples = [message for episode in curriculum.exams(3)["sums to 9 + 9"] for message in episode.messages[-2:]]
    asked = [episode.messages[:-1] for kind in curriculum.exams(2).values() for episode in kind]
    ids = [tokenizer.apply_chat_template([*examples, *one], add_generation_prompt=True) for one in asked]
    return [list(one["input_ids"]) for one in ids]


@pytest.mark.parametrize("tuned", [False, True])
def test_the_embedded_model_says_the_same_with_examples_with_and_without_an_adapter(
    few_shot: list[list[int]], tuned: bool
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.PATH, dtype=torch.float32).eval()
    plain = model
    if tuned:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        model.eval()
    stops = [model.config.eos_token_id]
    expected = [shown(alone(plain, prompt, stops, 12, 2048), stops) for prompt in few_shot]
    for size in (5, 32):
        answers = generate(model, Numbers(), few_shot, stop_ids=stops, max_new_tokens=12, batch_size=size)
        assert [(answer.text, answer.stopped) for answer in answers] == expected
    assert len({text for text, _ in expected}) > 8


class Read:
    """The size of every batch of tokens that goes into a model; while it is open."""

    def __init__(self, model: Any, most: int | None = None) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._most = most
        self._hook = model.get_input_embeddings().register_forward_pre_hook(self._see)

    def _see(self, _: Any, given: tuple[torch.Tensor]) -> None:
        rows, columns = given[0].shape
        if self._most is not None and rows > self._most:
            raise torch.OutOfMemoryError(f"{rows} rows")
        self.shapes.append((rows, columns))

    @property
    def tokens(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes)

    def __enter__(self) -> "Read":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def test_what_all_prompts_begin_with_is_read_once() -> None:
    model, head = family("llama"), drawn(100, 1)
    prompts = [head + drawn(9, seed) for seed in range(2, 14)]
    assert len({prompt[100] for prompt in prompts}) > 1
    with Read(model) as read:
        generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=1, batch_size=4)
    assert read.tokens == 100 + 12 * 9
    labels = [IGNORED] * 100 + [0] * 9
    with Read(model) as read:
        likelihoods(model, [(prompt, labels) for prompt in prompts], batch_size=4, pad_id=0)
    assert read.tokens == 99 + 12 * 10  # the last common token predicts the first one that counts


def test_examples_that_some_rows_have_no_room_for_are_read_once_too() -> None:
    model, first, second = family("llama"), drawn(60, 1), drawn(80, 2)
    prompts = [first + drawn(9, seed) for seed in range(3, 13)]
    prompts += [first + second + drawn(9, seed) for seed in range(13, 23)]
    with Read(model) as read:
        generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=1, batch_size=4)
    assert read.tokens == 60 + 140 + 20 * 9


def test_rows_that_are_complete_cost_nothing_until_the_last_one_is() -> None:
    model, prompts = family("llama"), [drawn(8, seed) for seed in range(33)]
    free = [alone(model, prompt, [2], 40) for prompt in prompts]
    stops = [2, *{ids[1] for ids in free[1:]} - set(free[0])]
    lengths = [len(alone(model, prompt, stops, 40)) for prompt in prompts]
    assert lengths[0] > 30
    assert sum(lengths[1:]) < 32 * 3
    with Read(model) as read:
        began = time.perf_counter()
        answers = generate(model, Numbers(), prompts, stop_ids=stops, max_new_tokens=40, batch_size=8)
        elapsed = time.perf_counter() - began
    assert 0.5 * elapsed < sum(answer.seconds for answer in answers) < elapsed
    steps = [rows for rows, columns in read.shapes if columns == 1]
    assert sum(steps) < 1.5 * sum(lengths), "a whole batch would go on with the first row"
    assert len(steps) < 45, "other rows take the place of those that are complete"
    assert max(rows for rows, _ in read.shapes) <= 8


@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_what_does_not_fit_into_memory_is_done_in_smaller_batches(name: str) -> None:
    model, prompts = family(name), mixed_prompts()
    rows = [(ids, ids) for ids in prompts]
    whole = generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=6, batch_size=16)
    losses = likelihoods(model, rows, batch_size=16, pad_id=0)
    with Read(model, most=3) as read:
        answers = generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=6, batch_size=16)
        assert max(rows for rows, _ in read.shapes) == 2
        again = likelihoods(model, rows, batch_size=16, pad_id=0)
    assert [answer.text for answer in answers] == [answer.text for answer in whole]
    assert [one.nll for one in again] == pytest.approx([one.nll for one in losses], rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_a_single_row_that_does_not_fit_is_an_error(name: str) -> None:
    model, prompts = family(name), mixed_prompts()
    with Read(model, most=0), pytest.raises(torch.OutOfMemoryError):
        generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=6, batch_size=16)
    with Read(model, most=0), pytest.raises(torch.OutOfMemoryError):
        likelihoods(model, [(ids, ids) for ids in prompts], batch_size=16, pad_id=0)


def test_words_drawn_by_seed_are_the_same_in_any_batch_after_a_shared_prefix() -> None:
    model, prompts = family("llama"), [drawn(100, 1) + drawn(length, 50 + length) for length in (9, 3, 7, 3, 5)]
    choose = drawing(Sampling(max_tokens=10, temperature=0.8, top_p=0.9), list(range(5)))
    with Read(model) as read:
        answers = generate(model, Numbers(), prompts, stop_ids=(2,), max_new_tokens=10, batch_size=5, choose=choose)
    assert read.shapes[:2] == [(1, 100), (5, 9)]
    for seed, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        own = drawing(Sampling(max_tokens=10, temperature=0.8, top_p=0.9), [seed])
        (single,) = generate(model, Numbers(), [prompt], stop_ids=(2,), max_new_tokens=10, batch_size=1, choose=own)
        assert single.text == answer.text
    assert len({answer.text for answer in answers}) == 5


def test_every_row_is_in_one_group_and_begins_with_its_prefix() -> None:
    prompts = mixed_prompts()
    found = groups(prompts)
    assert sorted(index for group in found for index in group.rows) == list(range(len(prompts)))
    for group in found:
        heads = {tuple(prompts[index][: group.shared]) for index in group.rows}
        assert len(heads) == 1
        lengths = [len(prompts[index]) for index in group.rows]
        assert lengths == sorted(lengths, reverse=True)
    assert sorted(group.shared for group in found) == [0, 40, 100]
    assert groups([]) == []


def test_no_prompts_give_no_answers() -> None:
    for name in ("llama", "lfm2"):
        assert generate(family(name), Numbers(), [], stop_ids=(2,), max_new_tokens=3, batch_size=2) == []
        assert likelihoods(family(name), [], batch_size=2, pad_id=0) == []


def test_the_benchmark_measures_ways_that_say_the_same() -> None:
    program = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "evaluate.py"))
    result = program["measure"](6, 1)
    assert result["rows"] == 6
    assert result["shared_tokens"] > 100
    assert "| `finetune evaluate` |" in program["table"](result)
