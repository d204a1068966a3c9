"""What answers are paid for in training: rewards by name or of the user's own, tried before they are trusted."""

from finetune.rewards.batch import Batch, Paid, Task
from finetune.rewards.best import Best, best_of
from finetune.rewards.judge import Rewards, Scored, build
from finetune.rewards.known import REWARDS
from finetune.rewards.settings import Rewarded, faults_of

__all__ = [
    "REWARDS", "Batch", "Best", "Paid", "Rewarded", "Rewards", "Scored", "Task", "best_of", "build", "faults_of",
]  # fmt: skip
