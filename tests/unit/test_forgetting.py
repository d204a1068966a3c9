"""What tuning changed on prompts that have nothing to do with the task."""

import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rows import write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder
from finetune.data.examine.languages import language
from finetune.errors import GateRefused, RunFailed, UserError
from finetune.evaluate.beyond import NEUTRAL, Beyond, check_gates
from finetune.evaluate.changes import forgetting_cells, forgetting_lines
from finetune.evaluate.contest import Contest
from finetune.evaluate.forgetting import HELD, check_limits, compare, exceeded, portions, refuses, row_of, summary
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import BASE, TUNED
from finetune.evaluate.local import LocalEngine, Models, adapter_models
from finetune.evaluate.neutral import OWN, REFUSE, Neutral, read_neutral
from finetune.evaluate.questions import Speech


@pytest.fixture(scope="module")
def speech(random_model_folder: Path) -> Speech:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)


@pytest.fixture(scope="module")
def open_base(random_model_folder: Path) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_pretrained(random_model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapter(open_base: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the model says, at random."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(open_base(), config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def models(open_base: Callable[[], Any], adapter: Path) -> Models:
    return adapter_models(open_base, adapter)


@pytest.fixture(scope="module")
def prompts(speech: Speech) -> list[Neutral]:
    return read_neutral(None, 10, speech, seed=1)


def test_the_divergence_is_that_of_the_two_models_at_every_token(
    models: Models, open_base: Callable[[], Any], adapter: Path, speech: Speech, prompts: list[Neutral]
) -> None:
    rows = compare(models, speech, prompts, tokens=8, batch_size=4)
    base, tuned = open_base().eval(), PeftModel.from_pretrained(open_base(), str(adapter)).eval()
    assert len(rows) == len(prompts) == 10
    for row, prompt in zip(rows, prompts, strict=True):
        ids, answer = list(prompt.ids), row["base"]["ids"]
        kls, first, second = [], [], []
        with torch.no_grad():
            for token in answer:
                one, other = (model(torch.tensor([ids])).logits[0, -1].double().softmax(0) for model in (base, tuned))
                assert int(one.argmax()) == token
                kls.append(float((one * (one / other).log()).sum()))
                first.append(-math.log(one[token]))
                second.append(-math.log(other[token]))
                ids.append(token)
        assert row["kl"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)
        assert row["base"]["nll"] == pytest.approx(sum(first) / len(first), abs=1e-5)
        assert row["tuned"]["nll"] == pytest.approx(sum(second) / len(second), abs=1e-5)
    assert all(row["kl"] > 0.001 for row in rows)


def test_a_model_that_was_not_changed_has_forgotten_nothing(
    open_base: Callable[[], Any], speech: Speech, prompts: list[Neutral]
) -> None:
    same = Models(lambda: nullcontext(open_base()), lambda: nullcontext(open_base()))
    rows = compare(same, speech, prompts, tokens=8, batch_size=4)
    found = summary([row_of(*pair) for pair in zip(prompts, rows, strict=True)], seed=1)
    of = {one["name"]: one for one in found["measures"]}
    assert of["kl"]["interval"] == [0.0, 0.0]
    assert (of["kl"]["change"], of["nll"]["change"], of["length"]["change"]) == (0.0, 0.0, 1.0)
    assert of["unchanged"]["change"] == 1.0
    strict = EvaluateConfig(max_kl=0.0, max_length_change=1.0, max_refusal_rise=0.0, max_refusal_fall=0.0)
    assert "refused_unsafe" in of
    assert exceeded(found, strict) == []


def test_batches_do_not_change_what_is_measured(models: Models, speech: Speech, prompts: list[Neutral]) -> None:
    together, apart = (compare(models, speech, prompts, tokens=8, batch_size=size) for size in (16, 1))
    for one, other in zip(together, apart, strict=True):
        assert one["base"]["text"] == other["base"]["text"]
        assert one["tuned"]["text"] == other["tuned"]["text"]
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-5)


def test_no_more_prompts_are_compared_at_once_than_memory_holds(prompts: list[Neutral]) -> None:
    (whole,) = portions(prompts, 64, 150_000)
    assert list(whole) == prompts
    assert [len(part) for part in portions(prompts, HELD // 300, 100)] == [3, 3, 3, 1]
    assert [len(part) for part in portions(prompts[:2], HELD, 100)] == [1, 1]


def test_two_models_in_memory_are_compared_as_an_adapter_is(
    models: Models, open_base: Callable[[], Any], adapter: Path, speech: Speech, prompts: list[Neutral]
) -> None:
    merged = PeftModel.from_pretrained(open_base(), str(adapter)).merge_and_unload()
    two = Models(lambda: nullcontext(open_base()), lambda: nullcontext(merged))
    rows, expected = (compare(each, speech, prompts, tokens=8, batch_size=4) for each in (two, models))
    assert [row["kl"] for row in rows] == pytest.approx([row["kl"] for row in expected], abs=1e-4)


def test_a_tuned_model_whose_numbers_are_broken_is_no_result(
    open_base: Callable[[], Any], speech: Speech, prompts: list[Neutral]
) -> None:
    broken = open_base()
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunFailed, match="no numbers"):
        compare(
            Models(lambda: nullcontext(open_base()), lambda: nullcontext(broken)),
            speech, prompts, tokens=4, batch_size=4,
        )  # fmt: skip


def row(
    kind: str = "everyday", *, base: str = "a b", tuned: str = "a b", tokens: tuple[int, int] = (3, 3), **more: Any
) -> dict[str, Any]:
    said = [
        {"text": text, "tokens": count, "stopped": stopped, "nll": nll}
        for text, count, stopped, nll in zip(
            (base, tuned), tokens, more.get("stopped", (True, True)), more.get("nll", (0.5, 0.5)), strict=True
        )
    ]
    asked = more.get("language", "")
    return {
        "kind": kind,
        "prompt": "?",
        "language": asked,
        "kl": more.get("kl", 0.0),
        "base": said[0],
        "tuned": said[1],
    }


ENGLISH = "this is what you will find in the box by the door"
GERMAN = "das ist nicht der Weg und die Tür ist auf dem Bild"
NO = "I'm sorry, but I can't help with that."


def test_each_measure_says_what_its_name_promises() -> None:
    rows = [
        row(base=ENGLISH, tuned=GERMAN, language="en", tokens=(9, 4), stopped=(True, False), kl=0.5),
        row(base=ENGLISH, tuned=ENGLISH, language="en", tokens=(9, 4), nll=(0.5, 1.5), kl=0.1),
        row(base="no", tuned=NO, language="en", tokens=(9, 4)),  # too short to tell its language
        row(base="yes", tuned="yes", tokens=(9, 4)),
        row(REFUSE, base=NO, tuned="Sure.", tokens=(9, 4)),
        row(REFUSE, base=NO.replace("'", "’"), tuned=NO.replace("'", "’"), tokens=(9, 4)),
    ]
    of = {one["name"]: one for one in summary(rows, seed=1)["measures"]}
    assert of["kl"]["change"] == pytest.approx(0.1)
    assert of["nll"]["change"] == pytest.approx(1 / 6)
    assert of["length"]["change"] == pytest.approx(5 / 10)
    assert (of["length"]["base"], of["length"]["tuned"]) == (pytest.approx(10), pytest.approx(5))
    assert (of["language"]["base"], of["language"]["tuned"], of["language"]["n"]) == (1.0, 0.5, 2)
    assert (of["refused"]["base"], of["refused"]["tuned"], of["refused"]["n"]) == (0.0, 0.25, 4)
    assert (of["refused_unsafe"]["base"], of["refused_unsafe"]["tuned"], of["refused_unsafe"]["n"]) == (1.0, 0.5, 2)
    assert of["stopped"]["change"] == pytest.approx(-1 / 6)
    assert of["unchanged"]["change"] == pytest.approx(3 / 6)
    for one in of.values():
        assert one["interval"][0] <= one["change"] <= one["interval"][1]


def test_the_factor_of_lengths_is_that_of_the_lengths_beside_it() -> None:
    counts = [(0, 3), (64, 20), (7, 7), (3, 40)]  # whose means are as 18.5 to 17.5
    found = summary([row(tokens=one) for one in counts], seed=1)
    length = next(one for one in found["measures"] if one["name"] == "length")
    assert length["change"] == pytest.approx(length["tuned"] / length["base"])
    assert length["base"] == pytest.approx((1 * 65 * 8 * 4) ** (1 / 4))
    _, *cells = forgetting_cells(found)
    name, base, tuned, change, *_ = next(row for row in cells if "tokens" in row[0])
    assert "typical" in name
    assert float(tuned) / float(base) == pytest.approx(float(change.removeprefix("× ")), abs=0.01)
    (line,) = (line for line in forgetting_lines({**found, "exceeded": []}) if "typical" in line)
    assert f"{base} → {tuned} tokens, {change} (" in line


def test_the_prompts_that_changed_most_come_first_and_each_kind_is_summed() -> None:
    rows = [row("code", kl=0.1, base="x"), row("everyday", kl=0.9, base="y"), row("code", kl=0.5, base="z")]
    found = summary(rows, seed=1)
    assert [one["base"] for one in found["most_changed"]] == ["y", "z", "x"]
    assert found["kinds"] == [
        {"kind": "code", "prompts": 2, "kl": pytest.approx(0.3)},
        {"kind": "everyday", "prompts": 1, "kl": 0.9},
    ]


def test_it_is_said_when_the_base_itself_knows_no_answer() -> None:
    assert not summary([row(nll=(0.6, 0.6))] * 2, seed=1)["base_unsure"]
    assert summary([row(nll=(0.8, 0.8))] * 2, seed=1)["base_unsure"]


@pytest.mark.parametrize(
    ("key", "rows", "far", "near"),
    [
        ("max_kl", [row(kl=value / 100) for value in range(40, 61)], 0.4, 0.49),
        ("max_length_change", [row(tokens=(7, 15 + n % 5)) for n in range(20)], 1.5, 2.2),
        ("max_length_change", [row(tokens=(15 + n % 5, 7)) for n in range(20)], 1.5, 2.2),
        ("max_refusal_rise", [row(tuned=NO if n < 10 else "yes") for n in range(20)], 0.2, 0.4),
        ("max_refusal_fall", [row(REFUSE, base=NO, tuned="yes" if n < 10 else NO) for n in range(20)], 0.2, 0.4),
    ],
)
def test_a_limit_is_exceeded_by_a_whole_interval_only(
    key: str, rows: list[dict[str, Any]], far: float, near: float
) -> None:
    found = summary(rows, seed=1)
    (line,) = exceeded(found, replace(EvaluateConfig(), **{key: far}))
    assert line.startswith(f"evaluate.{key}={far}: ")
    assert exceeded(found, replace(EvaluateConfig(), **{key: near})) == []  # beyond it on average, perhaps by chance
    assert exceeded(found, EvaluateConfig()) == []


def test_refusals_are_known_by_how_they_begin() -> None:
    assert refuses(NO)
    assert not refuses("Here is how: first open the lid.")
    assert not refuses("x " * 200 + NO)


def test_our_own_prompts_are_of_every_kind_and_each_is_there_once(speech: Speech) -> None:
    prompts = read_neutral(None, 1000, speech, seed=1)
    kinds = Counter(prompt.kind for prompt in prompts)
    assert len({prompt.text for prompt in prompts}) == len(prompts) == EvaluateConfig().neutral_rows
    assert set(kinds) == {"everyday", "reasoning", "code", "rewriting", "languages", "refuse", "continuation"}
    assert kinds[REFUSE] >= 10
    assert all(language(prompt.text) not in ("", "en") for prompt in prompts if prompt.kind == "languages")
    assert all(language(prompt.text) in ("", "en") for prompt in prompts if prompt.kind != "languages")


def test_prompts_of_ones_own_may_have_any_layout_and_their_answers_are_left_out(speech: Speech, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "What is a fox?"}]
    file = write_rows(
        tmp_path / "mine.jsonl",
        [
            {"prompt": "What is a fox?"},
            {"messages": asked},
            {"messages": [*asked, {"role": "assistant", "content": "An animal."}]},
            {"conversations": [{"from": "human", "value": "What is a fox?"}, {"from": "gpt", "value": "An animal."}]},
            {"question": "What is a fox?", "answer": "An animal.", "kind": "refuse"},
            {"text": "A fox is"},
        ],
    )
    prompts = read_neutral(str(file), 64, speech, seed=1)
    assert [prompt.text for prompt in prompts] == ["What is a fox?"] * 5 + ["A fox is"]
    assert [prompt.kind for prompt in prompts] == ["other"] * 4 + ["refuse", "other"]
    assert len({prompt.ids for prompt in prompts[:5]}) == 1
    assert prompts[0].ids == tuple(speech.encoder.prompt_ids(asked))
    assert speech.tokenizer.decode(prompts[5].ids, skip_special_tokens=True) == "A fox is"
    assert prompts[5].ids[-1] != speech.tokenizer.eos_token_id
    assert len(read_neutral(str(file), 3, speech, seed=1)) == 3


@pytest.mark.parametrize(
    ("bad", "where", "says"),
    [
        ({"prompt": 5}, "mine.jsonl:3 prompt", "must be text"),
        ({"image": "x"}, "mine.jsonl:3", "no prompt"),
        ({"text": " "}, "mine.jsonl:3 text", "is empty"),
        ({"prompt": "hi", "kind": 5}, "mine.jsonl:3 kind", "must be text"),
        ({"prompt": "fox " * 400}, "mine.jsonl:3", "context is 256"),
    ],
)
def test_prompts_that_cannot_be_asked_are_named(
    speech: Speech, tmp_path: Path, bad: dict[str, Any], where: str, says: str
) -> None:
    file = write_rows(tmp_path / "mine.jsonl", [{"prompt": "a?"}, {"prompt": "b?"}, bad])
    with pytest.raises(UserError) as caught:
        read_neutral(str(file), 64, speech, seed=1)
    (fault,) = caught.value.faults
    assert fault.where.endswith(where)
    assert says in fault.what


def test_too_few_prompts_and_those_of_the_hub_are_refused(speech: Speech, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", [{"prompt": "a?"}])
    for given, says in ((str(file), "holds 1 prompt"), ("some/prompts", "on the hub"), ("nothing.jsonl", "no such")):
        with pytest.raises(UserError) as caught:
            read_neutral(given, 64, speech, seed=1)
        assert says in caught.value.faults[0].what


def test_a_limit_on_what_the_prompts_cannot_show_is_refused(speech: Speech, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", [{"prompt": f"{n}?"} for n in range(4)])
    prompts = read_neutral(str(file), 64, speech, seed=1)
    with pytest.raises(UserError) as caught:
        check_limits(prompts, EvaluateConfig(max_refusal_fall=0.1))
    assert caught.value.faults[0].where == "evaluate.max_refusal_fall"
    check_limits(prompts, EvaluateConfig(max_refusal_rise=0.1))


@pytest.fixture
def contest(models: Models, speech: Speech, tmp_path: Path) -> Contest:
    judged, base = (
        LocalEngine(name, speech, opened, Kept.open(tmp_path, f"{name} weights"), 4)
        for name, opened in ((TUNED, models.tuned), (BASE, models.base))
    )
    return Contest(judged, base, models=models, speech=speech)


def never() -> Any:
    raise AssertionError("a model was opened")


def measured(contest: Contest, folder: Path, **given: Any) -> dict[str, Any]:
    settings = EvaluateConfig(**{"neutral_tokens": 4, "neutral_rows": 6, **given})
    beyond = Beyond.of(contest, settings, 1, folder)
    beyond.measure(lambda engine: [], lambda scores: [])
    beyond.write(folder)
    return {**beyond.found, "run_dir": "runs/mine"}


def test_what_was_measured_is_kept_for_the_same_weights_and_prompts(contest: Contest, tmp_path: Path) -> None:
    first = measured(contest, tmp_path)
    closed = replace(contest, models=Models(never, never))
    assert measured(closed, tmp_path) == first
    (kept,) = tmp_path.glob("*[0-9a-f].jsonl")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-40])  # a kill cut the last line short
    with pytest.raises(AssertionError, match="opened"):
        measured(closed, tmp_path)
    again = measured(contest, tmp_path)["forgetting"]  # that one prompt in a batch of its own
    assert [one["base"] for one in again["most_changed"]] == [
        one["base"] for one in first["forgetting"]["most_changed"]
    ]
    others = LocalEngine(TUNED, contest.speech, never, Kept.open(tmp_path, "other weights"), 4)  # type: ignore[arg-type]
    for changed, given in ((replace(closed, judged=others), {}), (closed, {"neutral_tokens": 5})):
        with pytest.raises(AssertionError, match="opened"):
            measured(changed, tmp_path, **given)


def test_every_prompt_is_written_those_that_changed_most_first(contest: Contest, tmp_path: Path) -> None:
    found = measured(contest, tmp_path)["forgetting"]
    rows = [json.loads(line) for line in (tmp_path / NEUTRAL).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == found["prompts"] == 6
    assert [row["kl"] for row in rows] == sorted((row["kl"] for row in rows), reverse=True)
    assert [row["base"]["text"] for row in rows] == [row["base"] for row in found["most_changed"]]
    assert found["measures"][0]["change"] == pytest.approx(sum(row["kl"] for row in rows) / 6)


def test_a_limit_that_is_exceeded_refuses_the_result_by_name(contest: Contest, tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match=r"^runs/mine: .*evaluate\.max_kl=0\.0001"):
        check_gates(measured(contest, tmp_path, max_kl=1e-4))
    check_gates(measured(contest, tmp_path))
    assert GateRefused.exit_code == 3


def test_where_nothing_was_tuned_nothing_is_measured_and_limits_are_refused(contest: Contest, tmp_path: Path) -> None:
    alone = Contest(contest.judged)
    assert measured(alone, tmp_path, neutral_tokens=64, neutral_rows=64)["forgetting"] is None
    check_gates(measured(alone, tmp_path, neutral_tokens=64, neutral_rows=64))
    with pytest.raises(UserError) as caught:
        measured(alone, tmp_path, neutral_tokens=64, neutral_rows=64, max_kl=0.1, max_new_tokens=9)
    assert [fault.where for fault in caught.value.faults] == ["evaluate.max_kl"]


def test_the_shipped_file_is_read_like_any_other(speech: Speech) -> None:
    assert read_neutral(str(OWN), 64, speech, seed=1) == read_neutral(None, 64, speech, seed=1)
    assert all(json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines())
