"""Runs as training leaves them, of a random model: everything of them but the training is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contests import ANSWER
from peft import LoraConfig, get_peft_model
from rows import write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.compose import compose
from finetune.plan import PLAN_FILE, as_json, plan_run
from finetune.rundir import OUTCOME, write_json

Runs = Callable[..., Path]
ANIMALS = ("fox", "dog", "heron", "badger", "otter", "lynx", "raven", "mole", "stoat", "wren", "newt")


def finished_run(
    folder: Path,
    model: Path,
    *overrides: str,
    text: bool = False,
    tuning: str = "lora",
    finished: bool = True,
    seed: int = 0,
) -> Path:
    """A run in the current folder; `seed` decides its adapter."""
    rows = [text_row(number) if text else asked_row(number) for number in range(30)]
    write_rows(folder / "train.jsonl", rows[:20])
    write_rows(folder / "held.jsonl", rows[20:])
    given = {"model.name": str(model), "data.train": "train.jsonl", "tuning": tuning, "name": "mine"}
    given |= {"evaluate.few_shot": "2", "evaluate.prompt_rows": "4", "evaluate.max_new_tokens": "12"}
    if not any(override.startswith("data.eval") for override in overrides):
        given["data.eval"] = "held.jsonl"
    given |= dict(override.split("=", 1) for override in overrides)
    plan = plan_run(compose([f"{key}={value}" for key, value in given.items()]))
    run_dir = Path(plan.run_dir)
    run_dir.mkdir(parents=True)
    write_json(run_dir / PLAN_FILE, as_json(plan))
    if finished:
        write_json(run_dir / OUTCOME, {"steps": plan.batch.steps, "planned_steps": plan.batch.steps})
    save_tuned(model, run_dir, tuning, seed)
    return run_dir


def asked_row(number: int) -> dict[str, Any]:
    """A row with one question, and the one answer."""
    turns = [{"role": "user", "content": f"jugs {number}"}, {"role": "assistant", "content": ANSWER}]
    return {"messages": turns}


def text_row(number: int) -> dict[str, Any]:
    """A sentence that is no near copy of another number's."""
    animals = [f"{ANIMALS[number * step % len(ANIMALS)]} {number * step}" for step in (1, 3, 7)]
    return {"text": f"The {animals[0]}, a {animals[1]} and the {animals[2]}."}


def save_tuned(base: Path, run_dir: Path, tuning: str, seed: int = 0) -> None:
    """An adapter, or all weights, changed at random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tuning != "full":
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        tuned = get_peft_model(model, config)
        tuned.peft_config["default"].base_model_name_or_path = str(base)
        tuned.save_pretrained(str(run_dir / "adapter"))
        return
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.save_pretrained(str(run_dir / "model"))
    AutoTokenizer.from_pretrained(base).save_pretrained(str(run_dir / "model"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
