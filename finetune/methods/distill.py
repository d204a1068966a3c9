"""Distillation: a student learns the probabilities that a larger teacher gives to each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from finetune.config import MethodConfig, setting
from finetune.errors import Fault, UserError, listed
from finetune.methods.arguments import OWNED_BY_ALL, FrozenModel, Parts, shared_arguments

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import RunPlan
    from finetune.plan.facts import Facts

OPTION = "distill"
ROW_SHAPE = ("chat", "text")
TRL_CONFIG = ("trl.trainer.distillation_config", "DistillationConfig")
HEAD = "causal"
LAYS_FLAT = False
RATE = 1.0
METRICS: tuple[str, ...] = ()
BEST = "eval_loss"
PATIENCE = 2
ROWS_TOGETHER = 1
TEACHER = "teacher"

# How the distance of the two distributions is measured, as TRL counts it.
DIVERGENCES = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
# An answer of the student's own gets this many times the tokens of a mean given one, and at least a few.
ROOM, LEAST_ROOM = 4, 16


@dataclass
class Config(MethodConfig):
    """Distillation: a student learns a teacher's probabilities."""

    option: ClassVar[str] = OPTION
    teacher: str = setting(
        MISSING,
        "Model that teaches: hub id, folder, run directory, or `tiny`; it must share the student's tokenizer.",
        example="Qwen/Qwen3-8B",
    )
    teacher_revision: str | None = setting(None, "Commit, tag or branch of a teacher on the hub.")
    own_samples: float = setting(
        0.0,
        "Share of the batches that the student answers itself, to be corrected by the teacher; the others take the "
        "answers of the rows.",
        low=0,
        high=1,
    )
    divergence: str | None = setting(
        None,
        "Distance that is made small: `forward_kl` covers all that the teacher would say, `reverse_kl` keeps to what "
        "it would say most, `jsd` lies between; by default forward on given answers, reverse on own samples.",
        choices=tuple(DIVERGENCES),
    )
    temperature: float = setting(
        1.0, "Softens both distributions before they are compared, and what the student samples.", above=0
    )
    max_new_tokens: int | None = setting(
        None, "Longest answer of the student's own; by default four times the mean given one.", low=1
    )
    learn: str = setting(
        "assistant",
        "Tokens of a given answer that are compared: every assistant turn, the last one, or the whole text.",
        choices=("assistant", "last", "all"),
    )


# TRL's names for what our own keys decide: refused inside `method.trl`, with the key to use.
OWNED: dict[str, str] = {
    **OWNED_BY_ALL,
    "shuffle_dataset": "training.batching",
    "trust_remote_code": "model.trust_remote_code",
    "model_init_kwargs": "model",
    "teacher_model_name_or_path": "method.teacher",
    "teacher_model_revision": "method.teacher_revision",
    "teacher_model_init_kwargs": "method.teacher",
    "beta": "method.divergence",
    "temperature": "method.temperature",
    "max_completion_length": "method.max_new_tokens",
    "chat_template_kwargs": "model.chat_template",
    "max_tool_calling_iterations": "method.own_samples",
    # They would print to stdout, which is kept for results.
    "log_completions": "tracking",
    "num_completions_to_print": "tracking",
    "log_unique_prompts": "tracking",
}
# TRL's arguments for the student's own answers.
SAMPLING = (
    "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation",
    "ds3_gather_for_generation", "use_vllm",
)  # fmt: skip


def learned_tokens(config: MethodConfig) -> str:
    """Which tokens of a conversation are learned."""
    assert isinstance(config, Config)
    return config.learn


def frozen_models(config: MethodConfig) -> dict[str, FrozenModel]:
    """The teacher."""
    assert isinstance(config, Config)
    local = config.teacher == "tiny" or Path(config.teacher).expanduser().exists()
    if config.teacher_revision is not None and local:
        raise UserError.at("method.teacher_revision", "has no effect on a local teacher", "leave it out")
    return {TEACHER: FrozenModel("method.teacher", config.teacher, config.teacher_revision)}


def answers(config: MethodConfig) -> tuple[int, int]:
    """Each row of a step is one text, learned once."""
    return 1, 1


def keeps_reference(config: MethodConfig) -> bool:
    """It moves away from what it starts from as far as the rows lead."""
    return False


def open_settings(config: MethodConfig, facts: Facts) -> dict[str, tuple[Any, str]]:
    """The divergence, and the room for answers of the student's own."""
    assert isinstance(config, Config)
    if not config.own_samples:
        return {"divergence": ("forward_kl", "given answers: the student is to cover what the teacher would say")}
    if config.own_samples >= 0.5:
        divergence = ("reverse_kl", "own samples: the student is to keep to what the teacher would say")
    else:
        divergence = ("jsd", "mostly given answers, and some of the student's own")
    train = facts.data.train
    mean = train.supervised_tokens / max(1, train.rows)
    room = max(LEAST_ROOM, round(ROOM * mean))
    return {
        "divergence": divergence,
        "max_new_tokens": (room, f"{ROOM} times the mean given answer, {mean:.0f} tokens"),
    }


def check(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """What these settings cannot mean for these models and rows."""
    method, teacher = config.method, facts.frozen[TEACHER]
    assert isinstance(method, Config)
    faults = [*_without_effect(method, sources, facts), *_check_teacher(facts), *_check_context(config, facts)]
    if teacher.adapter is not None and config.parallel.option != "ddp":
        what = f"{teacher.name} is an adapter, and {config.parallel.option} shares out what it would be merged into"
        faults.append(Fault("method.teacher", what, "use parallel=ddp, or name a model with the adapter merged"))
    return faults


def _without_effect(config: Config, sources: dict[str, str], facts: Facts) -> Iterator[Fault]:
    text, own = facts.data.shape == "text", config.own_samples
    if own == 0:
        given = [key for key in ("method.max_new_tokens",) if key in sources]
        given += [f"method.trl.{name}" for name in config.trl if name in SAMPLING or name.startswith("vllm_")]
        for key in given:
            what = "has no effect: method.own_samples is 0, so the student writes nothing"
            yield Fault(key, what, "leave it out, or raise method.own_samples")
    if own and text:
        yield Fault("method.own_samples", "plain text has no prompt to answer", "use 0, or give rows with messages")
    if text and "method.learn" in sources:
        yield Fault("method.learn", "has no effect on plain text, which is learned whole", "leave it out")
    elif own == 1 and "method.learn" in sources:
        what = "has no effect: with method.own_samples=1 no given answer is learned from"
        yield Fault("method.learn", what, "leave it out")
    elif own and config.learn == "all":
        what = "does not say where an answer begins, which the student's own samples need"
        yield Fault("method.learn", what, "use assistant or last, or method.own_samples=0")


def _check_teacher(facts: Facts) -> Iterator[Fault]:
    """A teacher gives a probability to each token of the student's, so both must have the same tokens."""
    from finetune.tokenizer import load_tokenizer

    teacher, key = facts.frozen[TEACHER], "method.teacher"
    if teacher.quantization is not None:
        what = f"{teacher.name} is stored quantized ({teacher.quantization})"
        yield Fault(key, what, "name the model with its full weights")
        return
    if teacher.adapter is None and facts.model.adapter is None and teacher.fingerprint == facts.model.fingerprint:
        yield Fault(key, f"{teacher.name} is the student itself, which learns nothing from it", "name another model")
    ours = facts.vocabulary
    theirs = load_tokenizer(teacher).get_vocab()
    differing = sorted({*ours.items()} ^ {*theirs.items()}, key=lambda item: (item[1], item[0]))
    if differing:
        some = listed(list(dict.fromkeys(token for token, _ in differing)), most=3)
        what = f"{teacher.name} has another tokenizer than the student: {len(differing):,} differences, such as {some}"
        yield Fault(key, what, "take a teacher of the student's family")
    elif max(teacher.vocab_size, len(theirs)) != max(facts.model.vocab_size, len(ours)):
        what = f"{teacher.name} gives {teacher.vocab_size:,} probabilities, and the student {facts.model.vocab_size:,}"
        yield Fault(key, what, "take a teacher whose embedding has as many rows")


def _check_context(run: RunConfig, facts: Facts) -> Iterator[Fault]:
    """Rows, and answers of the student's own, that are longer than a model was made for."""
    from finetune.plan.facts import longest_row

    config, teacher, is_stream = run.method, facts.frozen[TEACHER], facts.data.is_partial
    assert isinstance(config, Config)
    # Rows of a stream that are not read yet may be as long as they are allowed to be.
    longest = longest_row(run.data.max_length, facts.model) if is_stream else facts.data.train.longest
    any_row = max(longest, facts.data.held_out.longest if facts.data.held_out else 0)
    if teacher.context and any_row > teacher.context:
        has = "may have" if is_stream else "has"
        what = f"the longest row {has} {any_row:,} tokens, and {teacher.name} was made for {teacher.context:,}"
        yield Fault("method.teacher", what, f"set data.max_length={teacher.context}, or take another teacher")
    contexts = [one.context for one in (teacher, facts.model) if one.context]
    if not config.own_samples or not contexts or facts.data.shape == "text":
        return
    room = config.max_new_tokens or open_settings(config, facts)["max_new_tokens"][0]
    if longest + room <= min(contexts):
        return
    prompt = longest if is_stream else _longest_prompt(facts.data.train.path, facts.data.train.rows)
    if prompt + room > min(contexts):
        what = f"{room:,} on top of the longest prompt's {prompt:,} are more than a context of {min(contexts):,} tokens"
        fits = min(contexts) - prompt
        mend = f"use at most {fits}" if fits > 0 else "cut data.max_length"
        yield Fault("method.max_new_tokens", what, mend)


def _longest_prompt(path: str, rows: int) -> int:
    from finetune.data.store import read_tokens
    from finetune.methods.answers import answered

    blocks = (block for row in read_tokens(path, rows) for block in row)
    return max(len(answered(block.ids, block.labels).asked) for block in blocks)


def build_args(plan: RunPlan) -> Any:
    """TRL's arguments for this plan."""
    from trl import DistillationConfig

    config, own = plan.config.method, plan.resolved.method
    assert isinstance(config, Config)
    return DistillationConfig(
        **{
            **shared_arguments(plan),
            # The rows are in their final order, and come in a column that is no argument of the model.
            "shuffle_dataset": False,
            "remove_unused_columns": False,
            "beta": DIVERGENCES[own["divergence"]],
            "temperature": config.temperature,
            "max_completion_length": own.get("max_new_tokens"),
            **config.trl,
        }
    )


def build_trainer(plan: RunPlan, parts: Parts) -> Any:
    """TRL's trainer over rows in the order in which they are trained."""
    from finetune.methods.distill_trainer import AnsweringTrainer, with_answers

    config = plan.config.method
    assert isinstance(config, Config)
    # TRL ends an answer where the model's own settings do; the chat template may end it elsewhere.
    parts.model.generation_config.eos_token_id = list(plan.data.stop_ids)
    trainer = AnsweringTrainer(
        model=parts.model,
        teacher_model=parts.frozen[TEACHER],
        args=parts.arguments,
        processing_class=parts.tokenizer,
        train_dataset=with_answers(parts.train_rows),
        eval_dataset=with_answers(parts.held_out_rows) if parts.held_out_rows is not None else None,
        callbacks=parts.callbacks,
    )
    trainer.own_samples = config.own_samples
    return trainer
