"""What the model gets before it is trained: a run whose rewards tell no answer from another is not begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.errors import UserError, counted
from finetune.log import log
from finetune.methods.payment import Answer, Asked
from finetune.methods.sampling import Sampled
from finetune.plan import RunPlan

QUESTIONS = 32
ALIKE = 1e-9


@dataclass(frozen=True)
class Found:
    """What groups of answers were paid; those of which nothing is known are left out."""

    means: tuple[float, ...]
    dead: tuple[bool, ...]  # all answers paid alike, so that nothing can be learned from the group

    @property
    def share(self) -> float:
        """The share of the groups that teach nothing."""
        return fmean(self.dead) if self.dead else 1.0


def found_in(groups: Sequence[Sequence[float | None]]) -> Found:
    """What came of these groups."""
    known = [[value for value in group if value is not None] for group in groups]
    known = [group for group in known if group]
    return Found(tuple(map(fmean, known)), tuple(max(group) - min(group) <= ALIKE for group in known))


class Probe(TrainerCallback):  # type: ignore[misc]
    """Has the untrained model answer some questions, and measures the held-out rows; draws no number that training
    draws."""

    def __init__(self, trainer: Any, plan: RunPlan, apart: Callable[[], AbstractContextManager[None]]) -> None:
        self.trainer, self.plan, self.apart = trainer, plan, apart

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        from finetune.callbacks import forget_after

        path = self.trainer.payment.path
        if path is not None:
            # step 0 is kept anew
            forget_after(path, state.global_step or -1)
        if state.global_step:
            return  # it was tried when it began
        with self.apart():
            groups = self._answered(args)
        self.trainer.payment.keep(0, groups)
        self._judge(args, [[one.reward for one in group] for _, group in groups])
        if self.trainer.eval_dataset is not None:
            self.trainer.evaluate()

    def _answered(self, args: TrainingArguments) -> list[tuple[Asked, list[Answer]]]:
        """This process's share of the questions, each with a group of answers."""
        import torch

        trainer, batch = self.trainer, self.plan.batch
        rows = min(self.plan.data.train.rows, len(trainer.train_dataset))
        count = max(1, min(QUESTIONS, rows) // args.world_size)
        asked = [trainer.train_dataset[(args.process_index * count + at) % rows]["prompt"] for at in range(count)]
        prompts = [one for one in asked for _ in range(batch.answers)]
        ids: list[list[int]] = []
        was_training = trainer.model.training
        trainer.model.eval()
        with torch.no_grad():
            for begin in range(0, len(prompts), batch.micro):
                ids += trainer._generate(prompts[begin : begin + batch.micro])[1]
        trainer.model.train(was_training)
        trainer._metrics["eval"].clear()
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        payment = trainer.payment
        scored = payment.score(prompts, texts, [payment.has_stopped(one) for one in ids])
        groups: list[tuple[Asked, list[Answer]]] = payment.groups(prompts, texts, ids, scored)
        return groups

    def _judge(self, args: TrainingArguments, mine: list[list[float | None]]) -> None:
        """Say what was found by all processes, and refuse what could not be learned from."""
        from accelerate.utils import gather_object

        config = self.plan.config.method
        assert isinstance(config, Sampled)
        found = found_in(gather_object(mine))
        if not found.means:
            what = "none of the answers to the first questions is paid anything, not even 0"
            raise UserError.at("method.rewards", what, "correct the rewards, or give rows that they know")
        asked = f"{counted(len(found.dead), 'question')}, {config.generations} answers to each"
        log.info(
            f"before training: reward {fmean(found.means):.3f} on {asked}; "
            f"{found.share:.0%} of the groups are paid alike and teach nothing"
        )
        if found.share > config.most_dead:
            raise UserError.at("method.rewards", *_hopeless(found, config, asked))


def _hopeless(found: Found, config: Sampled, asked: str) -> tuple[str, str]:
    dead = [mean for mean, is_dead in zip(found.means, found.dead, strict=True) if is_dead]
    least, most = min(found.means), max(found.means)
    at_least = sum(mean - least <= ALIKE for mean in dead)
    at_most = len(dead) - at_least if most - least > ALIKE else 0
    what = (
        f"{found.share:.0%} of the groups teach nothing before training begins, over method.most_dead="
        f"{config.most_dead:g}: their answers are paid alike ({at_least} at the lowest pay, {least:g}, {at_most} above "
        f"it; {asked})"
    )
    easier = "take harder rows" if at_most > at_least else "take easier rows, tune with method=sft first"
    return what, f"{easier}, raise method.generations, or accept it with a higher method.most_dead"
