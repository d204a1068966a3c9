"""Models set against each other on rows that tests make."""

from __future__ import annotations

from pathlib import Path

from finetune.data.rows import Chat
from finetune.evaluate.contest import Contest
from finetune.evaluate.kept import Kept
from finetune.evaluate.local import LocalEngine, Models
from finetune.evaluate.questions import Speech

ANSWER = '{"box": 5}'


def chat(question: str, answer: str = ANSWER, system: str | None = None) -> Chat:
    """A row with one question."""
    first = [{"role": "system", "content": system}] if system else []
    return Chat((*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def contest(models: Models, speech: Speech, answers: Path, batch_size: int = 4) -> Contest:
    """A base and what was made of it, whose answers are kept in a folder."""
    base = LocalEngine("base", speech, models.base, Kept.open(answers, "base"), batch_size)
    tuned = LocalEngine("tuned", speech, models.tuned, Kept.open(answers, "tuned"), batch_size)
    return Contest(tuned, base, models=models)
