"""Which side of a split each row goes to: whole clusters, by the hash of their first row's key.

Rows are taken in order, and each is placed by what it shares with rows before it, so rows added at the end move none:

- a row that shares a key with earlier rows, or is a near copy of one, goes where they are;
- a row that shares nothing opens a cluster, whose side is the hash of its key; the first cluster is trained on and
  the second is held out, so that neither side is ever empty where there are two;
- a row that would tie a cluster of one side to one of the other goes to neither: it is left out.

A key or text that has a side keeps it, and every row that has it is on that side. So no two rows of different sides
share anything, and no chain of rows leads from one side to the other. The text of a row that is left out counts as one
of the training side: of many copies not every pair may be known, and what is a copy of such a row is then on that side
too, or left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

TRAIN, HELD_OUT, LEFT_OUT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row goes; of a row that is left out, one row of each side that it would tie together."""

    side: int
    ties: tuple[Tie, Tie] | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """What joins a row to an earlier one."""

    kind: str  # the kind of key, as messages name it
    row: int  # the earlier row's index
    side: int


@dataclass(frozen=True, slots=True)
class Key:
    """Something that rows have in common: its kind, as messages name it, and a hash of kind and value."""

    kind: str
    value: int


@dataclass(frozen=True, slots=True)
class Clusters:
    """How many clusters each side has, and how many rows the largest."""

    train: int
    held_out: int
    largest: int


class Placing:
    """The sides of rows that come one after the other."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._first: dict[int, int] = {}  # the row that gave a key its side
        self._sides: list[int] = []
        self._parents: list[int] = []  # of a forest whose trees are the clusters
        self._opened = 0
        self.joined: Counter[str] = Counter()  # how often each kind of key brought clusters or rows together

    def place(self, text: Key, shared: Sequence[Key], near: Sequence[Key], root: int) -> Place:
        """Place the next row: by its text, its other keys, the texts of its near copies; by the hash `root` if none."""
        row = len(self._sides)
        found = ((key.kind, self._first.get(key.value)) for key in (text, *shared, *near))
        ties = [Tie(kind, first, self._sides[first]) for kind, first in found if first is not None]
        sides = {_side_of(tie.side) for tie in ties}
        side = LEFT_OUT if len(sides) > 1 else sides.pop() if sides else self._open(root)
        self._sides.append(side)
        self._parents.append(row)
        if side == LEFT_OUT:
            self._first.setdefault(text.value, row)
            trained = next(tie for tie in ties if _side_of(tie.side) == TRAIN)
            held_out = next(tie for tie in ties if tie.side == HELD_OUT)
            return Place(LEFT_OUT, (trained, held_out))
        for tie in ties:
            if (other := self._root(tie.row)) != self._root(row):
                self._parents[other] = self._root(row)
                self.joined[tie.kind] += 1
        for key in (text, *shared):
            self._first.setdefault(key.value, row)
        return Place(side)

    def _open(self, root: int) -> int:
        """The side of a new cluster."""
        self._opened += 1
        if self._share <= 0:
            return TRAIN
        if self._opened <= 2:
            return TRAIN if self._opened == 1 else HELD_OUT
        return HELD_OUT if root < min(self._share, 1.0) * 2**64 else TRAIN

    def _root(self, row: int) -> int:
        while self._parents[row] != row:
            self._parents[row] = self._parents[self._parents[row]]
            row = self._parents[row]
        return row

    def clusters(self) -> Clusters:
        """The clusters that there are by now."""
        sizes: Counter[int] = Counter(self._root(row) for row, side in enumerate(self._sides) if side != LEFT_OUT)
        held_out = sum(self._sides[root] == HELD_OUT for root in sizes)
        return Clusters(len(sizes) - held_out, held_out, max(sizes.values(), default=0))


def _side_of(side: int) -> int:
    """The side that a row counts for: one that is left out for the training side."""
    return TRAIN if side == LEFT_OUT else side
