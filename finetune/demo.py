"""`finetune demo`: the whole story on the embedded model, through the same functions as the verbs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.errors import UserError

RECIPE, NAME = "support-json", "demo"
Say = Callable[[str], None]


def command(json_output: bool) -> int:
    """Train the recipe's run, compare it with its baselines, and say what to try next."""

    def say(text: str) -> None:
        print(text, file=sys.stderr if json_output else sys.stdout, flush=True)

    began = time.monotonic()
    say(f"Support messages become strict JSON: `finetune train --recipe {RECIPE} name={NAME}`\n")
    outcome = train(say)
    result = compare(Path(outcome["run_dir"]), say)
    seconds = round(time.monotonic() - began, 1)
    if json_output:
        print(json.dumps({"outcome": outcome, "evaluation": result, "seconds": seconds}, ensure_ascii=False))
        return 0
    from finetune.evaluate.changes import evaluation_text

    say(f"\n{evaluation_text(result)}\n")
    say(next_commands(outcome["run_dir"], seconds))
    return 0


def train(say: Say) -> dict[str, Any]:
    """What `finetune train --recipe support-json name=demo` does."""
    from finetune.compose import compose
    from finetune.launch import foresee, launch, refuse_another
    from finetune.plan import plan_run
    from finetune.plan.text import describe, describe_outcome

    composed = compose([f"name={NAME}"], RECIPE)
    plan = plan_run(composed)
    run_dir = Path(plan.run_dir)
    try:
        refuse_another(plan)
    except UserError:
        mend = f"remove that folder, or move it away, and run `finetune {NAME}` again"
        raise UserError.at(str(run_dir), "holds a run other than this demo's", mend) from None
    plan = foresee(plan)
    say(f"{describe(plan)}\n")
    outcome = launch(plan, composed)
    say(describe_outcome(outcome))
    return outcome


def compare(run_dir: Path, say: Say) -> dict[str, Any]:
    """What `finetune evaluate runs/demo` does."""
    from finetune.evaluate.run import evaluate_run
    from finetune.plan import load_plan

    say("\nanswering rows that it has not seen: the base, the base with a prompt or examples, and tuned …")
    return evaluate_run(run_dir, load_plan(run_dir).config.evaluate)


def next_commands(run_dir: str, seconds: float) -> str:
    """What to type next."""
    commands = [
        (f"{run_dir}/report.html", "the whole run on one page, with the answers side by side"),
        ("finetune train model=tiny data.train=my.jsonl", "the same on your own file"),
        ("finetune plan data.train=my.jsonl model.name=Qwen/Qwen3-0.6B", "what a real base would need"),
        ("finetune train data.train=my.jsonl model.name=Qwen/Qwen3-0.6B", "and train it"),
        ("finetune evaluate runs/RUN", "does it beat a prompted base on rows held out?"),
    ]
    width = max(len(text) for text, _ in commands)
    lines = [f"  {text:<{width}}  {why}" for text, why in commands]
    return "\n".join([f"Done in {seconds:.0f} s. Next:", *lines])
