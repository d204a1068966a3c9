"""The embedded base model: its files, its template, its curriculum and what its card says it can do."""

import json
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finetune import tiny
from finetune.tiny import curriculum

SAMPLE = 30
FLOORS = {  # well under the card's figures; a sample of 30 rows moves by several points
    "look up, 1 sentence": 0.65,
    "look up, 2 sentences": 0.5,
    "format of the examples, fixed wording": 0.2,
    "quote, 1 speaker": 0.8,
    "sums to 9 + 9": 0.3,
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "reasoning_content": "two and two", "content": "4"},
    {"role": "user", "content": [{"type": "text", "text": "And the weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
    },
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.PATH, trust_remote_code=False)


@cache
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.PATH, trust_remote_code=False)


def test_importing_the_package_and_its_curriculum_needs_no_torch() -> None:
    code = "import sys, finetune.tiny.curriculum, finetune.tiny.make; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_files_fit_the_wheel() -> None:
    assert sum(file.stat().st_size for file in tiny.PATH.glob("*") if file.is_file()) <= 6_000_000


def test_model_loads_in_32_bits_and_agrees_with_its_tokenizer() -> None:
    import torch

    assert type(model()).__name__ == "LlamaForCausalLM"
    assert model().dtype == torch.float32
    assert model().config.vocab_size == len(tokenizer())
    assert model().config.max_position_embeddings >= 2048
    assert tokenizer().eos_token_id == model().config.eos_token_id == model().generation_config.eos_token_id
    assert tokenizer().pad_token_id == model().config.pad_token_id == model().generation_config.pad_token_id
    assert tokenizer().pad_token_id != tokenizer().eos_token_id


def test_any_text_survives_the_tokenizer() -> None:
    rng = random.Random(5)
    texts = [
        "",
        " ",
        "  two  spaces\n\ttab ",
        "naïve café — „Zitat“",
        "日本語 مرحبا 🙂👩‍👩‍👧",
        "\r\n\x00\x7f",
        "don't 's",
    ]
    for _ in range(300):
        points = [rng.randrange(0x110000) for _ in range(rng.randint(1, 40))]
        texts.append("".join(chr(p) for p in points if not 0xD800 <= p <= 0xDFFF))
    for text in texts:
        ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
        assert tokenizer().decode(ids) == text


def test_digits_are_tokens_of_their_own_and_words_are_merged() -> None:
    digits = [tokenizer().decode([i]) for i in tokenizer()("9074153")["input_ids"]]
    assert digits == list("9074153")
    assert len(tokenizer()("the friend of my neighbour waited at the station")["input_ids"]) <= 10


def test_template_of_a_beginning_is_a_beginning_of_the_template() -> None:
    def render(count: int, **options: Any) -> str:
        return str(tokenizer().apply_chat_template(CONVERSATION[:count], tokenize=False, **options))

    for count in range(1, len(CONVERSATION)):
        assert render(count + 1).startswith(render(count))
        if CONVERSATION[count]["role"] == "assistant":
            assert render(count + 1).startswith(render(count, add_generation_prompt=True))


def test_assistant_mask_covers_the_answers_with_their_end_and_nothing_else() -> None:
    found = tokenizer().apply_chat_template(
        CONVERSATION, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    runs: list[list[int]] = [[]]
    for token, inside in zip(found["input_ids"], found["assistant_masks"], strict=True):
        if inside:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    assert [tokenizer().decode(run) for run in runs if run] == [
        "<think>two and two</think>4<|end|>",
        '<|call|>{"name": "weather", "arguments": {"city": "Oslo"}}<|end|>',
        "It rains.<|end|>",
    ]


def test_template_shows_tools_and_refuses_an_unknown_role() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    assert '"weather"' in tokenizer().apply_chat_template(CONVERSATION[:2], tools=[tool], tokenize=False)
    with pytest.raises(Exception, match="narrator"):
        tokenizer().apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


def test_training_rows_are_what_the_template_renders() -> None:
    from finetune.tiny.make import rows_of

    episodes = [e for e in curriculum.block(3, 60, 100) if e.messages]
    for episode, row in zip(episodes, rows_of(episodes, tokenizer()), strict=True):
        rendered = tokenizer().apply_chat_template(list(episode.messages), tokenize=True, return_dict=True)
        assert row.ids == rendered["input_ids"]


def test_test_names_and_numbers_are_never_seen_in_training() -> None:
    def drawn(split: curriculum.Split) -> set[str]:
        rng = Random(11)
        found = {curriculum.name(rng, split) for _ in range(3000)}
        return found | {curriculum.number(rng, split) for _ in range(3000)}

    assert not drawn("train") & drawn("test")
    trained = " ".join(
        text
        for index in (1, 30, 90)
        for episode in curriculum.block(curriculum_seed(), index, 1000)
        for text in [episode.text, *(message["content"] for message in episode.messages)]
    )
    seen = set(re.findall(r"\b[A-Z][a-z]+\b", trained))
    unseen = {curriculum.name(Random(i), "test") for i in range(5000)}
    assert len(seen) > 1000
    assert not seen & unseen


def curriculum_seed() -> int:
    from finetune.tiny.make import SEED

    return SEED


def test_curriculum_is_the_same_for_the_same_seed() -> None:
    assert curriculum.block(1, 50, 50) == curriculum.block(1, 50, 50)
    assert curriculum.block(1, 50, 50) != curriculum.block(2, 50, 50)


def test_card_and_scores_agree() -> None:
    scores = json.loads((tiny.PATH / "scores.json").read_text(encoding="utf-8"))["exact"]
    card = (tiny.PATH / "README.md").read_text(encoding="utf-8")
    assert list(scores) == list(curriculum.exams(1))
    for kind, share in scores.items():
        assert f"| {kind} | {100 * share:.1f} % |" in card


def test_scores_are_reproduced_on_a_sample() -> None:
    from finetune.tiny.make import score

    stated = json.loads((tiny.PATH / "scores.json").read_text(encoding="utf-8"))["exact"]
    found = score(model(), tokenizer(), SAMPLE)
    for kind, floor in FLOORS.items():
        assert stated[kind] >= floor
        assert found[kind] >= floor
    for kind, share in stated.items():
        assert abs(found[kind] - share) < 0.25, kind


def test_greedy_generation_ends_its_turn_with_a_looked_up_answer() -> None:
    right = 0
    episodes = [curriculum.lookup(Random(f"generate:{i}"), "test", 1, absent=0.0) for i in range(12)]
    for episode in episodes:
        prompt = list(episode.messages[: episode.trained[0]])
        inputs = tokenizer().apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model().generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        answer = tokenizer().decode(output, skip_special_tokens=True)
        right += answer == episode.messages[episode.trained[0]]["content"] and output[-1] == tokenizer().eos_token_id
    assert right >= 6


def test_the_script_is_short_and_executable() -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_tiny_model"
    assert script.stat().st_mode & 0o111
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 25


def test_a_model_of_half_the_size_shares_the_tokenizer() -> None:
    from finetune.tiny.make import build_model, shipped_tokenizer

    tokenizer = shipped_tokenizer()
    full, half = (build_model(tokenizer, width=width) for width in (192, 128))
    share = half.num_parameters() / full.num_parameters()
    assert 0.48 < share < 0.53
    assert len(tokenizer) == half.config.vocab_size == full.config.vocab_size


@pytest.mark.parametrize("given", [["--width", "100"], ["--layers", "0"], ["--width", "128"]])
def test_another_size_never_replaces_the_embedded_model(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from finetune.tiny.make import main

    with pytest.raises(SystemExit):
        main([*given, "--work", "nowhere"])
    assert "--" in capsys.readouterr().err.splitlines()[-1]
