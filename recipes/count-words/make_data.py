"""Writes the rows of `count-words`: how many words are there? Seeded; the two files share no word but those that ask.

A row holds a question and its answer, and no text to imitate: what the model learns from are its own answers.
"""

import json
from pathlib import Path
from random import Random

from finetune.tiny.curriculum import WORDS

FOLDER = Path(__file__).parent
FEWEST, MOST = 2, 7
COUNTS = {"train": 900, "heldout": 200}
TRAINED = 0.75  # share of the words that training rows are made of


def words() -> dict[str, list[str]]:
    """The words of each file."""
    every = sorted(set(WORDS))
    Random("count-words").shuffle(every)
    cut = int(TRAINED * len(every))
    return {"train": every[:cut], "heldout": every[cut:]}


def rows(rng: Random, known: list[str], most: int) -> list[dict[str, str]]:
    """Distinct questions, each number of words as often as another."""
    found: dict[str, str] = {}
    while len(found) < most:
        count = FEWEST + len(found) % (MOST - FEWEST + 1)
        found[" ".join(rng.choice(known) for _ in range(count))] = str(count)
    return [{"prompt": f"How many words: {given}", "answer": count} for given, count in found.items()]


if __name__ == "__main__":
    for name, known in words().items():
        lines = [json.dumps(row) + "\n" for row in rows(Random(f"count-words {name}"), known, COUNTS[name])]
        (FOLDER / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
