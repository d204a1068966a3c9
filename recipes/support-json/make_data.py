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
PROBLEMS: dict[str, tuple[str, str]] = {
    "refund": (
        "I want a refund for the {p}.|Please send the refund for my {p}.|Where is my refund?|The refund "
        "for the {p} is too small.|Can I get a refund?|I still wait for a refund.",
        "May I have the refund of this {p}?|No refund has come yet.|You told me that the {p} gets a "
        "refund.|My bank shows no refund for it.",
    ),
    "invoice": (
        "The invoice for the {p} is wrong.|I need an invoice.|Please send me the invoice again.|My invoice "
        "shows two of the {p}.|There is no invoice in the box.|The name on the invoice is not mine.",
        "Can you write an invoice for this {p}?|I lost the invoice of my {p}.|The price on your invoice is "
        "too high.|Our office asks for an invoice.",
    ),
    "courier": (
        "The courier did not bring the {p}.|Your courier left the {p} in the rain.|The courier is late "
        "with my {p}.|When does the courier come?|The courier took the {p} to a neighbour.|I saw no "
        "courier.",
        "A courier broke the box of my {p}.|I waited all day for the courier.|Which courier has my "
        "{p}?|The {p} is still with your courier.",
    ),
    "login": (
        "My login does not work.|The login page is empty.|I forgot my login.|Please change my login for "
        "the {p}.|The login of the {p} is not accepted.|I need a new login.",
        "No login is possible since last night.|Help me with the login of this {p}.|The {p} asks for a "
        "login again and again.|Somebody else has my login.",
    ),
    "manual": (
        "The manual of the {p} is missing.|I need a manual in French.|Please send the manual for my {p}.|I "
        "do not understand the manual.|Page two of the manual is empty.|Where is the manual for the {p}?",
        "Is there a manual for this {p}?|My {p} came without a manual.|The pictures in your manual are too "
        "small.|We lost the manual of the {p}.",
    ),
    "coupon": (
        "My coupon does not work.|The coupon for the {p} is too old.|Can I use the coupon twice?|I have a "
        "coupon for a {p}.|The page does not take my coupon.|I got no coupon with my {p}.",
        "Your shop says that the coupon is used.|Where do I write the coupon for this {p}?|You sent me "
        "half a coupon.|The {p} was to come with a coupon.",
    ),
    "stock": (
        "Is the {p} in stock again?|When is the {p} back in stock?|The page shows no stock.|Do you have "
        "the {p} in stock?|How many are in stock?|The {p} is out of stock.",
        "Will you have stock of this {p}?|I would buy one more {p} if it is in stock.|Your stock list is "
        "wrong.|Tell me when there is stock.",
    ),
    "amber": (
        "There is smoke from the {p}.|The {p} gets very hot.|I saw a fire in the {p}.|The {p} gave me a "
        "shock.|It smells of smoke.|The cable is hot and burns.",
        "My {p} began to smoke.|A shock came out of the {p}.|This {p} is so hot that it burns my hand.|I "
        "fear that the {p} starts a fire.",
    ),
}
URGENCY: dict[str, tuple[str, str]] = {
    "now": (
        "I need it now.|Please answer now.|Do it right now.|It has to be now.|Call me now.",
        "Help me now, please.|We must know it now.|Please look at this now.",
    ),
    "soon": (
        "Please answer soon.|I hope to hear from you soon.|Write to me soon.|Can it be done soon?|See you soon.",
        "Let me know soon.|We hope that it works soon.|Tell us soon, please.",
    ),
    "later": (
        "It can be done later.|You can answer later.|Call me later.|Do it later if you like.|A week later is fine.",
        "Write to me later.|We can wait until later.|Some day later will do.",
    ),
}
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

    urgency = rng.choice(list(URGENCY))
    problem = pick(PROBLEMS[topic]).format(p=pick(PRODUCTS))
    sentences = [problem, pick(URGENCY[urgency]), pick(ORDERS).format(o=order)]
    rng.shuffle(sentences)
    message = " ".join([*sentences, pick(NAMES)])
    answer = json.dumps({"topic": topic, "urgency": urgency, "order": str(order)}, separators=(",", ":"))
    contents = {"system": SYSTEM, "user": message, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()]}


def rows(part: int, count: int, seed: int) -> list[dict[str, list[dict[str, str]]]]:
    """Rows with every topic equally often; order numbers are even in training, odd in the held-out part."""
    rng = Random(f"support:{seed}:{part}")
    orders = rng.sample(range(1000 + part, 60000, 2), count)
    topics = [topic for topic, _ in zip(list(PROBLEMS) * count, range(count), strict=False)]
    rng.shuffle(topics)
    return [row(rng, part, topic, order) for topic, order in zip(topics, orders, strict=True)]


def check_apart() -> None:
    """Fails when a word list or a sentence serves both parts."""
    for train, heldout in [*PROBLEMS.values(), *URGENCY.values(), ORDERS, PRODUCTS, NAMES]:
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
