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
from finetune.evaluate.climb import Score
from finetune.evaluate.contest import Contest
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.neutral import Neutral, fingerprint, read_neutral
from finetune.evaluate.strengths import Sweep, check_strengths

NEUTRAL = "neutral.jsonl"
OF_CHANGES = ("neutral", "max_", "strengths")  # how the settings begin that ask what tuning changed


@dataclass
class Beyond:
    """All that is measured of a tuned model and its base besides the held-out rows."""

    contest: Contest
    settings: EvaluateConfig
    prompts: list[Neutral]
    seed: int
    answers: Path  # where what was measured is kept
    found: dict[str, Any]  # what `eval.json` holds of it
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, contest: Contest, settings: EvaluateConfig, seed: int, answers: Path) -> Beyond:
        """Read the neutral prompts, and refuse what would fail after the rungs were answered."""
        prompts: list[Neutral] = []
        if contest.base and contest.speech:
            prompts = read_neutral(settings.neutral, settings.neutral_rows, contest.speech, seed)
            forgetting.check_limits(prompts, settings)
            check_strengths(contest, settings.strengths)
        else:
            _check_idle(settings, contest.judged.name)
        return cls(contest, settings, prompts, seed, answers, {"forgetting": None, "strengths": None})

    def measure(self, score: Score) -> None:
        """Measure what there is to measure; what is kept is not measured again."""
        if not self.prompts:
            return
        self._compare()
        if self.settings.strengths:
            sweep = Sweep(self.contest, self.settings, score, self.prompts, self.rows, self.seed, self.answers)
            self.found["strengths"] = sweep.points()

    def write(self, folder: Path) -> None:
        """Write every neutral prompt with both answers, those that changed most first."""
        from finetune.rundir import write_text

        rows = sorted(self.rows, key=lambda row: -float(row["kl"]))
        if rows:
            write_text(folder / NEUTRAL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

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
    lines = result["forgetting"]["exceeded"] if result["forgetting"] else []
    if lines:
        raise GateRefused(f"{result['run_dir']}: the tuned model changed too much elsewhere: {'; '.join(lines)}")


def _check_idle(settings: EvaluateConfig, name: str) -> None:
    """Refuse settings about changes where nothing is known to have been tuned."""
    what, mend = f"has no effect: {name} was made from no base that is known", "leave it out"
    names = [item.name for item in fields(EvaluateConfig) if item.name.startswith(OF_CHANGES)]
    names.remove("max_new_tokens")
    standard = EvaluateConfig()
    faults = [
        Fault(f"evaluate.{name}", what, mend) for name in names if getattr(settings, name) != getattr(standard, name)
    ]
    if faults:
        raise UserError(faults)
