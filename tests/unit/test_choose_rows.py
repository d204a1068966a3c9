"""What is seen of rows, and what is known of a problem: said, seen, asked or assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rows import chat_row, write_rows

from finetune.choose import command
from finetune.choose import seen as seen_rows
from finetune.choose import situation as kinds
from finetune.choose import tokens as counted_tokens
from finetune.choose.known import QUESTIONS, TOLD, Question, read_answer
from finetune.choose.seen import MOST_ROWS, kind_of, look_at_rows
from finetune.choose.settings import read_settings
from finetune.choose.situation import Rows, Tokens
from finetune.choose.text import lines
from finetune.compose import compose
from finetune.config import DataConfig
from finetune.errors import UserError
from finetune.plan import RunPlan, plan_run
from finetune.settings.recipe import recipe_names
from finetune.settings.shipped import recipes_folder

ASK = {"role": "user", "content": "What is this?"}
SAY = {"role": "assistant", "content": "A lamp."}
PICTURE = {"type": "image_url", "image_url": {"url": "lamp.png"}}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (chat_row(1), kinds.CHAT),
        ({"prompt": "Which?", "completion": "That."}, kinds.CHAT),
        ({"instruction": "Say it.", "context": "", "response": "It."}, kinds.CHAT),
        ({"problem": "2 + 2", "solution": "4"}, kinds.CHAT),
        ({"question": "Which?", "answer": "That."}, kinds.CHAT),
        ({"text": "Once upon a time."}, kinds.TEXT),
        ({"text": "Once upon a time.", "label": True}, kinds.TEXT),
        ({"prompt": "Which?", "chosen": "That.", "rejected": "This."}, kinds.BETTER_WORSE),
        ({"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, kinds.BETTER_WORSE),
        ({"prompt": "Which?", "completion": "That.", "label": False}, kinds.VOTES),
        ({"messages": [{"role": "user", "content": [PICTURE]}, SAY]}, kinds.IMAGES),
        ({"messages": [ASK, SAY], "images": ["lamp.png"]}, kinds.IMAGES),
        ({"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}]}, kinds.IMAGES),
        ({"question": "Which?", "answer": "That.", "documents": [{"id": "1", "text": "That."}]}, kinds.GROUNDED),
        ({"instruction": "Which?", "context": "That.", "response": "That."}, kinds.GROUNDED),
        ({"context": "That.", "question": "Which?", "answers": {"text": ["That."]}}, kinds.GROUNDED),
        ({"prompt": "2 + 2", "reference": "4"}, kinds.TASKS),
        ({"messages": [ASK], "ground_truth": "lamp"}, kinds.TASKS),
        ({"question": "Sort it.", "test_list": ["assert f([2, 1]) == [1, 2]"]}, kinds.TASKS),
        ({"prompt": "Which?"}, kinds.PROMPTS),
        ({"messages": [ASK]}, kinds.PROMPTS),
        ({"id": 1, "score": 2.0}, None),
    ],
)
def test_the_kind_of_a_row(values: dict[str, Any], kind: str | None) -> None:
    assert kind_of(values) == kind


def test_every_kind_says_something_or_nothing_of_the_problem() -> None:
    assert set(TOLD) == set(kinds.KINDS)


def look(*files: Path, **more: Any) -> tuple[Rows, ...]:
    return look_at_rows(DataConfig(train=[str(path) for path in files], **more))


def test_rows_are_counted_and_measured(tmp_path: Path) -> None:
    chats = [chat_row(number) for number in range(30)]
    calls = {"messages": [ASK, {"role": "assistant", "tool_calls": [{"name": "look", "arguments": {}}]}]}
    broken = {"messages": [ASK, {"role": "assistant", "content": ""}]}
    path = write_rows(tmp_path / "rows.jsonl", [*chats, calls, broken])
    (seen,) = look(path)
    assert (seen.kind, seen.count, seen.exact, seen.refused) == (kinds.CHAT, 32, True, 1)
    lengths = [sum(len(turn["content"]) for turn in row["messages"]) + 1 for row in chats]
    assert seen.longest == max(lengths)
    assert seen.characters == pytest.approx(sum(lengths), rel=0.1)


def test_many_rows_are_estimated_from_the_size_of_the_file(tmp_path: Path) -> None:
    count = 3 * MOST_ROWS
    path = write_rows(tmp_path / "many.jsonl", [chat_row(number) for number in range(count)])
    (seen,) = look(path)
    assert not seen.exact
    assert seen.count == pytest.approx(count, rel=0.05)
    (limited,) = look(path, limit=2500)
    assert limited.count == 2500


def test_rows_of_a_parquet_file_are_counted_by_its_index(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 2 * MOST_ROWS + 7
    table = pa.table({"prompt": [f"q{n}" for n in range(count)], "completion": [f"a{n}" for n in range(count)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (seen,) = look(tmp_path / "rows.parquet")
    assert (seen.kind, seen.count) == (kinds.CHAT, count)


def test_images_in_a_parquet_file_are_seen(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": b"\x89PNG", "path": None}] * 3
    pq.write_table(
        pa.table({"image": images, "question": ["What?"] * 3, "answer": ["A lamp."] * 3}), tmp_path / "i.parquet"
    )
    (seen,) = look(tmp_path / "i.parquet")
    assert (seen.kind, seen.count) == (kinds.IMAGES, 3)


def test_columns_and_layouts_that_are_named_are_used(tmp_path: Path) -> None:
    odd = write_rows(tmp_path / "odd.jsonl", [{"asked": "Which?", "reply": "That."}] * 3)
    with pytest.raises(UserError, match=r"columns fit no kind of rows.*data.columns.prompt=question"):
        look(odd)
    (seen,) = look(odd, columns={"prompt": "asked", "completion": "reply"})
    assert seen.kind == kinds.CHAT
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Which?", "chosen": "That.", "rejected": "This."}] * 3)
    (seen,) = look(pairs, columns={"completion": "chosen"}, layout="prompt_completion")
    assert seen.kind == kinds.CHAT


@pytest.mark.parametrize(("text", "said"), [("", "no rows"), ("{broken\n", "JSON")])
def test_a_file_without_rows_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        look(tmp_path / "bad.jsonl")


def test_a_broken_line_among_others_is_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(5)])
    path.write_text(path.read_text() + "{broken\n")
    (seen,) = look(path)
    assert (seen.count, seen.refused) == (5, 1)


def choose(*arguments: str, ask: command.Ask | None = None) -> dict[str, Any]:
    answer = command.choose(arguments, ask)
    return {fact.name: (fact.value, fact.how) for fact in answer.facts} | {"answer": answer}


def test_each_source_of_rows_tells_its_part(tmp_path: Path) -> None:
    chats = write_rows(tmp_path / "chats.jsonl", [chat_row(number) for number in range(60)])
    votes = write_rows(tmp_path / "votes.jsonl", [{"prompt": "a", "completion": "b", "label": True}] * 60)
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 60)
    found = choose(str(votes))
    assert found["feedback"] == (kinds.THUMBS, "seen")
    assert found["answer"].advice.path == "rated"
    assert choose(str(chats), str(votes))["answer"].advice.path == "rated_examples"
    assert choose(str(pairs), str(votes))["feedback"] == (kinds.PAIRS, "seen")


def test_what_is_said_wins_over_what_is_assumed_and_not_over_what_is_seen(tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 60)
    found = choose(str(pairs), "choose.feedback=scale", "choose.changes=weekly")
    assert (found["feedback"], found["changes"]) == ((kinds.SCALE, "said"), ("weekly", "said"))
    with pytest.raises(UserError, match=r"choose.feedback: none is said, and .*pairs.jsonl holds pairs"):
        choose(str(pairs), "choose.feedback=none")
    grounded = write_rows(tmp_path / "g.jsonl", [{"question": "a", "answer": "b", "documents": ["c"]}] * 300)
    assert choose(str(grounded))["answer"].advice.path == "reading"
    assert choose(str(grounded), "choose.tried=[]")["answer"].advice.stop == "retrieval"


def test_rows_can_be_said_instead_of_shown() -> None:
    said = choose("choose.rows=600")["answer"]
    assert said.advice.tunes and "my.jsonl stands for the rows" in said.remarks
    assert any("data.train=my.jsonl" in one.text for one in said.commands)
    assert choose("choose.rows=600", "choose.feedback=pairs")["answer"].situation.rows[0].kind == kinds.BETTER_WORSE
    found = choose("choose.rows=600", "choose.gap=both", "choose.tried=[prompt,few_shot,retrieval]")["answer"]
    assert (found.advice.path, found.advice.tunes) == ("reading", True)
    assert choose()["answer"].advice.stop == "no_rows"


def test_only_what_matters_is_asked() -> None:
    asked: list[str] = []

    def answering(**answers: Any) -> command.Ask:
        asked.clear()

        def ask(question: Question) -> Any:
            asked.append(question.name)
            return answers.get(question.name)

        return ask

    found = choose(ask=answering(gap="knowledge", changes="weekly"))
    assert asked == ["gap", "changes", "tried", "rows", "images"]
    assert found["changes"] == ("weekly", "asked")
    assert found["answer"].advice.stop == "retrieval"
    choose(ask=answering(teacher="org/large"))
    assert asked == [question.name for question in QUESTIONS]
    choose("choose.gap=behaviour", "choose.images=false", ask=answering())
    assert not {"gap", "images", "cost"} & set(asked)
    assert [fact.name for fact in choose("choose.gap=knowledge")["answer"].assumed] == [
        "changes",
        "tried",
        "rows",
        "images",
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gap", "2", "knowledge"),
        ("gap", "Both", "both"),
        ("gap", "", None),
        ("tried", "1, 3", ("prompt", "retrieval")),
        ("verifiable", "y", True),
        ("verifiable", "No", False),
        ("rows", "120", 120),
        ("teacher", " org/large ", "org/large"),
        ("changes", "by the minute", "live"),
    ],
)
def test_answers_are_read(name: str, text: str, value: Any) -> None:
    question = next(question for question in QUESTIONS if question.name == name)
    assert read_answer(question, text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("gap", "4"), ("gap", "x"), ("rows", "many"), ("variants", "0"), ("tried", "1,9")]
)
def test_answers_that_mean_nothing_are_asked_again(name: str, text: str) -> None:
    question = next(question for question in QUESTIONS if question.name == name)
    with pytest.raises(ValueError, match="write a"):
        read_answer(question, text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.jsonl", "data.train=b.jsonl"], "data.train: files are given twice"),
        (["choose.gap=skill"], "choose.gap: 'skill' is not one of behaviour, knowledge, both"),
        (["choose.tried=[prompts]"], "choose.tried: 'prompts' is not one of prompt"),
        (["choose.gab=both"], "choose.gab: `finetune choose` has no such setting; did you mean choose.gap?"),
        (["a.jsonl", "choose.rows=5"], "choose.rows: has no effect: the rows that are shown are counted"),
        (["data.limit=5"], "data.limit: has no effect without rows"),
        (["choose.memory=24"], "choose.memory: has no effect without a base model"),
        (["model=tiny", "choose.hours=2"], "choose.hours: has no effect without rows"),
        (["model=tiny", "choose.devices=2"], "choose.devices: has no effect without choose.memory"),
        (["choose.cost=true"], "choose.cost: has no effect without choose.teacher"),
        (["choose.target=0.9"], "choose.target: has no effect without --measure"),
        (["choose.measure=true", "a.jsonl"], "choose.measure: needs a base model"),
        (["choose.measure=true", "model=tiny"], "choose.measure: needs rows"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        read_settings(arguments)
    assert str(raised.value.faults[0]).startswith(said)


def test_memory_that_is_said_stands_for_a_gpu() -> None:
    found = choose("model=tiny", "choose.memory=24", "choose.devices=2")["answer"].situation.base
    assert found.said == "2 × GPU with 24 GB"
    assert found.fit("sharded") is not None
    assert choose("model=tiny", "choose.memory=0.1")["answer"].advice.tuning is None


def test_a_base_that_is_out_of_reach_is_said(tmp_path: Path) -> None:
    answer = choose("model.name=nobody/has-this", "choose.rows=500")["answer"]
    assert answer.advice.tuning_rule == "not_looked_at"
    assert "the base was not looked at" in answer.remarks[0]
    with pytest.raises(UserError, match="no such folder"):
        choose(f"model.name={tmp_path}/nothing", "choose.rows=500")


def test_a_base_with_quantized_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(llama, tmp_path / "quantized"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="stored quantized"):
        choose(f"model.name={folder}")


def counted(*arguments: str) -> tuple[Tokens, command.Answer]:
    answer = command.choose(arguments, None)
    return answer.situation.tokens, answer


def planned(answer: command.Answer) -> RunPlan:
    """The plan of the command that was printed."""
    (words,) = (one.words[2:] for one in answer.commands if one.words[1] == "plan")
    return plan_run(compose(list(words)))


RECIPES = [*recipe_names(), "support-json/heldout.jsonl"]


@pytest.mark.parametrize("given", RECIPES)
def test_tokens_and_memory_are_those_of_the_plan(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the rows of every recipe: the same tokens, the same longest row, and the same memory."""
    monkeypatch.chdir(tmp_path)
    if given.endswith(".jsonl"):
        arguments = [str(recipes_folder() / given)]
    else:
        data = compose([], given).config.data
        arguments = [f"data.train={data.train}", *([f"data.eval={data.eval}"] if data.eval else [])]
    tokens, answer = counted(*arguments, "model=tiny")
    assert not (tmp_path / "runs").exists()
    plan = planned(answer)
    assert tokens == Tokens(plan.data.train.tokens, plan.data.train.longest, "counted")
    fit = answer.situation.base and answer.situation.base.fit(plan.config.tuning.option)
    assert fit and fit.gigabytes * 2**30 == plan.memory.total
    assert f"{plan.data.train.tokens:,} tokens, the longest row {plan.data.train.longest:,} (" in "".join(lines(answer))


@pytest.mark.parametrize("settings", [(), ("data.max_length=60", "data.on_long=truncate"), ("data.eval_share=0.4",)])
def test_pairs_and_settings_count_as_they_do_in_the_plan(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(
        Path("pairs.jsonl"),
        [{"prompt": f"Say {n}.", "chosen": f"{n} " * (n + 1), "rejected": "No."} for n in range(60)],
    )
    tokens, answer = counted("pairs.jsonl", "model=tiny", *settings)
    plan = planned(answer)
    assert (tokens.total, tokens.longest) == (plan.data.train.tokens, plan.data.train.longest)


def test_many_rows_are_counted_by_their_first_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (seen_rows, counted_tokens):
        monkeypatch.setattr(module, "MOST_ROWS", 300)
    write_rows(Path("many.jsonl"), [chat_row(number) for number in range(1200)])
    write_rows(Path("few.jsonl"), [chat_row(-number) for number in range(1, 90)])
    for settings in ((), ("data.weights=[0.5,2]",), ("data.counts=[700,300]",)):
        tokens, answer = counted("many.jsonl", "few.jsonl", "model=tiny", *settings)
        assert tokens.how == "sampled"
        assert tokens.total == pytest.approx(planned(answer).data.train.tokens, rel=0.05)
    assert "an epoch reads about " in "".join(lines(answer))
    Path("many.jsonl").write_text(Path("many.jsonl").read_text().replace('"assistant"', '"nobody"', 1))
    assert any(
        "would refuse this run: many.jsonl:1 " in remark for remark in counted("many.jsonl", "model=tiny")[1].remarks
    )


def test_rows_that_the_plan_refuses_are_guessed_and_that_is_said(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*(chat_row(number) for number in range(60)), {"messages": [ASK]}])
    tokens, answer = counted(str(path), "model=tiny")
    assert tokens.how == "guessed" and tokens.total > 0
    assert any("would refuse" in remark and "rows.jsonl:61" in remark for remark in answer.remarks)
    assert [one.words[1] for one in answer.commands] == ["data", "choose"]  # none that would fail
    assert "once this is mended: " in answer.commands[-1].why and "rows.jsonl:61" in answer.commands[-1].why
    assert "about" in next(reason for reason in answer.advice.reasons if "an epoch reads" in reason)
    passages = [{"question": "a", "answer": "b", "documents": [{"id": "1", "text": "That."}]}] * 60
    tokens, answer = counted(str(write_rows(tmp_path / "passages.jsonl", passages)), "model=tiny")
    assert (tokens.how, answer.remarks) == ("guessed", ())


def test_votes_are_counted_as_their_method_reads_them(tmp_path: Path) -> None:
    votes = [{"prompt": f"Say {n}.", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(60)]
    tokens, answer = counted(str(write_rows(tmp_path / "votes.jsonl", votes)), "model=tiny")
    assert (tokens.how, answer.remarks) == ("counted", ())


def test_the_memory_of_distillation_holds_the_teacher(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models import save_llama, save_tokenizer

    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "teacher", hidden=128)
    save_tokenizer(tmp_path / "teacher")
    path = write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(300)])
    wanted = ("choose.teacher=teacher", "choose.cost=true")
    _, answer = counted(str(path), f"model.name={llama}", *wanted)
    plan = planned(answer)
    assert plan.memory.frozen and answer.situation.base
    assert answer.situation.base.fits[0].gigabytes * 2**30 == plan.memory.total
    _, answer = counted(str(path), f"model.name={llama}", f"choose.teacher={llama}", "choose.cost=true")
    assert any("would refuse this run: method.teacher" in remark for remark in answer.remarks)
