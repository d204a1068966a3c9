"""Writes the rows of `count-words`: how many words are there? Seeded; the two files share no word but those that ask.

A row holds a question and its answer, and no text to imitate: what the model learns from are its own answers.
"""
# ruff: noqa: SIM905 (word lists are easier to read as running text)

import json
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent
FEWEST, MOST = 2, 7
COUNTS = {"train": 900, "heldout": 200}
WORDS = {
    "train": (
        "lamp radio clock camera chair table coat jacket hammer ladder piano guitar kettle mirror bicycle scarf drum "
        "shelf river mountain forest garden bridge harbour island valley meadow desert village castle tower market apple "
        "bread butter cheese honey lemon onion pepper potato rice salt soup sugar tomato baker doctor driver farmer judge "
        "nurse painter pilot sailor singer teacher writer bear camel crow dog eagle fox goat horse lion monkey owl rabbit "
        "sheep snake tiger wolf morning evening winter summer rain snow wind storm cloud letter paper pencil book story "
        "song picture window door floor roof wall kitchen bottle spoon plate basket button needle thread ribbon blanket"
    ),
    "heldout": (
        "sofa flute broom desk violin boot spade stool lake hill cave beach church palace street square pear milk oil "
        "carrot plum bean cook lawyer dancer waiter miner cat duck frog mouse pig swan ant spring autumn fog ice poem "
        "ink page map stair chimney cup knife fork bowl rope glove hat"
    ),
}


def rows(rng: Random, name: str) -> list[dict[str, str]]:
    """Distinct questions, each number of words as often as another."""
    words, found = WORDS[name].split(), dict[str, str]()
    while len(found) < COUNTS[name]:
        count = FEWEST + len(found) % (MOST - FEWEST + 1)
        found[" ".join(rng.choice(words) for _ in range(count))] = str(count)
    return [{"prompt": f"How many words: {given}", "answer": count} for given, count in found.items()]


if __name__ == "__main__":
    for name in COUNTS:
        lines = [json.dumps(row) + "\n" for row in rows(Random(f"count-words {name}"), name)]
        (FOLDER / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
