"""The rows of the recipes about tone: made by their script, and of no help to whoever does not read the message."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
PARTS = ("train.jsonl", "heldout.jsonl")


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tone_make_data", RECIPES / "prefer-tone" / "make_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(recipe: str, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECIPES / recipe / file).read_text().splitlines()]


def test_the_rows_are_those_of_the_script(make_data: ModuleType) -> None:
    make_data.check_apart()
    for part, file in enumerate(PARTS):
        pairs = make_data.pairs(part, seed=1)
        assert read("prefer-tone", file) == pairs and read("votes-tone", file) == make_data.votes(pairs)


def test_no_answer_and_no_message_of_one_part_stands_in_the_other() -> None:
    train, held = ({text for row in read("prefer-tone", file) for text in row.values()} for file in PARTS)
    assert not train & held


def kind(answer: str, make_data: ModuleType, product: str) -> str:
    forms = {tone: "|".join(texts).format(p=product).split("|") for tone, texts in make_data.ANSWERS.items()}
    return next(tone for tone, answers in forms.items() if answer in answers)


@pytest.mark.parametrize("file", PARTS)
def test_each_tone_is_as_often_the_better_one(make_data: ModuleType, file: str) -> None:
    products = "|".join(make_data.PRODUCTS).split("|")
    votes = Counter[tuple[str, bool]]()
    better = Counter[str]()
    for pair, vote in zip(read("prefer-tone", file), read("votes-tone", file), strict=True):
        product = next(one for one in products if f"{one}" in pair["chosen"])
        better[kind(pair["chosen"], make_data, product)] += 1
        votes[kind(vote["completion"], make_data, product), vote["label"]] += 1
    assert len(set(better.values())) == 1 and len(better) == 2
    assert len(set(votes.values())) == 1 and len(votes) == 4
