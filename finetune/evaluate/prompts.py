"""System prompts for the base: the user's, or made from what the answers look like, and the best of them.

A base with a poor prompt is no opponent. The prompts are compared on training rows that are neither held out nor
shown as examples, by the metric that decides.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from finetune.data.rows import Message
from finetune.errors import Fault, UserError
from finetune.evaluate.structured import is_json, strict_json

MOST_PROMPTS = 32
LONGEST_PROMPT = 20_000  # characters
# References are labels when there are so few different ones, each given so often, and none is long.
MOST_LABELS, LABEL_ROWS, LONGEST_LABEL = 24, 3, 60
FEW_VALUES = 12  # different values of a field that are all named
SHORT_WORDS = 8  # words of a typical answer that is short
SHOWN_ANSWERS = 3


@dataclass(frozen=True)
class SystemPrompt:
    """A prompt, and what it is called."""

    name: str
    text: str


def read_prompts(paths: Sequence[str]) -> list[SystemPrompt]:
    """The user's prompts, one a file; every fault is raised at once."""
    faults, prompts = list[Fault](), list[SystemPrompt]()
    if len(paths) > MOST_PROMPTS:
        raise UserError.at("evaluate.prompts", f"{len(paths)} prompts", f"give at most {MOST_PROMPTS}")
    for given in paths:
        path, where = Path(given).expanduser(), f"evaluate.prompts {given}"
        try:
            text = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            faults.append(Fault(where, f"is not UTF-8 at byte {error.start}", "convert it with iconv"))
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            faults.append(Fault(where, what, "give text files with one system prompt each"))
        else:
            if not text:
                faults.append(Fault(where, "is empty", "write a prompt into it, or leave it out"))
            elif len(text) > LONGEST_PROMPT:
                what = f"has {len(text):,} characters, and a prompt at most {LONGEST_PROMPT:,}"
                faults.append(Fault(where, what, "shorten it"))
            prompts.append(SystemPrompt(given, text))
    if faults:
        raise UserError(faults)
    return prompts


def with_prompt(messages: Sequence[Message], text: str, bare: bool) -> list[Message]:
    """The messages under a system prompt, after the row's own if it has one."""
    first, rest = messages[0], list(messages[1:])
    if bare:
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *rest]
    if first["role"] == "system":
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, first, *rest]


def made_for(references: Sequence[str], seed: int) -> list[SystemPrompt]:
    """A handful of prompts that say what such answers look like."""
    answers = [reference.strip() for reference in references]
    counts = Counter(answers)
    few = len(counts) <= MOST_LABELS and len(answers) >= LABEL_ROWS * len(counts)
    if all(is_json(answer) and isinstance(strict_json(answer), dict) for answer in answers):
        return _for_json(answers, seed)
    if few and max(map(len, counts)) <= LONGEST_LABEL:
        return _for_labels(sorted(counts))
    if all(_is_number(answer) for answer in answers):
        return [
            SystemPrompt("number", "Answer with the number alone: no words, no unit, no working."),
            SystemPrompt("result", "Work it out silently, then write only the resulting number."),
            _alike(answers, seed),
        ]
    words = median(len(answer.split()) for answer in answers)
    if words <= SHORT_WORDS:
        alone = (
            "Answer with the answer alone: no full sentence around it, no explanation, no repetition of the question."
        )
        short = f"Give only the answer, in about {max(1, round(words))} words. Write nothing before or after it."
        return [SystemPrompt("alone", alone), SystemPrompt("short", short), _alike(answers, seed)]
    plain = "Answer directly and completely. Begin with the answer itself: no introduction and no closing remark."
    about = f"Answer in about {round(words)} words, without an introduction or a closing remark."
    return [SystemPrompt("direct", plain), SystemPrompt("length", about), _alike(answers, seed)]


def _for_labels(labels: Sequence[str]) -> list[SystemPrompt]:
    listed = "\n".join(f"- {label}" for label in labels)
    exactly = f"Answer with exactly one of these, written as here, and with nothing else:\n{listed}"
    decide = f"Decide which of the following fits best, and reply with it alone, unexplained: {', '.join(labels)}."
    last = f"The only allowed answers are:\n{listed}\nDo not explain. Do not add punctuation. Write one of them."
    return [SystemPrompt("one-of", exactly), SystemPrompt("decide", decide), SystemPrompt("only", last)]


def _for_json(answers: Sequence[str], seed: int) -> list[SystemPrompt]:
    objects = [strict_json(answer) for answer in answers]
    keys = list(dict.fromkeys(key for found in objects for key in found))
    alone = "Answer with one JSON object and nothing else: no explanation, no code fence."
    fields = "\n".join(f"- {json.dumps(key, ensure_ascii=False)}: {_values(key, objects)}" for key in keys)
    described = f"{alone} Its keys, in this order:\n{fields}"
    example = random.Random(seed).choice(list(answers))
    named = ", ".join(json.dumps(key, ensure_ascii=False) for key in keys)
    return [
        SystemPrompt("fields", described),
        SystemPrompt("fields-and-form", f"{described}\nFor another message the answer was:\n{example}"),
        SystemPrompt("keys", f"{alone} It has the keys {named}. It is written like this one:\n{example}"),
    ]


def _values(key: str, objects: Sequence[dict[str, Any]]) -> str:
    """What a field holds, in words; all values where they are few."""
    values = [found[key] for found in objects if key in found]
    said = list(dict.fromkeys(kind for value in values for kind in _kinds(value)))
    texts = Counter(value for value in values if isinstance(value, str))
    items = Counter(item for value in values if isinstance(value, list) for item in value if isinstance(item, str))
    for counts, kind, few in ((texts, "text", "one of {}"), (items, "a list", "a list of any of {}")):
        if kind in said and counts and len(counts) <= FEW_VALUES and counts.total() >= LABEL_ROWS * len(counts):
            named = ", ".join(json.dumps(value, ensure_ascii=False) for value in sorted(counts))
            said[said.index(kind)] = few.format(named)
    missing = " (left out where it does not apply)" if len(values) < len(objects) else ""
    return " or ".join(said) + missing


def _kinds(value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield "true or false"
    elif value is None:
        yield "null"
    elif isinstance(value, (int, float)):
        yield "a number"
    else:
        yield "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _alike(answers: Sequence[str], seed: int) -> SystemPrompt:
    """Some answers without their questions, as a form to keep to."""
    different = sorted(set(answers))
    shown = random.Random(seed).sample(different, min(SHOWN_ANSWERS, len(different)))
    text = "\n\n".join(shown)
    return SystemPrompt("alike", f"Answer in the form of these answers, which were given to other questions:\n\n{text}")


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return any(character.isdigit() for character in text)
