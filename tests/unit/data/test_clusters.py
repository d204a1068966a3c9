"""Rows are placed by what they share with earlier ones: no cluster spans a split, and appending moves none."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import pytest

from finetune.data.clusters import HELD_OUT, LEFT_OUT, TRAIN, Key, Place, Placing


@dataclass(frozen=True)
class Rows:
    """Random rows: the keys of each, first that of its text, and which texts are near copies of each other."""

    keys: list[list[int]]
    near: dict[int, list[int]]
    roots: list[int]


def draw(seed: int, count: int) -> Rows:
    """Rows that share keys at random, from hardly at all to nearly all."""
    rng = random.Random(seed)
    pool = rng.choice([2, count // 4 + 1, count, count * 4, count * 20])
    keys = [
        [rng.randrange(pool), *(pool + rng.randrange(pool) for _ in range(rng.choice([0, 0, 1, 2])))]
        for _ in range(count)
    ]
    near: dict[int, list[int]] = defaultdict(list)
    for _ in range(rng.choice([0, count // 8, count])):
        first, second = rng.randrange(pool), rng.randrange(pool)
        near[first].append(second)
        near[second].append(first)
    return Rows(keys, near, [rng.randrange(2**64) for _ in range(count)])


def place(rows: Rows, share: float, count: int | None = None) -> tuple[list[Place], Placing]:
    """The places of the first rows."""
    placing = Placing(share)
    places = []
    for own, root in list(zip(rows.keys, rows.roots, strict=True))[:count]:
        text, *shared = [Key("key", key) for key in own]
        places.append(placing.place(text, shared, [Key("copy", other) for other in rows.near[text.value]], root))
    return places, placing


def sides(rows: Rows, share: float, count: int | None = None) -> list[int]:
    return [item.side for item in place(rows, share, count)[0]]


CASES = [(seed, count, share) for seed in range(30) for count, share in ((3, 0.5), (12, 0.1), (80, 0.3), (200, 0.1))]


def reachable(rows: Rows, kept: list[int]) -> list[set[int]]:
    """The clusters of the kept rows: what a walk along shared keys and near copies reaches."""
    holders: dict[int, list[int]] = defaultdict(list)
    for row in kept:
        for key in rows.keys[row]:
            holders[key].append(row)
    left, found = set(kept), []
    while left:
        cluster, waiting = set[int](), [min(left)]
        while waiting:
            row = waiting.pop()
            if row in cluster:
                continue
            cluster.add(row)
            for key in (*rows.keys[row], *rows.near[rows.keys[row][0]]):
                waiting += holders[key]
        found.append(cluster)
        left -= cluster
    return found


def test_no_cluster_has_rows_on_both_sides() -> None:
    both = 0
    for seed, count, share in CASES:
        rows = draw(seed, count)
        found, placing = place(rows, share)
        placed = [item.side for item in found]
        clusters = reachable(rows, [row for row, side in enumerate(placed) if side != LEFT_OUT])
        assert all(len({placed[row] for row in cluster}) == 1 for cluster in clusters)
        counted = placing.clusters()
        assert counted.train + counted.held_out <= len(clusters)  # a row that is left out may still join two
        assert counted.largest >= max(map(len, clusters))
        both += {TRAIN, HELD_OUT} <= set(placed)
    assert both > 60


def test_rows_that_are_added_move_none() -> None:
    for seed, count, share in CASES:
        rows = draw(seed, count)
        whole = sides(rows, share)
        for before in {1, 2, count // 2, count - max(1, count // 10)}:
            assert sides(rows, share, before) == whole[:before]


def test_a_row_is_left_out_only_where_it_would_tie_two_sides_together() -> None:
    left_out = 0
    for seed, count, share in CASES:
        rows = draw(seed, count)
        placed = place(rows, share)[0]
        for row, item in enumerate(placed):
            linked = {*rows.keys[row], *rows.near[rows.keys[row][0]]}
            earlier = {placed[other].side for other in range(row) if linked & set(rows.keys[other])}
            if LEFT_OUT not in earlier:
                assert (item.side == LEFT_OUT) == (len(earlier) == 2)
            if item.ties:
                left_out += 1
                trained, held_out = item.ties
                assert placed[trained.row].side in (TRAIN, LEFT_OUT) and placed[held_out.row].side == HELD_OUT
                assert all(tie.side == placed[tie.row].side for tie in item.ties)
                assert all(tie.row < row and linked & set(rows.keys[tie.row]) for tie in item.ties)
    assert left_out > 30


def test_copies_of_a_row_that_is_left_out_do_not_part() -> None:
    """Of many copies only some pairs are known: here 2 is near 0 and 1, and both 3 and 4 are known to be near 2 alone."""
    for root in (0, 2**64 - 1):
        placing = Placing(0.5)
        near = {2: [0, 1], 3: [2], 4: [2]}
        found = [
            placing.place(Key("text", row), [], [Key("copy", other) for other in near.get(row, [])], root).side
            for row in range(5)
        ]
        assert found == [TRAIN, HELD_OUT, LEFT_OUT, TRAIN, TRAIN]


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.999999999])
def test_neither_side_is_empty_where_there_are_two_clusters(share: float) -> None:
    for count in (2, 3, 10):
        for seed in range(20):
            rows = Rows([[number] for number in range(count)], defaultdict(list), draw(seed, count).roots)
            assert set(sides(rows, share)) == {TRAIN, HELD_OUT}


def test_a_single_cluster_is_trained_on() -> None:
    rows = Rows([[1]] * 5, defaultdict(list), [0] * 5)
    assert sides(rows, 0.9) == [TRAIN] * 5


def test_larger_share_holds_out_the_same_clusters_and_more() -> None:
    rows = Rows([[number] for number in range(2000)], defaultdict(list), draw(1, 2000).roots)
    small, large = sides(rows, 0.1), sides(rows, 0.3)
    assert all(second == HELD_OUT for first, second in zip(small, large, strict=True) if first == HELD_OUT)
    assert 150 < sum(side == HELD_OUT for side in small) < 250
    assert 540 < sum(side == HELD_OUT for side in large) < 660


def test_nothing_is_held_out_when_nothing_is_asked_for() -> None:
    assert set(sides(draw(1, 80), 0.0)) == {TRAIN}
