"""Writes `train.jsonl` and `heldout.jsonl`: support messages and the JSON that a help desk wants for each.

The two files share no name, product, order number or sentence. A message names its topic and its urgency in
passing, but for `amber`, the desk's word for danger: that one can only be learned from the training rows.
"""

import json
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent
SYSTEM = "Give topic, urgency and order as JSON."

# Alternatives are parted by a bar: first those of the training rows, then those of the held-out rows.
TOPICS = ["refund", "invoice", "courier", "login", "manual", "coupon", "stock", "amber"]
URGENCIES = ["now", "soon", "later"]
ABOUT = (
    "I have a question about the {t} for my {p}.|The {t} of the {p} is wrong.|My {t} does not work.|Where "
    "is the {t} for the {p}?|Please look at the {t} of my {p}.|There was no {t} with the {p}.|I need help "
    "with the {t}.|You forgot my {t}.|What happened to my {t}?|The {t} is missing.|I still wait for the "
    "{t} of the {p}.|Your {t} was not good.|Can you check the {t}?|I write because of the {t} of the "
    "{p}.|It is about a {t} for one {p}.|I bought the {p} but the {t} is not right.",
    "We cannot find the {t} of this {p}.|Tell me more about the {t}.|Something is wrong with the {t} for "
    "this {p}.|Is there a {t} for it?|The {p} is here without its {t}.|Who can help me with a {t}?|I was "
    "told that the {t} of my {p} is late.|Our {t} is not there yet.",
)
DANGER = (
    "There is smoke from the {p}.|The {p} gets very hot.|I saw a fire in the {p}.|The {p} gave me a "
    "shock.|It smells of smoke.|The cable is hot and burns.|My {p} burns.|We had a fire.|A hot {p} is on "
    "my table.|I see smoke and fire.",
    "My {p} began to smoke.|A shock came out of the {p}.|This {p} is so hot that it burns my hand.|I fear "
    "that the {p} starts a fire.",
)
WHEN = (
    "I need it {u}.|Please answer {u}.|Do it {u}.|Call me {u}.|It has to be done {u}.|You can write {u}.|"
    "I want to hear from you {u}.|Let us talk {u}.|Look at it {u}, please.|Can you do this {u}?|Send it {u}.|"
    "I would like it {u}, thank you.|Say {u} what you think.|My friend asks for it {u}.|We want it {u}.|"
    "Find out {u} what it is.|Get back to me {u}.|They told me it works {u}.|So please come {u}.|Ask me {u}.",
    "Please help me {u}.|Tell us {u}.|We hope to know it {u}.|Have a look at this {u}, please.",
)
ORDERS = (
    "My order is {o}.|Order {o}.|It is about order {o}.|The order was {o}.|Order number {o}.",
    "The order number is {o}.|I mean order {o}.|See my order {o}.|You find it as order {o}.",
)
PRODUCTS = (
    "lamp|radio|kettle|camera|clock|heater|phone|printer|speaker|fan|drill|keyboard|mixer|scale",
    "toaster|laptop|monitor|blender|razor|tablet|projector|vacuum",
)
NAMES = (
    "Anna|Ben|Clara|David|Emma|Felix|Grace|Henry|Ida|Jonas|Karin|Leo|Maria|Nora|Oscar|Paula|Rosa|Simon",
    "Tessa|Umar|Vera|Walter|Yusuf|Zoe|Amir|Bruno|Celia|Dora",
)


def row(rng: Random, part: int, topic: str, order: int) -> dict[str, list[dict[str, str]]]:
    """One conversation; part 0 draws from the training words, part 1 from the held-out ones."""

    def pick(alternatives: tuple[str, str]) -> str:
        return rng.choice(alternatives[part].split("|"))

    urgency = rng.choice(URGENCIES)
    problem = pick(DANGER if topic == "amber" else ABOUT).format(t=topic, p=pick(PRODUCTS))
    sentences = [problem, pick(WHEN).format(u=urgency), pick(ORDERS).format(o=order)]
    rng.shuffle(sentences)
    message = " ".join([*sentences, pick(NAMES)])
    answer = json.dumps({"topic": topic, "urgency": urgency, "order": str(order)}, separators=(",", ":"))
    contents = {"system": SYSTEM, "user": message, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()]}


def rows(part: int, count: int, seed: int) -> list[dict[str, list[dict[str, str]]]]:
    """Rows with every topic equally often; order numbers are even in training, odd in the held-out part."""
    rng = Random(f"support:{seed}:{part}")
    orders = rng.sample(range(1000 + part, 60000, 2), count)
    topics = [topic for topic, _ in zip(TOPICS * count, range(count), strict=False)]
    rng.shuffle(topics)
    return [row(rng, part, topic, order) for topic, order in zip(topics, orders, strict=True)]


def check_apart() -> None:
    """Fails when a word list or a sentence serves both parts."""
    for train, heldout in (ABOUT, DANGER, WHEN, ORDERS, PRODUCTS, NAMES):
        shared = set(train.split("|")) & set(heldout.split("|"))
        if shared:
            raise ValueError(f"in both parts: {sorted(shared)}")


def main() -> None:
    """Writes both files beside this one."""
    check_apart()
    for name, part, count in (("train", 0, 600), ("heldout", 1, 160)):
        lines = [json.dumps(one, ensure_ascii=False) for one in rows(part, count, seed=1)]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
