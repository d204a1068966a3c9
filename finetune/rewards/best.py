"""The best of several answers to one question, by rewards: what a reward is worth before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.build.draw import drawing
from finetune.data.rows import Message, hashed
from finetune.endpoint.asked import Sampling
from finetune.evaluate.generate import Answer, generate
from finetune.evaluate.questions import Speech
from finetune.rewards.judge import Rewards


@dataclass(frozen=True)
class Best:
    """The answer that is paid most, and what each of those that were drawn is paid; none where nothing was said."""

    answer: Answer
    paid: tuple[float | None, ...]


def best_of(
    count: int,
    model: Any,
    speech: Speech,
    asked: Sequence[Sequence[Message]],
    rewards: Rewards,
    columns: Mapping[str, Sequence[Any]],
    *,
    seed: int,
    batch_size: int,
    sampling: Sampling,
) -> list[Best]:
    """Draw so many answers to each question, and take the one that the rewards pay most; the first of equal ones.

    Each answer has a seed of its own, from `seed`, its question and its number, so the answers are the same in any
    batches, and the first few of many are those of a smaller count.
    """
    prompts = [speech.encoder.prompt_ids(messages) for messages in asked]
    numbers = [(at, number) for at in range(len(asked)) for number in range(count)]
    answers = generate(
        model,
        speech.tokenizer,
        [prompts[at] for at, _ in numbers],
        stop_ids=speech.encoder.stop_ids,
        max_new_tokens=sampling.max_tokens,
        batch_size=batch_size,
        context=speech.context,
        choose=drawing(sampling, [hashed(f"{seed}\0{number}\0{prompts[at]}") >> 1 for at, number in numbers]),
    )
    paid = rewards.score(
        [list(asked[at]) for at, _ in numbers],
        [answer.text for answer in answers],
        {name: [values[at] for at, _ in numbers] for name, values in columns.items()},
        [answer.stopped for answer in answers],
    ).totals
    return [_best(answers[at : at + count], paid[at : at + count]) for at in range(0, len(numbers), count)]


def _best(answers: Sequence[Answer], paid: Sequence[float | None]) -> Best:
    worth = [float("-inf") if one is None else one for one in paid]
    return Best(answers[worth.index(max(worth))], tuple(paid))
