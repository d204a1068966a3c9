"""The settings of rewards, which methods and verbs mix into their own, and what of them has no effect."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields

from finetune.config import setting
from finetune.errors import Fault, did_you_mean, listed
from finetune.rewards.known import OWN_READS, REWARDS, needed_package, readers
from finetune.rewards.own import is_learned, is_own

TAG = re.compile(r"[A-Za-z][\w-]*")


@dataclass
class Rewarded:
    """What answers are paid for."""

    rewards: list[str] = setting(
        [],
        "What answers are paid for: names, path/to/reward.py:function, or the directory of a run with method=reward.",
    )
    reward_weights: list[float] = setting([], "Weight of each reward in the sum; by default 1 each.")
    reference: str | None = setting(
        None,
        "Column with the right answer; by default the first there is of answer, reference_answer, solution, "
        "reference and target.",
    )
    pattern: str | None = setting(
        None, "Regular expression of `regex`: what it finds last in answer and reference is compared."
    )
    schema: str | None = setting(None, "File of the JSON schema of `json_schema`.", example="schema.json")
    tolerance: float = setting(
        0.0, "How far the number of `numeric` may be off, as a share of the reference's.", low=0, below=1
    )
    tags: list[str] = setting(
        [], "Tags of `format`, in their order, such as [think,answer]; rewards of the answer look into the last."
    )
    least_words: int | None = setting(None, "Fewest words that `length` pays in full.", low=1)
    most_words: int | None = setting(None, "Most words that `length` pays in full.", low=1)
    tests: str = setting("tests", "Column with the tests of `code`.")
    code_seconds: float = setting(5.0, "Processor seconds that the code of an answer gets.", low=1, high=600)
    code_memory: int = setting(512, "Megabytes that the code of an answer gets.", low=64)
    reward_timeout: float = setting(
        10.0, "Seconds that `math`, `regex`, `json_schema` and functions of your own get for one answer.", above=0
    )


ALWAYS = ("rewards", "reward_weights", "reference")


def faults_of(settings: Rewarded, given: Collection[str], section: str = "") -> list[Fault]:
    """What is wrong with the settings by themselves; `given` are the keys that were given, `section` as `method.`."""
    return [
        *_wrong_names(settings, f"{section}rewards"),
        *_wrong_values(settings, section),
        *_without_effect(settings, given, section),
    ]


def _wrong_names(settings: Rewarded, key: str) -> Iterator[Fault]:
    if not settings.rewards:
        yield Fault(key, "no reward is named", f"name some of {listed([*REWARDS], 20)}, or path/to/reward.py:function")
    for name in settings.rewards:
        if name not in REWARDS and not is_own(name) and not is_learned(name):
            yours = "yours is path/to/reward.py:name, or the folder of a reward model"
            mend = did_you_mean(name, REWARDS) or f"known are {listed([*REWARDS], 20)}; {yours}"
            yield Fault(key, f"no reward '{name}'", mend)
        elif settings.rewards.count(name) > 1:
            yield Fault(key, f"'{name}' is named twice", "give it a weight instead")
        elif missing := needed_package(name):
            yield Fault(f"{key} {name}", f"needs the package {missing}", "install it: pip install 'finetune[math]'")


def _wrong_values(settings: Rewarded, section: str) -> Iterator[Fault]:
    chosen, weights = settings.rewards, settings.reward_weights
    if weights and len(weights) != len(chosen):
        what = f"has {len(weights)} weights for {len(chosen)} rewards"
        yield Fault(f"{section}reward_weights", what, "give one for each, in their order")
    needed: dict[str, tuple[str, object]] = {
        "regex": ("pattern", settings.pattern),
        "json_schema": ("schema", settings.schema),
    }
    needed["format"] = ("tags", settings.tags or None)
    needed["length"] = ("least_words or most_words", settings.least_words or settings.most_words)
    for name, (wanted, value) in needed.items():
        if name in chosen and value is None:
            yield Fault(f"{section}rewards {name}", "has nothing to go by", f"give {wanted} too")
    if settings.least_words and settings.most_words and settings.least_words > settings.most_words:
        yield Fault(f"{section}least_words", f"is more than {section}most_words", "swap them")
    for tag in settings.tags:
        if not TAG.fullmatch(tag) or settings.tags.count(tag) > 1:
            yield Fault(f"{section}tags", f"'{tag}' is no name of a tag, or comes twice", "such as [think,answer]")
    try:
        re.compile(settings.pattern or "")
    except re.error as error:
        yield Fault(f"{section}pattern", f"is no regular expression ({error})", "correct it")


def _without_effect(settings: Rewarded, given: Collection[str], section: str) -> Iterator[Fault]:
    read = set(ALWAYS)
    for name in settings.rewards:
        read |= {*(REWARDS[name].reads if name in REWARDS else OWN_READS if is_own(name) else ())}
    for key in (one.name for one in fields(Rewarded)):
        if key in given and key not in read:
            what = f"has no effect: none of the rewards reads it, as {listed(readers()[key])} would"
            yield Fault(f"{section}{key}", what, "leave it out")
