"""The comparison of base, prompted, few-shot and tuned model on held-out rows."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contests import ANSWER, chat, contest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder
from finetune.data.rows import Chat, Row, Text
from finetune.errors import UserError
from finetune.evaluate.choice import Asking, choose_prompt
from finetune.evaluate.classes import OfClass
from finetune.evaluate.climb import run_ladder, run_text_ladder
from finetune.evaluate.contest import Contest
from finetune.evaluate.hearing import by_text
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.ladder import Evaluation, answer_rows, as_json
from finetune.evaluate.local import LocalEngine, Models, adapter_models
from finetune.evaluate.prompts import SystemPrompt, with_prompt
from finetune.evaluate.questions import Speech, ask, choose_examples, choose_rows, fingerprint, shown
from finetune.evaluate.score import SCORERS, exact
from finetune.evaluate.table import METRICS
from finetune.log import log

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


def climbed(
    models: Models,
    speech: Speech,
    answers: Path,
    training: list[Chat] = TRAINING,
    held_out: list[Chat] = HELD_OUT,
    **changed: Any,
) -> Evaluation:
    settings = EvaluateConfig(**{"few_shot": 2, "prompt_rows": 4, "max_new_tokens": 12, **changed})
    pair, choices = contest(models, speech, answers), Kept.open(answers, "choices")
    return run_ladder(pair, held_out, training, settings, seed=1, choices=choices)


def never() -> Models:
    return Models(lambda: pytest.fail("opened"), lambda: pytest.fail("opened"))


@pytest.fixture(scope="module")
def evaluation(
    open_model: Callable[[], Any], adapter: Path, speech: Speech, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    return climbed(adapter_models(open_model, adapter), speech, tmp_path_factory.mktemp("answers"))


def test_a_model_that_learned_the_answers_beats_both_baselines(evaluation: Evaluation) -> None:
    result = as_json(evaluation)
    scores = {rung["name"]: rung["score"] for rung in result["rungs"]}
    assert scores == {"base": 0.0, "prompted": 0.0, "few_shot": 0.0, "tuned": 1.0}
    assert result["verdict"] == "better"
    assert [one["against"] for one in result["comparisons"]] == ["base", "prompted", "few_shot"]
    for one in result["comparisons"]:
        assert one["difference"] == 1.0
        assert one["p"] == pytest.approx(2 / 2**8)
        assert one["p_corrected"] == pytest.approx(6 / 2**8)


def test_eval_json_holds_what_scripts_rely_on(evaluation: Evaluation) -> None:
    result = json.loads(json.dumps(as_json(evaluation), allow_nan=False))
    assert result["held_out"] == {"rows": 8, "groups": 8, "fingerprint": fingerprint(HELD_OUT)}
    assert result["metric"] == "exact"
    for rung in result["rungs"]:
        low, high = rung["interval"]
        assert low <= rung["score"] <= high
        assert rung["n"] == 8
        assert set(rung["scores"]) == {"exact", "contains", "f1", "rouge_l", "bleu", "json_valid", "json_fields"}
    tuned, base = result["rungs"][3], result["rungs"][0]
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


def test_what_an_answer_took_stands_beside_its_score(evaluation: Evaluation, speech: Speech) -> None:
    rows, rungs = answer_rows(evaluation), as_json(evaluation)["rungs"]
    for rung in rungs:
        given = [row["answers"][rung["name"]] for row in rows]
        assert rung["seconds"] == pytest.approx(sum(one["seconds"] for one in given))
        assert rung["seconds"] > 0
        assert rung["seconds_per_answer"] == pytest.approx(rung["seconds"] / 8)
        assert rung["prompt_tokens"] == pytest.approx(sum(one["prompt_tokens"] for one in given) / 8)
        assert rung["tokens_per_answer"] == pytest.approx(sum(one["tokens"] for one in given) / 8)
        assert rung["stop_rate"] == sum(one["stopped"] for one in given) / 8
    bare = [len(ask(row, speech).prompt) for row in HELD_OUT]
    assert rungs[0]["prompt_tokens"] == rungs[3]["prompt_tokens"] == pytest.approx(sum(bare) / 8)
    assert rungs[0]["prompt_tokens"] < rungs[1]["prompt_tokens"]


def test_the_one_answer_of_all_training_rows_is_as_good_where_all_rows_have_it(evaluation: Evaluation) -> None:
    most = as_json(evaluation)["majority"]
    assert (most["answer"], most["share"], most["score"], most["difference"]) == (ANSWER, 1.0, 1.0, 0.0)
    assert most["verdict"] == "inconclusive"


def test_the_same_seed_gives_the_same_evaluation(
    evaluation: Evaluation, open_model: Callable[[], Any], adapter: Path, speech: Speech, tmp_path: Path
) -> None:
    models = adapter_models(open_model, adapter)
    again = climbed(models, speech, tmp_path)
    assert [timeless(row) for row in answer_rows(again)] == [timeless(row) for row in answer_rows(evaluation)]
    assert again.comparisons == evaluation.comparisons


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row of answers without what changes from time to time."""
    return {**row, "answers": {name: {**one, "seconds": 0, "nll": 0} for name, one in row["answers"].items()}}


def test_the_adapters_base_is_the_base_itself(
    evaluation: Evaluation, open_model: Callable[[], Any], speech: Speech, tmp_path: Path
) -> None:
    alone = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    other = climbed(alone, speech, tmp_path)
    said = [[answer.text for answer in rung.answers] for rung in other.rungs]
    for place in range(3):
        assert said[place] == [answer.text for answer in evaluation.rungs[place].answers]
    assert said[3] == said[0]
    assert other.verdict == "inconclusive"


def test_examples_come_from_training_rows_only_and_are_named(evaluation: Evaluation) -> None:
    result = as_json(evaluation)
    examples, trial = result["rungs"][2]["examples"], result["prompts"]["rows"]
    assert examples == [index + 1 for index in choose_examples(TRAINING, HELD_OUT, 2, 1)]
    assert all(1 <= number <= len(TRAINING) for number in [*examples, *trial])
    assert len({*examples, *trial}) == 2 + 4  # the prompt is chosen on other rows than those shown


def test_nothing_of_a_held_out_row_is_in_any_other_rows_prompt(
    open_model: Callable[[], Any], speech: Speech, tmp_path: Path
) -> None:
    training = [*TRAINING, *HELD_OUT]  # a file in which all rows stand
    models = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    given: list[str] = []
    pair = contest(models, speech, tmp_path)
    engine = Overheard(pair.base, given)
    run_ladder(
        replace(pair, base=engine),
        HELD_OUT,
        training,
        EvaluateConfig(few_shot=3, prompt_rows=20, max_new_tokens=4),
        seed=3,
        choices=Kept.open(tmp_path, "choices"),
    )
    assert any("jugs" in text for text in given)
    for text in given:
        assert text.count("fox ") <= 1, "the row's own question, or none while prompts are chosen"
    asked_about = [text for text in given if "fox " not in text]
    assert len(asked_about) > 10  # prompts were chosen on training rows


class Overheard(LocalEngine):
    """An engine whose prompts are noted."""

    def __init__(self, engine: Any, given: list[str]) -> None:
        self.__dict__ = engine.__dict__
        self.given = given

    def answer(self, prompts: Any, room: int) -> Any:
        self.given += [self.shown(prompt) for prompt in prompts]
        return super().answer(prompts, room)


def test_no_example_asks_what_a_held_out_row_asks() -> None:
    training = [*HELD_OUT, chat("a new one"), chat("a new one", "another answer")]
    assert [training[index].messages[0]["content"] for index in choose_examples(training, HELD_OUT, 3, 5)] == [
        "a new one"
    ]


def test_a_question_is_the_same_whichever_of_its_answers_are_learned() -> None:
    training = [replace(row, last=True) for row in HELD_OUT]
    assert choose_examples(training, HELD_OUT, 3, 5) == ()


def test_without_training_rows_neither_prompts_nor_examples_are_tried(
    open_model: Callable[[], Any], speech: Speech, tmp_path: Path
) -> None:
    alone = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    result = as_json(climbed(alone, speech, tmp_path, training=[], held_out=HELD_OUT[:2]))
    assert [rung["name"] for rung in result["rungs"]] == ["base", "tuned"]
    assert result["best_baseline"] == "base"
    assert [one["rung"] for one in result["left_out"]] == ["few_shot", "prompted"]
    assert all("no training rows" in one["why"] for one in result["left_out"])


def test_a_rung_that_is_asked_for_and_cannot_be_climbed_is_refused(speech: Speech, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        climbed(never(), speech, tmp_path, training=[], rungs=["few_shot", "prompted"])
    assert [fault.where for fault in caught.value.faults] == ["evaluate.rungs"] * 2
    assert "data.train" in caught.value.faults[0].mend


def test_only_the_rungs_that_are_named_are_climbed(
    open_model: Callable[[], Any], adapter: Path, speech: Speech, tmp_path: Path
) -> None:
    result = as_json(climbed(adapter_models(open_model, adapter), speech, tmp_path, rungs=["few_shot"]))
    assert [rung["name"] for rung in result["rungs"]] == ["few_shot", "tuned"]
    assert (result["left_out"], result["prompts"]) == ([], None)


def test_a_model_without_a_base_is_set_against_itself_with_a_prompt_and_examples(
    open_model: Callable[[], Any], speech: Speech, tmp_path: Path
) -> None:
    alone = contest(Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model())), speech, tmp_path)
    settings, choices = EvaluateConfig(few_shot=2, prompt_rows=4, max_new_tokens=8), Kept.open(tmp_path, "choices")
    result = as_json(run_ladder(Contest(alone.judged), HELD_OUT, TRAINING, settings, seed=1, choices=choices))
    assert [(rung["name"], rung["of"]) for rung in result["rungs"]] == [
        ("prompted", "tuned"),
        ("few_shot", "tuned"),
        ("tuned", "tuned"),
    ]
    measured = as_json(run_ladder(Contest(alone.judged), HELD_OUT, [], settings, seed=1, choices=choices))
    assert (measured["verdict"], measured["best_baseline"], measured["comparisons"]) == (None, None, [])


class Heard(logging.Handler):
    """What the logger said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().partition(" in ")[0])


@pytest.fixture
def heard() -> Iterator[Heard]:
    level, handler = log.level, Heard()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(level)
    log.removeHandler(handler)


def test_a_base_that_stands_for_both_is_called_by_its_name_and_asked_once(
    open_model: Callable[[], Any], speech: Speech, tmp_path: Path, heard: Heard
) -> None:
    models = Models(lambda: nullcontext(open_model()), lambda: nullcontext(open_model()))
    base = contest(models, speech, tmp_path).climber
    settings, choices = EvaluateConfig(max_new_tokens=4), Kept.open(tmp_path, "choices")
    run_ladder(Contest(base, base), HELD_OUT, [], settings, seed=1, choices=choices)
    assert heard.lines[-1] == "base: 8 answers"
    assert not any(line.startswith("tuned") for line in heard.lines)
    heard.lines.clear()
    run_ladder(Contest(base), HELD_OUT[:2], [], settings, seed=1, choices=choices)
    assert not any("answer" in line and "left out" not in line for line in heard.lines)


def test_other_targets_are_compared_under_their_own_names(
    evaluation: Evaluation, open_model: Callable[[], Any], adapter: Path, speech: Speech, tmp_path: Path
) -> None:
    models = adapter_models(open_model, adapter)
    pair = contest(models, speech, tmp_path)
    twin = LocalEngine("twin", speech, models.tuned, Kept.open(tmp_path, "tuned"), 4)
    settings, choices = EvaluateConfig(few_shot=2, prompt_rows=4, max_new_tokens=12), Kept.open(tmp_path, "choices")
    found = run_ladder(replace(pair, others=(twin,)), HELD_OUT, TRAINING, settings, seed=1, choices=choices)
    result = as_json(found)
    assert [one["against"] for one in result["comparisons"]] == ["base", "prompted", "few_shot", "twin"]
    assert (result["verdict"], result["best_baseline"]) == ("better", "base")  # of the ladder, though twin is as good
    assert result["comparisons"][3]["verdict"] == "inconclusive"
    assert result["comparisons"][0]["p_corrected"] == pytest.approx(4 * 2 / 2**8)  # Holm over all four
    lone = replace(pair, base=None, others=(LocalEngine("raw", speech, models.base, Kept.open(tmp_path, "base"), 4),))
    result = as_json(run_ladder(lone, HELD_OUT, [], settings, seed=1, choices=choices))
    assert (result["verdict"], result["best_baseline"]) == ("better", "raw")


def test_the_prompt_with_the_best_score_is_taken_and_all_are_recorded(speech: Speech, tmp_path: Path) -> None:
    wanted = chosen_among(speech, tmp_path, by="exact")
    assert {one["name"]: one["score"] for one in wanted["tried"]} == {"poor": 0.0, "good": 1.0}
    assert (wanted["chosen"], wanted["by"], len(wanted["rows"])) == ("good", "exact", 3)


def test_another_metric_keeps_the_prompt_unless_it_is_to_be_chosen_again(speech: Speech, tmp_path: Path) -> None:
    assert chosen_among(speech, tmp_path, by="json_valid")["chosen"] == "poor"
    kept = chosen_among(speech, tmp_path, by="exact")
    assert (kept["chosen"], kept["by"]) == ("poor", "json_valid")
    assert {one["name"]: one["score"] for one in kept["tried"]} == {"poor": 0.0, "good": 1.0}
    again = chosen_among(speech, tmp_path, by="exact", again=True)
    assert (again["chosen"], again["by"]) == ("good", "exact")
    assert chosen_among(speech, tmp_path, by="json_valid")["chosen"] == "good"


def chosen_among(speech: Speech, folder: Path, by: str, again: bool = False) -> dict[str, Any]:
    """How a prompt is chosen among two; the answers under both are kept, so that no model is opened."""
    prompts = [SystemPrompt("poor", "Say no."), SystemPrompt("good", "Say it.")]
    asking = Asking(contest(never(), speech, folder).judged, by, 12, (), by_text(SCORERS[by]))
    kept, stops = Kept.open(folder, "tuned"), speech.encoder.stop_ids
    for prompt, said in zip(prompts, ('{"box": 6}', ANSWER), strict=True):
        given, _ = asking.prompts(TRAINING[:3], prompt.text, ())
        one = {"text": said, "stopped": True, "seconds": 0.1, "tokens": 3, "prompt_tokens": 9}
        kept.add({key_of("answer", prompt.ids, 12, stops): one for prompt in given})
    asking = replace(asking, engine=contest(never(), speech, folder).judged)
    choices = Kept.open(folder, "choices")
    return choose_prompt(asking, prompts, TRAINING, [0, 1, 2], choices, again).record


def test_examples_are_earlier_turns_under_the_rows_own_system_message(speech: Speech) -> None:
    row, examples = chat("what?", system="Be brief."), [chat("one?", "1", system="Be long."), chat("two?", "2")]
    turns = shown(with_prompt(row.messages[:-1], "Say it.", bare=False), examples, "")
    text = speech.tokenizer.decode(speech.encoder.prompt_ids(turns))
    assert "Be long." not in text
    order = [text.index(part) for part in ("Be brief.\n\nSay it.", "one?", "\n1<", "two?", "\n2<", "what?")]
    assert order == sorted(order)


def test_what_does_not_fit_is_left_out_examples_first(speech: Speech, tmp_path: Path) -> None:
    rows, examples = [chat("what?")], [chat("one? " * 10, "1"), chat("two? " * 10, "2")]

    def fitted(context: int, text: str | None) -> tuple[str, int]:
        engine = contest(never(), replace(speech, context=context), tmp_path).judged
        (prompt,), shortened = Asking(engine, "exact", 10, (), by_text(exact)).prompts(rows, text, examples)
        return engine.shown(prompt), shortened

    whole, _ = fitted(1000, "Say it.")
    assert "one?" in whole and "two?" in whole and "Say it." in whole
    length = len(speech.tokenizer(whole)["input_ids"])
    assert fitted(length + 10, "Say it.") == (whole, 0)
    cut, shortened = fitted(length + 9, "Say it.")
    assert "one?" in cut and "two?" not in cut and "Say it." in cut and shortened == 1
    bare, shortened = fitted(len(ask(rows[0], speech).prompt) + 10, "Say it. " * 5)
    assert "Say it." not in bare and "what?" in bare and shortened == 1


def test_a_question_longer_than_the_context_is_refused_before_a_model_is_opened(speech: Speech, tmp_path: Path) -> None:
    rows = [chat("short"), chat("long " * 100)]
    with pytest.raises(UserError, match="longer than the context") as caught:
        climbed(never(), replace(speech, context=60), tmp_path, held_out=rows)
    assert {fault.where for fault in caught.value.faults} == {"held-out row 2"}


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
    open_model: Callable[[], Any], adapter: Path, speech: Speech, tmp_path: Path
) -> None:
    rows = [Text(f"<|im_start|>user\nfox {n}<|im_end|>\n<|im_start|>assistant\n{ANSWER}") for n in range(8)]
    models = adapter_models(open_model, adapter)
    result = as_json(run_text_ladder(contest(models, speech, tmp_path / "a"), rows, seed=1))
    assert (result["metric"], result["lower_is_better"]) == ("nll", True)
    assert [rung["name"] for rung in result["rungs"]] == ["base", "tuned"]
    assert result["comparisons"][0]["difference"] < 0
    assert result["verdict"] == "better"
    swapped = Models(models.tuned, models.base)
    result = as_json(run_text_ladder(contest(swapped, speech, tmp_path / "b"), rows, seed=1))
    assert result["verdict"] == "worse"


def test_json_metrics_refuse_references_that_are_text_and_name_those_that_fit(speech: Speech, tmp_path: Path) -> None:
    rows = [chat("one"), chat("two", "just text"), chat("three", "more text")]
    with pytest.raises(UserError) as caught:
        climbed(never(), speech, tmp_path, held_out=rows, metric="json_fields")
    assert [fault.where for fault in caught.value.faults] == ["held-out row 2 answer"]
    assert "evaluate.metric=json_fields" in caught.value.faults[0].mend
    assert "exact, contains, f1" in caught.value.faults[0].mend


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


def test_a_model_without_a_template_gets_prompt_and_examples_as_plain_text(
    random_model_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    tokenizer.chat_template = None
    speech = Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)
    rows = [replace(chat(f"{name}:", f" {name} it is"), plain=True) for name in ("one", "two", "what")]
    engine = contest(never(), speech, tmp_path).judged
    (prompt,), _ = Asking(engine, "exact", 10, (), by_text(exact)).prompts(rows[2:], None, rows[:2])
    assert engine.shown(prompt) == "one: one it is\n\ntwo: two it is\n\nwhat:"
    (prompt,), _ = Asking(engine, "exact", 10, (), by_text(exact)).prompts(rows[2:], "Say it.", ())
    assert engine.shown(prompt) == "Say it.\n\nwhat:"


def test_every_key_of_the_files_is_documented(evaluation: Evaluation) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")
    named = {"base", "prompted", "few_shot", "tuned", "classes", "macro_f1", "no_class", *METRICS}
    named |= {item.name for item in fields(OfClass)}
    found = _keys(as_json(evaluation)) | _keys(answer_rows(evaluation)) | named
    assert len(found) > 30
    assert {key for key in found if f"`{key}`" not in page} == set()


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set[str]().union(*map(_keys, value)) if isinstance(value, (list, tuple)) else set()
