"""The verdict on real runs of the embedded model, computed a second time from the answers alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import NAMES, THINGS, WORDS, write_rows

Finetune = Callable[..., tuple[int, str, str]]
LEVEL = 0.05


def rows_of(first: int, count: int) -> list[dict[str, Any]]:
    """Questions whose answers stand in them, and are so many that none is hit by chance."""
    made = []
    for number in range(first, first + count):
        thing, word, name = THINGS[number % 8], WORDS[number % 17], NAMES[number * 7 % 10]
        asked = f"{name} asks for number {number}, the {thing} in {word}. What is wanted?"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{thing} in {word}"}]
        made.append({"messages": turns})
    return made


def shuffled(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same rows, each with the answer of any of them."""
    answers = [row["messages"][1] for row in rows]
    random.Random(seed).shuffle(answers)
    return [{"messages": [row["messages"][0], answer]} for row, answer in zip(rows, answers, strict=True)]


def recomputed(folder: Path) -> str:
    """The verdict from answers.jsonl, by this test's own arithmetic: exact answers, McNemar, Holm, and the sign."""
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    right = {
        name: [" ".join(row["answers"][name]["text"].split()) == row["reference"] for row in rows]
        for name in rows[0]["answers"]
    }
    baselines = [name for name in right if name != "tuned"]
    ps = {}
    for name in baselines:
        pairs = list(zip(right["tuned"], right[name], strict=True))
        won, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
        ps[name] = min(1.0, 2 * tail)
    best = max(baselines, key=lambda name: sum(right[name]))
    corrected, worst = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.__getitem__)):
        worst = max(worst, min(1.0, ps[name] * (len(ps) - rank)))
        corrected[name] = worst
    gap = sum(right["tuned"]) - sum(right[best])
    if corrected[best] >= LEVEL or gap == 0:
        return "inconclusive"
    return "better" if gap > 0 else "worse"


def judged(finetune: Finetune, name: str, train: Path, held_out: Path, seed: int) -> dict[str, Any]:
    """Train and evaluate, small."""
    given = [f"data.train={train}", f"data.eval={held_out}", f"name={name}", f"seed={seed}", "model=tiny"]
    lengths = ["training.max_steps=60", "training.batch_size=8", "training.learning_rate=2e-3"]
    code, _, err = finetune("train", *given, *lengths, "evaluate.prompt_rows=6", "evaluate.few_shot=2")
    assert code == 0, err
    code, out, err = finetune("evaluate", name, "--json")
    assert code == 0, err
    return dict(json.loads(out))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_shuffled_answers_is_never_called_better(tmp_path: Path, finetune: Finetune) -> None:
    held_out = write_rows(tmp_path / "held.jsonl", rows_of(500, 40))
    verdicts = []
    for seed in range(5):
        train = write_rows(tmp_path / f"train-{seed}.jsonl", shuffled(rows_of(0, 160), seed))
        result = judged(finetune, f"shuffled-{seed}", train, held_out, seed)
        assert result["verdict"] == recomputed(tmp_path / "runs" / f"shuffled-{seed}")
        verdicts.append(result["verdict"])
    assert "better" not in verdicts
    # the same with the right answers, so that the test above can fail
    train = write_rows(tmp_path / "train.jsonl", rows_of(0, 160))
    result = judged(finetune, "right", train, held_out, 0)
    assert result["verdict"] == recomputed(tmp_path / "runs" / "right") == "better"
