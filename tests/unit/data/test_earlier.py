"""What a text shares with earlier ones does not depend on later ones, and little of it is missed."""

from __future__ import annotations

import random

import pytest
from rows import WORDS

from finetune.data.likeness.passages import FORM_ROWS, shared_runs
from finetune.data.likeness.similar import earlier_pairs, near_pairs
from finetune.data.shelf import Reordered, Shelf


def prose(rng: random.Random, count: int) -> list[str]:
    return [f"{rng.choice(WORDS[:16])}{rng.randrange(1000)}" for _ in range(count)]


def copied(seed: int, count: int) -> list[str]:
    """Texts of which many are near copies, of each other or of one template with slots."""
    rng = random.Random(seed)
    template, found = prose(rng, 60), [prose(rng, 60)]
    for _ in range(count - 1):
        kind = rng.choice(["new", "near", "template"])
        words = prose(rng, 60) if kind == "new" else list(rng.choice(found) if kind == "near" else template)
        if kind == "template":
            words[10:12] = [f"slot{rng.randrange(count)}", f"slot{rng.randrange(count)}"]
        if kind == "near":
            words[rng.randrange(60)] = "changed"
        found.append(words)
    return list(dict.fromkeys(" ".join(words) for words in found))


@pytest.mark.parametrize("seed", range(3))
def test_pairs_among_the_first_texts_are_the_same_whatever_follows(seed: int) -> None:
    texts = copied(seed, 400)
    whole = earlier_pairs(texts)
    for count in (40, 200, 330):
        part = earlier_pairs(texts[:count])
        among = whole.second < count
        assert list(zip(part.first, part.second, strict=True)) == list(
            zip(whole.first[among], whole.second[among], strict=True)
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_text_with_near_copies_before_it_has_at_least_one_of_them(seed: int) -> None:
    texts = copied(seed, 400)
    near, found = near_pairs(texts), earlier_pairs(texts)
    assert len(set(near.second)) > 150
    missed = set(near.second) - set(found.second)
    assert len(missed) <= 0.01 * len(set(near.second))
    assert (found.similarity >= 0.8).all()


def test_a_passage_in_common_ties_a_text_to_the_first_that_has_it() -> None:
    rng = random.Random(1)
    passage = prose(rng, 13)
    texts = [
        prose(rng, 30),
        [*prose(rng, 20), *passage],
        prose(rng, 30),
        [*passage, *prose(rng, 20)],
        [*passage[1:], *prose(rng, 20)],
    ]
    first, second = shared_runs([" ".join(words) for words in texts], 13)
    assert (first.tolist(), second.tolist()) == ([1], [3])
    first, second = shared_runs([" ".join(words) for words in texts], 12)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {(1, 3), (1, 4)}


def test_a_passage_that_a_fifth_of_the_texts_have_is_a_form() -> None:
    rng = random.Random(2)
    form = prose(rng, 13)
    often = [" ".join([*form, *prose(rng, 20)]) for _ in range(60)]
    first, second = shared_runs(often, 13)
    assert set(first.tolist()) == {0} and second.tolist() == list(range(1, FORM_ROWS))
    seldom = [" ".join(prose(rng, 30)) for _ in range(60 * 9)]
    mixed = [text for number in range(60) for text in (often[number], *seldom[9 * number : 9 * number + 9])]
    first, second = shared_runs(mixed, 13)
    assert len(second) == 59


def test_texts_on_the_disk_are_read_like_a_list() -> None:
    texts = ["", "one", "zwei ü", "\ud800", "x" * 100_000]
    shelf = Shelf()
    for text in texts:
        shelf.add(text)
        assert shelf[-1] == text
    assert list(shelf) == texts and shelf[1:3] == texts[1:3] and shelf[-2] == "\ud800"
    with pytest.raises(IndexError):
        shelf[5]
    order = Reordered(shelf, [2, 0, 1])
    assert list(order) == [texts[2], texts[0], texts[1]] and order[1:] == [texts[0], texts[1]] and len(order) == 3
