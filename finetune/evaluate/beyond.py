"""What tuning did besides the held-out rows: checked before anything is answered, measured beside the rungs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from finetune.config import EvaluateConfig
from finetune.errors import Fault, GateRefused, UserError
from finetune.evaluate import forgetting
from finetune.evaluate.climb import Score, Spread
from finetune.evaluate.contest import Contest
from finetune.evaluate.harness import Tasks
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.neutral import Neutral, fingerprint, read_neutral
from finetune.evaluate.strengths import Sweep, check_strengths

NEUTRAL, TASKS = "neutral.jsonl", "tasks.jsonl"
OF_TASKS = ("task_documents", "tasks_as_chat", "allow_task_code", "max_task_drop")
OF_CHANGES = ("neutral", "max_", "strengths", "tasks", *OF_TASKS)  # how the settings begin that ask what tuning changed


@dataclass
class Beyond:
    """All that is measured of a tuned model and its base besides the held-out rows."""

    contest: Contest
    settings: EvaluateConfig
    prompts: list[Neutral]
    seed: int
    answers: Path  # where what was measured is kept
    found: dict[str, Any]  # what `eval.json` holds of it
    tasks: Tasks | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, contest: Contest, settings: EvaluateConfig, seed: int, answers: Path) -> Beyond:
        """Read the neutral prompts, and refuse what would fail after the rungs were answered."""
        prompts, tasks = list[Neutral](), None
        if contest.base and contest.speech:
            prompts = read_neutral(settings.neutral, settings.neutral_rows, contest.speech, seed)
            forgetting.check_limits(prompts, settings)
            check_strengths(contest, settings.strengths)
            if not settings.tasks:
                _check_idle(settings, OF_TASKS, "no tasks are given")
            tasks = Tasks.load(contest, settings, answers) if settings.tasks else None
        else:
            _check_idle(settings, OF_CHANGES, f"{contest.judged.name} was made from no base that is known")
        found = dict.fromkeys(("forgetting", "strengths", "tasks"))
        return cls(contest, settings, prompts, seed, answers, found, tasks)

    def measure(self, score: Score, spread: Spread) -> None:
        """Measure what there is to measure; what is kept is not measured again."""
        if not self.prompts:
            return
        self._compare()
        if self.settings.strengths:
            how = (self.contest, self.settings, score, spread)
            sweep = Sweep(*how, self.prompts, self.rows, self.seed, self.answers)
            self.found["strengths"] = sweep.points()
        if self.tasks:
            self.found["tasks"], self.documents = self.tasks.compare(self.seed)

    def write(self, folder: Path) -> None:
        """Write every neutral prompt with both answers, those that changed most first, and every document of tasks."""
        from finetune.rundir import write_text

        rows = sorted(self.rows, key=lambda row: -float(row["kl"]))
        for name, lines in ((NEUTRAL, rows), (TASKS, self.documents)):
            if lines:
                write_text(folder / name, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
            else:  # of an earlier evaluation, which this one replaces
                (folder / name).unlink(missing_ok=True)

    def _compare(self) -> None:
        contest, settings = self.contest, self.settings
        assert contest.base and contest.models and contest.speech
        tokens = settings.neutral_tokens
        kept = Kept.open(self.answers, key_of("neutral", contest.base.identity, contest.judged.identity))
        keys = {key_of(prompt.ids, tokens): prompt for prompt in self.prompts}
        left = [prompt for key, prompt in keys.items() if key not in kept.found]
        for part in forgetting.portions(left, tokens, len(contest.speech.tokenizer)):
            measured = forgetting.compare(
                contest.models, contest.speech, part, tokens=tokens, batch_size=settings.batch_size
            )
            kept.add({key_of(prompt.ids, tokens): one for prompt, one in zip(part, measured, strict=True)})
        self.rows = [forgetting.row_of(prompt, kept.found[key_of(prompt.ids, tokens)]) for prompt in self.prompts]
        made = {"source": settings.neutral, "fingerprint": fingerprint(self.prompts), "max_new_tokens": tokens}
        found = forgetting.summary(self.rows, self.seed)
        self.found["forgetting"] = {**made, **found, "exceeded": forgetting.exceeded(found, settings)}


def check_gates(result: Mapping[str, Any]) -> None:
    """Refuse a result that a limit says no to; everything is written by then."""
    lines = [line for part in (result["forgetting"], result["tasks"]) if part for line in part["exceeded"]]
    if lines:
        raise GateRefused(f"{result['run_dir']}: the tuned model changed too much elsewhere: {'; '.join(lines)}")


def _check_idle(settings: EvaluateConfig, begins: tuple[str, ...], why: str) -> None:
    """Refuse settings that would change nothing."""
    standard = EvaluateConfig()
    names = [item.name for item in fields(EvaluateConfig) if item.name.startswith(begins)]
    faults = [
        Fault(f"evaluate.{name}", f"has no effect: {why}", "leave it out")
        for name in names
        if name != "max_new_tokens" and getattr(settings, name) != getattr(standard, name)
    ]
    if faults:
        raise UserError(faults)
