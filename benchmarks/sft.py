"""Supervised fine-tuning against `trl sft` with its defaults: same model, rows, batch, epochs, rate and learned tokens.

Both run in turn as whole processes on this machine; the table of docs/benchmarks.md is written from what they report.

    scripts/bench sft [--rows 1000] [--epochs 1] [--repeats 2]
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "sft.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BATCH, RATE, MEAN_TOKENS = 8, 1e-3, 90
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Chat rows whose lengths are log-normal around MEAN_TOKENS tokens."""
    from transformers import PreTrainedTokenizerFast

    from finetune.tiny import PATH

    tokenizer = PreTrainedTokenizerFast.from_pretrained(PATH)
    dice = random.Random(seed)
    words = [
        "the",
        "order",
        "arrived",
        "late",
        "and",
        "box",
        "was",
        "open",
        "so",
        "please",
        "send",
        "another",
        "one",
        "to",
        "my",
        "old",
        "address",
        "today",
    ]
    per_word = len(tokenizer(" ".join(words))["input_ids"]) / len(words)
    rows = []
    for _ in range(count):
        tokens = dice.lognormvariate(math.log(MEAN_TOKENS) - 0.32, 0.8)
        total = max(6, int(tokens / per_word))
        text = dice.choices(words, k=total)
        cut = max(2, total // 2)
        turns = [("user", text[:cut]), ("assistant", sorted(text[cut:]) or ["yes"])]
        rows.append({"messages": [{"role": role, "content": " ".join(said)} for role, said in turns]})
    return rows


def make_model(folder: Path) -> int:
    """A llama of 3–4M parameters with random weights and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from finetune.tiny import PATH

    tokenizer = AutoTokenizer.from_pretrained(PATH)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def run_ours(work: Path, epochs: int) -> dict[str, Any]:
    """Our command, with only what makes the comparison fair said."""
    out = work / "ours"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, "-m", "finetune", "train", f"model.name={work / 'model'}", "tuning=full",
        f"data.train={work / 'rows' / 'train.jsonl'}", "data.eval_share=0", f"training.epochs={epochs}",
        f"training.batch_size={BATCH}", f"training.learning_rate={RATE}", "training.scheduler=linear",
        "training.warmup=0", "training.keep_best=none", f"output_dir={out}", "name=bench", "--json",
    ]  # fmt: skip
    seconds, text = timed(command, work)
    outcome = json.loads(text.splitlines()[-1] if text.startswith("{") is False else text)
    plan = json.loads((out / "bench" / "plan.json").read_text())
    return {
        "train_seconds": outcome["train_seconds"],
        "process_seconds": seconds,
        "steps": outcome["steps"],
        "dtype": plan["resolved"]["precision"],
        "learned_tokens": plan["data"]["train"]["supervised_tokens"] * epochs,
        "model": outcome["artefact"],
    }


def run_trl(work: Path, epochs: int) -> dict[str, Any]:
    """`trl sft` with its defaults, told only to learn the same tokens in the same number format at the same rate."""
    out = work / "trl"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("trl")), "sft", "--model_name_or_path", str(work / "model"),
        "--dataset_name", str(work / "rows"), "--output_dir", str(out), "--num_train_epochs", str(epochs),
        "--per_device_train_batch_size", str(BATCH), "--learning_rate", str(RATE), "--assistant_only_loss", "true",
        "--bf16", "false", "--report_to", "none",
    ]  # fmt: skip
    seconds, text = timed(command, work)
    said = [ast.literal_eval(found) for found in re.findall(r"\{'.*?\}", text)]
    final = next(item for item in reversed(said) if "train_runtime" in item)
    state = json.loads(next(iter(sorted(out.glob("checkpoint-*/trainer_state.json")))).read_text())
    return {
        "train_seconds": float(final["train_runtime"]),
        "process_seconds": seconds,
        "steps": state["global_step"],
        "dtype": "fp32",
        "learned_tokens": learned_by_template(work) * epochs,
        "model": str(out),
    }


def learned_by_template(work: Path) -> int:
    """What `assistant_only_loss` learns: the tokens inside the template's generation markers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    rows = [json.loads(line)["messages"] for line in (work / "rows" / "train.jsonl").read_text().splitlines()]
    masks = tokenizer.apply_chat_template(rows, return_assistant_tokens_mask=True, return_dict=True, tokenize=True)
    return sum(sum(mask) for mask in masks["assistant_masks"])


def timed(command: list[str], work: Path) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "500"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout


def held_out_loss(folder: str, rows: list[dict[str, Any]]) -> float:
    """Mean loss of the answers' tokens on common rows, measured in one way for both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in rows:
        made = tokenizer.apply_chat_template(row["messages"], return_assistant_tokens_mask=True, return_dict=True)
        ids, mask = torch.tensor([made["input_ids"]]), torch.tensor(made["assistant_masks"], dtype=torch.bool)
        with torch.no_grad():
            chances = model(ids).logits[0, :-1].log_softmax(-1)
        losses = -chances.gather(1, ids[0, 1:, None])[:, 0]
        total += float(losses[mask[1:]].sum())
        count += int(mask[1:].sum())
    return total / count


def measure(rows: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Run both in turn and gather what they report."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "rows").mkdir()
        made = make_rows(rows, seed=1)
        (work / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        parameters = make_model(work / "model")
        common = make_rows(100, seed=2)
        ours, theirs = [], []
        for _ in range(repeats):
            for runs, run in ((ours, run_ours), (theirs, run_trl)):
                result = run(work, epochs)
                runs.append({**result, "held_out_loss": held_out_loss(result.pop("model"), common)})
                print(json.dumps(runs[-1]), file=sys.stderr)
    return {
        "rows": rows, "epochs": epochs, "batch": BATCH, "parameters": parameters,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "ours": ours, "trl": theirs,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The page's table."""

    def middle(side: str, key: str) -> float:
        return statistics.median(run[key] for run in result[side])

    def row(title: str, key: str, form: str) -> str:
        ours, theirs = middle("ours", key), middle("trl", key)
        ratio = f"{theirs / ours:.2f}×" if key.endswith("seconds") else f"{(ours / theirs - 1):+.1%}"
        return f"| {title} | {ours:{form}} | {theirs:{form}} | {ratio} |"

    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    first = {side: result[side][0] for side in ("ours", "trl")}
    return "\n".join([
        f"{result['rows']:,} chat rows of log-normal length, {result['epochs']} epoch(s), batch {result['batch']}, "
        f"a llama of {result['parameters'] / 1e6:.1f}M parameters, full tuning, {result['machine']}; "
        f"medians of {len(result['ours'])} runs in turn. {versions}.",
        "", "| | finetune | trl sft | |", "|---|---|---|---|",
        row("training, seconds", "train_seconds", ".1f"), row("whole process, seconds", "process_seconds", ".1f"),
        row("optimizer steps", "steps", ",.0f"), row("learned tokens", "learned_tokens", ",.0f"),
        row("loss on common held-out rows", "held_out_loss", ".4f"),
        f"| number format | {first['ours']['dtype']} | {first['trl']['dtype']} | |",
    ])  # fmt: skip


def main() -> None:
    """Measure, store, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    result = measure(options.rows, options.epochs, options.repeats)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    page = PAGE.read_text()
    begin, end = "<!-- sft: written by scripts/bench sft -->", "<!-- end of sft -->"
    head, rest = page.split(begin)
    PAGE.write_text(f"{head}{begin}\n{table(result)}\n{end}{rest.split(end)[1]}")
    print(table(result))


if __name__ == "__main__":
    main()
