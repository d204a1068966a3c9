"""What the methods that learn from the model's own answers share: their settings, and what of them cannot work.

Each row is a question that the model answers several times, a group; what an answer is paid above or below the others
of its group is what is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from finetune.config import MethodConfig, setting
from finetune.errors import Fault, UserError
from finetune.methods.arguments import OWNED_BY_ALL, shared_arguments
from finetune.rewards.settings import Rewarded, faults_of

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.data.prepare import SplitFacts
    from finetune.data.rows import Task
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts
    from finetune.rewards.judge import Rewards

METRICS: tuple[str, ...] = (
    "reward", "reward_std", "reward/", "unpaid", "frac_reward_zero_std", "duplicates", "kl", "completions/mean_length",
    "completions/clipped_ratio",
)  # fmt: skip
PATIENCE = 20  # groups that are paid alike move nothing, and the first steps may have no others
SECTION = "method."
ROOM = 256  # tokens of an answer, where nothing is said and the context has them
TRIED_ROWS, VERIFIED_ROWS = 1000, 16  # rows that rewards are tried on; cheats take the time of many answers


@dataclass
class Sampled(Rewarded, MethodConfig):
    """How answers are drawn, and what of them is accepted."""

    generations: int = setting(8, "Answers to each row, which are compared with each other: a group.", low=2)
    max_new_tokens: int | None = setting(
        None, f"Longest answer; what is longer is cut there. By default {ROOM}, or what the context leaves.", low=1
    )
    temperature: float = setting(1.0, "How freely answers are drawn.", above=0)
    top_p: float = setting(1.0, "Share of the probability that tokens are drawn from.", above=0, high=1)
    top_k: int = setting(0, "Likeliest tokens that are drawn from; 0 draws from all.", low=0)
    iterations: int = setting(1, "Steps that learn from the same answers.", low=1)
    most_dead: float = setting(
        0.6,
        "Largest share of groups that may be paid alike, and so teach nothing, before training begins; 1 accepts all.",
        low=0,
        high=1,
    )
    allow_cheating: bool = setting(False, "Train on rewards that `finetune reward verify` finds can be cheated.")


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **OWNED_BY_ALL,
    "shuffle_dataset": "training.batching",
    "trust_remote_code": "model.trust_remote_code",
    "model_init_kwargs": "model",
    "chat_template_kwargs": "model.chat_template",
    "disable_dropout": "tuning.dropout",
    "num_generations": "method.generations",
    "max_completion_length": "method.max_new_tokens",
    "temperature": "method.temperature",
    "top_p": "method.top_p",
    "top_k": "method.top_k",
    "beta": "method.beta",
    "num_iterations": "method.iterations",
    "steps_per_generation": "training.accumulation",
    "generation_batch_size": "training.batch_size",
    "reward_weights": "method.reward_weights",
}
_RUN_HERE = "has no effect: the model that is trained writes its answers itself, in this process"
_REFERENCE = "moves the reference, which is what training starts from, and could not be resumed"
_PRINTS = "prints answers to stdout, which is kept for results; the run directory has them in completions.jsonl"
# Arguments of TRL's that would do nothing here or do harm, and why; names that end in _ stand for all that begin so.
REFUSED: dict[str, str] = {
    "use_vllm": "is not supported: " + _RUN_HERE.removeprefix("has no effect: "),
    "vllm_": _RUN_HERE,
    "use_transformers_": "casts the weights that are trained to 16 bits in place",
    "transformers_": _RUN_HERE,
    "sync_ref_model": _REFERENCE,
    "ref_model_": _REFERENCE,
    "log_": _PRINTS,
    "num_completions_to_print": _PRINTS,
    "num_generations_eval": "has no effect: each held-out row is answered once",
    "multi_objective_aggregation": "has no effect: the rewards are summed before TRL sees them",
    "cast_lm_head_to_fp32": "fails under an adapter over tied embeddings",
    "max_tool_calling_iterations": "has no effect: no tools are called",
    "off_policy_mask_threshold": _RUN_HERE,
    "generation_kwargs": "would silently override the other settings of sampling",
}
RATIO = ("epsilon", "epsilon_high", "delta")  # bounds of a ratio that is 1 where answers are learned from once


def answers(config: MethodConfig) -> tuple[int, int]:
    """The answers of a group, and the steps that learn from them."""
    assert isinstance(config, Sampled)
    return config.generations, config.iterations


def room(config: Sampled, facts: Facts) -> tuple[int, str]:
    """The longest answer where none is set, and why."""
    left = facts.model.context - _longest_prompt(facts) if facts.model.context else ROOM
    if left < ROOM:
        return max(1, left), f"what the longest prompt leaves of the context of {facts.model.context:,}"
    return ROOM, "a start; set it to a little over what good answers need"


def check(config: RunConfig, sources: Mapping[str, str], facts: Facts) -> list[Fault]:
    """What the settings cannot mean for these rows, and rewards that nothing can be learned from."""
    method = config.method
    assert isinstance(method, Sampled)
    return [*_refused(method), *_check_context(method, facts), *_check_rewards(method, sources, facts)]


def check_reference(config: RunConfig, beta: float | None) -> list[Fault]:
    """A reference that TRL would read from a file which lacks the rows that were added."""
    if not beta or config.tuning.option != "full" or not config.tuning.new_tokens:
        return []
    what = "ties the model to what its files hold, which lack the rows of tuning.new_tokens"
    return [Fault("method.beta", what, "use 0, or train an adapter with tuning=lora")]


def _refused(config: Sampled) -> Iterator[Fault]:
    for name in config.trl:
        why = next((REFUSED[key] for key in REFUSED if name == key or (key.endswith("_") and name.startswith(key))), "")
        if name in RATIO and config.iterations == 1:
            why = "has no effect with method.iterations=1: answers are learned from before anything has moved"
        if why:
            yield Fault(f"method.trl.{name}", why, "leave it out")


def _longest_prompt(facts: Facts) -> int:
    held_out = facts.data.held_out
    return max(facts.data.train.longest, held_out.longest if held_out else 0)


def _check_context(config: Sampled, facts: Facts) -> Iterator[Fault]:
    context, prompt = facts.model.context, _longest_prompt(facts)
    asked = config.max_new_tokens or 1
    if context and prompt + asked > context:
        what = f"{asked:,} on top of the longest prompt's {prompt:,} are more than the context of {context:,} tokens"
        fits = context - prompt
        mend = f"use at most {fits:,}" if fits > 0 else "set data.on_long=drop and data.max_length lower"
        yield Fault("method.max_new_tokens", what, mend)


def _check_rewards(config: Sampled, sources: Mapping[str, str], facts: Facts) -> list[Fault]:
    """Try the rewards on rows of the run, with right answers, wrong ones, and those by which rewards are cheated."""
    from finetune.rewards.trial import trial

    given = [one.name for one in fields(Rewarded) if f"{SECTION}{one.name}" in sources and _says(config, one.name)]
    if faults := faults_of(config, given, SECTION):
        return faults
    rows = list(tasks(facts.data.train))
    try:
        with rewards_for(config, columns_of(rows)) as rewards:
            trial(rewards, rows)
            return [] if config.allow_cheating else list(_cheated(rewards, rows))
    except UserError as error:
        return list(error.faults)


def _says(config: Sampled, name: str) -> bool:
    """Whether a setting differs from its default: a run's config.yaml names every one."""
    return bool(getattr(config, name) != getattr(Rewarded(), name))


def _cheated(rewards: Rewards, rows: Sequence[Task]) -> Iterator[Fault]:
    from finetune.rewards.battery import references
    from finetune.rewards.verify import verify

    right = references(rows, rewards.reference) if rewards.reference else []
    known = [row for row, text in zip(rows, right, strict=False) if text is not None]
    if len({text for text in right if text is not None}) < 2:
        return  # without right answers that differ there is nothing to tell cheats from
    taken = known[:: max(1, len(known) // VERIFIED_ROWS)][:VERIFIED_ROWS]
    for verdict in verify(rewards, taken).verdicts:
        for reason in verdict.reasons:
            mend = "correct it (`finetune reward verify` shows all), or accept it with method.allow_cheating=true"
            yield Fault(f"{rewards.key} {verdict.name}", f"can be cheated: it {reason}", mend)


def tasks(split: SplitFacts, most: int = TRIED_ROWS) -> Iterator[Task]:
    """The first rows of a split."""
    from finetune.data.prepare import read_rows
    from finetune.data.rows import Task

    return (row for row in islice(read_rows(split), most) if isinstance(row, Task))


def columns_of(rows: Iterable[Task]) -> list[str]:
    """The columns that some of the rows have."""
    return list(dict.fromkeys(name for row in rows for name in row.columns))


def rewards_for(config: Sampled, columns: Sequence[str]) -> Rewards:
    """The rewards of a run; close them when it ends."""
    from finetune.rewards.judge import build

    return build(config, columns, (), SECTION)


def sampling_arguments(plan: RunPlan) -> dict[str, Any]:
    """TRL's arguments for what these methods share."""
    config = plan.config.method
    assert isinstance(config, Sampled)
    return {
        **shared_arguments(plan),
        # The rows are in their final order, and come in a column that is no argument of the model.
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        "num_generations": config.generations,
        "num_generations_eval": 1,
        "max_completion_length": plan.resolved.method["max_new_tokens"],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "num_iterations": config.iterations,
        # What a step learns from is written at once, so that every step, or every so many, can be resumed from.
        "steps_per_generation": plan.batch.accumulation,
    }
