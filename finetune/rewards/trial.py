"""Rewards called once on real rows before anything is trained on them: what could never work is refused here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from finetune.errors import Fault, UserError
from finetune.evaluate.score import UNFIT
from finetune.rewards.batch import Paid, Task
from finetune.rewards.battery import references
from finetune.rewards.cases import MENDS, BadTest, read_cases
from finetune.rewards.form import tagged
from finetune.rewards.judge import Part, Rewards

MOST_ROWS = 32


def trial(rewards: Rewards, rows: Sequence[Task]) -> None:
    """Pay for the right answers, those of other rows, repeated ones and empty ones; raises every fault at once."""
    if not rows:
        raise UserError.at(rewards.key, "there are no rows to try the rewards on", "give rows")
    faults = [*_tests(rewards, rows)]
    taken = rows[:: max(1, len(rows) // MOST_ROWS)][:MOST_ROWS]
    right = references(taken, rewards.reference) if rewards.reference else [None] * len(taken)
    answers = _answers(rewards, right)
    names = dict.fromkeys(name for row in taken for name in row.columns)
    columns = {name: [row.columns.get(name) for row in taken] for name in names}
    paid = {
        kind: rewards.score([row.messages for row in taken], texts, columns).parts for kind, texts in answers.items()
    }
    for part in rewards.parts:
        of_part = {kind: parts[part.name] for kind, parts in paid.items()}
        faults += [*_faults(rewards, part, of_part), *_unfit(rewards, part, of_part.get("right"), right)]
    if faults:
        raise UserError(faults)


def _answers(rewards: Rewards, right: Sequence[str | None]) -> dict[str, list[str]]:
    empty = {"empty": [""] * len(right)}
    if all(text is None for text in right):
        return empty
    texts = [tagged(text or "", rewards.tags) if rewards.tags else text or "" for text in right]
    return {
        "right": texts,
        "others": [*texts[1:], texts[0]],
        "repeated": ["\n".join([text] * 50) for text in texts],
        **empty,
    }


def _faults(rewards: Rewards, part: Part, paid: Mapping[str, Paid]) -> Iterator[Fault]:
    """What shows on the first call that nothing will come of it."""
    where, every = f"{rewards.key} {part.name}", [*paid.values()]
    count = sum(len(one.values) for one in every)
    values = {value for one in every for value in one.values if value is not None}
    refused = next((one.refused for one in every if one.refused), "")
    trace = next((one.trace for one in every if one.trace), "")
    if refused:
        yield Fault(where, refused, "it must give a list with a number or None for each completion")
    elif sum(one.troubled for one in every) == count:
        said = trace.strip().splitlines()[-1] if trace else "no answer in time, or no number"
        yield Fault(where, f"fails on every answer: {said}", "correct it")
    elif not values:
        yield Fault(where, "says nothing of any answer", "correct it, or leave it out")
    elif len(values) == 1 and "right" in paid and part.name != "code":  # whose right answers need not be code
        what = f"pays everything the same, {values.pop():g}: right answers, wrong, repeated and empty ones"
        yield Fault(where, what, "nothing can be learned from it: correct it, or leave it out")


def _unfit(rewards: Rewards, part: Part, paid: Paid | None, right: Sequence[str | None]) -> Iterator[Fault]:
    """References that a reward of ours does not take for right answers."""
    if paid is None or not part.compares or part.own is not None or part.name == "code":
        return
    bad = [text for text, value in zip(right, paid.values, strict=True) if text is not None and value != 1]
    if bad:
        what = f"{bad[0][:60]!r} {UNFIT.get(part.name, 'says nothing to it').replace('evaluate.', '')}"
        mend = "name another column with reference, or take another reward"
        yield Fault(
            f"{rewards.key} {part.name}", f"{len(bad)} of {len(right)} right answers are none to it: {what}", mend
        )


def _tests(rewards: Rewards, rows: Sequence[Task]) -> Iterator[Fault]:
    for number, row in enumerate(rows, 1) if rewards.tests else ():
        try:
            if (tests := row.columns.get(rewards.tests or "")) is not None:
                read_cases(tests)
        except BadTest as error:
            yield Fault(f"row {number} {rewards.tests}", str(error), MENDS)
