"""Answering held-out rows: `finetune evaluate`'s way against the library's `generate`, one row at a time.

The embedded model, the demo's rows, and the few-shot prompts that evaluating makes of them. The ways take turns; every
answer must be the same in all. The table of docs/benchmarks.md is written from what they took.

    scripts/bench evaluate [--rows 96] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "evaluate.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- evaluate: written by scripts/bench evaluate -->", "<!-- end of evaluate -->"
RECIPE = ROOT / "recipes" / "support-json"
PACKAGES = ("torch", "transformers", "peft")

Said = list[tuple[str, int, bool]]  # text, tokens, whether it stopped by itself


def make_prompts(speech: Any, rows: int) -> tuple[list[list[int]], int]:
    """The few-shot prompts of the recipe's held-out rows, and the room for an answer, as evaluating makes them."""
    from finetune.config import EvaluateConfig
    from finetune.data.rows import Chat
    from finetune.evaluate.questions import ask, choose_examples, shown

    def read(name: str) -> list[Chat]:
        lines = (RECIPE / name).read_text(encoding="utf-8").splitlines()
        return [Chat(tuple(json.loads(line)["messages"])) for line in lines]

    training, held_out = read("train.jsonl"), read("heldout.jsonl")[:rows]
    chosen = choose_examples(training, held_out, EvaluateConfig().few_shot, seed=1)
    examples = [training[index] for index in chosen]
    longest = max(len(ask(row, speech).reference_ids) for row in held_out)
    prompts = [speech.encoder.prompt_ids(shown(row.messages[:-1], examples, "")) for row in held_out]
    return prompts, longest + longest // 4 + 8


def open_speech() -> Any:
    """How the embedded model is spoken to."""
    from finetune.evaluate.local import speech_of
    from finetune.model_files import inspect_model

    return speech_of(inspect_model("tiny", None, False))


def by_library(model: Any, speech: Any, prompts: Sequence[list[int]], room: int, size: int) -> Said:
    """`model.generate` on so many rows of similar length at a time."""
    import torch
    from transformers import GenerationConfig

    stops, pad = speech.encoder.stop_ids, speech.tokenizer.pad_token_id
    settings = GenerationConfig(do_sample=False, max_new_tokens=room, eos_token_id=list(stops), pad_token_id=pad)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    said: dict[int, tuple[str, int, bool]] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        width = max(len(prompts[index]) for index in batch)
        ids = torch.tensor([[pad] * (width - len(prompts[index])) + prompts[index] for index in batch])
        mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in batch])
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        for index, new in zip(batch, out[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(new) if token in stops), len(new))
            said[index] = speech.tokenizer.decode(new[:end], skip_special_tokens=True), end, end < len(new)
    return [said[index] for index in range(len(prompts))]


def by_us(model: Any, speech: Any, prompts: Sequence[list[int]], room: int, size: int) -> Said:
    """What evaluating does."""
    from finetune.evaluate.generate import generate

    answers = generate(
        model,
        speech.tokenizer,
        prompts,
        stop_ids=speech.encoder.stop_ids,
        max_new_tokens=room,
        batch_size=size,
        context=speech.context,
    )
    return [(answer.text, answer.tokens, answer.stopped) for answer in answers]


def ways(model: Any, speech: Any, prompts: list[list[int]], room: int) -> Iterator[tuple[str, Callable[[], Said]]]:
    """What is compared, by name."""
    from finetune.config import EvaluateConfig

    size = EvaluateConfig().batch_size
    yield "single", lambda: by_library(model, speech, prompts, room, 1)
    yield "batches", lambda: by_library(model, speech, prompts, room, size)
    yield "ours", lambda: by_us(model, speech, prompts, room, size)


def measure(rows: int, repeats: int) -> dict[str, Any]:
    """Let the ways take turns; all must say the same."""
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.evaluate.prefix import groups
    from finetune.tiny import PATH

    speech = open_speech()
    prompts, room = make_prompts(speech, rows)
    model: Any = AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32).eval()
    compared = dict(ways(model, speech, prompts, room))
    expected = compared["single"]()
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, answer in compared.items():
            began = time.perf_counter()
            said = answer()
            seconds[name].append(time.perf_counter() - began)
            if said != expected:
                sys.exit(f"{name}: other answers than those of one row at a time")
        print({name: round(taken[-1], 2) for name, taken in seconds.items()}, file=sys.stderr, flush=True)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "rows": len(prompts),
        "prompt_tokens": statistics.fmean(map(len, prompts)),
        "shared_tokens": max(group.shared for group in groups(prompts)),
        "answer_tokens": statistics.fmean(tokens for _, tokens, _ in expected),
        "seconds": seconds,
        "rows_per_second": {name: len(prompts) / taken for name, taken in medians.items()},
        "ratio": medians["single"] / medians["ours"],
        "machine": f"{torch.get_num_threads()} threads, {len(os.sched_getaffinity(0))} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def table(result: dict[str, Any]) -> str:
    """The page's table."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    speeds, repeats, shared = result["rows_per_second"], len(result["seconds"]["ours"]), result["shared_tokens"]
    titles = {"single": "`generate`, one row at a time", "batches": "`generate`, batches of rows of similar length"}
    rows = [
        f"| {title} | {speeds[name]:.1f} | {speeds[name] / speeds['single']:.2f}× |"
        for name, title in {**titles, "ours": "`finetune evaluate`"}.items()
    ]
    return "\n".join(
        [
            f"{result['rows']} rows of {result['prompt_tokens']:.0f} tokens, of which {shared} are the "
            f"same in all; answers of {result['answer_tokens']:.0f} tokens. The embedded model in fp32, "
            f"{result['machine']}; medians of {repeats} runs in turn. {versions}.",
            "",
            "| | rows a second | |",
            "|---|---|---|",
            *rows,
        ]
    )


def main() -> None:
    """Measure, store, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    result = measure(options.rows, options.repeats)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    head, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{head}{MARKS[0]}\n{table(result)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    print(table(result))


if __name__ == "__main__":
    main()
