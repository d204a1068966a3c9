"""Near copies: what is found, what is not, and that giant groups stay cheap."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import overload

import numpy as np
import pytest
from texts import Writer, jaccard

from finetune.data.likeness import candidates, sketch
from finetune.data.likeness.similar import Pairs, components, near_between, near_pairs, similarities
from finetune.data.likeness.words import fold, normalise, windows

Found = set[tuple[int, int]]


def as_set(pairs: Pairs) -> Found:
    """The pairs, without their similarity."""
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


@cache
def compared(text: str) -> str:
    """The normalised text."""
    return normalise(text)


def true_similarity(one: str, other: str) -> float:
    """The similarity by its definition, worked out plainly."""
    first, second = compared(one), compared(other)
    if first == second:
        return 1.0
    words = sorted((first.split(), second.split()), key=len)
    if len(words[0]) >= sketch.SHORT:
        return jaccard(*words, sketch.WORDS)
    if len(words[1]) >= sketch.SHORTISH:
        return 0.0
    padded = [text.replace(" ", "").ljust(sketch.CHARACTERS, "\0") for text in (first, second)]
    return jaccard(*padded, sketch.CHARACTERS)


def planted(writer: Writer, rows: int) -> tuple[list[str], Found, Found]:
    """Texts, the pairs made by edits that keep them similar, and the pairs made from one template that are not."""
    texts = [writer.text(writer.dice.randint(90, 160)) for _ in range(rows)]
    texts += [writer.text(writer.dice.randint(4, 18)) for _ in range(rows // 2)]
    edits = (
        lambda text: text.upper(),
        writer.punctuated,
        lambda text: writer.changed(text, 1),
        lambda text: writer.changed(text, 2),
        writer.swapped,
        lambda text: text + " " + writer.rare_word(),
    )
    made = set()
    for original in range(len(texts)):
        if writer.dice.random() < 0.5:
            made.add((original, len(texts)))
            texts.append(edits[len(made) % len(edits)](texts[original]))
    hard = set()
    for _ in range(rows // 20):
        template = writer.words(60)
        family = range(len(texts), len(texts) + 6)
        texts += [" ".join(template[:40] + writer.words(25) + template[40:]) for _ in family]
        hard |= set(itertools.combinations(family, 2))
    return texts, made, hard


def test_planted_copies_are_found_and_little_else() -> None:
    texts, made, hard = planted(Writer(3), 800)
    found = as_set(near_pairs(texts))
    similar = {pair for pair in made if true_similarity(*(texts[at] for at in pair)) >= 0.8}
    assert len(similar) > 400 and len(hard) > 500
    assert len(found & similar) >= 0.995 * len(similar)
    right = {pair for pair in found if true_similarity(*(texts[at] for at in pair)) >= 0.8}
    assert len(right) == len(found)
    assert not found & hard


def test_edits_that_people_make_count_as_copies() -> None:
    writer = Writer(4)
    texts = [writer.text(120) for _ in range(200)]
    for edit in (str.title, writer.punctuated, lambda text: writer.changed(text, 1), writer.swapped):
        copies = [edit(text) for text in texts]
        pairs = {(at, at + len(texts)) for at in range(len(texts))}
        assert len(as_set(near_pairs(texts + copies)) & pairs) >= 0.98 * len(texts)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_every_pair_and_its_similarity_are_those_of_the_definition(threshold: float) -> None:
    writer = Writer(5)
    template = writer.words(100)
    texts = [
        "",
        "…",
        "!",
        "ab",
        "AB.",
        "abc",
        "abcd efg",
        "你好，世界。今天天气很好",
        "你好 世界 今天天气很好。",
        "你好世界今天天气不好",
    ]
    for size in (3, 6, 12, 18, 19, 20, 21, 25, 29, 30, 31, 40, 120):
        base = writer.text(size)
        texts += [base, writer.changed(base, 1), base + " " + writer.rare_word(), base.rsplit(" ", 1)[0], base + base]
    for slot in (5, 10, 15, 20, 30):
        texts += [" ".join(template + writer.words(slot)) for _ in range(4)]
    first = {compared(text): at for at, text in reversed(list(enumerate(texts)))}
    expected = {}
    for pair in itertools.combinations(sorted(at for text, at in first.items() if text), 2):
        similarity = true_similarity(*(texts[at] for at in pair))
        if similarity >= threshold:
            expected[pair] = similarity
    # Of equal texts the first alone is compared with the rest.
    equal = {
        pair: 1.0
        for pair in itertools.combinations(range(len(texts)), 2)
        if len({compared(texts[at]) for at in pair}) == 1
    }
    assert len(equal) == 2 and len(expected) >= (7 if threshold < 1 else 0)
    found = near_pairs(texts, threshold=threshold)
    expected |= {pair: 1.0 for pair in as_set(found) & set(equal)}
    assert components(len(texts), found).tolist() == [first[compared(text)] for text in texts] or threshold < 1
    assert as_set(found) == set(expected)
    for one, other, similarity in zip(found.first.tolist(), found.second.tolist(), found.similarity, strict=True):
        assert similarity == pytest.approx(expected[one, other])
    assert (np.diff(found.first * len(texts) + found.second) > 0).all() and (found.first < found.second).all()


@pytest.mark.parametrize("texts", [[], ["one"], ["", ""], ["", "a"]])
def test_few_or_empty_texts(texts: list[str]) -> None:
    assert as_set(near_pairs(texts)) == ({(0, 1)} if texts == ["", ""] else set())


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_pairs(["a"], threshold=threshold)


def test_text_that_is_repeated_very_often_is_a_chain() -> None:
    texts = ["The same  answer!", "the same answer"] * 20_000 + ["something else altogether"]
    pairs = near_pairs(texts, processes=1)
    assert as_set(pairs) == {(at, at + 1) for at in range(39_999)} and (pairs.similarity == 1).all()
    assert components(len(texts), pairs).tolist() == [0] * 40_000 + [40_000]


@pytest.fixture
def as_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets are split as they are among very many texts."""
    monkeypatch.setattr(candidates, "FEW_PAIRS", 0)


def test_copies_within_a_giant_template_are_found_without_all_pairs(
    as_of_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(6)
    template = writer.words(100)
    texts = [" ".join(template[:50] + [writer.rare_word() for _ in range(25)] + template[50:]) for _ in range(1000)]
    copies = {(at, 1000 + at): writer.changed(texts[at], 1) for at in range(100)}
    compared = []
    monkeypatch.setattr(
        "finetune.data.likeness.similar.similarities",
        lambda block: compared.append(len(block[1])) or similarities(block),
    )
    found = as_set(near_pairs(texts + list(copies.values()), processes=1))
    similar = {pair for pair in copies if true_similarity(texts[pair[0]], copies[pair]) >= 0.8}
    assert len(similar) > 90 and found == similar
    assert 1000 < sum(compared) < 30_000  # of half a million


def test_giant_group_of_similar_texts_is_one_component(as_of_many: None) -> None:
    writer = Writer(7)
    template = writer.words(120)
    slots = [" ".join([*template[:60], writer.rare_word(), *template[60:]]) for _ in range(700)]
    original = writer.text(120)
    edited = [original, *(writer.changed(original, 2) for _ in range(700))]
    texts = slots + edited
    pairs = near_pairs(texts, processes=1)
    assert len(pairs) < 20_000
    label = components(len(texts), pairs)
    assert (label[:700] == 0).all()
    near = np.array([true_similarity(original, text) >= 0.8 for text in edited])
    assert near.sum() > 600
    assert (label[700:][near] == 700).mean() > 0.99


def test_large_groups_among_few_texts_are_compared_pair_by_pair() -> None:
    writer = Writer(14)
    original = writer.text(120)
    texts = [writer.changed(original, 2) for _ in range(150)]
    similar = {
        pair for pair in itertools.combinations(range(150), 2) if true_similarity(*(texts[at] for at in pair)) >= 0.8
    }
    assert len(similar) > 200 and as_set(near_pairs(texts)) == similar


def test_result_does_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.workers.TASK_CHARACTERS", 50_000)
    texts, _, _ = planted(Writer(8), 400)
    one, two = near_pairs(texts, processes=1), near_pairs(texts, processes=2)
    assert len(one) > 200
    for name in ("first", "second", "similarity"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


class Stored(Sequence[str]):
    """Texts that can only be counted and read by place, as those in a mapped file."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._texts[index]

    def __iter__(self) -> None:  # type: ignore[override]
        raise AssertionError("read all at once")


def test_texts_are_read_by_place_only() -> None:
    texts, _, _ = planted(Writer(9), 200)
    assert as_set(near_pairs(Stored(texts))) == as_set(near_pairs(texts))
    assert as_set(near_between(Stored(texts), Stored(texts[:50]))) == as_set(near_between(texts, texts[:50]))


def test_pairs_across_two_sets() -> None:
    writer = Writer(10)
    train = [writer.text(100) for _ in range(300)]
    train += [train[0].upper(), train[1].upper(), writer.changed(train[2], 1)]
    held_out = [writer.text(100) for _ in range(50)]
    held_out += [writer.changed(train[0], 1), train[1], train[2], train[2].lower(), writer.changed(held_out[0], 1)]
    found = near_between(train, held_out)
    assert as_set(found) == {(0, 50), (300, 50), (1, 51), (301, 51), (2, 52), (2, 53), (302, 52)}
    ones = {pair for pair, similarity in zip(sorted(as_set(found)), found.similarity, strict=True) if similarity == 1}
    assert ones == {(1, 51), (301, 51), (2, 52), (2, 53)}
    assert as_set(near_between(train, [])) == as_set(near_between([], train)) == set()


def test_copies_of_held_out_texts_are_found_within_a_giant_template(as_of_many: None) -> None:
    writer = Writer(11)
    template = writer.words(90)
    train = [" ".join(template + [writer.rare_word() for _ in range(30)]) for _ in range(700)]
    held_out = [" ".join(template + [writer.rare_word() for _ in range(30)]) for _ in range(300)]
    held_out[:60] = [writer.changed(text, 1) for text in train[:60]]
    similar = {(at, at) for at in range(60) if true_similarity(train[at], held_out[at]) >= 0.8}
    assert len(similar) > 50 and as_set(near_between(train, held_out)) == similar


def test_components_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    for edges in (0, 20, 90, 300):
        pairs = np.sort(rng.integers(200, size=(2, edges)), axis=0)
        neighbours: dict[int, set[int]] = {at: {at} for at in range(200)}
        for one, other in pairs.T.tolist():
            neighbours[one].add(other)
            neighbours[other].add(one)
        expected = list(range(200))
        for _ in range(200):
            expected = [min(expected[other] for other in neighbours[at]) for at in range(200)]
        found = components(200, Pairs(pairs[0], pairs[1], np.ones(edges)))
        assert found.tolist() == expected


def test_long_chain_has_one_component() -> None:
    order = np.random.default_rng(1).permutation(100_000)
    assert not components(100_000, Pairs(order[:-1], order[1:], np.ones(99_999))).any()


def signature_pairs(similarity: float, size: int, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Sets of random hashes, each two beside each other with at least this similarity; bounds; the true similarity."""
    rng = np.random.default_rng(2)
    shared = math.ceil(2 * size * similarity / (1 + similarity))
    parts = []
    for _ in range(count):
        values = rng.integers(2**64, size=2 * size - shared, dtype=np.uint64)
        parts += [values[:size], values[size - shared :]]
    return np.concatenate(parts), np.arange(2 * count + 1) * size, shared / (2 * size - shared)


@pytest.mark.parametrize("size", [12, 116, 1000])
@pytest.mark.parametrize("made_by", ["numpy", "rensa"])
def test_sketches_find_pairs_at_the_threshold(made_by: str, size: int) -> None:
    if made_by == "rensa":
        pytest.importorskip("rensa")
    signatures = sketch.numpy_signatures if made_by == "numpy" else sketch.rensa_signatures
    for threshold in (0.8, 0.6):
        rows = sketch.band_rows(threshold)
        hashes, bounds, similarity = signature_pairs(threshold, size, 1000)
        found = signatures(hashes, bounds)
        assert abs((found[0::2] == found[1::2]).mean() - similarity) < 0.03
        bands = sketch.band_keys(found, rows, np.zeros(len(found), dtype=bool))
        assert (bands[0::2] == bands[1::2]).any(axis=1).mean() > 0.995
        assert len(np.unique(bands[:, 0])) > 0.4 * len(bands)


def test_pairs_are_the_same_with_and_without_rensa(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rensa")
    texts, _, _ = planted(Writer(12), 400)
    found = []
    for installed in (True, False):
        monkeypatch.setattr(sketch, "has_rensa", lambda installed=installed: installed)
        found.append(as_set(near_pairs(texts, processes=1)))
    assert found[0] == found[1]


def test_shingles_are_runs_of_words_or_of_characters() -> None:
    writer = Writer(13)
    texts = [writer.text(count) for count in (0, 1, 19, 20, 29, 30, 50)] + ["ab"]
    folded = fold(texts)
    found = sketch.shingles(folded)
    assert found.owner.tolist() == [3, 4, 5, 6, 1, 2, 3, 4, 7]
    assert found.by_characters.tolist() == [False] * 4 + [True] * 5
    assert found.short.tolist() == [False] * 4 + [True, True, False, False, True]
    runs, bounds = windows(folded.words, folded.word_bounds, sketch.WORDS)
    assert np.array_equal(found.hashes[found.bounds[2] : found.bounds[3]], runs[bounds[5] : bounds[6]])
    assert np.diff(found.bounds)[-1] == 1


def test_buckets_of_any_size_give_all_their_pairs() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(40, size=300).astype(np.uint32)
    side = rng.random(300) < 0.3
    for given in (None, side):
        buckets = candidates.bucketed(values, given)
        a, b = candidates.all_pairs(buckets, np.ones(len(buckets.sizes), dtype=bool), given)
        found = [(min(pair), max(pair)) for pair in zip(a.tolist(), b.tolist(), strict=True)]
        expected = {
            (one, other)
            for one, other in itertools.combinations(range(300), 2)
            if values[one] == values[other] and (given is None or given[one] != given[other])
        }
        assert len(found) == len(expected) and set(found) == expected


PROGRAM = """
import os, sys, time
from finetune.data import workers

def slow(task):
    os.write(1, b"%d\\n" % os.getpid())  # whole, whatever the other process writes
    time.sleep(60)

if __name__ == "__main__":
    list(workers.mapped(slow, range(4), 2))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_processes_end_with_their_parent(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.Signals[name])
        parent.wait(timeout=20)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{child}").exists() for child in children)
