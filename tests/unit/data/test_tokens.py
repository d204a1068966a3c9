"""Tokens put together from pieces are those that the tokenizers library makes of the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from finetune.data import tokens as tokens_module
from finetune.data.tokens import Joined, Pieces, Whole
from finetune.tiny import PATH

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ALPHABET = (
    "aAbB 12  \n\n\t.,!'s'S'll<|end|><|user|>\r\n\u00e9\u00df\u0130\u017f\u212b\u0301\u4e2d\u6587\u0639\u0631\u0915\u093f\u2019"
    "\u201c\u2014\u00a0\u2003\u200b\u0663\u00bd\u2166\U0001f600\U0001f1f3\x00\x1c\x85\ufeff"
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are used from the first text on."""
    monkeypatch.setattr(tokens_module, "FIRST", 0)


def backend(pre: Any, normalizer: Any = None, **token: bool) -> Tokenizer:
    """The embedded model's vocabulary behind another way of cutting."""
    made = Tokenizer.from_file(str(PATH / "tokenizer.json"))
    made.pre_tokenizer = pre
    if normalizer:
        made.normalizer = normalizer
    if token:
        made.add_tokens([AddedToken("<|odd|>", **token)])
    return made


def split(pattern: str, **more: Any) -> Any:
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated", **more), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return pre_tokenizers.Sequence(parts)


LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
CASED = (  # how the o200k family cuts: by upper and lower case and by marks
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def smollm() -> Tokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return backend(pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def with_words_added() -> Tokenizer:
    made = backend(split(LLAMA))
    made.add_tokens(["Oslo", AddedToken("\n\n\n", normalized=False), "\u4e2d\u6587"])
    return made


UNDERSTOOD: dict[str, Callable[[], Tokenizer]] = {
    "tiny": lambda: Tokenizer.from_file(str(PATH / "tokenizer.json")),
    "gpt2": lambda: backend(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "qwen": lambda: backend(split(QWEN), normalizers.NFC()),
    "llama 3": lambda: backend(split(LLAMA)),
    "smollm": smollm,
    "o200k": lambda: backend(split(CASED)),
    "words are added tokens": with_words_added,
    "words alone": lambda: backend(split(r"\p{L}+")),
}
LEFT_ALONE: dict[str, Callable[[], Tokenizer]] = {
    "a space is put first": lambda: backend(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "lower case": lambda: backend(pre_tokenizers.ByteLevel(False), normalizers.Lowercase()),
    "tokens that eat spaces": lambda: backend(pre_tokenizers.ByteLevel(False), lstrip=True),
    "what is found is what parts": lambda: backend(split(r"\s+", invert=True)),
    "metaspace": lambda: backend(pre_tokenizers.Metaspace()),
    "nothing is cut": lambda: Tokenizer(models.BPE()),
    "sets of sets": lambda: backend(split(r"[[a-z]&&[^q]]+")),
    "scripts": lambda: backend(split(r"\p{Greek}+|[^\p{Greek}]+")),
    "a piece that depends on what follows": lambda: backend(split(r"ab(?=c)|a|b|[^ab]+")),
}


def texts(seed: int, count: int = 300) -> list[str]:
    """Random texts of characters that are cut in different ways."""
    dice = random.Random(seed)
    return ["".join(dice.choices(ALPHABET, k=dice.randint(0, 40))) for _ in range(count)] + ["", " ", "<|end|>"]


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_same_tokens_as_the_library(name: str) -> None:
    tokenizer = UNDERSTOOD[name]()
    pieces = Pieces(tokenizer)
    pieces.encode(["first"])
    some = texts(1)
    made = [tokens for begin in range(0, len(some), 7) for tokens in pieces.encode(some[begin : begin + 7])]
    assert [tokens.ids for tokens in made] == [tokenizer.encode(text, add_special_tokens=False).ids for text in some]
    assert sum(isinstance(tokens, Joined) for tokens in made) > 20


def any_unicode(seed: int, count: int = 300) -> list[str]:
    """Random texts of any characters there are, of one script mostly, with words, added tokens and spaces between."""
    dice = random.Random(seed)
    known = ["the ", "Oslo", " 1234", "\n\n\n", "<|end|>", "'ll", "'S", " \t", "\r\n", ". ", "e\u0301", "\u4e2d\u6587"]
    made = []
    for _ in range(count):
        begin = dice.choice((0, 0x80, 0x370, 0x600, 0x900, 0x1100, 0x2000, 0x3000, 0xAC00, 0xFE00, 0x1D400, 0x1F300))
        near = [chr(begin + dice.randrange(256)) for _ in range(12)]
        far = [chr(code) for _ in range(4) if not 0xD800 <= (code := dice.randrange(1, 0x110000)) < 0xE000]
        made.append("".join(dice.choices([*known, *near, *far], k=dice.randint(1, 30))))
    return made


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_same_tokens_as_the_library_for_any_unicode(name: str) -> None:
    tokenizer = UNDERSTOOD[name]()
    pieces = Pieces(tokenizer)
    pieces.encode(["first"])
    some = any_unicode(5)
    made = pieces.encode(some)
    assert [tokens.ids for tokens in made] == [tokenizer.encode(text, add_special_tokens=False).ids for text in some]
    assert sum(isinstance(tokens, Joined) for tokens in made) > 20


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_places_that_are_told_are_those_of_the_library(name: str) -> None:
    pieces = Pieces(UNDERSTOOD[name]())
    pieces.encode(["first"])
    told = 0
    for text in texts(2, 150):
        joined, whole = pieces.encode([text])[0], pieces.whole([text])[0]
        if isinstance(joined, Joined):
            for place in range(len(text) + 1):
                at = joined.at(place)
                told += at is not None
                assert at in (None, whole.at(place)), (text, place)
            for token in range(len(joined.ids)):
                assert joined.place(token) in (None, whole.place(token)), (text, token)
    assert told > 100


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_not_understood_is_left_to_the_library(name: str) -> None:
    tokenizer = LEFT_ALONE[name]()
    pieces = Pieces(tokenizer)
    some = [*texts(3, 50), "xabc"]
    made = [tokens for text in some for tokens in pieces.encode([text])]
    assert [tokens.ids for tokens in made] == [tokenizer.encode(text, add_special_tokens=False).ids for text in some]
    assert isinstance(made[-1], Whole)


@pytest.mark.parametrize("mark", ["\x1c", "\x1f", "\x85", "\xa0", "\u180e", "\u200b", "\u2028", "\u3000"])
def test_spaces_are_those_of_the_library_and_not_those_of_python(mark: str) -> None:
    for name, make in UNDERSTOOD.items():
        tokenizer = make()
        pieces = Pieces(tokenizer)
        pieces.encode(["first"])
        for text in (f"a\n\n{mark}b", f"a  {mark}b", f"{mark}{mark}a{mark}\n\n"):
            (made,) = pieces.encode([text])
            assert made.ids == tokenizer.encode(text, add_special_tokens=False).ids, (name, text)


def test_a_character_that_is_cut_otherwise_sends_its_text_to_the_library() -> None:
    tokenizer = backend(split(QWEN), normalizers.NFC())
    pieces = Pieces(tokenizer)
    composed, apart = pieces.encode(["plain", "\u212b", "e\u0301"])[1:]
    assert isinstance(composed, Whole) and isinstance(apart, Whole)
    assert isinstance(pieces.encode(["caf\u00e9"])[0], Joined)


def test_memory_of_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "MOST_PIECES", 300)
    tokenizer = UNDERSTOOD["tiny"]()
    pieces = Pieces(tokenizer)
    some = [f"word{chr(97 + n % 26)}{chr(97 + n // 26 % 26)} {'long' * 40}{n}" for n in range(600)]
    for text in some:
        assert pieces.encode([text])[0].ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert len(pieces._known) < 400
    assert max(map(len, pieces._known)) <= tokens_module.LONGEST_PIECE


def test_rows_are_labelled_alike_in_both_ways(family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from families import FAMILIES

    from finetune.data.encode import Encoder
    from finetune.data.rows import Chat

    dice = random.Random(4)
    rows = []
    for _ in range(12):
        turns = dice.choice((2, 4))
        said = ["".join(dice.choices("ab cd. 12 \n\u00e9'", k=12)).strip() or "x" for _ in range(turns)]
        rows.append(Chat(tuple({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said))))
    for name in FAMILIES:
        quick = Encoder(family(name)).encode(rows)
        monkeypatch.setattr(tokens_module, "FIRST", 10**9)
        assert quick == Encoder(family(name)).encode(rows), name
        monkeypatch.setattr(tokens_module, "FIRST", 0)
