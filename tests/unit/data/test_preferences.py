"""Pairs, votes and tasks in the layouts of others: found by themselves, and the same rows whatever they come from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.check import check
from finetune.data.formats import LAYOUTS, BadRow, Tie, convert, detect
from finetune.data.prepare import PreparedData, read_rows
from finetune.data.rows import SHAPES, Chat, Pair, Row, Task, Vote, from_json, to_json
from finetune.errors import UserError

Run = Callable[..., PreparedData]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def say(role: str, content: str) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content}


ASK, SAY, NO = say("user", "Is it raining in Oslo?"), say("assistant", "Yes."), say("assistant", "No.")
TERSE, SECOND = say("system", "Be terse."), (say("user", "And in Bergen?"), say("assistant", "Always."))
ASKED = ASK["content"]


def pair(*begun: dict[str, Any], margin: float | None = None, plain: bool = False, tools: Any = ()) -> Pair:
    """Yes is better than no."""
    return Pair(Chat((*begun, SAY), tools, plain), Chat((*begun, NO), tools, plain), margin)


def talk(*said: str) -> str:
    """A transcript as in HH."""
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {one}" for place, one in enumerate(said))


FOREIGN: dict[str, tuple[str, dict[str, Any], Row]] = {
    "trl, explicit": (
        "prompt_chosen_rejected",
        {"prompt": ASKED, "chosen": "Yes.", "rejected": "No."},
        pair(ASK, plain=True),
    ),
    "trl, conversational": (
        "prompt_chosen_rejected",
        {"prompt": [TERSE, ASK], "chosen": [SAY], "rejected": [NO]},
        pair(TERSE, ASK),
    ),
    "a text asked, messages answered": (
        "prompt_chosen_rejected",
        {"prompt": ASKED, "chosen": "Yes.", "rejected": [NO], "tools": [TOOL]},
        pair(ASK, tools=(TOOL,)),
    ),
    "trl, implicit": (
        "chosen_rejected",
        {"chosen": [ASK, SAY, SECOND[0], SAY], "rejected": [ASK, SAY, SECOND[0], NO]},
        pair(ASK, SAY, SECOND[0]),
    ),
    "hh-rlhf": (
        "chosen_rejected",
        {"chosen": talk(ASKED, "Yes.", "And in Bergen?", "Yes."), "rejected": talk(ASKED, "Yes.", "And in Bergen?", "No.")},
        pair(ASK, SAY, SECOND[0]),
    ),
    "hh-rlhf, prompt apart": (
        "prompt_chosen_rejected",
        {"prompt": f"{talk(ASKED)}\n\nAssistant:", "response": "x", "chosen": "Yes.", "rejected": "No."},
        pair(ASK, plain=True),
    ),
    "ultrafeedback, binarized": (
        "prompt_chosen_rejected",
        {
            "prompt": ASKED,
            "prompt_id": "f0e3",
            "chosen": [ASK, SAY],
            "rejected": [ASK, NO],
            "messages": [ASK, SAY],
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        },
        pair(ASK, margin=2.5),
    ),
    "orca": (
        "question_chosen_rejected",
        {"system": "Be terse.", "question": ASKED, "chosen": "Yes.", "rejected": "No."},
        pair(TERSE, ASK),
    ),
    "llama-factory, alpaca": (
        "instruction_chosen_rejected",
        {"instruction": "Is it raining", "input": "in Oslo?", "chosen": "Yes.", "rejected": "No."},
        pair(say("user", "Is it raining\nin Oslo?"), plain=True),
    ),
    "llama-factory, sharegpt": (
        "conversations_chosen_rejected",
        {
            "conversations": [{"from": "human", "value": ASKED}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        pair(ASK),
    ),
    "messages before two answers": (
        "messages_chosen_rejected",
        {"messages": [TERSE, ASK], "chosen": "Yes.", "rejected": SAY | {"content": "No."}},
        pair(TERSE, ASK),
    ),
    "openai and together": (
        "preferred_output",
        {
            "input": {"messages": [TERSE, ASK], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [SAY],
            "non_preferred_output": [NO],
        },
        pair(TERSE, ASK, tools=(TOOL,)),
    ),
    "stack exchange, paired": (
        "response_j_k",
        {"qid": 1, "question": ASKED, "response_j": "Yes.", "response_k": "No."},
        pair(ASK, plain=True),
    ),
    "two responses and a preference": (
        "response_a_b",
        {"prompt": ASKED, "response_a": "No.", "response_b": "Yes.", "preference": "B"},
        pair(ASK, plain=True),
    ),
    "pku": (
        "response_0_1",
        {"prompt": ASKED, "response_0": "No.", "response_1": "Yes.", "better_response_id": 1, "safer_response_id": 0},
        pair(ASK, plain=True),
    ),
    "chatbot arena": (
        "conversation_a_b",
        {"conversation_a": [ASK, SAY], "conversation_b": [ASK, NO], "winner": "model_a", "model_a": "x", "model_b": "y"},
        pair(ASK),
    ),
    "ranked": (
        "prompt_completions",
        {"prompt": ASKED, "completions": ["Perhaps.", "Yes.", "No."], "ranks": [2, 1, 3]},
        pair(ASK, plain=True),
    ),
    "the best first": (
        "prompt_responses",
        {"prompt": [ASK], "responses": [SAY, say("assistant", "Perhaps."), NO]},
        pair(ASK),
    ),
    "scored": (
        "prompt_completions",
        {"prompt": ASKED, "completions": ["Perhaps.", "No.", "Yes."], "scores": [0.5, 0.25, 1]},
        pair(ASK, plain=True, margin=0.75),
    ),
    "ultrafeedback": (
        "instruction_completions",
        {
            "instruction": ASKED,
            "completions": [{"response": "No.", "overall_score": 3, "model": "m"}, {"response": "Yes.", "overall_score": 9}],
        },
        pair(ASK, plain=True, margin=6.0),
    ),
    "trl, unpaired": (
        "prompt_completion_label",
        {"prompt": ASKED, "completion": "Yes.", "label": True},
        Vote(Chat((ASK, SAY), plain=True), True),
    ),
    "trl, unpaired, conversational": (
        "prompt_completion_label",
        {"prompt": [ASK], "completion": [NO], "label": False},
        Vote(Chat((ASK, NO)), False),
    ),
    "prompt, response and a word": (
        "prompt_response_label",
        {"prompt": ASKED, "response": "No.", "label": "thumbs-down"},
        Vote(Chat((ASK, NO), plain=True), False),
    ),
    "a log with labels": ("messages_label", {"messages": [ASK, SAY], "label": "👍"}, Vote(Chat((ASK, SAY)), True)),
    "a log with ratings": ("messages_rating", {"messages": [ASK, NO], "rating": "bad"}, Vote(Chat((ASK, NO)), False)),
    "a log with feedback": (
        "messages_feedback",
        {"messages": [ASK, SAY], "feedback": "Thumbs Up"},
        Vote(Chat((ASK, SAY)), True),
    ),
    "a prompt alone": ("prompt", {"prompt": ASKED}, Task((ASK,), plain=True)),
    "verl": (
        "prompt",
        {"prompt": [ASK], "data_source": "x", "reward_model": {"style": "rule", "ground_truth": "34"}, "target": 34},
        Task(
            (ASK,),
            columns={"data_source": "x", "reward_model": {"style": "rule", "ground_truth": "34"}, "target": 34},
        ),
    ),
}  # fmt: skip

# Rows that are tasks only for a method that learns from nothing else.
TASKS: dict[str, tuple[str, dict[str, Any], Row]] = {
    "gsm8k": ("question", {"question": ASKED, "answer": "Yes."}, Task((ASK,), columns={"answer": "Yes."}, plain=True)),
    "open-r1": (
        "problem",
        {"problem": ASKED, "solution": "It rains.", "answer": "yes", "messages": [ASK, SAY]},
        Task((ASK,), columns={"solution": "It rains.", "answer": "yes", "messages": [ASK, SAY]}, plain=True),
    ),
    "openai, reinforcement": (
        "asked_messages",
        {"messages": [TERSE, ASK], "reference_answer": {"rain": True}, "tools": [TOOL]},
        Task((TERSE, ASK), (TOOL,), {"reference_answer": {"rain": True}}),
    ),
    "a completion is a column like others": (
        "prompt",
        {"prompt": ASKED, "completion": "Yes.", "level": 3},
        Task((ASK,), columns={"completion": "Yes.", "level": 3}, plain=True),
    ),
}


@pytest.mark.parametrize("name", [*FOREIGN, *TASKS])
def test_a_foreign_record_becomes_a_row_without_configuration(name: str) -> None:
    layout, record, row = {**FOREIGN, **TASKS}[name]
    assert detect(record, (row.shape,)) == layout
    found = convert(layout, record)
    assert found == row and not list(check(found))
    assert from_json(to_json(row)) == row


@pytest.mark.parametrize("name", FOREIGN)
def test_the_layout_is_found_among_those_of_all_shapes_too(name: str) -> None:
    layout, record, _ = FOREIGN[name]
    assert detect(record, SHAPES) == layout


@pytest.mark.parametrize("name", ["gsm8k", "open-r1", "openai, reinforcement", "a completion is a column like others"])
def test_an_answer_in_a_column_is_learned_where_that_is_wanted_too(name: str) -> None:
    assert LAYOUTS[detect(TASKS[name][1], SHAPES) or ""].shape == "chat"


def test_every_layout_of_the_shapes_has_a_record_here() -> None:
    found = {layout for layout, _, _ in (*FOREIGN.values(), *TASKS.values())}
    assert found == {name for name, layout in LAYOUTS.items() if layout.shape not in ("chat", "text")}


@pytest.mark.parametrize("name", ["orca", "a log with ratings", "verl"])
def test_a_file_of_them_is_prepared(name: str, write_rows: Callable[..., str], run_prepare: Run) -> None:
    _, record, row = FOREIGN[name]
    prepared = run_prepare(write_rows([record]), shapes=(row.shape,), eval_share=0, learn="last")
    assert (list(read_rows(prepared.train)), prepared.shape) == ([row], row.shape)


def test_columns_may_have_other_names(write_rows: Callable[..., str], run_prepare: Run) -> None:
    names = {"prompt": "asked", "chosen": "better", "rejected": "worse"}
    path = write_rows([{"asked": ASKED, "better": "Yes.", "worse": "No."}])
    prepared = run_prepare(path, shapes=("pair",), eval_share=0, learn="last", columns=names)
    assert list(read_rows(prepared.train)) == [pair(ASK, plain=True)]
    gold = write_rows([{"prompt": ASKED, "gold": "Yes."}], "gold.jsonl")
    prepared = run_prepare(gold, shapes=("task",), eval_share=0, learn="last", columns={"answer": "gold"})
    assert list(read_rows(prepared.train)) == [Task((ASK,), columns={"answer": "Yes."}, plain=True)]


def test_objects_in_a_table_are_read(tmp_path: Path, run_prepare: Run) -> None:
    tasks = [{"prompt": [ASK], "reward_model": {"style": "rule", "ground_truth": "34"}, "day": date(2026, 1, 31)}]
    said = {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [NO]}
    for name, records in (("task", tasks), ("pair", [said])):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{name}.parquet")
    settings: dict[str, Any] = {"eval_share": 0, "learn": "last"}
    (task,) = read_rows(run_prepare(str(tmp_path / "task.parquet"), shapes=("task",), **settings).train)
    assert task == Task((ASK,), columns={"reward_model": tasks[0]["reward_model"], "day": "2026-01-31"})
    assert list(read_rows(run_prepare(str(tmp_path / "pair.parquet"), shapes=("pair",), **settings).train)) == [
        pair(ASK)
    ]


@pytest.mark.parametrize(
    ("value", "up"),
    [
        (1, True),
        (0, False),
        (1.0, True),
        (-1, False),
        ("1", True),
        ("UP", True),
        ("thumb-up", True),
        ("Dislike", False),
    ],
)
def test_votes_as_logs_have_them(value: Any, up: bool) -> None:
    row = convert("prompt_completion_label", {"prompt": "a", "completion": "b", "label": value})
    assert isinstance(row, Vote) and row.label is up


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("prompt_completion_label", {"prompt": "a", "completion": "b", "label": "maybe"}, "'maybe' is no vote", "vote-invalid"),
    ("prompt_completion_label", {"prompt": "a", "completion": "b", "label": None}, "None is no vote", "vote-invalid"),
    ("messages_rating", {"messages": [ASK, SAY], "rating": 4}, "4 is no vote", "vote-invalid"),
    ("messages_rating", {"messages": "x", "rating": "up"}, "must be a list", "field-type"),
    ("prompt_chosen_rejected", {"prompt": "a", "chosen": 5, "rejected": "c"}, "got a number", "field-type"),
    ("prompt_chosen_rejected", {"prompt": "b", "chosen": [ASK, SAY], "rejected": "c"}, "does not begin with", "pair-prompt"),
    ("prompt_chosen_rejected", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "worse by 1", "pair-score"),
    ("prompt_chosen_rejected", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, "got text", "pair-score"),
    ("chosen_rejected", {"chosen": "The sky is blue.", "rejected": "The sky is red."}, "nothing tells the question", "pair-prompt"),
    ("preferred_output", {"input": "a", "preferred_output": [SAY], "non_preferred_output": [NO]}, "an object with messages", "field-type"),
    ("response_a_b", {"prompt": "a", "response_a": "b", "response_b": "c", "winner": 1}, "names neither", "pair-verdict"),
    ("prompt_completions", {"prompt": "a", "completions": ["b"]}, "a list of 1", "field-type"),
    ("prompt_completions", {"prompt": "a", "completions": ["b", "c"], "scores": [1]}, "each of 2 answers, got 1", "field-type"),
    ("prompt_completions", {"prompt": "a", "completions": ["b", "c"], "scores": [1, None]}, "got null", "pair-score"),
    ("prompt_completions", {"prompt": "a", "completions": [{"words": "b"}, {"text": "c"}]}, "answer 1 has no text", "field-type"),
    ("prompt", {"prompt": "a", "image": [b"x"]}, "holds binary data", "field-type"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "record", "said", "code"), REFUSED)
def test_what_does_not_fit_is_told(layout: str, record: dict[str, Any], said: str, code: str) -> None:
    with pytest.raises(BadRow) as caught:
        convert(layout, record)
    assert said in caught.value.what and caught.value.code == code


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        ("prompt_completions", {"completions": ["b", "c"], "scores": [1, 1.0]}),
        ("prompt_completions", {"completions": ["b", "c"], "ranks": [1, 1]}),
        ("response_a_b", {"response_a": "b", "response_b": "c", "winner": "tie (bothbad)"}),
    ],
)
def test_a_tie_is_no_pair(layout: str, more: dict[str, Any]) -> None:
    with pytest.raises(Tie):
        convert(layout, {"prompt": "a", **more})


FAULTY: list[tuple[Row, list[tuple[int | None, str]]]] = [
    (Pair(Chat((ASK, SAY)), Chat((ASK, SAY))), [(None, "pair-equal")]),
    (Pair(Chat((ASK, SAY)), Chat((say("user", "x"), SAY))), [(None, "pair-prompt")]),
    (Pair(Chat((ASK, SAY, *SECOND)), Chat((ASK, NO, *SECOND))), [(None, "pair-prompt")]),
    (Pair(Chat((ASK, SAY, *SECOND)), Chat((ASK, SAY))), [(None, "pair-prompt")]),
    (Pair(Chat((ASK, say("assistant", " "))), Chat((ASK, NO))), [(1, "turn-empty")]),
    (Pair(Chat((ASK, SAY)), Chat((ASK, say("assistant", "")))), [(2, "turn-empty")]),
    (Pair(Chat((say("user", ""), SAY)), Chat((say("user", ""), NO))), [(0, "turn-empty")]),
    (Pair(Chat((ASK, SAY, ASK)), Chat((ASK, SAY, say("user", "x")))), [(2, "last-turn"), (3, "last-turn")]),
    (Vote(Chat((ASK,)), True), [(0, "last-turn")]),
    (Vote(Chat(()), True), [(None, "row-empty")]),
    (Task((ASK, SAY)), [(1, "task-answered")]),
    (Task(()), [(None, "row-empty")]),
    (Task((TERSE,)), [(0, "task-answered")]),
    (Task((ASK, ASK)), [(1, "role-repeated")]),
]


@pytest.mark.parametrize(("row", "faults"), FAULTY)
def test_the_faults_of_a_row_are_found(row: Row, faults: list[tuple[int | None, str]]) -> None:
    assert [(found.turn, found.code) for found in check(row)] == faults
    assert from_json(to_json(row)) == row  # faulty rows are kept on the disk too while they are cleaned


PAIRED = {"prompt": "a", "chosen": "b", "rejected": "c"}
UNPAIRED = {"prompt": "a", "completion": "b", "label": 0}
PLAIN = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("record", "shape", "other", "said"),
    [
        (UNPAIRED, "pair", "vote", "the rows are votes"),
        (PAIRED, "vote", "pair", "the rows are preference pairs"),
        (PAIRED, "chat", "pair", "the rows are preference pairs"),
        ({**UNPAIRED, "label": True}, "chat", "vote", "the rows are votes"),
        (PLAIN, "pair", "chat", "the rows are conversations that are learned as they are"),
        ({"question": "a", "answer": "b"}, "vote", "chat", "the rows are conversations that are learned as they are"),
        ({"prompt": "a", "answer": "b"}, "pair", "task", "the rows are questions without an answer"),
        ({"chosen": [ASK, SAY], "rejected": [ASK, NO]}, "task", "pair", "the rows are preference pairs"),
    ],
)
def test_rows_of_another_method_are_refused_with_the_methods_that_fit(
    record: dict[str, Any], shape: str, other: str, said: str, write_rows: Callable[..., str], run_prepare: Run
) -> None:
    from finetune.methods import METHODS

    with pytest.raises(UserError) as caught:
        run_prepare(write_rows([record]), shapes=(shape,), learn="last")
    (fault,) = caught.value.faults
    assert fault.what.startswith(said) and fault.code == "other-method"
    fitting = [name for name, method in METHODS.items() if other in method.ROW_SHAPE]
    assert all(f"method={name}" in fault.mend for name in fitting)
    assert not any(f"method={name}" in fault.mend for name in METHODS if name not in fitting)


@pytest.mark.parametrize(
    ("shape", "first", "second", "layouts"),
    [
        ("pair", PAIRED, UNPAIRED, ("prompt_completion", "prompt_chosen_rejected")),
        ("vote", UNPAIRED, PAIRED, ("prompt_chosen_rejected", "prompt_completion_label")),
        ("chat", PLAIN, PAIRED, ("prompt_chosen_rejected", "prompt_completion")),
        ("task", {"prompt": "a"}, {"question": "a", "answer": "b"}, ("question", "prompt")),
    ],
)
def test_a_mixed_file_is_refused_with_both_rows_named(
    shape: str, first: Any, second: Any, layouts: tuple[str, str], write_rows: Callable[..., str], run_prepare: Run
) -> None:
    path = write_rows([first, second])
    with pytest.raises(UserError) as caught:
        run_prepare(path, shapes=(shape,), learn="last")
    (fault,) = caught.value.faults
    other, own = layouts
    assert (fault.where, fault.code) == (f"{path}:2", "layout-mixed")
    assert fault.what == f"the row is {other}, but row 1 of the file is {own}"
