"""`finetune evaluate`: the held-out comparison of what a run made with its baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence


def command(target: str, overrides: Sequence[str], json_output: bool) -> int:
    """Evaluate a finished run, given by its directory or its name, and print the table (or eval.json)."""
    from finetune.evaluate.run import check_finished, evaluate_run, find_run, override
    from finetune.evaluate.table import answer_table
    from finetune.plan import load_plan

    run_dir = find_run(target)
    check_finished(run_dir)
    result = evaluate_run(run_dir, override(load_plan(run_dir).config.evaluate, overrides))
    print(json.dumps(result, ensure_ascii=False) if json_output else answer_table(result))
    return 0
