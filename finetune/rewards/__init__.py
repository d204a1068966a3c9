"""What answers are paid for in training: rewards by name or of the user's own, tried before they are trusted."""

from finetune.rewards.batch import Batch, Paid, Task
from finetune.rewards.judge import Rewards, Scored, build
from finetune.rewards.known import REWARDS
from finetune.rewards.settings import Rewarded, faults_of

__all__ = ["REWARDS", "Batch", "Paid", "Rewarded", "Rewards", "Scored", "Task", "build", "faults_of"]
