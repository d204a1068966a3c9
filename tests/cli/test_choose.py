"""`finetune choose` as it is typed: with rows, on a terminal, for a machine to read, and measured."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import chat_row, write_rows

import finetune as package
from finetune.choose import command
from finetune.choose.known import QUESTIONS
from finetune.compose import compose
from finetune.settings.recipe import recipe_names

ROOT = Path(package.__file__).parent.parent
SUPPORT = ROOT / "recipes" / "support-json"
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_rows_of_a_recipe_lead_to_its_method(recipe: str) -> None:
    composed = compose([], recipe)
    train, config = composed.config.data.train, composed.config
    sources = [train] if isinstance(train, str) else train
    answer = command.choose([*sources, f"model.name={config.model.name}"], None)
    assert answer.advice.tunes
    assert config.method.option in [stage.method for stage in answer.advice.stages]
    assert answer.advice.tuning == config.tuning.option


def test_the_advice_is_told_with_reasons_assumptions_and_commands(finetune: Run) -> None:
    write_rows(Path("my.jsonl"), [chat_row(number) for number in range(60)])
    code, out, err = finetune("choose", "my.jsonl", "model=tiny")
    assert (code, err) == (0, "")
    assert out.startswith("Tune: supervised fine-tuning on the examples, with tuning=lora.\n")
    for part in (
        "why:",
        "what would change this:",
        "next:",
        "  - choose.gap=behaviour (",
        "there are 60 questions with answers",
    ):
        assert part in out
    assert "  finetune train model=tiny data.train=my.jsonl tuning=lora name=sft\n" in out


def test_the_command_that_it_prints_trains(finetune: Run) -> None:
    write_rows(
        Path("pairs.jsonl"), [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(60)]
    )
    found = json.loads(finetune("choose", "pairs.jsonl", "model=tiny", "--json")[1])
    train = [one["command"] for one in found["commands"] if one["command"].startswith("finetune train")]
    for line in train:
        code, _, err = finetune(*line.split()[1:], "training.max_steps=1")
        assert code == 0, err
    assert Path("runs/dpo/adapter").is_dir()
    assert "It is" in Path("runs/sft/preview.txt").read_text() and "No." not in Path("runs/sft/preview.txt").read_text()


def test_the_commands_with_a_file_of_an_odd_name_are_one_word_each(finetune: Run) -> None:
    write_rows(Path("my rows.jsonl"), [chat_row(number) for number in range(60)])
    found = json.loads(finetune("choose", "my rows.jsonl", "model=tiny", "--json")[1])
    plan = next(one["command"] for one in found["commands"] if " plan " in one["command"])
    assert "'data.train=my rows.jsonl'" in plan


ASKED = {"messages": [{"role": "user", "content": "What is it?"}]}
SHOWN = [
    [chat_row(number) for number in range(60)],
    [chat_row(number) for number in range(9)],
    [{"text": f"Plain text {number}."} for number in range(60)],
    [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(60)],
    [{"prompt": f"Say {n}.", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(250)],
    [{"question": f"Say {n}.", "answer": f"It is {n}.", "documents": ["It."]} for n in range(250)],
    [{"prompt": f"Say {n}.", "reference": f"It is {n}."} for n in range(250)],
    [{**chat_row(n), "images": ["lamp.png"]} for n in range(250)],
    [ASKED] * 60,
]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{len(shown)} rows of {'+'.join(shown[0])}")
@pytest.mark.parametrize("said", [(), ("choose.gap=knowledge",), ("choose.changes=live",), ("choose.tried=[]",)])
def test_every_advice_ends_with_a_command_that_works(
    said: tuple[str, ...], shown: list[dict[str, Any]], finetune: Run
) -> None:
    write_rows(Path("my.jsonl"), shown)
    write_rows(Path("examples.jsonl"), SHOWN[0])  # those that are to be made of them
    found = json.loads(finetune("choose", "my.jsonl", "model=tiny", *said, "--json")[1])
    commands = [shlex.split(one["command"]) for one in found["commands"]]
    assert commands
    for _, verb, *words in commands:
        if verb in ("choose", "plan") and "--measure" not in words:
            code, _, err = finetune(verb, *words)
            assert code == 0, err
    assert any(verb in ("choose", "plan") for _, verb, *_ in commands)


def test_json_is_one_object_with_the_documented_fields(finetune: Run) -> None:
    write_rows(Path("my.jsonl"), [chat_row(number) for number in range(60)])
    code, out, err = finetune("choose", "my.jsonl", "model=tiny", "choose.changes=monthly", "--json")
    found = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert set(found) == set(documented("What `--json` prints"))
    assert found["known"]["changes"] == {"value": "monthly", "how": "said"}
    assert "choose.changes" not in " ".join(one["setting"] for one in found["assumed"])
    assert found["base"]["fits"][0]["tuning"] == "lora"


def test_nothing_is_needed_to_get_advice(finetune: Run) -> None:
    code, out, _ = finetune("choose")
    assert code == 0
    assert out.startswith("No rows are known: show a file of examples (finetune choose FILE)")
    assert "too few" not in out
    assert "  finetune demo\n" in out and "  finetune choose data.train=my.jsonl model=" in out
    assert "choose.rows=0 (none were shown)" in out


def test_bad_rows_are_refused(finetune: Run) -> None:
    write_rows(Path("odd.jsonl"), [{"id": 1}])
    code, out, err = finetune("choose", "odd.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("error: odd.jsonl:1: columns fit no kind of rows (found: id;")
    assert finetune("choose", "missing.jsonl")[0] == 2


def started(*arguments: str) -> list[str]:
    code = (
        "import sys; from finetune.cli import main; code = main(); "
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules); "
        "print('IMPORTED', *sorted(heavy)); sys.exit(code)"
    )
    return [sys.executable, "-c", code, "choose", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(("base", "imported"), [((), "IMPORTED"), (("model=tiny",), "IMPORTED transformers")])
def test_without_measuring_no_torch_is_imported_and_nothing_is_waited_for(base: tuple[str, ...], imported: str) -> None:
    """A pipe as stdin that nobody writes to would block for ever if it were read; a base brings its tokenizer."""
    reading, writing = os.pipe()
    arguments = started(f"data.train={SUPPORT}/train.jsonl", *base)
    done = subprocess.run(arguments, stdin=reading, capture_output=True, text=True, env=environment(), timeout=60)
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == imported
    assert done.stderr == ""


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            words = started(*arguments)
            os.execve(words[0], words, environment())
        self.said = ""

    def wait_for(self, text: str) -> None:
        """Read until the text has come."""
        until = time.monotonic() + 60
        while text not in self.said and time.monotonic() < until:
            if select.select([self.end], [], [], 1)[0]:
                try:
                    self.said += os.read(self.end, 4096).decode()
                except OSError:  # the other end is closed
                    break
        assert text in self.said, self.said

    def type(self, text: str) -> None:
        """Answer, and forget what was said before."""
        self.said = ""
        os.write(self.end, text.encode())

    def code(self) -> int:
        """How it ended."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.end)
        return os.waitstatus_to_exitcode(status)


def test_questions_are_asked_on_a_terminal() -> None:
    terminal = Terminal("choose.images=false")
    terminal.wait_for("What is missing?")
    terminal.type("nonsense\n")
    terminal.wait_for("write a number from 1 to 3")
    terminal.type("2\n")
    terminal.wait_for("How often does what is asked for change?")
    terminal.type("weekly\n")
    terminal.wait_for("What was tried")
    terminal.type("\n")
    terminal.wait_for("How many examples")
    terminal.type("400\n")
    terminal.wait_for("IMPORTED")
    assert "Build a knowledge base and look passages up first." in terminal.said
    assert "choose.changes" not in terminal.said.partition("assumed")[2]
    assert "choose.tried=[prompt,few_shot]" in terminal.said
    assert terminal.code() == 0


def test_interrupting_a_question_ends_with_130() -> None:
    terminal = Terminal()
    terminal.wait_for("> ")
    terminal.type("\x03")
    terminal.wait_for("interrupted")
    terminal.wait_for("IMPORTED")
    assert terminal.code() == 128 + signal.SIGINT


def test_the_end_of_the_input_leaves_the_rest_assumed() -> None:
    terminal = Terminal()
    terminal.wait_for("> ")
    terminal.type("\x04" * len(QUESTIONS))
    terminal.wait_for("IMPORTED")
    assert terminal.code() == 0


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run on the rows of a recipe, hardly trained, and its evaluation."""
    from finetune.cli import main

    folder = tmp_path_factory.mktemp("measured")
    before = Path.cwd()
    os.chdir(folder)
    try:
        lines = (SUPPORT / "train.jsonl").read_text().splitlines(keepends=True)
        Path("rows.jsonl").write_text("".join(lines[:200]))
        given = ["model=tiny", "data.train=rows.jsonl", "evaluate.metric=json_fields", "evaluate.rows=12"]
        assert main(["train", *given, "name=run", "training.max_steps=1"]) == 0
        assert main(["evaluate", "runs/run"]) == 0
    finally:
        os.chdir(before)
    return folder, json.loads((folder / "runs/run/eval.json").read_text())


def measured(evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *more: str) -> command.Answer:
    monkeypatch.chdir(evaluated[0])
    given = ["rows.jsonl", "model=tiny", "evaluate.metric=json_fields", "evaluate.rows=12", "choose.measure=true"]
    return command.choose([*given, *more], None)


def test_what_is_measured_is_what_the_evaluation_of_a_run_finds(
    evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, the same prompts, the same answers: base and few-shot score as they do beside a tuned model."""
    answer = measured(evaluated, monkeypatch)
    evidence = answer.situation.evidence
    assert evidence is not None
    assert evidence.rows == evaluated[1]["held_out"]["rows"]
    rungs = [rung for rung in evaluated[1]["rungs"] if rung["name"] != "tuned"]
    assert (
        [rung.rung for rung in evidence.rungs] == [rung["name"] for rung in rungs] == ["base", "prompted", "few_shot"]
    )
    assert [rung.score for rung in evidence.rungs] == [rung["score"] for rung in rungs]
    assert [list(rung.interval) for rung in evidence.rungs] == [rung["interval"] for rung in rungs]
    assert [rung.examples for rung in evidence.rungs] == [len(rung.get("examples", ())) for rung in rungs]
    assert answer.advice.tunes and not any("--measure" in one.text for one in answer.commands)


def test_what_was_measured_is_no_longer_called_assumed(
    evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = measured(evaluated, monkeypatch)
    assert {fact.name: fact.how for fact in answer.facts}["tried"] == "measured"
    assert "choose.tried" not in [fact.setting.partition("=")[0] for fact in answer.assumed]
    assert answer.situation.evidence is not None
    assert f"reaches {answer.situation.evidence.best.score:.1%}" in answer.advice.reasons[1]
    part = measured(evaluated, monkeypatch, "evaluate.rungs=[base,prompted]")
    (tried,) = (fact for fact in part.assumed if fact.name == "tried")
    assert tried.why == "that examples in the prompt fell short: it was not measured"


def test_a_target_that_a_cheap_rung_reaches_stops_the_climb(
    evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (low,) = (rung["interval"][0] for rung in evaluated[1]["rungs"] if rung["name"] == "few_shot")
    answer = measured(evaluated, monkeypatch, f"choose.target={low - 0.001:.6f}")
    assert (answer.advice.stop, answer.advice.rung) == ("enough", "few_shot")
    assert not any("train" in one.words for one in answer.commands)
    assert measured(evaluated, monkeypatch, f"choose.target={low + 0.001:.6f}").advice.stop == "undecided"
    assert measured(evaluated, monkeypatch, "choose.target=1").advice.tunes


def test_what_cannot_be_measured_is_refused(finetune: Run) -> None:
    write_rows(
        Path("pairs.jsonl"), [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(60)]
    )
    code, _, err = finetune("choose", "pairs.jsonl", "model=tiny", "--measure")
    assert code == 2 and "choose.measure: pairs.jsonl holds pairs of a better and a worse answer" in err
    write_rows(Path("my.jsonl"), [chat_row(number) for number in range(60)])
    code, _, err = finetune("choose", "my.jsonl", "model=tiny", "--measure", "evaluate.metric=json_valid")
    assert code == 2 and "is not JSON" in err and "of these rows exact" in err
    code, _, err = finetune("choose", "my.jsonl", "model=tiny", "--measure", "data.eval_share=0")
    assert code == 2 and "no rows are held out to measure on" in err


def documented(heading: str) -> list[str]:
    """The first column of the table under a heading of the page."""
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").partition(f"# {heading}\n")[2]
    lines = text[text.index("\n|") :].strip().split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1].strip().strip("`") for line in lines]


def test_the_tables_of_the_page_are_those_of_the_program() -> None:
    from finetune.choose.needs import NEEDS
    from finetune.choose.paths import PATHS
    from finetune.choose.settings import ChooseConfig
    from finetune.choose.situation import KINDS
    from finetune.choose.stops import STOPS
    from finetune.choose.tunings import TUNINGS

    assert documented("Where the climb stops") == [stop.name for stop in STOPS]
    assert documented("Which methods") == [path.name for path in PATHS]
    assert documented("How much is trained") == [tuning.name for tuning in TUNINGS]
    assert documented("How many rows") == list(NEEDS)
    assert documented("Kinds of rows") == list(KINDS)
    assert documented("Settings") == [f"choose.{name}" for name in vars(ChooseConfig())]
