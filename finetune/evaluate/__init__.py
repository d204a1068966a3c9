"""`finetune evaluate`: the held-out comparison of what was tuned with its baselines, and with anything else."""

from __future__ import annotations

import json
from collections.abc import Sequence


def command(arguments: Sequence[str], json_output: bool) -> int:
    """Evaluate the first target beside the others, and print the table (or eval.json)."""
    from finetune.errors import Interrupted
    from finetune.evaluate.beyond import check_gates
    from finetune.evaluate.changes import evaluation_text
    from finetune.evaluate.run import evaluate, plan_evaluation

    work = plan_evaluation(arguments)
    try:
        result = evaluate(work)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; answers are kept in {work.answers}; the same command continues") from None
    print(json.dumps(result, ensure_ascii=False) if json_output else f"{evaluation_text(result)}\n\n{work.folder}")
    check_gates(result)
    return 0
