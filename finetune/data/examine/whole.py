"""What only the rows together show: repeated rows, questions with two answers, labels, rows unlike the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finetune.data.bias import FEWEST_PAIRS, MOST_LONGER
from finetune.data.examine.languages import NAMES
from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.private import masked
from finetune.data.examine.sums import Places, Sums
from finetune.data.leaks import MEND
from finetune.data.rows import SHAPES
from finetune.errors import counted, printable

FEWEST_ROWS = 10
# What rows that agree in all but their answer or their judgement are told, by their shape.
APART = {
    "chat": ("prompt-conflict", "asks the same as {} and answers otherwise"),
    "pair": ("pair-contradicts", "prefers the other answer of the two in {}"),
    "vote": ("vote-contradicts", "votes otherwise on the same answer than {}"),
}
MOST_ANSWERS = 0.8  # share of the answers that makes the others stand out
MOST_OF_A_LABEL = 0.9
FEWEST_LABELLED = 20
MOST_LABELS = 50
OUTLIER_FACTOR, OUTLIER_WORDS = 10, 500

Indices = NDArray[np.int64]


def look_at_all(train: Sums, notes: Notes) -> None:
    """Note what the rows together show, and drop what they show to be no defect."""
    table = train.table()
    places = Places(train.runs, table)
    dropped = notes.tallies.get("row-dropped")
    if len(table) and dropped is not None and not table["tokens"].any():
        what = f"every row of the split train ({len(table)}) is over data.max_length and was dropped"
        mend = "raise data.max_length, or set data.on_long=truncate"
        notes.add(train.runs[0].file, what, mend, "all-dropped")
    if 0 < len(table) < FEWEST_ROWS:
        notes.note("too-few-rows", Sample(train.runs[0].file, "", counted(len(table), "row")))
    repeated = _repeats(table["row"])
    for later, earlier in _paired(repeated):
        notes.note("duplicate-row", Sample(places.where(later), "", f"repeats {places.where(earlier)} word for word"))
    _conflicts(table, repeated, places, notes)
    _outliers(table["words"], places, notes)
    _answers(train, notes)
    _labels(train, notes)
    _languages(train, notes)
    _sides(train, notes)


def _repeats(hashes: NDArray[np.uint64]) -> Indices:
    """The index of the first row with the same hash, for each row."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def _paired(first: Indices) -> Iterator[tuple[int, int]]:
    for later in np.flatnonzero(first != np.arange(len(first))):
        yield int(later), int(first[later])


def _conflicts(table: NDArray[np.void], repeated: Indices, places: Places, notes: Notes) -> None:
    """Rows that ask what an earlier row asks, and answer or judge otherwise."""
    distinct = np.flatnonzero((repeated == np.arange(len(repeated))) & (table["prompt"] != 0))
    asked = _repeats(table["prompt"][distinct])
    differs = table["answer"][distinct] != table["answer"][distinct][asked]
    for place in np.flatnonzero(differs):
        later, earlier = places.where(int(distinct[place])), places.where(int(distinct[asked[place]]))
        code, said = APART[SHAPES[table["shape"][distinct[place]]]]
        notes.note(code, Sample(later, "", said.format(earlier)))


def note_trained(train: Sums, held_out: Sums, notes: Notes) -> None:
    """Note held-out rows that are trained on too, by their hashes alone; said as `train` says it."""
    hashes, table = train.table()["row"], held_out.table()
    if not len(table) or not len(hashes):
        return
    places, others = Places(train.runs, train.table()), Places(held_out.runs, table)
    known, first = np.unique(hashes, return_index=True)
    at = np.minimum(np.searchsorted(known, table["row"]), len(known) - 1)
    for index in np.flatnonzero(known[at] == table["row"]):
        what = f"this held-out row is trained on too, at {places.where(int(first[at[index]]))}"
        notes.add(others.where(int(index)), what, MEND, "held-out-trained")


def _outliers(words: NDArray[np.uint32], places: Places, notes: Notes) -> None:
    if not len(words):
        return
    median = float(np.median(words))
    for index in np.flatnonzero(words > max(OUTLIER_FACTOR * median, OUTLIER_WORDS)):
        said = f"{int(words[index]):,} words, where half of the rows have at most {median:,.0f}"
        notes.note("length-outlier", Sample(places.where(int(index)), "", said))


def _answers(train: Sums, notes: Notes) -> None:
    """Keep the answers that end or read otherwise than most only where there are such most."""
    if train.ended < MOST_ANSWERS * (train.ended + train.unended):
        notes.drop("answer-cut")
    answers = train.shapes["chat"]
    if train.json < MOST_ANSWERS * answers or train.json == answers:
        notes.drop("answer-not-json")


def labels(train: Sums) -> list[tuple[str, int]]:
    """The answers with their counts, where they are labels: short, few, and each given several times."""
    answers = train.shapes["chat"]
    few = len(train.labels) <= min(MOST_LABELS, train.short / 3)
    if answers < FEWEST_LABELLED or train.short < MOST_ANSWERS * answers or not few:
        return []
    return [(printable(masked(label)), count) for label, count in train.labels.most_common()]


def _labels(train: Sums, notes: Notes) -> None:
    found = labels(train)
    if found and found[0][1] > MOST_OF_A_LABEL * train.short:
        share = 100 * found[0][1] / train.short
        said = f"{share:.0f} % of the short answers are {found[0][0]!r}"
        notes.note("label-imbalance", Sample(train.runs[0].file, "", said), found[0][1])


def _sides(train: Sums, notes: Notes) -> None:
    """Pairs of which the length of the answers tells which one is better."""
    pairs = train.shapes["pair"]
    for said, count in (("longer", train.longer), ("shorter", train.shorter)):
        if pairs >= FEWEST_PAIRS and count > MOST_LONGER * pairs:
            what = f"the {said} answer is the chosen one in {count / pairs:.0%} of {counted(pairs, 'pair')}"
            notes.note("pair-length", Sample(train.runs[0].file, "", what), count)


def _languages(train: Sums, notes: Notes) -> None:
    """The rows in other languages, where one language is that of most rows."""
    known = train.languages.total()
    if not known or train.languages.most_common(1)[0][1] < MOST_ANSWERS * known:
        return
    for name, count in train.languages.most_common()[1:]:
        for number, sample in enumerate(train.speakers[name]):
            rest = count - len(train.speakers[name]) if number == 0 else 0
            notes.note("language-minority", Sample(sample.where, sample.field, f"in {NAMES[name]}"), 1 + rest)
