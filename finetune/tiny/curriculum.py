"""Seeded generators of everything that the embedded model is trained and scored on.

Names, numbers and sums come in two halves, `train` and `test`, parted by a hash, so that a test never shows
a name seen in training.
"""
# ruff: noqa: SIM905 (word lists are easier to read as running text)

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from finetune.tiny.words import (
    ADJECTIVES,
    ASIDES,
    CARRIERS,
    CATEGORIES,
    COLOURS,
    COMMON,
    FACTS,
    KEYS,
    NOUNS,
    PAST_VERBS,
    PLACES_PHRASES,
    TIMES,
)

Split = Literal["train", "test"]
T = TypeVar("T")
Message = dict[str, str]


@dataclass(frozen=True)
class Episode:
    """A conversation and which of its messages carry loss, or plain text that carries it everywhere."""

    skill: str
    messages: tuple[Message, ...] = ()
    trained: tuple[int, ...] = ()
    text: str = ""


ONSETS = "b br d dr f g gr h j k kl l m n p pl r s st t tr v w y z".split()
VOWELS = "a e i o u".split()
CODAS = ["", "", "", "l", "n", "r", "s", "m", "k", "x", "nd", "th"]
THINGS = [word for words in CATEGORIES.values() for word in words]
WORDS = THINGS + NOUNS


def split_of(text: str) -> Split:
    """The half of the world that a name, number or sum belongs to; one in five is kept for tests."""
    return "test" if hashlib.sha256(text.lower().encode()).digest()[0] % 5 == 0 else "train"


def _draw(make: Callable[[], str], split: Split) -> str:
    while True:
        text = make()
        if split_of(text) == split:
            return text


def coined(rng: Random, split: Split) -> str:
    """An invented lower-case word of two or three syllables."""

    def make() -> str:
        count = 2 if rng.random() < 0.7 else 3
        return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(count)) + rng.choice(CODAS)

    return _draw(make, split)


def name(rng: Random, split: Split) -> str:
    """An invented proper name."""
    return coined(rng, split).capitalize()


def blend(rng: Random, split: Split) -> str:
    """The head of one English word and the tail of another, so that every piece of a word is once an answer."""

    def make() -> str:
        head, tail = rng.choice(COMMON + WORDS), rng.choice(COMMON + WORDS + PAST_VERBS)
        return head[: rng.randint(1, 4)] + tail[-rng.randint(2, 4) :]

    return _draw(make, split)


def number(rng: Random, split: Split, low: int = 2, high: int = 6) -> str:
    """A string of digits that does not begin with zero."""
    return _draw(lambda: str(rng.randint(10 ** (n := rng.randint(low, high)) // 10, 10**n - 1)), split)


def names(rng: Random, split: Split, count: int) -> list[str]:
    """Distinct names."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[name(rng, split)] = None
    return list(found)


def _conversation(skill: str, turns: list[tuple[str, str]], system: str = "", first: int = 0) -> Episode:
    messages = [{"role": "system", "content": system}] if system else []
    trained = []
    for index, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": question})
        if index >= first:
            trained.append(len(messages))
        messages.append({"role": "assistant", "content": answer})
    return Episode(skill, tuple(messages), tuple(trained))


# --- (b) and (d): a fact among sentences, or its absence --------------------------------------------------

ABSENT = [
    "not stated",
    "I don't know.",
    "not found",
    "The documents do not say.",
    "unknown",
    "It is not there.",
]
ASKS = [
    "",
    "",
    "Answer from the documents.",
    "Use only these facts.",
    "Read this and answer.",
    "Facts:",
    "Documents:",
]
MARKS: list[Callable[[int, str], str]] = [
    lambda i, s: s,
    lambda i, s: f"- {s}",
    lambda i, s: f"[{i}] {s}",
    lambda i, s: f"{i}. {s}",
    lambda i, s: f"({i}) {s}",
    lambda i, s: f"Document {i}: {s}",
    lambda i, s: f'<document id="{i}">{s}</document>',
]


def _value(rng: Random, split: Split, kind: str) -> str:
    if kind == "name":
        return name(rng, split)
    if kind == "number":
        return number(rng, split, 2, 4)
    return rng.choice({"colour": COLOURS, "job": CATEGORIES["job"]}.get(kind, THINGS))


def lookup(rng: Random, split: Split, passages: int, absent: float = 0.15) -> Episode:
    """One to three questions about sentences in the prompt; some have no answer there."""
    subjects = names(rng, split, passages + 1)
    facts: list[tuple[str, str, str, str, str]] = []
    for index in range(passages):
        # now and then two facts about one subject, so that the relation matters and not only the name
        subject = subjects[index - 1] if index and rng.random() < 0.25 else subjects[index]
        told, asked, kind = rng.choice(FACTS)
        slots = {"n": subject, "v": _value(rng, split, kind), "w": rng.choice(NOUNS), "t": rng.choice(TIMES)}
        if (subject, asked) not in [(f[0], f[1]) for f in facts]:
            facts.append((subject, asked, told.format(**slots), asked.format(**slots), slots["v"]))
    mark = rng.choice(MARKS)
    lines = [mark(i, fact[2]) for i, fact in enumerate(facts, 1)]
    missing = rng.choice(ABSENT)
    cite = rng.random() < 0.1
    turns = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < absent:
            _, asked, _ = rng.choice(FACTS)
            turns.append((asked.format(n=subjects[-1], w=rng.choice(NOUNS)), missing))
        else:
            index = rng.randrange(len(facts))
            turns.append((facts[index][3], facts[index][4] + (f" [{index + 1}]" if cite else "")))
    warned = rng.random() < 0.7 or any(answer == missing for _, answer in turns)
    rules = [
        rng.choice(ASKS),
        "Name the document too." if cite else "",
        f"If it is missing, say: {missing}" if warned else "",
    ]
    head = " ".join(rule for rule in rules if rule)
    body = ("\n" if rng.random() < 0.8 else " ").join(lines)
    layout = rng.random()
    if layout < 0.3:
        return _conversation("lookup", turns, system=f"{head}\n{body}".strip())
    prompt = f"{head}\n{body}\n\n{turns[0][0]}" if layout < 0.8 else f"{turns[0][0]}\n\n{body}\n{head}"
    return _conversation("lookup", [(prompt.strip(), turns[0][1]), *turns[1:]])


def missing(rng: Random, split: Split, passages: int) -> Episode:
    """Look-ups of which none has an answer."""
    return Episode("missing", (e := lookup(rng, split, passages, absent=1.0)).messages, e.trained)


# --- (f) plain English ------------------------------------------------------------------------------------


def sentence(rng: Random, who: str = "") -> str:
    """A grammatical sentence without much sense."""
    who = who or rng.choice(["I", "We", "She", "He", "They", "My " + rng.choice(NOUNS), "The " + rng.choice(NOUNS)])
    a, b, c = rng.choice(NOUNS), rng.choice(WORDS), rng.choice(WORDS)
    adjective = rng.choice(ADJECTIVES + COLOURS)
    verb = rng.choice(PAST_VERBS)
    place, time = rng.choice(PLACES_PHRASES), rng.choice(TIMES)
    forms = [
        f"{who} {verb} the {adjective} {b} {place}.",
        f"{who} {verb} a {b} {time}.",
        f"{who} {verb} the {b} and the {c}.",
        f"The {b} was {adjective}, but the {c} was not.",
        f"The {a} is {place} and the {b} is {adjective}.",
        f"There was a {adjective} {b} {place}.",
        f"I think the {a} of the {b} is too {adjective}.",
        f"{time[0].upper()}{time[1:]} {who.lower() if ' ' in who else who} {verb} the {b}.",
        f"Where is the {adjective} {b}?",
        f"Do you have a {b} for my {c}?",
        f"My {a} has a {adjective} {b}.",
        f"{who} {verb} it because the {a} was {adjective}.",
    ]
    return rng.choice(forms)


def text(rng: Random, split: Split, sentences: int) -> Episode:
    """A short passage about one or two invented people, for the model to continue."""
    people = names(rng, split, 2)
    parts = [f"{people[0]} is a {rng.choice(ADJECTIVES)} {rng.choice(CATEGORIES['job'])} from {name(rng, split)}."]
    for _ in range(sentences):
        who = rng.choice([people[0], people[0], people[1], "", "She", "He"])
        parts.append(rng.choice(ASIDES) if rng.random() < 0.15 else sentence(rng, who))
    return Episode("text", text=" ".join(parts))


# --- (a) the format of the examples -----------------------------------------------------------------------

Field = tuple[str, Callable[[Random, Split], tuple[str, str]]]  # key; draws (clause, value)


def _clause(rng: Random, kind: str, value: str, fixed: str) -> str:
    carrier = fixed or rng.choice(CARRIERS[kind])
    return carrier.format(v=value, w=rng.choice(NOUNS))


def _field(rng: Random, split: Split, varied: bool, odd: bool) -> Callable[[], tuple[str, str]]:
    """A source of (what the message says, what the answer holds) for one field of an invented format."""
    kinds = ["number", "name", "word", "category", "cue", "chosen"]
    kind = rng.choices(kinds, [3, 2, 2, 5, 3, 2] if odd else [4, 3, 2, 2, 3, 2])[0]
    carrier_kind = {"category": "word", "chosen": "word"}.get(kind, kind)
    fixed = "" if varied else rng.choice(CARRIERS[carrier_kind])
    if kind in ("number", "name", "word"):
        low, high = (n := rng.randint(2, 6)), rng.randint(n, 6)
        draw: dict[str, Callable[[], str]] = {
            "number": lambda: number(rng, split, low, high),
            "name": lambda: name(rng, split),
            "word": lambda: blend(rng, split) if odd and rng.random() < 0.5 else rng.choice(WORDS),
        }

        def copied() -> tuple[str, str]:
            value = draw[kind]()
            return _clause(rng, kind, value, fixed), value

        return copied
    if kind == "category":
        groups = rng.sample(list(CATEGORIES), rng.randint(2, 4))

        def category() -> tuple[str, str]:
            group = rng.choice(groups)
            return _clause(rng, "word", rng.choice(CATEGORIES[group]), fixed), group

        return category
    # labels invented for this one conversation, decided by a word in the message
    count = rng.randint(2, 3)
    cues = rng.sample(ADJECTIVES + COMMON if kind == "cue" else WORDS, count)
    invent = blend if odd and rng.random() < 0.6 else coined
    labels = [rng.choice([invent(rng, split), rng.choice(WORDS)]) for _ in cues]
    table = list(zip(cues, labels, strict=True))

    def label() -> tuple[str, str]:
        cue, value = rng.choice(table)
        return _clause(rng, carrier_kind, cue, fixed), value

    return label


FORMATS: list[Callable[[list[str], list[str]], str]] = [
    lambda k, v: json.dumps(dict(zip(k, v, strict=True)), separators=(",", ":")),
    lambda k, v: json.dumps(dict(zip(k, v, strict=True)), separators=(",", ":")),
    lambda k, v: json.dumps(dict(zip(k, v, strict=True))),
    lambda k, v: "\n".join(f"{a}: {b}" for a, b in zip(k, v, strict=True)),
    lambda k, v: "; ".join(f"{a}={b}" for a, b in zip(k, v, strict=True)),
    lambda k, v: "".join(f"<{a}>{b}</{a}>" for a, b in zip(k, v, strict=True)),
    lambda k, v: " | ".join(v),
    lambda k, v: ",".join(v),
    lambda k, v: f"[{v[0]}] " + " ".join(v[1:]) if len(v) > 1 else f"[{v[0]}]",
    lambda k, v: " and ".join(f"{a} is {b}" for a, b in zip(k, v, strict=True)),
]


def format_(rng: Random, split: Split, level: int, odd: bool = False) -> Episode:
    """Turns of message and answer in one invented format; the model must go on in it."""
    fields = rng.randint(1, 2 if level < 2 else 4)
    varied = level >= 2 and rng.random() < 0.7
    shots = rng.randint(1, 3 if level < 3 else 5)
    keys = rng.sample(KEYS, fields)
    invent = blend if odd else coined
    keys = [invent(rng, split) if rng.random() < (0.4 if odd else 0.25) else key for key in keys]
    if len(set(keys)) < fields:  # an invented word came twice
        keys = rng.sample(KEYS, fields)
    sources = [_field(rng, split, varied, odd) for _ in range(fields)]
    render = rng.choice(FORMATS)
    order = rng.sample(range(fields), fields)
    chatter = rng.choice([0.0, 0.3, 0.6]) if level >= 2 else 0.0
    turns = []
    for _ in range(shots + 1):
        drawn = [source() for source in sources]
        if varied:
            rng.shuffle(order)
        parts = []
        for index in order:
            parts.append(drawn[index][0][0].upper() + drawn[index][0][1:] + ".")
            if rng.random() < chatter:
                parts.append(rng.choice(ASIDES) if rng.random() < 0.4 else sentence(rng))
        if rng.random() < 0.3 and fields > 1:  # clauses in one breath
            parts = [", ".join(part.rstrip(".") for part in parts) + "."]
        turns.append((" ".join(parts), render(keys, [value for _, value in drawn])))
    system = rng.choice(["Give the " + ", ".join(keys) + ".", "Reply like this: " + render(keys, ["..."] * fields)])
    told = rng.random() < 0.3
    return _conversation("format", turns, system=system if told else "", first=0 if told else 1)


# --- (c), (e), (g): spans, sums, small instructions -------------------------------------------------------


def quote(rng: Random, split: Split, count: int) -> Episode:
    """Who said what, word for word."""
    people = names(rng, split, count)
    said = []
    for _ in people:
        phrase = sentence(rng).rstrip(".?") if rng.random() < 0.5 else " ".join(rng.sample(WORDS, rng.randint(1, 4)))
        said.append(phrase + (" " + name(rng, split) if rng.random() < 0.3 else ""))
    form = rng.choice(['{p} said "{s}".', '{p}: "{s}"', '"{s}", said {p}.', '{p} wrote "{s}" on the wall.'])
    story = " ".join(form.format(p=p, s=s) for p, s in zip(people, said, strict=True))
    turns = []
    for index in rng.sample(range(count), min(count, rng.choice([1, 2]))):
        asked = "What was quoted?" if count == 1 and rng.random() < 0.5 else f"What are the words of {people[index]}?"
        turns.append((asked, said[index]))
    return _conversation("quote", [(f"{story} {turns[0][0]}", turns[0][1]), *turns[1:]])


def _sum(rng: Random, split: Split, high: int) -> tuple[str, str]:
    def make() -> str:
        return f"{rng.randint(0, high)} {rng.choice('+-')} {rng.randint(0, high)}"

    problem = _draw(make, split)
    a, sign, b = problem.split()
    if sign == "-" and int(a) < int(b):
        return _sum(rng, split, high)
    return problem, str(int(a) + int(b) if sign == "+" else int(a) - int(b))


def sums(rng: Random, split: Split, high: int) -> Episode:
    """Addition and subtraction."""
    form = rng.choice(["What is {}?", "{} =", "Compute {}", "How much is {}?"])
    turns = [_sum(rng, split, high) for _ in range(rng.randint(1, 4))]
    return _conversation("sums", [(form.format(problem), answer) for problem, answer in turns])


def instruct(rng: Random, split: Split, level: int) -> Episode:
    """Small things done to a few words."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        words = [
            name(rng, split) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(rng.randint(2, 2 + level))
        ]
        given = " ".join(words)
        turns.append(
            rng.choice(
                [
                    (f"Repeat: {given}", given),
                    (f"Say this back to me: {given}", given),
                    (f"First word: {given}", words[0]),
                    (f"What is the first word of: {given}", words[0]),
                    (f"Last word: {given}", words[-1]),
                    (f"What is the last word of: {given}", words[-1]),
                    (f"How many words: {given}", str(len(words))),
                    (f"Write backwards, word by word: {given}", " ".join(reversed(words))),
                    (f"Put commas between: {given}", ", ".join(words)),
                    (f"In capitals: {words[0]}", words[0].upper()),
                    (f"Make a JSON list: {given}", json.dumps(words)),
                    (f"In quotes: {given}", f'"{given}"'),
                    (f"Say {words[0]} twice.", f"{words[0]} {words[0]}"),
                    (f"What kind of thing is it: {(thing := rng.choice(THINGS))}", _category(thing)),
                ]
            )
        )
    return _conversation("instruct", turns)


def echo(rng: Random, split: Split, longest: int, odd: bool = False) -> Episode:
    """Names, numbers and words to be said again: every token of the answer teaches the model to copy."""
    turns = []
    for _ in range(rng.randint(1, 2)):
        count = rng.randint(2, longest)
        draws = [
            lambda: name(rng, split),
            lambda: coined(rng, split),
            lambda: number(rng, split),
            lambda: rng.choice(WORDS),
        ]
        draws.append(lambda: rng.choice(COMMON + ADJECTIVES + PAST_VERBS))
        draws += [lambda: blend(rng, split)] * 4 if odd else []
        given = rng.choice([" ", " ", ", ", "\n"]).join(rng.choice(draws)() for _ in range(count))
        turns.append((f"{rng.choice(['Repeat: ', 'Say this back to me: ', 'Again: '])}{given}", given))
    return _conversation("echo", turns)


def _category(thing: str) -> str:
    return next(key for key, words in CATEGORIES.items() if thing in words)


# --- the schedule -----------------------------------------------------------------------------------------

SKILLS = ("format", "lookup", "missing", "quote", "sums", "instruct", "text", "echo")


# From which block on: how many sentences at most; how varied; and how often each skill comes.
SENTENCES = {0: 1, 8: 2, 28: 4, 45: 6, 60: 8}
LEVELS = {0: 1, 24: 2, 50: 3}
SHARES = {
    0: [0, 20, 0, 10, 0, 5, 5, 60],
    11: [28, 32, 0, 10, 3, 8, 4, 15],
    24: [32, 24, 4, 9, 14, 9, 4, 4],
    55: [36, 22, 5, 6, 14, 7, 3, 7],
    84: [28, 44, 8, 5, 6, 4, 2, 3],
    100: [34, 24, 3, 9, 11, 11, 6, 2],
}
# Blended words and many categories; what is beyond is not trained on, but the tokenizer has learned from it.
ODD = range(55, 100)


def _at(stage: int, table: dict[int, T]) -> T:
    return table[max(begin for begin in table if begin <= stage)]


def make(skill: str, rng: Random, split: Split, stage: int) -> Episode:
    """An episode of a skill, as hard as befits the block of training that it is for."""
    most, level = _at(stage, SENTENCES), _at(stage, LEVELS)
    if skill == "format":
        return format_(rng, split, level, odd=stage in ODD)
    if skill in ("lookup", "missing"):
        passages = max(rng.randint(1, most), rng.randint(1, most))
        return lookup(rng, split, passages) if skill == "lookup" else missing(rng, split, passages)
    if skill == "quote":
        return quote(rng, split, rng.randint(1, min(4, most)))
    if skill == "sums":
        small = rng.random() < 0.5 or stage < 40
        return sums(rng, split, 9 if small else 20 if rng.random() < 0.5 else 99)
    if skill == "instruct":
        return instruct(rng, split, level + 1)
    if skill == "echo":
        return echo(rng, split, 12, odd=stage in ODD)
    return text(rng, split, rng.randint(2, 5 + 3 * level))


def block(seed: int, index: int, size: int, stage: int | None = None) -> list[Episode]:
    """The episodes of one stretch of training, always the same; as hard as its index unless told."""
    rng = Random(f"curriculum:{seed}:{index}")
    stage = index if stage is None else stage
    shares = _at(stage, SHARES)
    return [make(rng.choices(SKILLS, shares)[0], rng, "train", stage) for _ in range(size)]


def exams(rows: int) -> dict[str, list[Episode]]:
    """Test episodes about unseen names for each skill; each has one graded answer, the last."""
    kinds: dict[str, Callable[[Random], Episode]] = {
        "look up, 1 sentence": lambda r: lookup(r, "test", 1, absent=0.0),
        "look up, 2 sentences": lambda r: lookup(r, "test", 2, absent=0.0),
        "look up, 4 sentences": lambda r: lookup(r, "test", 4, absent=0.0),
        "look up, 8 sentences": lambda r: lookup(r, "test", 8, absent=0.0),
        "say that it is missing, 4 sentences": lambda r: missing(r, "test", 4),
        "format of the examples, fixed wording": lambda r: format_(r, "test", 1),
        "format of the examples, free wording": lambda r: format_(r, "test", 3),
        "quote, 1 speaker": lambda r: quote(r, "test", 1),
        "quote, 3 speakers": lambda r: quote(r, "test", 3),
        "sums to 9 + 9": lambda r: sums(r, "test", 9),
        "sums to 99 + 99": lambda r: sums(r, "test", 99),
        "small instructions": lambda r: instruct(r, "test", 3),
    }
    return {kind: [draw(Random(f"exam:{kind}:{i}")) for i in range(rows)] for kind, draw in kinds.items()}
