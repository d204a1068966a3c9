"""Writes the rows of `prefer-tone`, pairs of answers, and of `votes-tone`, answers with a thumb up or down.

A shop answers each message in the tone in which it was written: formal to formal ones, plain to plain ones. Which
of two answers is the better one is thus in the message alone: every answer is as often the better one as the worse
one, so that whoever does not read the message is right half of the time.
"""

import json
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent
VOTES = FOLDER.parent / "votes-tone"

# Alternatives are parted by a bar: first those of the training rows, then those of the held-out rows.
OPENINGS = {
    "formal": (
        "Dear shop,|Dear customer service,|Dear team,|Dear owner,|Dear office,|Dear store,",
        "Dear company,|Dear support,|Dear driver,",
    ),
    "plain": (
        "Hi,|Hi there,|Hi all,|Hi friends,|Hi you,|Hi shop,",
        "Hi team,|Hi again,|Hi everyone,",
    ),
}
PROBLEMS = (
    "the {p} is broken.|my {p} has not arrived.|the {p} came too late.|I lost the bill for the {p}.|the {p} is the "
    "wrong size.|I want to return the {p}.|the {p} stopped working.|nobody sent me the {p}.|the {p} is dirty.|I paid "
    "twice for the {p}.|I cannot open the {p}.|the {p} makes a strange noise.",
    "the {p} was damaged.|I still wait for the {p}.|the {p} has a strange smell.|I never ordered a {p}.|I would like "
    "another {p}.",
)
PRODUCTS = (
    "lamp|radio|clock|camera|chair|table|coat|jacket|hammer|ladder|piano|guitar|kettle|mirror|bicycle|scarf|drum|shelf",
    "sofa|flute|broom|desk|violin|boot|spade|stool",
)
ANSWERS = {
    "formal": (
        "We are sorry about the {p} and will help you.|We have received your message about the {p}.|Our team will "
        "look at your {p} today.|Please send us the number of the {p}.|We will send you another {p}.",
        "We are sorry about your {p}.|Our team will send you another {p}.|Please send us the {p}.",
    ),
    "plain": (
        "Oh no, the {p}! I can fix it.|Got it, I look at the {p} now.|Sure, a new {p} is on its way.|No worries, just "
        "bring the {p} back.|Ah, the {p} again! Tell me more.",
        "Oh no, your {p}! Tell me more.|Sure, just bring the {p} back.|Got it, a new {p} is on its way.",
    ),
}
COUNTS = (400, 120)


def pair(rng: Random, part: int, tone: str) -> dict[str, str]:
    """A message, the answer in its tone and one in the other; part 0 draws from the training words."""

    def pick(alternatives: tuple[str, str]) -> str:
        return rng.choice(alternatives[part].split("|"))

    product = pick(PRODUCTS)
    message = f"{pick(OPENINGS[tone])} {pick(PROBLEMS).format(p=product)}"
    answers = {kind: pick(texts).format(p=product) for kind, texts in ANSWERS.items()}
    (other,) = set(answers) - {tone}
    return {"prompt": message, "chosen": answers[tone], "rejected": answers[other]}


def pairs(part: int, seed: int) -> list[dict[str, str]]:
    """Different messages, as many of each tone."""
    rng, found = Random(f"tone:{seed}:{part}"), dict[str, dict[str, str]]()
    while len(found) < COUNTS[part]:
        row = pair(rng, part, ("formal", "plain")[len(found) % 2])
        found.setdefault(row["prompt"], row)
    return list(found.values())


def votes(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """Of each pair one answer with its vote, of each tone as many up as down."""
    found = []
    for number, row in enumerate(rows):
        up = number // 2 % 2 == 0
        found.append({"prompt": row["prompt"], "completion": row["chosen" if up else "rejected"], "label": up})
    return found


def write(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def check_apart() -> None:
    """Fails when an alternative serves both parts."""
    for train, heldout in (*OPENINGS.values(), PROBLEMS, PRODUCTS, *ANSWERS.values()):
        if shared := set(train.split("|")) & set(heldout.split("|")):
            raise ValueError(f"in both parts: {sorted(shared)}")


def main() -> None:
    """Writes the files of both recipes."""
    check_apart()
    for part, file in enumerate(("train.jsonl", "heldout.jsonl")):
        rows = pairs(part, seed=1)
        write(FOLDER / file, rows)
        write(VOTES / file, votes(rows))


if __name__ == "__main__":
    main()
