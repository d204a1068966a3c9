"""Layouts of two answers or more to one question, of which one is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from finetune.data.faults import kind_of
from finetune.data.formats.asked import Asked, answered, asked, transcript, turns_of
from finetune.data.formats.layout import BadRow, Tie, Values
from finetune.data.formats.turns import text, tools_of
from finetune.data.rows import Chat, Pair, Row

# Pairs of columns whose difference is the margin.
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
MARGIN = ("margin", *(name for two in SCORES for name in two))

# Keys of an answer in a list of several.
TEXTS = ("text", "content", "response", "completion", "output")
RATINGS = ("score", "overall_score", "rating")

TIES = ("tie", "both", "equal", "same", "neither", "none")


def from_columns(question: str, better: str = "chosen", worse: str = "rejected") -> Callable[[Values], Row]:
    """A question, the better answer and the worse one under these names."""

    def convert(values: Values) -> Row:
        before = asked(values, question)
        both = [answered(before, values[name], name) for name in (better, worse)]
        return _paired(both[0], both[1], _margin(values))

    return convert


def from_instruction(values: Values) -> Row:
    """LLaMA-Factory's instruction and input, with a better and a worse answer."""
    said = text(values["instruction"], "instruction")
    given = f"{said}\n{text(values['input'], 'input')}" if values.get("input") else said
    return from_columns("instruction")({**values, "instruction": given})


def from_whole(values: Values) -> Row:
    """Two whole conversations that begin alike: lists of messages, or texts with speakers."""
    return _paired(_whole(values, "chosen"), _whole(values, "rejected"), _margin(values))


def _whole(values: Values, column: str) -> Chat:
    given, tools = values[column], tools_of(values.get("tools"))
    if isinstance(given, str):
        return Chat(transcript(given, column), tools)
    return answered(Asked((), tools), given, column)


def from_outputs(values: Values) -> Row:
    """OpenAI's input with messages, a preferred output and another."""
    given = values["input"]
    if not isinstance(given, dict) or "messages" not in given:
        what = f"must be an object with messages, got {kind_of(given)}"
        raise BadRow("input", what, 'write {"messages": [{"role": "user", "content": "…"}]}')
    before = Asked(turns_of(given["messages"], "input"), tools_of(given.get("tools"), "input"))
    names = ("preferred_output", "non_preferred_output")
    both = [answered(before, values[name], name) for name in names]
    return _paired(both[0], both[1])


def from_verdict(question: str, answers: tuple[str, str], verdicts: Sequence[str]) -> Callable[[Values], Row]:
    """Two answers to a question, and a column that says which is better."""

    def convert(values: Values) -> Row:
        before = asked(values, question)
        return _judged([answered(before, values[name], name) for name in answers], values, answers, verdicts)

    return convert


def from_conversations(values: Values) -> Row:
    """Two whole conversations, and a column that says which is better."""
    names = ("conversation_a", "conversation_b")
    both = [answered(Asked(()), values[name], name) for name in names]
    return _judged(both, values, names, ("winner",))


def _judged(both: Sequence[Chat], values: Values, names: Sequence[str], verdicts: Sequence[str]) -> Row:
    column = next((name for name in verdicts if name in values), verdicts[0])
    one, other = both
    return _paired(one, other) if _first_is_better(values.get(column), column, names) else Pair(other, one)


def _first_is_better(verdict: Any, column: str, names: Sequence[str]) -> bool:
    """What a verdict says: it names one of the columns, or its ending, or the model that wrote it."""
    said = str(verdict).strip().lower()
    ends = [name.rpartition("_")[2] for name in names]
    known = {end: number for number, end in enumerate(ends)}
    known |= {
        f"{kind}_{end}": number for kind in ("model", "response", "conversation") for end, number in known.items()
    }
    if said in known and not isinstance(verdict, bool):
        return known[said] == 0
    if said.split(" ")[0] in TIES:
        raise Tie(column, f"says {verdict!r}: no answer is better")
    what = f"{verdict!r} names neither of the answers"
    raise BadRow(column, what, f"write {ends[0]} or {ends[1]}, or tie", "pair-verdict")


class _Answer(NamedTuple):
    """One of several answers, and how good it is: more is better."""

    given: Any
    worth: float


def from_list(question: str, column: str) -> Callable[[Values], Row]:
    """Several answers to a question, with scores, with ranks, or the best first: the best against the worst."""

    def convert(values: Values) -> Row:
        before, (answers, is_scored) = asked(values, question), _answers(values, column)
        best, worst = max(answers, key=lambda one: one.worth), min(answers, key=lambda one: one.worth)
        if best.worth == worst.worth:
            raise Tie(column, f"all {len(answers)} answers are equally good")
        both = [answered(before, one.given, column) for one in (best, worst)]
        return _paired(both[0], both[1], best.worth - worst.worth if is_scored else None)

    return convert


def _answers(values: Values, column: str) -> tuple[list[_Answer], bool]:
    """The answers with their worth, and whether that is a score."""
    given = values[column]
    if not isinstance(given, list) or len(given) < 2:
        what = f"must be a list of two answers or more, got {kind_of(given)}"
        raise BadRow(column, f"{what} of {len(given)}" if isinstance(given, list) else what, "delete the row")
    texts = [_text(one, number, column) for number, one in enumerate(given, 1)]
    for name, keys, sign in (("scores", RATINGS, 1), ("ranks", ("rank",), -1)):
        beside = values.get(name)
        found = beside if beside is not None else [_first(one, keys) for one in given]
        if beside is not None or any(one is not None for one in found):
            worths = _numbers(found, len(given), name if beside is not None else column)
            return [_Answer(*two) for two in zip(texts, [sign * one for one in worths], strict=True)], sign > 0
    return [_Answer(one, -number) for number, one in enumerate(texts)], False


def _text(given: Any, number: int, column: str) -> Any:
    """What is answered; an object that is no message has it under one of several names."""
    if isinstance(given, dict) and "role" not in given:
        found = _first(given, TEXTS)
        if found is None:
            raise BadRow(column, f"answer {number} has no text (it has: {', '.join(given)})", "add it as text")
        return found
    return given


def _first(given: Any, keys: Sequence[str]) -> Any:
    return next((given[key] for key in keys if given.get(key) is not None), None) if isinstance(given, dict) else None


def _numbers(given: Any, count: int, column: str) -> list[float]:
    numbers = [_number(one, column) for one in given] if isinstance(given, list) else []
    if len(numbers) != count:
        had = f"{len(numbers)} of them" if isinstance(given, list) else kind_of(given)
        raise BadRow(column, f"must be a list with a number for each of {count} answers, got {had}", "correct it")
    return numbers


def _number(given: Any, column: str) -> float:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    raise BadRow(column, f"must hold numbers, got {kind_of(given)}", "write a number for each answer", "pair-score")


def _paired(chosen: Chat, rejected: Chat, margin: float | None = None) -> Pair:
    """A pair of two conversations, of which neither needs a template that the other does without."""
    plain = chosen.plain and rejected.plain
    return Pair(replace(chosen, plain=plain), replace(rejected, plain=plain), margin)


def _margin(values: Values) -> float | None:
    """By how much the better answer is better, where the record says so."""
    if values.get("margin") is not None:
        return _checked(_number(values["margin"], "margin"), "margin")
    for better, worse in SCORES:
        if values.get(better) is not None and values.get(worse) is not None:
            return _checked(_number(values[better], better) - _number(values[worse], worse), better)
    return None


def _checked(margin: float, column: str) -> float:
    if margin < 0:
        what = f"says that the chosen answer is worse by {-margin:g}"
        raise BadRow(column, what, "swap the two answers, or leave the scores out", "pair-score")
    return margin
