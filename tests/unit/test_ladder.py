"""The comparison of base, few-shot and tuned model on held-out rows."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder
from finetune.data.rows import Chat, Row, Text
from finetune.errors import UserError
from finetune.evaluate.ladder import Evaluation, Models, answer_rows, as_json, run_ladder, run_text_ladder
from finetune.evaluate.questions import (
    Speech,
    ask,
    choose_examples,
    choose_rows,
    fingerprint,
    with_examples,
)
from finetune.evaluate.run import adapter_models

ANSWER = '{"box": 5}'


def chat(question: str, answer: str = ANSWER, system: str | None = None) -> Chat:
    first = [{"role": "system", "content": system}] if system else []
    return Chat((*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}))


TRAINING = [chat(f"jugs {number}") for number in range(12)]
HELD_OUT = [chat(f"fox {number}") for number in range(8)]


@pytest.fixture(scope="module")
def speech(random_model_folder: Path) -> Speech:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)


@pytest.fixture(scope="module")
def open_model(random_model_folder: Path) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_pretrained(random_model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapter(open_model: Callable[[], Any], speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that really learned to give the one answer of the training rows."""
    torch.manual_seed(0)
    model = get_peft_model(open_model(), LoraConfig(r=8, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    questions = [ask(row, speech) for row in TRAINING]
    for step in range(60):
        question = questions[step % len(questions)]
        ids = torch.tensor([[*question.prompt, *question.reference_ids]])
        labels = ids.clone()
        labels[:, : len(question.prompt)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def evaluation(open_model: Callable[[], Any], adapter: Path, speech: Speech) -> Evaluation:
    settings = EvaluateConfig(few_shot=2, batch_size=4)
    return run_ladder(adapter_models(open_model, adapter), speech, HELD_OUT, TRAINING, settings, seed=1)


def test_a_model_that_learned_the_answers_beats_both_baselines(evaluation: Evaluation) -> None:
    result = as_json(evaluation)
    scores = {rung["name"]: rung["score"] for rung in result["rungs"]}
    assert scores == {"base": 0.0, "few_shot": 0.0, "tuned": 1.0}
    assert result["verdict"] == "better"
    assert [one["against"] for one in result["comparisons"]] == ["base", "few_shot"]
    for one in result["comparisons"]:
        assert one["difference"] == 1.0
        assert one["p"] == pytest.approx(2 / 2**8)
        assert one["p_corrected"] == pytest.approx(4 / 2**8)


def test_eval_json_holds_what_scripts_rely_on(evaluation: Evaluation) -> None:
    result = json.loads(json.dumps(as_json(evaluation), allow_nan=False))
    assert result["held_out"] == {"rows": 8, "fingerprint": fingerprint(HELD_OUT)}
    assert result["metric"] == "exact"
    for rung in result["rungs"]:
        low, high = rung["interval"]
        assert low <= rung["score"] <= high
        assert rung["n"] == 8
        assert set(rung["scores"]) == {"exact", "contains", "f1", "json_valid", "json_fields"}
    tuned, base = result["rungs"][2], result["rungs"][0]
    assert tuned["stop_rate"] == 1.0
    assert tuned["nll_per_token"] < base["nll_per_token"] - 0.5
    assert tuned["tokens_per_answer"] < base["tokens_per_answer"]


def test_answers_of_every_rung_can_be_looked_at(evaluation: Evaluation) -> None:
    rows = answer_rows(evaluation)
    assert len(rows) == 8
    assert rows[0]["reference"] == ANSWER
    assert "fox 0" in rows[0]["prompt"]
    assert rows[0]["answers"]["tuned"]["text"] == ANSWER
    assert rows[0]["answers"]["tuned"]["scores"]["json_fields"] == 1.0
    assert rows[0]["answers"]["base"]["text"] != ANSWER


def test_the_same_seed_gives_the_same_evaluation(
    evaluation: Evaluation, open_model: Callable[[], Any], adapter: Path, speech: Speech
) -> None:
    settings = EvaluateConfig(few_shot=2, batch_size=8)  # other batches, too
    again = run_ladder(adapter_models(open_model, adapter), speech, HELD_OUT, TRAINING, settings, seed=1)
    assert answer_rows(again) == answer_rows(evaluation)
    assert again.comparisons == evaluation.comparisons


def test_the_adapters_base_is_the_base_itself(
    evaluation: Evaluation, open_model: Callable[[], Any], speech: Speech
) -> None:
    alone = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    other = run_ladder(alone, speech, HELD_OUT, TRAINING, EvaluateConfig(few_shot=2), seed=1)
    said = [[answer.text for answer in rung.answers] for rung in other.rungs]
    assert said[0] == [answer.text for answer in evaluation.rungs[0].answers]
    assert said[1] == [answer.text for answer in evaluation.rungs[1].answers]
    assert said[2] == said[0]
    assert other.verdict == "inconclusive"


def test_examples_come_from_training_rows_only_and_are_named(evaluation: Evaluation) -> None:
    shown = as_json(evaluation)["rungs"][1]["examples"]
    assert shown == [index + 1 for index in choose_examples(TRAINING, HELD_OUT, 2, 1)]
    assert all(1 <= number <= len(TRAINING) for number in shown)


def test_no_example_asks_what_a_held_out_row_asks() -> None:
    training = [*HELD_OUT, chat("a new one"), chat("a new one", "another answer")]
    assert [training[index].messages[0]["content"] for index in choose_examples(training, HELD_OUT, 3, 5)] == [
        "a new one"
    ]


def test_a_question_is_the_same_whichever_of_its_answers_are_learned() -> None:
    training = [replace(row, last=True) for row in HELD_OUT]
    assert choose_examples(training, HELD_OUT, 3, 5) == ()


def test_without_training_rows_to_show_there_is_no_few_shot_rung(open_model: Callable[[], Any], speech: Speech) -> None:
    alone = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    result = as_json(run_ladder(alone, speech, HELD_OUT[:2], [], EvaluateConfig(), seed=1))
    assert [rung["name"] for rung in result["rungs"]] == ["base", "tuned"]
    assert result["best_baseline"] == "base"


def test_examples_are_earlier_turns_under_the_rows_own_system_message(speech: Speech) -> None:
    question = ask(chat("what?", system="Be brief."), speech)
    examples = [ask(chat("one?", "1", system="Be long."), speech), ask(chat("two?", "2"), speech)]
    ids, count = with_examples(question, examples, speech, room=10)
    text = speech.tokenizer.decode(ids)
    assert count == 2
    assert "Be long." not in text
    order = [text.index(part) for part in ("Be brief.", "one?", "\n1<", "two?", "\n2<", "what?")]
    assert order == sorted(order)


def test_examples_that_do_not_fit_are_left_out(speech: Speech) -> None:
    question = ask(chat("what?"), speech)
    examples = [ask(chat("one? " * 10, "1"), speech), ask(chat("two? " * 10, "2"), speech)]
    one = len(with_examples(question, examples[:1], speech, room=10)[0])
    ids, count = with_examples(question, examples, replace(speech, context=one + 12), room=10)
    assert (len(ids), count) == (one, 1)
    ids, count = with_examples(question, examples, replace(speech, context=len(question.prompt) + 5), room=10)
    assert (tuple(ids), count) == (question.prompt, 0)


def test_rows_are_drawn_by_seed_and_stay_in_order() -> None:
    rows: list[Row] = [Text(str(number)) for number in range(100)]
    drawn = choose_rows(rows, 100, 10, seed=3)
    numbers = [int(row.text) for row in drawn if isinstance(row, Text)]
    assert numbers == sorted(numbers)
    assert max(numbers) > 20  # not just the first ones
    assert drawn == choose_rows(rows, 100, 10, seed=3) != choose_rows(rows, 100, 10, seed=4)
    assert choose_rows(iter(rows), 100, 100, seed=3) == rows
    assert choose_rows(rows, 100, 500, seed=3) == rows


def test_the_fingerprint_changes_with_any_row() -> None:
    changed = [*HELD_OUT[:-1], chat("fox 7", "another")]
    assert fingerprint(HELD_OUT) == fingerprint(list(HELD_OUT))
    assert len({fingerprint(HELD_OUT), fingerprint(changed), fingerprint(HELD_OUT[:-1])}) == 3


def test_plain_text_is_compared_by_how_well_it_is_predicted(
    open_model: Callable[[], Any], adapter: Path, speech: Speech
) -> None:
    rows = [Text(f"<|im_start|>user\nfox {n}<|im_end|>\n<|im_start|>assistant\n{ANSWER}") for n in range(8)]
    models = adapter_models(open_model, adapter)
    result = as_json(run_text_ladder(models, speech, rows, EvaluateConfig(), seed=1))
    assert (result["metric"], result["lower_is_better"]) == ("nll", True)
    assert [rung["name"] for rung in result["rungs"]] == ["base", "tuned"]
    assert result["comparisons"][0]["difference"] < 0
    assert result["verdict"] == "better"
    swapped = Models(models.tuned, models.base)
    assert as_json(run_text_ladder(swapped, speech, rows, EvaluateConfig(), seed=1))["verdict"] == "worse"


def test_json_metrics_refuse_references_that_are_text(speech: Speech) -> None:
    never = Models(lambda: pytest.fail("opened"), lambda: pytest.fail("opened"))
    rows = [chat("one"), chat("two", "just text"), chat("three", "more text")]
    with pytest.raises(UserError) as caught:
        run_ladder(never, speech, rows, TRAINING, EvaluateConfig(metric="json_fields"), seed=1)
    assert [fault.where for fault in caught.value.faults] == [
        "held-out row 2 answer",
        "held-out row 3 answer",
    ]
    assert "evaluate.metric=json_fields" in caught.value.faults[0].mend


@pytest.mark.parametrize("rows", [[], HELD_OUT[:1]])
def test_too_few_rows_are_refused_before_a_model_is_opened(speech: Speech, rows: list[Chat]) -> None:
    never = Models(lambda: pytest.fail("opened"), lambda: pytest.fail("opened"))
    with pytest.raises(UserError, match="at least 2") as caught:
        run_ladder(never, speech, rows, TRAINING, EvaluateConfig(), seed=1)
    assert caught.value.faults[0].where == "data.eval"
    with pytest.raises(UserError, match="at least 2"):
        run_text_ladder(never, speech, [Text("a")] * len(rows), EvaluateConfig(), seed=1)


def test_an_answer_that_calls_a_tool_is_compared_as_the_template_writes_it(random_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{% for call in m['tool_calls'] or [] %}CALL {{ call['function'] | tojson }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    speech = Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "fox"}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    question = ask(Chat(({"role": "user", "content": "fox?"}, answer)), speech)
    assert question.reference.startswith('CALL {"name": "look"')
    assert "<|im_end|>" not in question.reference
    assert question.reference_ids[-1] == 2


def test_a_model_without_a_template_gets_examples_as_plain_text(random_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    tokenizer.chat_template = None
    speech = Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)
    rows = [replace(chat(f"{name}:", f" {name} it is"), plain=True) for name in ("one", "two", "what")]
    shown = [ask(row, speech) for row in rows]
    ids, count = with_examples(shown[2], shown[:2], speech, room=10)
    assert count == 2
    assert tokenizer.decode(ids) == "one: one it is\n\ntwo: two it is\n\nwhat:"


def test_every_key_of_the_files_is_documented(evaluation: Evaluation) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")
    named = {"exact", "contains", "f1", "json_valid", "json_fields", "base", "few_shot", "tuned"}
    found = _keys(as_json(evaluation)) | _keys(answer_rows(evaluation)) | named
    assert len(found) > 30
    assert {key for key in found if f"`{key}`" not in page} == set()


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set[str]().union(*map(_keys, value)) if isinstance(value, (list, tuple)) else set()
