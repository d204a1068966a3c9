"""Rewards made from their settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paid import Judge

from finetune.rewards.judge import Rewards, build
from finetune.rewards.settings import Rewarded


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """Rewards by their settings, in a folder of their own; `source` is the user's reward.py there."""
    made: list[Rewards] = []
    monkeypatch.chdir(tmp_path)

    def one(rewards: Sequence[str], columns: Sequence[str] = ("answer",), source: str = "", **settings: Any) -> Rewards:
        Path("reward.py").write_text(source)
        made.append(build(Rewarded(rewards=[*rewards], **settings), columns, settings))
        return made[-1]

    yield one
    for rewards in made:
        rewards.close()
