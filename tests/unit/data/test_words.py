"""Texts as they are compared."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from texts import Writer

from finetune.data.likeness.words import batches, count_words, fold, key, keys, normalise, windows


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("three  plain\nwords", 3),
        ("naïve Ångström", 2),
        ("今天天气很好，适合出去散步。", 12),
        ("用 Python 3 写的", 5),
        ("これは、ペンです。", 7),
        ("오늘 날씨가 좋다", 3),
        ("a 😀 b", 3),
    ],
)
def test_words_are_counted_as_a_person_would(text: str, count: int) -> None:
    assert count_words(text) == count


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Hello,   World!!\n", "hello world"),
        ("# Title\n\n- **bold** and `code`", "title bold and code"),
        ("don’t DON'T dont", "dont dont dont"),
        ("ｆｕｌｌ ﬁne ①", "full fine 1"),
        ("Straße STRASSE", "strasse strasse"),
        ("e\u0301 é É", "é é é"),
        ("a\u200bb\ufeff\u00adc \x07d", "abc d"),
        ("你好，世界。", "你 好 世 界"),
        ("你好 世界", "你 好 世 界"),
        ("ไทย", "ไ ท ย"),
        ("हिन्दी में", "हिन्दी में"),
        ("한국어 조선말", "한국어 조선말"),
        ("日本語とEnglish", "日 本 語 と english"),
        ("a+b = c", "a + b = c"),
        ("3-4 3 - 4 3–4 -5", "3 - 4 3 - 4 3 - 4 - 5"),
        ("2×3 6÷2", "2 * 3 6 / 2"),
        ("a well-known and/or", "a well known and or"),
        ("- 5 apples\n- 7 pears", "5 apples 7 pears"),
        ("C# C++ C", "c # c + + c"),
        ("5% of $7", "5 % of $ 7"),
        ("👍🏽 ok", "👍 🏽 ok"),
        ("\ud800 lone", "lone"),
        ("a\0b", "ab"),
        ("?!", "? !"),
        ("---", "- - -"),
        ("", ""),
        (" \n\t", ""),
        ("\u200b", ""),
    ],
)
def test_normalised_text(text: str, result: str) -> None:
    assert normalise(text) == result


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 + 4", "3 - 4"), ("3 * 4", "3 / 4"), ("3-4", "34"), ("?", "!"), ("👍", "👎"), ("is 5", "is -5"), ("C", "C#")],
)
def test_what_means_something_else_stays_apart(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_key_is_the_same_in_every_process_and_version() -> None:
    assert key("Hello, World!") == 0x50B1A332AA338687
    assert key("") == 0xB4B2797457A0A6E4
    program = "from finetune.data.likeness.words import key, fold; print(key('Hello world'), fold(['Hello world']).words.tolist())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{key('hello world')} {fold(['hello world']).words.tolist()}\n"}


def test_many_texts_at_once_give_what_each_gives_alone() -> None:
    writer = Writer(0)
    texts = [writer.text(writer.dice.randint(1, 80)) for _ in range(1500)]
    texts[10:10] = ["", "…", "你好", "naïve Ünïcode", "\0", "-", "a", "3 -", "-3", "\u0301x"]
    found, at = [], 0
    for first, folded in batches(texts):
        assert first == at
        found += folded.texts
        at += len(folded.texts)
    assert found == [normalise(text) for text in texts]
    assert keys(found).tolist() == [key(text) for text in texts]
    assert at == len(texts)


def test_words_and_characters_of_each_text() -> None:
    folded = fold(["one two", "", "two one", "owt"])
    assert folded.word_bounds.tolist() == [0, 2, 2, 4, 5]
    assert folded.character_bounds.tolist() == [0, 6, 6, 12, 15]
    one, two, again_two, again_one, anagram = folded.words.tolist()
    assert (one, two) == (again_one, again_two) and len({one, two, anagram}) == 3


def test_batches_are_bounded() -> None:
    texts = ["word " * 3000] * 40
    sizes = [len(folded.texts) for _, folded in batches(texts)]
    assert sum(sizes) == 40 and max(sizes) == 7


@pytest.mark.parametrize("size", [1, 2, 5, 13])
def test_windows_are_the_runs_of_words_within_a_text(size: int) -> None:
    writer = Writer(1)
    texts = [writer.text(count) for count in (1, 4, 5, 6, 13, 14, 60, 200)]
    folded = fold(texts)
    hashes, bounds = windows(folded.words, folded.word_bounds, size)
    runs = []
    for text, begin, end in zip(folded.texts, bounds[:-1], bounds[1:], strict=True):
        words = text.split()
        own = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        assert len(own) == end - begin
        runs += own
    assert len(set(runs)) == len(set(hashes.tolist())) == len(set(zip(runs, hashes.tolist(), strict=True)))


def test_hashes_of_many_words_do_not_collide_and_use_all_bits() -> None:
    texts = [f"w{number}" for number in range(200_000)]
    words = np.concatenate([folded.words for _, folded in batches(texts)])
    assert len(np.unique(words)) == len(texts)
    shares = [float(((words >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert min(shares) > 0.49 and max(shares) < 0.51
