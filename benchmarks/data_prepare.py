"""Preparing chat rows, against TRL's own preparation of the same rows with one process; and a second start from cache.

Both make ids and labels of the same rows with the same tokenizer and template, in turn, each in a fresh process. The
time of TRL is that of `SFTTrainer._prepare_dataset` alone, over rows that are loaded already; ours holds reading and
checking them too. Prints one line of JSON.

    scripts/bench data_prepare [--rows 100000] [--repeats 1]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEAN_WORDS, WORDS, TOKENS, MAX_LENGTH = 120, 20_000, 16_000, 4096
PACKAGES = ("transformers", "tokenizers", "trl", "datasets", "pyarrow")


def write_rows(path: Path, count: int, seed: int) -> None:
    """Chat rows of one or two questions; their lengths are log-normal around MEAN_WORDS words."""
    dice = random.Random(seed)
    syllables = [first + last for first in "bcdfghjklmnprstvw" for last in ("a", "e", "i", "o", "u", "an", "er", "on")]
    words = ["".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(WORDS)]
    chances = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))  # as in a language: Zipf's
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = max(8, int(dice.lognormvariate(math.log(MEAN_WORDS) - 0.18, 0.6)))
            said = dice.choices(words, cum_weights=chances, k=length)
            turns = 2 if dice.random() < 0.7 else 4
            cuts = [length * turn // turns for turn in range(turns + 1)]
            texts = [" ".join(said[begin:end]).capitalize() + "." for begin, end in itertools.pairwise(cuts)]
            roles = itertools.cycle(("user", "assistant"))
            row = {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}
            file.write(json.dumps(row) + "\n")


def make_model(folder: Path, rows: Path) -> None:
    """A small random llama, and a byte-level BPE that was trained on the rows, with the embedded model's template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from finetune.tiny import PATH

    own = PreTrainedTokenizerFast.from_pretrained(PATH)
    special = [token.content for _, token in sorted(own.added_tokens_decoder.items())]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=special, initial_alphabet=alphabet)
    with rows.open(encoding="utf-8") as file:
        some = [json.loads(line) for line in itertools.islice(file, 3000)]
    backend.train_from_iterator((turn["content"] for row in some for turn in row["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=own.eos_token, pad_token=own.pad_token)
    tokenizer.chat_template = own.chat_template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)


def prepare_ours(work: Path) -> dict[str, Any]:
    """Our preparation, or our second start when the rows are prepared already."""
    from finetune.config import DataConfig
    from finetune.data.prepare import prepare
    from finetune.model_files import inspect_model
    from finetune.tokenizer import load_tokenizer, stop_ids

    started = time.monotonic()
    model = inspect_model(str(work / "model"), None, False)
    tokenizer = load_tokenizer(model)
    loaded, before = time.monotonic(), sum(os.times()[:4])
    data = prepare(
        DataConfig(train=str(work / "rows.jsonl"), eval_share=0),
        learn="assistant",
        shapes=("chat", "text"),
        tokenizer=tokenizer,
        max_length=MAX_LENGTH,
        seed=1,
        cache=str(work / "prepared"),
        stop_ids=stop_ids(model, tokenizer),
    )
    seconds = time.monotonic() - loaded
    worked = sum(os.times()[:4]) - before
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(worked, 3),
        "with_tokenizer": round(time.monotonic() - started, 3),
        "rows": data.train.rows,
        "tokens": data.train.tokens,
        "learned": data.train.supervised_tokens,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """The most that this process held, mapped files among it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def prepare_trl(work: Path) -> dict[str, Any]:
    """TRL's preparation, which its trainer does when it is made."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    model = AutoModelForCausalLM.from_pretrained(work / "model")
    rows = datasets.load_dataset("json", data_files=str(work / "rows.jsonl"), split="train")
    seconds, worked = [], []

    class Timed(SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            started, before = time.monotonic(), sum(os.times()[:4])
            made = super()._prepare_dataset(*args, **kwargs)
            seconds.append(time.monotonic() - started)
            worked.append(sum(os.times()[:4]) - before)
            return made

    arguments = SFTConfig(
        output_dir=str(work / "out"), assistant_only_loss=True, max_length=MAX_LENGTH, report_to=[], bf16=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Timed(model=model, args=arguments, processing_class=tokenizer, train_dataset=rows)
    made = trainer.train_dataset
    labels = made.with_format("arrow")[:]["labels"].combine_chunks().flatten().to_numpy()
    return {
        "seconds": round(sum(seconds), 3),
        "cpu_seconds": round(sum(worked), 3),
        "rows": len(made),
        "tokens": len(labels),
        "learned": int((labels != -100).sum()),
    }


SIDES = {"ours": prepare_ours, "again": prepare_ours, "trl": prepare_trl}


def run(side: str, work: Path) -> dict[str, Any]:
    """One side in a fresh process."""
    cache = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub"), "HF_DATASETS_CACHE": str(work / f"{side}-cache")}
    environment = {**os.environ, **cache, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--side", side, "--work", str(work)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{side} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(rows: int, repeats: int) -> dict[str, Any]:
    """Both sides in turn, each time from nothing, and the second start."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            write_rows(work / "rows.jsonl", rows, seed=1)
            make_model(work / "model", work / "rows.jsonl")
            for side in SIDES:
                results[side].append(run(side, work))
                print(side, json.dumps(results[side][-1]), file=sys.stderr, flush=True)
    ours, again, trl = (statistics.median(item["seconds"] for item in results[side]) for side in SIDES)
    first, theirs = results["ours"][0], results["trl"][0]
    if (first["tokens"], first["learned"]) != (theirs["tokens"], theirs["learned"]):
        sys.exit(f"the two did not prepare the same: {first} and {theirs}")
    return {
        "rows": rows,
        "tokens": first["tokens"],
        "ours_rows_per_second": round(rows / ours, 1),
        "trl_rows_per_second": round(rows / trl, 1),
        "ratio": round(trl / ours, 2),
        "second_start_seconds": again,
        "peak_mb": first["peak_mb"],
        "cores": len(os.sched_getaffinity(0)),
        "repeats": repeats,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def main() -> None:
    """Measure, and print one line; with --side, be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    result = SIDES[options.side](options.work) if options.side else measure(options.rows, options.repeats)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
