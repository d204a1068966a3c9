"""Preference tuning on votes: give answers that were found good more often, and those found bad less often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import MethodConfig, setting
from finetune.errors import Fault
from finetune.log import log
from finetune.methods import preferences
from finetune.methods.arguments import FrozenModel, Parts, shared_arguments

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.data.prepared import PreparedData
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

OPTION = "kto"
ROW_SHAPE = ("vote",)
TRL_CONFIG = ("trl.trainer.kto_config", "KTOConfig")
LAYS_FLAT = False
RATE = 0.05
METRICS = preferences.METRICS
BEST = "eval_loss"
PATIENCE = 2
ROWS_TOGETHER = 1

MOVED = "kto"  # the loss that measures how far the model has moved, on answers to other questions
# Weight of all votes up over that of all votes down, from and to which training is known to go well.
BALANCED = (1.0, 4 / 3)
CLOSE = 0.01  # share by which it may lie outside


@dataclass
class Config(MethodConfig):
    """Preference tuning on answers that were found good or bad."""

    option: ClassVar[str] = OPTION
    loss: str = setting(
        MOVED,
        "What is asked of an answer: `kto` rewards it against how far the model has moved as a whole, "
        "`apo_zero_unpaired` against the reference alone.",
        choices=(MOVED, "apo_zero_unpaired"),
    )
    beta: float = setting(0.1, "How closely the model keeps to its reference.", above=0)
    desirable_weight: float | None = setting(
        None,
        "Weight of an answer found good; by default such that the good ones weigh as much as the bad ones.",
        above=0,
    )
    undesirable_weight: float | None = setting(None, "Weight of an answer found bad; by default likewise.", above=0)


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **preferences.OWNED_BY_PREFERENCES,
    "desirable_weight": "method.desirable_weight",
    "undesirable_weight": "method.undesirable_weight",
}


def learned_tokens(config: MethodConfig) -> str:
    """The answer that was voted on."""
    return "last"


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """No model besides the trained one and its reference."""
    return {}


def answers(config: MethodConfig) -> tuple[int, int]:
    """Each row of a step holds its answers, learned once."""
    return 1, 1


def keeps_reference(config: MethodConfig) -> bool:
    """How much likelier an answer has become is measured against it."""
    return True


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """The weights of good and bad answers."""
    assert isinstance(config, Config)
    up, down = _votes(facts.data)
    weights = balanced(up, down, config.desirable_weight, config.undesirable_weight)
    said = f"{up:,} up × {weights[0]:g} against {down:,} down × {weights[1]:g}"
    return {
        name: (weight, said) for name, weight in zip(("desirable_weight", "undesirable_weight"), weights, strict=True)
    }


def balanced(up: int, down: int, for_up: float | None, for_down: float | None) -> tuple[float, float]:
    """The weights of votes up and down: what is not given is 1, or what brings their balance within its limits."""
    weights = for_up or 1.0, for_down or 1.0
    if not up or not down or (for_up and for_down):
        return weights
    share = up * weights[0] / (down * weights[1])
    wanted = min(max(share, BALANCED[0]), BALANCED[1])
    if for_up or (for_down is None and share > wanted):
        return weights[0], round(weights[1] * share / wanted, 4)
    return round(weights[0] * wanted / share, 4), weights[1]


def _votes(data: PreparedData) -> tuple[int, int]:
    from finetune.data.store import labels

    found = labels(data.train.path)
    return int(found.sum()), int((~found).sum())


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean for these rows."""
    method = config.method
    assert isinstance(method, Config)
    return [*preferences.check_dropout(config), *_check_votes(facts), *_check_batch(config, method)]


def _said_unbalanced(up: int, down: int, for_up: float, for_down: float) -> str:
    """What is to be said of given weights that leave one side weighing much more."""
    share = up * for_up / max(down * for_down, 1e-9)
    if BALANCED[0] * (1 - CLOSE) <= share <= BALANCED[1] * (1 + CLOSE):
        return ""
    weighed = f"{up:,} votes up × {for_up:g} weigh {share:.2f} times what {down:,} votes down × {for_down:g} do"
    wanted = balanced(up, down, None, None)
    return (
        f"{weighed}; method.desirable_weight={wanted[0]:g} method.undesirable_weight={wanted[1]:g} would balance them"
    )


def _check_votes(facts: Facts) -> Iterator[Fault]:
    up, down = _votes(facts.data)
    if up + down and not (up and down):
        what = f"every vote of {up + down:,} is {'up' if up else 'down'}, so nothing tells good answers from bad ones"
        mend = "add votes of the other kind" + (", or use method=sft" if up else "")
        yield Fault("data.train", what, mend)


def _check_batch(config: RunConfig, method: Config) -> Iterator[Fault]:
    if method.loss == MOVED and config.training.batch_size == 1:
        what = f"1 leaves no other answer of the batch to compare with, which method.loss={MOVED} does"
        yield Fault("training.batch_size", what, "use 2 or more, or method.loss=apo_zero_unpaired")


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import KTOConfig

    config, own = plan.config.method, plan.resolved.method
    assert isinstance(config, Config)
    return KTOConfig(
        **{
            **shared_arguments(plan),
            # The answers of other rows come with each row, which a trainer that knows no such column would drop.
            "remove_unused_columns": False,
            "max_length": None,
            "loss_type": config.loss,
            "beta": config.beta,
            "desirable_weight": own["desirable_weight"],
            "undesirable_weight": own["undesirable_weight"],
            **config.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over rows in the order in which they are trained."""
    from finetune.methods import reference
    from finetune.methods.falling import Falling
    from finetune.methods.preference_trainers import VoteTrainer, with_others

    config, train = plan.config.method, plan.data.train
    assert isinstance(config, Config)
    rows, held_out = parts.train_rows, parts.held_out_rows
    if config.loss == MOVED:
        together = plan.batch.micro * plan.batch.processes
        rows = with_others(rows, together)
        held_out = None if held_out is None else with_others(held_out, together)
    own = plan.resolved.method
    if said := _said_unbalanced(*_votes(plan.data), own["desirable_weight"], own["undesirable_weight"]):
        log.warning(said)
    mend = "raise method.beta, or lower training.learning_rate"
    start = reference.hold(plan, parts)
    trainer = VoteTrainer(
        model=parts.model,
        ref_model=start.model,
        args=parts.arguments,
        processing_class=parts.tokenizer,
        train_dataset=rows,
        eval_dataset=held_out,
        callbacks=[*parts.callbacks, Falling(config.beta, train.supervised_tokens / max(1, train.rows), mend)],
    )
    reference.put_back(plan, trainer, start)
    return trainer
