"""Leaks between training rows and held-out rows, and what is none."""

from __future__ import annotations

import pytest
from texts import Writer

from finetune.data.likeness.contamination import Contamination, contamination, form_rows, overlaps
from finetune.data.likeness.words import normalise


def of_kind(found: Contamination, kind: str) -> dict[int, int]:
    """The first training row of each held-out row with an overlap of this kind."""
    return {overlap.held_out: overlap.train for overlap in found.overlaps if overlap.kind == kind}


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[str]]:
    """2,000 training rows, and 300 held-out rows: 100 equal, 100 with 13 words of a training row, 50 near, 50 clean."""
    writer = Writer(20)
    train = [writer.text(writer.dice.randint(60, 160)) for _ in range(1800)] + [writer.text(8) for _ in range(200)]
    equal = [writer.punctuated(text).upper() for text in train[1750:1850]]  # half of them shorter than a run
    runs = []
    for text in train[:100]:
        leak, words = normalise(text).split(), writer.words(60)
        at = writer.dice.randrange(len(leak) - 12)
        runs.append(" ".join(words[:20] + leak[at : at + 13] + words[20:]))
    near = [writer.changed(text, 1) for text in train[200:250]]
    return train, equal + runs + near + [writer.text(100) for _ in range(50)]


def test_planted_leaks_are_found(planted: tuple[list[str], list[str]]) -> None:
    train, held_out = planted
    found = contamination(train, held_out)
    assert of_kind(found, "same") == {row: 1750 + row for row in range(100)}
    runs = of_kind(found, "ngram")
    assert {row: runs.get(row) for row in range(100, 200)} == {row: row - 100 for row in range(100, 200)}
    near = of_kind(found, "near")
    right = sum(near.get(row) == row for row in range(200, 250))
    assert right >= 48 and set(near) <= set(range(200, 250))
    assert set(runs) <= set(range(100, 250)) and found.forms == 0
    assert list(found.overlaps) == overlaps(train, held_out)


def test_samples_and_shares(planted: tuple[list[str], list[str]]) -> None:
    train, held_out = planted
    for overlap in overlaps(train, held_out):
        if overlap.kind == "ngram":
            assert len(overlap.sample.split()) == 13
            assert overlap.sample in normalise(train[overlap.train])
            assert overlap.sample in normalise(held_out[overlap.held_out])
        else:
            assert " ".join(held_out[overlap.held_out].split()).startswith(overlap.sample)
        assert 0 < overlap.share <= 1 and (overlap.kind != "same" or overlap.share == 1)
        if 100 <= overlap.held_out < 200:
            assert round(overlap.share * (73 - 12), 9) in (1, 2, 3)  # a word beside it may be the same by chance


def test_either_side_may_be_the_larger(planted: tuple[list[str], list[str]]) -> None:
    train, held_out = planted
    small = train[:150] + train[1750:1850]
    assert len(small) < len(held_out)
    found, wanted = contamination(small, held_out), contamination(train, held_out)
    places = {**{row: row for row in range(150)}, **{1750 + row: 150 + row for row in range(100)}}
    expected = [
        (places[overlap.train], overlap.held_out, overlap.kind, overlap.share, overlap.sample)
        for overlap in wanted.overlaps
        if overlap.train in places
    ]
    got = [(o.train, o.held_out, o.kind, o.share, o.sample) for o in found.overlaps]
    assert len(got) >= 200 and got == expected


def test_result_does_not_depend_on_the_number_of_processes(
    planted: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.data.workers.TASK_CHARACTERS", 300_000)
    assert contamination(*planted, processes=2) == contamination(*planted, processes=1)


def test_order_of_words_decides_and_one_word_less_is_no_leak() -> None:
    writer = Writer(21)
    words = [writer.rare_word() for _ in range(40)]
    train = [writer.text(50), " ".join(words)]
    rest = " ".join(writer.rare_word() for _ in range(20))
    for held_out, kinds in (
        (" ".join(words[5:18]) + " " + rest, ["ngram"]),
        (" ".join(words[5:17]) + " " + rest, []),
        (" ".join(reversed(words[5:18])) + " " + rest, []),
    ):
        assert [overlap.kind for overlap in overlaps(train, [held_out])] == kinds
    short = " ".join(words[5:13]) + " " + rest
    assert not overlaps(train, [short]) and len(overlaps(train, [short], words=8)) == 1


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    train = ["春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"]
    assert [o.kind for o in overlaps(train, ["有人写道：处处闻啼鸟 夜来风雨声 花落知多！"])] == ["ngram"]
    assert overlaps(train, ["有人写道：处处闻啼鸟 夜来风雨！谁知道"]) == []
    assert [o.kind for o in overlaps(train, ["春眠不觉晓 处处闻啼鸟 夜来风雨声 花落知多少"])] == ["same"]


FORM = "below is an instruction that describes a task write an answer that completes the request in a fitting way"


def test_instruction_that_all_rows_share_is_a_form_and_hides_no_leak() -> None:
    writer = Writer(22)
    train = [f"{FORM}: {writer.text(60)}" for _ in range(400)]
    held_out = [f"{FORM}: {writer.text(60)}" for _ in range(60)]
    # The word after the form is the same in a training row by chance: still nothing but the form is shared.
    held_out[1] = f"{FORM}: {train[5].split(': ')[1].split()[0]} {writer.text(50)}"
    assert contamination(train, held_out[:1] + held_out[2:]).overlaps == ()
    found = contamination(train, held_out)
    assert found.overlaps == () and found.forms == len(FORM.split()) - 12
    leak = train[9].split(": ")[1].split()[:13]  # directly behind the form
    held_out[2] = f"{FORM}: {' '.join(leak)} {writer.text(50)}"
    held_out[3] = f"{writer.text(50)} {' '.join(train[11].split()[-13:])} {FORM}"
    held_out[4] = train[12].replace(",", "").title()
    tail, head = train[13].split(": ")[1].split()[:7], [writer.rare_word() for _ in range(7)]
    train[13] = f"{' '.join(head)} {FORM}: {' '.join(tail)} {writer.text(50)}"
    held_out[5] = f"{' '.join(head)} {FORM}: {' '.join(tail)} {writer.text(50)}"  # leaked on both sides of the form
    found = contamination(train, held_out)
    assert of_kind(found, "same") == {4: 12}
    assert of_kind(found, "ngram") == {2: 9, 3: 11, 5: 13}
    samples = {overlap.held_out: overlap.sample for overlap in found.overlaps if overlap.kind == "ngram"}
    assert samples[2] == normalise(" ".join(leak))


def test_what_many_rows_of_one_side_have_is_no_form() -> None:
    writer = Writer(23)
    passage = writer.text(30)
    train = [f"{passage} {writer.text(40)}" for _ in range(200)]
    held_out = [writer.text(60) for _ in range(100)]
    held_out[7] = f"{writer.text(30)} {passage}"
    found = contamination(train, held_out)
    assert of_kind(found, "ngram") == {7: 0} and found.forms == 0
    swapped = contamination(held_out, train)
    assert of_kind(swapped, "ngram") == dict.fromkeys(range(200), 7) and swapped.forms == 0


def test_repeating_a_leaked_row_does_not_make_it_a_form() -> None:
    writer = Writer(24)
    leaked, other = writer.text(40), writer.text(40)
    train = [f"{leaked} {other}"] * 50 + [writer.text(60) for _ in range(50)]
    held_out = [f"{leaked} {writer.text(40)}"] * 30 + [writer.text(60) for _ in range(30)]
    found = contamination(train, held_out)
    assert of_kind(found, "ngram") == dict.fromkeys(range(30), 0) and found.forms == 0


@pytest.mark.parametrize(
    ("rows", "needed"), [(1, 3), (20, 3), (30, 3), (50, 5), (99, 10), (100, 10), (500, 10), (1000, 20), (10_000, 200)]
)
def test_rows_that_a_form_needs(rows: int, needed: int) -> None:
    assert form_rows(rows) == needed


@pytest.mark.parametrize(("train", "held_out"), [([], []), (["a b"], []), ([], ["a b"]), (["a"], ["b"]), ([""], ["a"])])
def test_nothing_to_compare(train: list[str], held_out: list[str]) -> None:
    assert contamination(train, held_out) == Contamination((), 0)


def test_run_needs_a_word() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        overlaps(["a"], ["a"], words=0)
