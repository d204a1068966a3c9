"""Tasks of lm-evaluation-harness on base and tuned model."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder
from finetune.errors import GateRefused, UserError
from finetune.evaluate import stats
from finetune.evaluate.beyond import TASKS, Beyond, check_gates
from finetune.evaluate.changes import task_cells
from finetune.evaluate.contest import Contest
from finetune.evaluate.harness import Tasks, too_far
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import BASE, TUNED
from finetune.evaluate.local import LocalEngine, Models, adapter_models
from finetune.evaluate.questions import Speech

pytest.importorskip("lm_eval")

CHOICES = ["fox", "dog", "jugs"]
TASK: dict[str, Any] = {
    "task": "animals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "animals.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the documents of a task, in which everything happens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"q": f"Box {n} has a", "choices": CHOICES, "gold": n % 3} for n in range(14)]
    (tmp_path / "animals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def task_file(folder: Path, name: str = "animals.yaml", **changes: Any) -> str:
    (folder / name).write_text(yaml.safe_dump({**TASK, **changes}), encoding="utf-8")
    return name


@pytest.fixture(scope="module")
def speech(tied_model_folder: Path) -> Speech:
    tokenizer = AutoTokenizer.from_pretrained(tied_model_folder)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)


@pytest.fixture(scope="module")
def load(tied_model_folder: Path) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_pretrained(tied_model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapter(load: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with rows of new tokens, which the harness's own handling of a model does not expect."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, trainable_token_indices=[300])
    model = get_peft_model(load(), config)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def contest(load: Callable[[], Any], adapter: Path, speech: Speech, place: Path) -> Contest:
    return contest_of(adapter_models(load, adapter), speech, place)


def contest_of(models: Models, speech: Speech, folder: Path) -> Contest:
    judged, base = (
        LocalEngine(name, speech, opened, Kept.open(folder / ".answers", f"{name} weights"), 4)
        for name, opened in ((TUNED, models.tuned), (BASE, models.base))
    )
    return Contest(judged, base, models=models, speech=speech)


def settings(*tasks: str, **given: Any) -> EvaluateConfig:
    return replace(EvaluateConfig(), tasks=list(tasks), neutral_rows=2, neutral_tokens=2, **given)


def measured(contest: Contest, folder: Path, asked: EvaluateConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    beyond = Beyond.of(contest, asked, 1, folder / ".answers")
    beyond.measure(lambda engine: [], lambda scores: [])
    beyond.write(folder)
    lines = (folder / TASKS).read_text(encoding="utf-8").splitlines()
    return {**beyond.found, "run_dir": "runs/mine"}, [json.loads(line) for line in lines]


def test_base_and_tuned_model_are_compared_document_by_document(
    contest: Contest, place: Path, load: Callable[[], Any], speech: Speech
) -> None:
    result, documents = measured(contest, place, settings(task_file(place)))
    (found,) = result["tasks"]["metrics"]
    base, tuned = ([one[side]["acc"] for one in documents] for side in ("base", "tuned"))
    again = stats.paired_difference(tuned, base, seed=1)
    assert (found["task"], found["metric"], found["n"], found["shots"]) == ("animals", "acc", 14, 0)
    assert (found["base"], found["tuned"]) == (fmean(base), fmean(tuned))
    assert found["difference"] == again.difference
    assert (found["interval"], found["p"]) == (list(again.interval), again.p)
    assert [one["base"]["answers"] for one in documents] != [one["tuned"]["answers"] for one in documents]
    assert base == [right(load(), speech, one["doc"]) for one in documents]
    assert task_cells(result["tasks"])[1][:4] == ["animals", "acc", f"{fmean(base):.3f}", f"{fmean(tuned):.3f}"]


@torch.no_grad()
def right(model: Any, speech: Speech, document: dict[str, Any]) -> float:
    """Whether the likeliest choice is the right one, worked out without the harness."""
    sums = []
    for choice in document["choices"]:
        start, whole = (speech.tokenizer(text)["input_ids"] for text in (document["q"], f"{document['q']} {choice}"))
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        sums.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(start), len(whole))))
    return float(max(range(len(sums)), key=sums.__getitem__) == document["gold"])


def test_what_was_measured_is_kept_until_task_or_data_change(contest: Contest, place: Path, speech: Speech) -> None:
    def never() -> Any:
        raise AssertionError("a model was opened")

    first = measured(contest, place, settings(task_file(place)))
    closed = contest_of(Models(never, never), speech, place)
    assert measured(closed, place, settings("animals.yaml")) == first
    for name, given in (
        (task_file(place, "other.yaml", doc_to_text="{{q}}n old"), {}),
        ("animals.yaml", {"task_documents": 5}),
        ("animals.yaml", {"tasks_as_chat": True}),
    ):
        with pytest.raises(AssertionError, match="opened"):
            measured(closed, place, settings(name, **given))
    rows = (place / "animals.jsonl").read_text(encoding="utf-8").replace('"gold": 0', '"gold": 1')
    (place / "animals.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(AssertionError, match="opened"):
        measured(closed, place, settings("animals.yaml"))


def test_fewer_documents_and_a_chat_template_are_what_is_asked_for(contest: Contest, place: Path) -> None:
    bare, few = measured(contest, place, settings(task_file(place), task_documents=5))
    assert bare["tasks"]["metrics"][0]["n"] == len(few) == 5
    _, chat = measured(contest, place, settings("animals.yaml", task_documents=5, tasks_as_chat=True))
    assert [one["base"]["answers"] for one in few] != [one["base"]["answers"] for one in chat]


def test_tasks_that_generate_and_tasks_without_a_number_by_document(contest: Contest, place: Path) -> None:
    generating = {
        "task": "goes_on",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[gold]}}",
        "doc_to_choice": None,
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    perplexity = {
        "task": "reads",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "doc_to_choice": None,
        "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
    names = task_file(place, "goes_on.yaml", **generating), task_file(place, "reads.yaml", **perplexity)
    result, documents = measured(contest, place, settings(*names))
    assert [one["task"] for one in result["tasks"]["metrics"]] == ["goes_on"]
    assert {one["task"] for one in documents} == {"goes_on", "reads"}
    assert all(isinstance(one["tuned"]["answers"][0], str) for one in documents if one["task"] == "goes_on")


def test_a_template_that_reaches_out_later_is_stopped_too(contest: Contest, place: Path) -> None:
    later = "{{q}}{% if '9' in q %}" + REACHING + "{% endif %}"
    with pytest.raises(UserError, match="unsafe"):
        measured(contest, place, settings(task_file(place, doc_to_text=later)))
    assert not (place / "canary").exists()


BOMB = "from pathlib import Path\nPath('canary').touch()\n\n\ndef text(doc):\n    return doc['q']\n"
REACHING = "{{ cycler.__init__.__globals__.os.system('touch canary') }}"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("doc_to_text: !function bomb.text", "asks for code"),
        ("class: !function bomb.text", "asks for code"),
        ("class: bomb.Task", "asks for code"),
        ("include: included.yaml", "asks for code"),
        (f'doc_to_text: "{REACHING}"', "unsafe"),
        (f'doc_to_choice: "{REACHING}"', "unsafe"),
        ("unsafe_code: true", "runs code"),
        ("use_prompt: promptsource:x", "asks for code"),
        ("metric_list: [{metric: ./bomb.py}]", "no metric of the harness"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "no metric of the harness"),
        ("dataset_path: pandas", "no plain rows"),
        ("dataset_kwargs: {trust_remote_code: true}", "not known to be harmless"),
        ("generation_kwargs: {custom_generate: some/repo}", "not known to be harmless"),
    ],
)
def test_a_task_file_runs_no_code(contest: Contest, place: Path, given: str, says: str) -> None:
    (place / "bomb.py").write_text(BOMB, encoding="utf-8")
    (place / "included.yaml").write_text("doc_to_target: !function bomb.text\n", encoding="utf-8")
    key = given.partition(":")[0]
    rest = yaml.safe_dump({name: value for name, value in TASK.items() if name != key})
    (place / "animals.yaml").write_text(f"{rest}{given}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        measured(contest, place, settings("animals.yaml"))
    said = str(caught.value.faults[0])
    assert says in said
    assert "animals.yaml" in said or "included.yaml" in said
    assert not (place / "canary").exists()


def test_a_task_file_runs_code_when_it_is_trusted(contest: Contest, place: Path) -> None:
    (place / "bomb.py").write_text(BOMB, encoding="utf-8")
    rest = yaml.safe_dump({name: value for name, value in TASK.items() if name != "doc_to_text"})
    (place / "animals.yaml").write_text(f"{rest}doc_to_text: !function bomb.text\n", encoding="utf-8")
    result, _ = measured(contest, place, settings("animals.yaml", allow_task_code=True))
    assert result["tasks"]["metrics"][0]["n"] == 14
    assert (place / "canary").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a list", "holds no task"),
        ("task: [", "animals.yaml:"),
        ("include: animals.yaml", "in a circle"),
        (yaml.safe_dump({**TASK, "task": None}), "is missing"),
        (yaml.safe_dump({**TASK, "dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}), "gone.jsonl"),
        (yaml.safe_dump({**TASK, "colour": "blue"}), "colour"),
        (yaml.safe_dump({**TASK, "doc_to_text": "{{nothing}}"}), "nothing"),
    ],
)
def test_a_task_file_that_is_wrong_is_named(contest: Contest, place: Path, text: str, says: str) -> None:
    (place / "animals.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Tasks.load(contest, settings("animals.yaml"), place)
    said = str(caught.value.faults[0])
    assert "animals.yaml" in said and says in said


def test_names_are_those_of_the_harness(contest: Contest, place: Path) -> None:
    with pytest.raises(UserError) as caught:
        Tasks.load(contest, settings("hellaswagg"), place)
    (fault,) = caught.value.faults
    assert fault.where == "evaluate.tasks hellaswagg"
    assert fault.mend == "did you mean hellaswag?"


def test_without_the_package_it_is_said_what_to_install(
    contest: Contest, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError) as caught:
        Beyond.of(contest, settings("animals.yaml"), 1, place)
    assert str(caught.value.faults[0]) == (
        "evaluate.tasks: needs lm-eval, which is not installed; pip install 'finetune[harness]'"
    )


def test_settings_of_tasks_without_effect_are_refused(contest: Contest, place: Path, speech: Speech) -> None:
    given: dict[str, Any] = {
        "task_documents": 5,
        "tasks_as_chat": True,
        "allow_task_code": True,
        "max_task_drop": 0.1,
    }
    with pytest.raises(UserError) as caught:
        Beyond.of(contest, settings(**given), 1, place)
    assert [fault.where for fault in caught.value.faults] == [f"evaluate.{key}" for key in given]
    with pytest.raises(UserError) as caught:
        Beyond.of(Contest(contest.judged), replace(EvaluateConfig(), tasks=["animals.yaml"]), 1, place)
    assert [fault.where for fault in caught.value.faults] == ["evaluate.tasks"]
    bare = AutoTokenizer.from_pretrained(speech.tokenizer.name_or_path)
    bare.chat_template = None
    mute = replace(contest, speech=Speech(bare, Encoder(bare, "last", stop_ids=(2,)), 256))
    with pytest.raises(UserError) as caught:
        Tasks.load(mute, settings(task_file(place), tasks_as_chat=True), place)
    assert caught.value.faults[0].where == "evaluate.tasks_as_chat"


def test_a_metric_that_fell_too_far_refuses_the_result(contest: Contest, place: Path) -> None:
    def fell(difference: float, low: float, high: float, *, higher: bool = True) -> dict[str, Any]:
        shared = {"task": "animals", "metric": "acc", "higher_is_better": higher}
        return {**shared, "difference": difference, "interval": [low, high]}

    assert too_far([fell(-0.3, -0.4, -0.2)], None) == []
    (line,) = too_far([fell(-0.3, -0.4, -0.2), fell(-0.3, -0.6, -0.05)], 0.1)
    assert line.startswith("evaluate.max_task_drop=0.1: animals acc -0.3")
    assert len(too_far([fell(0.3, 0.2, 0.4, higher=False)], 0.1)) == 1
    assert too_far([fell(0.3, 0.2, 0.4), fell(-0.3, -0.4, -0.2, higher=False)], 0.1) == []
    result, _ = measured(contest, place, settings(task_file(place), max_task_drop=0.9))
    check_gates(result)
    result["tasks"]["exceeded"] = [line]
    with pytest.raises(GateRefused, match=r"^runs/mine: .*max_task_drop"):
        check_gates(result)
