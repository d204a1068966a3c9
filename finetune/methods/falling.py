"""A warning while training on preferences: the better answers become unlikely too. Imports transformers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.log import log

MOST_FALLEN = 0.3  # nats a token: each is then a quarter less likely than at the start


class Falling(TrainerCallback):  # type: ignore[misc]
    """Warn once when better answers have become far less likely while the margin over the worse ones grows.

    The losses only ask for a margin, which pushing both answers down gives too, the worse ones further. What the
    model then writes is neither.
    """

    def __init__(self, beta: float, tokens: float, mend: str) -> None:
        self.beta, self.tokens, self.mend = beta, max(1.0, tokens), mend
        self.said = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        reward, margin = logs.get("rewards/chosen"), logs.get("rewards/margins")
        if self.said or reward is None or margin is None or margin <= 0:
            return
        # A reward is beta times how much likelier the whole answer has become.
        fallen = -reward / self.beta / self.tokens
        if fallen > MOST_FALLEN:
            self.said = True
            what = f"by step {state.global_step} the better answers are {fallen:.2f} nats a token less likely than at"
            log.warning(f"{what} the start, while the margin over the worse ones grows ({margin:.2f}); {self.mend}")
