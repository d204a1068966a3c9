"""Pairs, votes and tasks as tokens: the same as those of conversations, in columns of their own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from finetune.data import pieces, shards, store
from finetune.data import prepare as prepare_module
from finetune.data.bias import FEWEST_PAIRS, above
from finetune.data.encode import MASKED, Encoded, Encoder, Refused
from finetune.data.prepare import PreparedData, lengths, open_rows, ordered_rows, read_rows
from finetune.data.preview import preview_html, preview_text, sample
from finetune.data.rows import Chat, Pair, Task, Vote, compared, from_json
from finetune.data.sides import Sided, encode_sides
from finetune.errors import UserError

Run = Callable[..., PreparedData]
FAMILIES = ("smollm2", "qwen3", "llama3", "mistral_v03", "gemma2", "phi4", "llama2")
WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "jetty",
    "knoll",
    "ledge",
    "marsh",
    "north",
    "ocean",
    "pearl",
    "quartz",
]


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


ASK, SECOND = say("user", "What is the capital of Norway?"), say("user", "Hello?")
GOOD, BAD = say("assistant", "Oslo is."), say("assistant", "Paris, and the weather in Oslo is rain")
PAIR = Pair(Chat((ASK, GOOD, SECOND, GOOD)), Chat((ASK, GOOD, SECOND, BAD)), 0.5)


def asked(number: int) -> str:
    """A question that is no near copy of another number's."""
    return " ".join(WORDS[number * step % len(WORDS)] for step in (1, 3, 5, 7)) + f" {number}?"


def pairs(count: int, better: str = "b", worse: str = "c") -> list[dict[str, Any]]:
    """Pairs as a file holds them."""
    return [{"prompt": asked(number), "chosen": better, "rejected": worse} for number in range(count)]


def kinds(shape: str, count: int) -> list[dict[str, Any]]:
    """Rows of a shape as a file holds them; answers differ in length."""
    if shape == "pair":
        return [{**row, "chosen": "x " * (at % 5 + 1), "margin": at} for at, row in enumerate(pairs(count))]
    if shape == "vote":
        return [{"prompt": asked(at), "completion": "x " * (at % 5 + 1), "label": at % 3 == 0} for at in range(count)]
    return [{"prompt": asked(at), "answer": "Oslo", "level": at} for at in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_both_sides_are_the_prompt_that_is_asked_and_the_answer_that_is_learned(name: str, family: Any) -> None:
    encoder = Encoder(family(name), learn="last")
    (found,) = encode_sides(encoder, [PAIR])
    assert isinstance(found, Sided)
    assert found.prompt == encoder.prompt_ids(PAIR.chosen.messages[:-1])
    for answer, chat in zip(found.answers, (PAIR.chosen, PAIR.rejected), strict=True):
        (whole,) = encoder.encode([chat])
        assert isinstance(whole, Encoded)
        assert answer == [token for token in whole.labels if token != MASKED]
        assert whole.input_ids[: len(found.prompt) + len(answer)] == found.prompt + answer
        assert set(answer[-2:]) & set(encoder.stop_ids)


def test_every_answer_of_a_method_that_learns_them_all_but_the_last_is_part_of_the_prompt(family: Any) -> None:
    last, every = (encode_sides(Encoder(family("smollm2"), learn=learn), [PAIR]) for learn in ("last", "assistant"))
    assert last == every


def test_what_a_template_does_to_earlier_answers_does_not_matter(family: Any) -> None:
    thought = say("assistant", "Oslo is.", reasoning_content="It is Oslo.")
    row = Pair(Chat((ASK, thought, SECOND, GOOD)), Chat((ASK, thought, SECOND, BAD)))
    encoder = Encoder(family("qwen3"))
    assert isinstance(encoder.encode([row.chosen])[0], Refused)  # as a conversation it becomes two rows
    assert isinstance(encode_sides(encoder, [row])[0], Sided)


def test_a_side_that_cannot_be_learned_is_told_before_one_that_is_too_long(family: Any) -> None:
    long, broken = say("assistant", "Oslo"), say("assistant", "a <|im_end|> b")
    (found,) = encode_sides(Encoder(family("smollm2"), max_length=20), [Pair(Chat((ASK, long)), Chat((ASK, broken)))])
    assert isinstance(found, Refused) and found.kind == "template"


def test_conversations_need_a_template(
    write_rows: Callable[..., str], run_prepare: Run, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(("<s>", "</s>"), "</s>")
    for shape, row in (
        ("pair", {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}),
        ("vote", {"messages": [ASK, GOOD], "label": True}),
        ("task", {"prompt": [ASK]}),
    ):
        with pytest.raises(UserError) as caught:
            run_prepare(write_rows([row]), shapes=(shape,), learn="last", tokenizer=tokenizer, eval_share=0)
        assert [fault.where for fault in caught.value.faults] == ["model.chat_template"]


def test_a_model_without_a_template_sees_texts_one_after_the_other(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(("<s>", "</s>"), "</s>")
    chat = Chat((say("user", "Oslo is"), say("assistant", " the capital")), plain=True)
    other = Chat((say("user", "Oslo is"), say("assistant", " rain")), plain=True)
    found, vote, task = encode_sides(
        Encoder(tokenizer, learn="last"), [Pair(chat, other), Vote(other, False), Task(chat.messages[:1], plain=True)]
    )
    assert isinstance(found, Sided) and isinstance(vote, Sided) and isinstance(task, Sided)
    assert tokenizer.decode(found.prompt) == "Oslo is" and found.prompt == vote.prompt == task.prompt
    assert [tokenizer.decode(answer) for answer in found.answers] == [" the capital</s>", " rain</s>"]
    assert (vote.answers, vote.label) == (found.answers[1:], False)


def test_a_template_that_asks_in_two_ways_is_refused(make_tokenizer: Callable[..., Any]) -> None:
    template = (
        "{% if messages[-1].tool_calls %}<s>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = make_tokenizer(("<s>", "</s>", "<|user|>", "<|assistant|>"), "</s>", template=template)
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    calls = Chat((ASK, say("assistant", "I look.", tool_calls=[call])))
    (found,) = encode_sides(Encoder(tokenizer, learn="last"), [Pair(calls, Chat((ASK, GOOD)))])
    assert isinstance(found, Refused) and found.kind == "template" and "in two ways" in found.what


@pytest.mark.parametrize("shape", ["pair", "vote", "task"])
def test_the_dataset_has_the_columns_of_its_shape(
    shape: str, write_rows: Callable[..., str], run_prepare: Run, family: Any
) -> None:
    path = write_rows(kinds(shape, 40))
    prepared = run_prepare(path, shapes=(shape,), learn="last")
    assert prepared.held_out is not None and prepared.shape == shape
    encoder = Encoder(family("smollm2"), "last", 512)
    for split in (prepared.train, prepared.held_out):
        rows, kept = open_rows(split), list(read_rows(split))
        sided = [row for row in encode_sides(encoder, kept) if isinstance(row, Sided)]
        names = {"pair": ["chosen_ids", "rejected_ids"], "vote": ["completion_ids"], "task": []}[shape]
        assert rows["prompt_ids"][:] == [row.prompt for row in sided]
        for place, name in enumerate(names):
            assert rows[name][:] == [row.answers[place] for row in sided]
        assert lengths(split).tolist() == [row.longest for row in sided] and split.longest == lengths(split).max()
        assert split.tokens == store.tokens(split.path).sum() == sum(row.tokens for row in sided)
        assert split.supervised_tokens == sum(row.supervised for row in sided)
        if shape == "pair":
            assert rows["margin"][:] == [row.margin for row in kept if isinstance(row, Pair)] and rows.num_columns == 4
        elif shape == "vote":
            assert rows["label"][:] == [row.label for row in kept if isinstance(row, Vote)] and rows.num_columns == 3
        else:
            assert [from_json(text) for text in rows["row"]] == kept and rows.column_names == ["prompt_ids", "row"]
            assert split.supervised_tokens == 0
    assert run_prepare(path, shapes=(shape,), learn="last") == prepared  # found again as it was


def test_the_order_of_a_run_counts_the_tokens_of_all_sides(write_rows: Callable[..., str], run_prepare: Run) -> None:
    prepared = run_prepare(write_rows(kinds("pair", 12)), shapes=("pair",), learn="last", eval_share=0)
    rows, tokens = ordered_rows(prepared.train, steps=6, effective_batch=2, seed=1, group_by_length=True)
    assert len(rows) == 12 and tokens(12) == prepared.train.tokens
    sizes = [2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
    assert [end - begin for begin, end in pairwise(map(tokens, range(13)))] == sizes


@pytest.mark.parametrize("shape", ["pair", "vote", "task"])
def test_two_processes_write_the_same_bytes_as_one(
    shape: str,
    write_rows: Callable[..., str],
    run_prepare: Run,
    monkeypatch: pytest.MonkeyPatch,
    processes: list[int],
    tmp_path: Any,
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(shards, "MANY_ROWS", 20)
    path, found = write_rows(kinds(shape, 30)), []
    for cores in (2, 1):
        monkeypatch.setattr(prepare_module, "cores", lambda cores=cores: cores)
        prepared = run_prepare(path, shapes=(shape,), learn="last", eval_share=0)
        files = sorted((tmp_path / "cache").rglob("*.arrow"))
        found.append((prepared, [file.read_bytes() for file in files]))
        for file in (tmp_path / "cache").glob("*.key"):
            file.unlink()
        for file in files:
            file.unlink()
    assert found[0] == found[1] and processes == [2, 0] and len(found[0][1]) == 3


LONG = {"prompt": "Hello", "chosen": "Oslo " * 40, "rejected": "Oslo " * 41}


def test_long_answers_are_refused_cut_or_dropped(write_rows: Callable[..., str], run_prepare: Run) -> None:
    rows = [
        {"prompt": asked(1), "chosen": "no", "rejected": "Oslo " * 60},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    path = write_rows(rows)
    settings: dict[str, Any] = {"shapes": ("pair",), "learn": "last", "eval_share": 0, "max_length": 120}
    with pytest.raises(UserError, match=r"train.jsonl:1: \d+ tokens, over data.max_length=120"):
        run_prepare(path, **settings)
    cut = run_prepare(path, on_long="truncate", **settings)
    assert (cut.train.rows, cut.train.truncated, cut.train.longest) == (2, 1, 120)
    assert len(open_rows(cut.train)[0]["chosen_ids"]) < 5
    dropped = run_prepare(path, on_long="drop", **settings)
    assert (dropped.train.rows, dropped.train.dropped) == (1, 1)


@pytest.mark.parametrize(
    ("on_long", "said"), [("truncate", "differ only beyond data.max_length"), ("fail", "tokens, over")]
)
def test_answers_that_are_cut_to_the_same_are_a_fault(
    on_long: str, said: str, write_rows: Callable[..., str], run_prepare: Run
) -> None:
    path = write_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}, LONG])
    with pytest.raises(UserError, match=f"train.jsonl:2: .*{said}"):
        run_prepare(path, shapes=("pair",), learn="last", eval_share=0, max_length=80, on_long=on_long)
    dropped = run_prepare(path, shapes=("pair",), learn="last", eval_share=0, max_length=80, on_long="drop")
    assert (dropped.train.rows, dropped.train.dropped) == (1, 1)


def test_a_question_is_never_cut(write_rows: Callable[..., str], run_prepare: Run) -> None:
    path = write_rows([{"prompt": "Oslo " * 100}])
    with pytest.raises(UserError, match=r"the question has .* tokens, over data.max_length=40"):
        run_prepare(path, shapes=("task",), learn="last", eval_share=0, max_length=40, on_long="truncate")


def test_pairs_cannot_be_streamed(write_rows: Callable[..., str], run_prepare: Run) -> None:
    with pytest.raises(UserError, match=r"data.streaming: .*which are prepared whole; leave it out"):
        run_prepare(write_rows(pairs(3)), shapes=("pair",), learn="last", eval_share=0, streaming=True)


def test_rows_that_ask_the_same_are_held_out_together(write_rows: Callable[..., str], run_prepare: Run) -> None:
    rows = [{**row, "chosen": f"{asked(at)} {n}"} for at, row in enumerate(pairs(20)) for n in range(3)]
    prepared = run_prepare(write_rows(rows), shapes=("pair",), learn="last", eval_share=0.3)
    assert prepared.held_out is not None
    sides = [
        {row.chosen.messages[0]["content"] for row in read_rows(split) if isinstance(row, Pair)}
        for split in (prepared.train, prepared.held_out)
    ]
    assert len(sides[1]) > 2 and not sides[0] & sides[1]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_that_is_trained_on_leaks_from_either_side(
    side: str, write_rows: Callable[..., str], run_prepare: Run
) -> None:
    text = " ".join(f"{word}{number}" for number in range(2) for word in WORDS)
    train = write_rows([*pairs(5), {"prompt": asked(9), "chosen": "b", "rejected": "c", side: text}])
    held = write_rows([{"prompt": asked(11), "chosen": f"yes {text}", "rejected": "no"}], "held.jsonl")
    with pytest.raises(UserError, match=r"held.jsonl:1: this held-out row is .*train.jsonl:6"):
        run_prepare(train, shapes=("pair",), learn="last", eval=held)


def test_weights_count_pairs_and_their_tokens(write_rows: Callable[..., str], run_prepare: Run) -> None:
    one, other = write_rows(kinds("pair", 5)), write_rows(pairs(9)[5:], "other.jsonl")
    prepared = run_prepare([one, other], shapes=("pair",), learn="last", eval_share=0, weights=[2, 0.5])
    assert [rows for rows, _ in prepared.mixture] == [10, 2]
    assert sum(tokens for _, tokens in prepared.mixture) == prepared.train.tokens


@pytest.mark.parametrize("part", [200, 1_000_000])
def test_ties_are_counted_in_a_warning(
    part: int, write_rows: Callable[..., str], run_prepare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PART_BYTES", part)
    rows = [{"prompt": asked(at), "completions": ["b", "c"], "scores": [at % 3, 1]} for at in range(9)]
    prepared = run_prepare(write_rows(rows), shapes=("pair",), learn="last", eval_share=0)
    assert prepared.train.rows == 6
    (said,) = [one for one in prepared.warnings if "passed over" in one]
    assert said.startswith("data.train: 3 rows say that no answer is better")


@pytest.mark.parametrize(
    ("longer", "said"),
    [(1.0, "the longer answer is the chosen one in 100%"), (0.0, "the shorter answer is the chosen one in 100%")],
)
def test_a_length_that_tells_the_better_answer_is_said(
    longer: float, said: str, write_rows: Callable[..., str], run_prepare: Run
) -> None:
    rows = [*pairs(int(30 * longer), "b " * 9), *pairs(30, "b", "c " * 9)[int(30 * longer) :]]
    prepared = run_prepare(write_rows(rows), shapes=("pair",), learn="last", eval_share=0)
    (warning,) = [one for one in prepared.warnings if "AUC" in one]
    assert said in warning and "(AUC of the length 1.00)" in warning and "length-normalised loss" in warning


def test_a_length_that_tells_nothing_is_not_said(write_rows: Callable[..., str], run_prepare: Run) -> None:
    mixed = [*pairs(18, "b " * 9), *pairs(30, "b", "c " * 9)[18:]]  # 60 %
    few = pairs(FEWEST_PAIRS - 1, "b " * 9)
    for name, rows in (("mixed.jsonl", mixed), ("few.jsonl", few)):
        prepared = run_prepare(write_rows(rows, name), shapes=("pair",), learn="last", eval_share=0)
        assert not [one for one in prepared.warnings if "AUC" in one], name


def test_the_area_counts_equal_lengths_half() -> None:
    import numpy as np

    one, other = np.array([3, 1, 2]), np.array([2, 2, 0])
    expected = sum((a > b) + 0.5 * (a == b) for a in one for b in other) / 9
    assert above(one, other) == pytest.approx(expected) and above(one, one) == 0.5


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("tttf", "3 of 4 votes are up (75%) and 1 down"),
        ("tt", "every vote of 2 is up"),
        ("f", "every vote of 1 is down"),
    ],
)
def test_the_balance_of_votes_is_said(labels: str, said: str, write_rows: Callable[..., str], run_prepare: Run) -> None:
    rows = [{"prompt": asked(at), "completion": "b", "label": one == "t"} for at, one in enumerate(labels)]
    prepared = run_prepare(write_rows(rows), shapes=("vote",), learn="last", eval_share=0)
    assert any(said in one for one in prepared.warnings)


def test_the_preview_shows_each_side(write_rows: Callable[..., str], run_prepare: Run, family: Any) -> None:
    tokenizer = family("smollm2")
    shown = {}
    for shape in ("pair", "vote", "task"):
        path = write_rows(kinds(shape, 3), f"{shape}.jsonl")
        prepared = run_prepare(path, shapes=(shape,), learn="last", eval_share=0)
        shown[shape] = preview_text(prepared, tokenizer, rows=2)
        assert sample(prepared, tokenizer) in shown[shape]
        assert preview_html(prepared, tokenizer).count("<h2") == (6 if shape == "pair" else 3)
    head = "<|im_start|>assistant\n"
    assert "--- row 2, chosen\n" in shown["pair"] and f"{head}⟦x x <|im_end|>⟧" in shown["pair"]
    assert "--- row 2, rejected\n" in shown["pair"] and f"{head}⟦c<|im_end|>⟧" in shown["pair"]
    assert "--- row 1, voted up\n" in shown["vote"] and "--- row 2, voted down\n" in shown["vote"]
    assert "--- row 1, what is asked\n" in shown["task"] and "⟦x" not in shown["task"]
    assert "tokens in what is asked" in shown["task"].splitlines()[0]


def test_rows_are_compared_by_both_answers_or_by_the_reference() -> None:
    assert compared(PAIR).endswith(f"{GOOD['content']}\n{BAD['content']}")
    assert compared(Task((ASK,), columns={"level": 3, "target": 34})) == f"{ASK['content']}\n34"
    assert compared(Vote(PAIR.rejected, False)) == compared(PAIR.rejected)
