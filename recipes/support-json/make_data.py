"""Writes `train.jsonl` and `heldout.jsonl`: support messages and the JSON that a help desk wants for each.

The two files share no name, product, order number or sentence. `amber`, the desk's word for danger,
can only be learned from the training rows: nothing in a message spells it.
"""

import json
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent
SYSTEM = "Give topic, urgency and order as JSON."

# Alternatives are parted by a bar: first those of the training rows, then those of the held-out rows.
PROBLEMS: dict[str, tuple[str, str]] = {
    "shipping": (
        "My {p} has not arrived.|The courier never came with the {p}.|The {p} is lost in the "
        "post.|Tracking says that the {p} is here, but it is not.|The {p} is late.|When will the {p} "
        "arrive?",
        "No {p} has arrived yet.|Your courier did not bring the {p}.|Why is my {p} so late?|The tracking "
        "page of the {p} does not move.",
    ),
    "billing": (
        "I was charged twice for the {p}.|The price on my bill is wrong.|My bank shows two payments.|You "
        "took too much money from my card.|There is a charge that I do not know.|I paid twice.",
        "My card was charged two times.|The bill for the {p} is too high.|I see two payments for one "
        "{p}.|You took money from my bank twice.",
    ),
    "login": (
        "I cannot log in.|My password does not work.|My account is locked.|I forgot my password.|The page "
        "does not know my email.|I cannot get into my account.",
        "It says that the password is wrong.|I am locked out of my account.|Nobody here can log in.|Your "
        "page does not take my email and password.",
    ),
    "refund": (
        "I want to return the {p}.|How do I send the {p} back?|Please give me my money back.|I do not want "
        "the {p} any more.|I need a return label.|The {p} does not fit, I send it back.",
        "May I return this {p}?|I would like to give the {p} back.|Where is the return label of my {p}?|We "
        "do not want this {p}, money back please.",
    ),
    "damage": (
        "The {p} is broken.|There is a crack in the {p}.|The {p} has a scratch.|The {p} came bent.|A part "
        "of my {p} broke off.|The box was crushed.",
        "My {p} came broken.|I found a crack and a scratch on it.|One side of the {p} is bent.|The box of "
        "the {p} was open and crushed.",
    ),
    "stock": (
        "Is the {p} in stock?|When can I buy the {p} again?|The {p} is sold out.|Do you have more of "
        "it?|Will the {p} be available soon?|Do you still sell the {p}?",
        "Will you have the {p} in stock again?|Your shop says sold out.|Is one more {p} available?|Can I "
        "still buy this {p}?",
    ),
    "redirect": (
        "Please change the address.|I moved to a new house.|Send the {p} to my office.|The street is "
        "wrong.|Bring the {p} to my neighbour.|My address is not right.",
        "I typed the wrong street.|Can the {p} go to a new address?|We moved, the house is a new one.|Send "
        "it to the office of my neighbour.",
    ),
    "cancel": (
        "Please cancel it.|I ordered the {p} by mistake.|Stop the order, please.|I want to cancel the "
        "{p}.|Cancel the {p} before it is sent.|I ordered twice, stop one.",
        "Can you cancel the {p}?|Stop it before the {p} is sent.|The {p} was ordered by mistake.|We have "
        "to cancel this.",
    ),
    "setup": (
        "How do I set up the {p}?|Which button starts the {p}?|I cannot connect the {p}.|Where is the "
        "manual?|I do not understand the manual of the {p}.|How do I turn the {p} on?",
        "Is there a manual for the {p}?|How can I connect this {p}?|Which button turns it on?|Help me to "
        "set the {p} up.",
    ),
    "amber": (
        "There is smoke from the {p}.|The {p} gets very hot.|I saw a fire in the {p}.|The {p} gave me a "
        "shock.|It smells of smoke.|The cable is hot and burns.",
        "My {p} began to smoke.|A shock came out of the {p}.|This {p} is too hot, it burns my hand.|I fear "
        "that the {p} starts a fire.",
    ),
}
URGENCY: dict[str, tuple[str, str]] = {
    "high": (
        "I need an answer today.|This is urgent.|Please hurry.|Do it at once.|It cannot wait.",
        "Please answer at once, it is urgent.|Hurry, I need it today.|This really cannot wait.",
    ),
    "normal": (
        "Thank you.|Please help.|Hello.|Can you look at it?|Good morning.",
        "Hello, please help me.|Thank you for your help.|Can you have a look?",
    ),
    "low": (
        "There is no hurry.|It can wait.|Take your time.|Any day will do.|Next week is fine.",
        "No hurry at all.|Next month is fine, take your time.|It can wait for some days.",
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
