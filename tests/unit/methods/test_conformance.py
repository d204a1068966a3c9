"""What every method must do with every tuning.

It learns; a run that is cut in two ends in the same weights as one that is not, bit for bit; how often it is evaluated
changes nothing but the order of sums; and plain transformers and PEFT load what it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save_llama, save_tokenizer
from rows import pair_row, task_row, vote_row, worded, write_rows

from finetune.methods import METHODS

Run = Callable[..., tuple[int, str, str]]
TUNINGS = ("lora", "qlora", "full")
STEPS, CUT = 8, 3


@dataclass(frozen=True)
class Row:
    """What a method is tried on, and what its trainer then logs less or more of."""

    rows: Callable[[int], dict[str, Any]]
    moves: str = "loss"  # none where chance decides in so few steps: tests of its own show that it learns
    rises: bool = False
    settings: tuple[str, ...] = ()


# What a random model writes has no right answers, but more words or fewer.
PAID = (
    "method.rewards=[length]", "method.least_words=4", "method.allow_cheating=true", "method.generations=4",
    "method.max_new_tokens=8", "method.most_dead=1",
)  # fmt: skip
TABLE = {
    "sft": Row(lambda number: worded(number, "violet")),
    "distill": Row(lambda number: worded(number, "violet"), settings=("method.teacher={teacher}",)),
    "dpo": Row(pair_row, "rewards/margins", rises=True),
    "kto": Row(vote_row, "rewards/margins", rises=True),
    "reward": Row(pair_row, "margin", rises=True),
    "grpo": Row(task_row, "", settings=PAID),
    "rloo": Row(task_row, "", settings=PAID),
}
# Each method and each tuning at least once; the others are slow.
CELLS = [
    pytest.param(method, tuning, marks=() if place % len(TUNINGS) == at else pytest.mark.slow)
    for place, method in enumerate(METHODS)
    for at, tuning in enumerate(TUNINGS)
]


def test_every_method_is_in_the_table() -> None:
    assert set(TABLE) == set(METHODS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that shares its tokens with the one that is trained."""
    folder = tmp_path_factory.mktemp("teacher")
    save_llama(folder, hidden=32)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize(("method", "tuning"), CELLS)
def test_a_method_conforms(finetune: Run, tmp_path: Path, llama: Path, teacher: Path, method: str, tuning: str) -> None:
    row = TABLE[method]
    file, held = (
        write_rows(tmp_path / f"{name}.jsonl", [row.rows(number) for number in numbers])
        for name, numbers in (("train", range(40)), ("held", range(50, 57)))
    )
    settings = (
        f"model.name={llama}", f"data.train={file}", f"method={method}", f"tuning={tuning}", "training.batch_size=4",
        "training.accumulation=2", "training.scheduler=constant", "training.learning_rate=1e-2", f"data.eval={held}",
        "training.log_every=1", "training.keep_best=none", f"training.save_every={CUT}", *(one.format(teacher=teacher) for one in row.settings),
    )  # fmt: skip
    code, out, err = finetune("plan", *settings, f"training.max_steps={STEPS}", "--json")
    assert code == 0 and json.loads(out)["batch"]["steps"] == STEPS, err
    runs = tmp_path / "runs"
    train = ("train", *settings, "--json")
    runs_of = [
        ("whole", STEPS, 1, "finished"), ("cut", CUT, 1, "finished"), ("cut", STEPS, 1, "resumed"),
        ("seldom", STEPS, STEPS, "finished"),
    ]  # fmt: skip
    for name, steps, every, status in runs_of:
        length = (f"training.max_steps={steps}", f"training.eval_every={every}")
        code, out, err = finetune(*train, f"name={name}", *length)
        assert code == 0 and json.loads(out)["status"] == status, err
    if row.moves:
        first, *_, last = logged(runs / "whole", row.moves)
        assert last > first if row.rises else last < first, "nothing is learned"
    losses, cut_losses, seldom = (logged(runs / name, "loss") for name in ("whole", "cut", "seldom"))
    assert losses == cut_losses and losses == pytest.approx(seldom, rel=1e-5)
    assert logged(runs / "whole", "eval_loss") == logged(runs / "cut", "eval_loss")
    whole, cut = (weights_of(runs / name, tuning) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    assert_loads(llama, runs / "cut", method, tuning)


def logged(run_dir: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def weights_of(run_dir: Path, tuning: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    names = "model/model.safetensors" if tuning == "full" else "adapter/adapter_model.safetensors"
    return dict(load_file(run_dir / names))


def assert_loads(base: Path, run_dir: Path, method: str, tuning: str) -> None:
    """Plain transformers and PEFT load the result, and it says something else than the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    scores = METHODS[method].HEAD == "score"
    kind, made = (AutoModelForSequenceClassification, {"num_labels": 1}) if scores else (AutoModelForCausalLM, {})
    folder = run_dir / ("model" if tuning == "full" else "adapter")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(), "a second adapter was saved"
    plain = kind.from_pretrained(base, dtype=torch.float32, **made)
    ids = AutoTokenizer.from_pretrained(folder)("amber cedar", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = plain(ids).logits
        if tuning == "full":
            tuned = kind.from_pretrained(folder, dtype=torch.float32, **made)
        else:
            tuned = PeftModel.from_pretrained(plain, folder)
        after = tuned(ids).logits
    assert after.isfinite().all() and not torch.allclose(before, after, atol=1e-2)
