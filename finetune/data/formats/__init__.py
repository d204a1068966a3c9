"""Layouts: how foreign records become rows. A layout is found by its columns; each is an entry in LAYOUTS."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.formats import preferences as pairs_of
from finetune.data.formats.asked import SYSTEM
from finetune.data.formats.chats import from_contents, from_messages, from_sharegpt
from finetune.data.formats.layout import BadRow, Layout, Tie, Values
from finetune.data.formats.pairs import (
    asked_turns,
    from_alpaca,
    from_dolly,
    from_openorca,
    from_prompt_completion,
    from_text,
    from_two,
)
from finetune.data.formats.tasks import from_question, is_task
from finetune.data.formats.turns import REASONING, ROLES
from finetune.data.formats.votes import from_rated, from_vote, is_said, vote_of
from finetune.data.rows import LEARNED, REFERENCES, SHAPES, Chat, Pair, Row, Text, every_turn
from finetune.errors import listed

__all__ = [
    "COLUMNS",
    "LAYOUTS",
    "PREFERENCES",
    "REASONING",
    "ROLES",
    "TELLING",
    "BadRow",
    "Layout",
    "Tie",
    "Values",
    "column",
    "convert",
    "detect",
]

# Columns of preference data: rows that have one are not for learning answers.
PREFERENCES = ("chosen", "rejected")

# Columns of the system's words, in layouts that have one.
SYSTEM_COLUMNS = ("system", "system_prompt", "systemInstruction", "system_instruction")

# Columns of what follows the question in its turn.
MORE_COLUMNS = ("input", "context")

SIDES = ("chosen", "rejected")
BESIDE = (*SYSTEM, "tools")
JUDGED = ("response_a", "response_b")
NUMBERED = ("response_0", "response_1")
TALKS = ("conversation_a", "conversation_b")
LISTED = ("scores", "ranks", *BESIDE)


def _sided(question: str, *, common: bool = False) -> Layout:
    """A question with a chosen and a rejected answer."""
    may, convert = (*BESIDE, *pairs_of.MARGIN), pairs_of.from_columns(question)
    return Layout((question, *SIDES), may, convert, common=common, shape="pair", answers=SIDES)


def _listed(question: str, column: str) -> Layout:
    """A question with several answers."""
    convert = pairs_of.from_list(question, column)
    return Layout((question, column), LISTED, convert, shape="pair", answers=(column,))


def _voted(question: str, answer: str, *, common: bool = False) -> Layout:
    """A question, its answer and a vote."""
    needs, convert = (question, answer, "label"), from_vote(question, answer, "label")
    return Layout(needs, BESIDE, convert, common=common, shape="vote", answers=(answer,), tells=is_said("label"))


def _rated(label: str) -> Layout:
    """A conversation and a vote on its last answer."""
    return Layout(("messages", label), BESIDE, from_rated(label), shape="vote", tells=is_said(label))


def _task(column: str, *, common: bool = False) -> Layout:
    """A question that is answered while the model learns."""
    may, tells = (*BESIDE, *REFERENCES), is_task(column)
    return Layout((column,), may, from_question(column), common=common, shape="task", tells=tells)


# In the order in which they are tried: a record that fits several is what comes first.
LAYOUTS: dict[str, Layout] = {
    "prompt_chosen_rejected": _sided("prompt", common=True),
    "question_chosen_rejected": _sided("question"),
    "instruction_chosen_rejected": Layout(
        ("instruction", *SIDES),
        ("input", *BESIDE, *pairs_of.MARGIN),
        pairs_of.from_instruction,
        shape="pair",
        answers=SIDES,
    ),
    "messages_chosen_rejected": _sided("messages"),
    "conversations_chosen_rejected": _sided("conversations"),
    "chosen_rejected": Layout(
        SIDES, ("tools", *pairs_of.MARGIN), pairs_of.from_whole, common=True, shape="pair", answers=SIDES
    ),
    "preferred_output": Layout(
        ("input", "preferred_output", "non_preferred_output"),
        (),
        pairs_of.from_outputs,
        shape="pair",
        answers=("preferred_output", "non_preferred_output"),
    ),
    "response_j_k": Layout(
        ("question", "response_j", "response_k"),
        BESIDE,
        pairs_of.from_columns("question", "response_j", "response_k"),
        shape="pair",
        answers=("response_j", "response_k"),
    ),
    "response_a_b": Layout(
        ("prompt", *JUDGED),
        ("preference", "winner", *BESIDE),
        pairs_of.from_verdict("prompt", JUDGED, ("preference", "winner")),
        shape="pair",
        answers=JUDGED,
    ),
    "response_0_1": Layout(
        ("prompt", *NUMBERED, "better_response_id"),
        BESIDE,
        pairs_of.from_verdict("prompt", NUMBERED, ("better_response_id",)),
        shape="pair",
        answers=NUMBERED,
    ),
    "conversation_a_b": Layout((*TALKS, "winner"), (), pairs_of.from_conversations, shape="pair", answers=TALKS),
    "prompt_completions": _listed("prompt", "completions"),
    "prompt_responses": _listed("prompt", "responses"),
    "instruction_completions": _listed("instruction", "completions"),
    "prompt_completion_label": _voted("prompt", "completion", common=True),
    "prompt_response_label": _voted("prompt", "response"),
    "messages_label": _rated("label"),
    "messages_rating": _rated("rating"),
    "messages_feedback": _rated("feedback"),
    "messages": Layout(("messages",), ("tools", "functions", "system"), from_messages, common=True),
    "sharegpt": Layout(("conversations",), ("system", "tools"), from_sharegpt, common=True),
    "contents": Layout(("contents",), ("systemInstruction", "system_instruction", "tools"), from_contents),
    "alpaca": Layout(("instruction", "output"), ("input", "system", "history"), from_alpaca, common=True),
    "dolly": Layout(("instruction", "response"), ("context",), from_dolly),
    "openorca": Layout(("system_prompt", "question", "response"), (), from_openorca),
    "prompt_completion": Layout(("prompt", "completion"), ("tools",), from_prompt_completion, common=True),
    "prompt_response": Layout(("prompt", "response"), (), from_two("prompt", "response")),
    "query_response": Layout(("query", "response"), (), from_two("query", "response")),
    "question_answer": Layout(
        ("question", "answer"), (), from_two("question", "answer"), unless=("documents", "choices", "options")
    ),
    "problem_solution": Layout(("problem", "solution"), (), from_two("problem", "solution")),
    "input_output": Layout(("input", "output"), (), from_two("input", "output")),
    "text": Layout(("text",), (), from_text, common=True, shape="text"),
    "prompt": _task("prompt", common=True),
    "problem": _task("problem"),
    "question": _task("question"),
    "asked_messages": _task("messages", common=True),
}

COLUMNS = frozenset(name for layout in LAYOUTS.values() for name in (*layout.needs, *layout.may))


# Columns that are not read, but tell what a record is for.
TELLING = frozenset((*PREFERENCES, "label", "parent_id", *(name for each in LAYOUTS.values() for name in each.unless)))

# What the rows of a shape are called, with the columns that show it.
SAID = {
    "pair": "preference pairs (chosen, rejected)",
    "vote": "votes (label)",
    "chat": "conversations that are learned as they are",
    "text": "plain text",
    "task": "questions without an answer that is learned",
}


def columns_of(shapes: Sequence[str]) -> frozenset[str]:
    """The columns that layouts of these shapes use."""
    layouts = (layout for layout in LAYOUTS.values() if layout.shape in shapes)
    return frozenset(name for layout in layouts for name in (*layout.needs, *layout.may))


def detect(values: Values, shapes: Sequence[str] = LEARNED) -> str | None:
    """The layout of a record, or None: the first of LAYOUTS that it fits, of these shapes."""
    wanted = ((name, layout) for name, layout in LAYOUTS.items() if layout.shape in shapes)
    is_only = len(set(shapes)) == 1
    return next((name for name, layout in wanted if _fits(layout, values, is_only)), None)


def _fits(layout: Layout, values: Values, is_only: bool) -> bool:
    if not all(key in values for key in layout.needs) or any(key in values for key in layout.unless):
        return False
    return is_only or layout.tells is None or layout.tells(values)


def mixed_in(layout: str, values: Values) -> str | None:
    """The layout of a record that does not fit its file's, where it is another one."""
    own = LAYOUTS[layout].shape
    found = detect(values, LEARNED if own in LEARNED else (own,)) or detect(values, SHAPES)
    return None if found == layout else found


def other_shape(values: Values, shapes: Sequence[str]) -> str | None:
    """The shape of rows that a record is made for, when it is none of these."""
    for shape in (one for one in SAID if one not in shapes):
        found = detect(values, (shape,))
        if found and (shape != "vote" or vote_of(values[LAYOUTS[found].needs[-1]]) is not None):
            return shape
    return None


def unlearnable(values: Values) -> str | None:
    """The shape of a record that is not there to be learned as it is: a bad answer must not be learned."""
    if any(values.get(column) is not None for column in PREFERENCES):
        return "pair"
    return "vote" if isinstance(values.get("label"), bool) and "text" not in values else None


def is_of_tree(values: Values) -> bool:
    """Whether a record is one message of a tree of conversations."""
    return "parent_id" in values and "text" in values


def wanted_text(shapes: Sequence[str] = LEARNED) -> str:
    """The columns that the common layouts need, for an error message."""
    common = (layout for layout in LAYOUTS.values() if layout.common and layout.shape in shapes)
    return " or ".join("+".join(layout.needs) for layout in common)


def missing(layout: str, values: Values) -> list[str]:
    """The columns that a layout needs and a record lacks."""
    return [key for key in LAYOUTS[layout].needs if key not in values]


def convert(layout: str, values: Values) -> Row:
    """The record as a row; raises BadRow."""
    lacking = missing(layout, values)
    if lacking:
        what = f"missing (row has: {listed(list(values))})"
        raise BadRow(lacking[0], what, "add it, or delete the row", "field-missing")
    return LAYOUTS[layout].convert(values)


def column(layout: str, values: Values, row: Row, turn: int | None = None, at: int = 0) -> str:
    """The column that a turn of a row came from, by its place; `at` is a place in its text, of which two may be part.

    Without a turn it is the column of the last.
    """
    own = LAYOUTS[layout]
    if not isinstance(row, (Chat, Text)):
        return _column_of_other(own, values, row, turn)
    if isinstance(row, Text) or turn is None or turn == len(row.messages) - 1:
        return own.needs[-1]
    if turn == 0 and row.messages[0]["role"] == "system" and (beside := _system_column(own, values)):
        return beside
    if len(own.needs) == 1:
        return own.needs[0]
    if "history" in own.may and turn < len(row.messages) - 2:
        return "history"
    question, answer = own.needs[-2:]
    if any(isinstance(values[name], list) for name in (question, answer)):
        return answer if turn >= asked_turns(values[question]) else question
    more = [name for name in MORE_COLUMNS if name in own.may and values.get(name)]
    return more[0] if more and at > len(values[question]) else question


def _column_of_other(own: Layout, values: Values, row: Row, turn: int | None) -> str:
    """The same for a pair, a vote or a task."""
    turns = every_turn(row)
    first = len(row.chosen.messages) - 1 if isinstance(row, Pair) else len(turns) - 1
    if turn is None or not 0 <= turn < len(turns):
        return own.needs[-1]
    if own.answers and turn >= first:
        said = turns[turn]["content"]
        own_side = own.answers[-1] if turn > first else own.answers[0]
        return next((name for name in own.answers if values.get(name) == said), own_side)
    if turn == 0 and turns[0]["role"] == "system":
        return _system_column(own, values) or own.needs[0]
    return own.needs[0]


def _system_column(layout: Layout, values: Values) -> str:
    """The column beside the others that the system's words came from, if they did."""
    named = [name for name in SYSTEM_COLUMNS if name in (*layout.needs, *layout.may) and values.get(name)]
    # Among messages blank words are passed over.
    blank = len(layout.needs) == 1 and named and not str(values[named[0]]).strip()
    return named[0] if named and not blank else ""
