"""Endpoints as targets: real servers on this machine, in every mood."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contests import ANSWER
from finished import Runs, asked_row, finished_run, read_lines
from rows import write_rows
from teacher_server import Endpoint, serving

Finetune = Callable[..., tuple[int, str, str]]
FAST = ("endpoint.retry_wait=0.01", "endpoint.retries=2")
ROWS = 12


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server that knows the answer to some of the questions."""

    def answer(messages: list[dict[str, str]]) -> str:
        return ANSWER if messages[-1]["content"] in {f"jugs {n}" for n in range(40, 46)} else "I do not know"

    with serving(Endpoint(answer=answer)) as served:
        yield served


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_rows(tmp_path / "new.jsonl", [asked_row(number) for number in range(40, 40 + ROWS)])
    write_rows(tmp_path / "learn.jsonl", [asked_row(number) for number in range(60, 72)])
    return tmp_path


@pytest.fixture
def make_run(tmp_path: Path, finetune: Finetune, random_model_folder: Path) -> Runs:
    return partial(finished_run, tmp_path, random_model_folder)


def target(endpoint: Endpoint, model: str = "big") -> str:
    return f"{endpoint.url}#{model}"


def test_an_endpoint_stands_beside_a_run(endpoint: Endpoint, make_run: Runs, files: Path, finetune: Finetune) -> None:
    make_run()
    code, out, err = finetune("evaluate", "mine", target(endpoint), "data.eval=new.jsonl", "--json")
    assert code == 0, err
    result = json.loads(out)
    rung = next(rung for rung in result["rungs"] if rung["name"] == "big")
    assert (rung["score"], rung["n"], rung["stop_rate"]) == (0.5, ROWS, 1.0)
    assert rung["nll_per_token"] is None  # nobody knows, so nothing is said
    assert rung["tokens_per_answer"] == 8
    assert rung["prompt_tokens"] == 2
    assert rung["seconds_per_answer"] > 0
    (against,) = (one for one in result["comparisons"] if one["against"] == "big")
    assert against["difference"] == next(one["score"] for one in result["rungs"] if one["name"] == "tuned") - 0.5
    assert {body["temperature"] for body in endpoint.asked} == {0.0}
    assert {body["max_tokens"] for body in endpoint.asked} == {12}
    asked = endpoint.requests
    assert asked == ROWS
    code, out, err = finetune("evaluate", "mine", target(endpoint), "data.eval=new.jsonl", "evaluate.metric=f1")
    assert code == 0, err
    assert endpoint.requests == asked  # another metric asks nothing
    (line,) = (line for line in out.splitlines() if line.startswith("big "))
    assert "–  " in line


def test_an_endpoint_alone_climbs_with_prompts_and_examples(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    given = ("data.eval=new.jsonl", "data.train=learn.jsonl", "evaluate.few_shot=2", "evaluate.prompt_rows=4")
    code, out, err = finetune("evaluate", target(endpoint), *given, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [rung["name"] for rung in result["rungs"]] == ["prompted", "few_shot", "tuned"]
    assert f"{len(result['prompts']['tried'])} × 4 training rows" in err
    first = [body["messages"][0] for body in endpoint.asked]
    assert any(one["role"] == "system" and "JSON" in one["content"] for one in first)
    roles = [[message["role"] for message in body["messages"]] for body in endpoint.asked]
    assert ["user", "assistant", "user", "assistant", "user"] in roles
    assert Path(result["run_dir"]).parent == Path("runs/evaluations")


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    endpoint: Endpoint, files: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAL_KEY", "sk-very-secret")
    code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", "endpoint.key_env=EVAL_KEY")
    assert code == 0, err
    assert {header["Authorization"] for header in endpoint.headers} == {"Bearer sk-very-secret"}
    assert "secret" not in out + err
    assert not any(b"very-secret" in path.read_bytes() for path in files.rglob("*") if path.is_file())


def test_a_server_that_is_busy_is_asked_again(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    busy: dict[int, Any] = {1: (503, {}, b"{}"), 3: (429, {"Retry-After": "0"}, b"{}"), 5: "truncated", 6: "hang up"}
    endpoint.instead = lambda number, body: busy.get(number)
    code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", *FAST, "--json")
    assert code == 0, err
    assert json.loads(out)["rungs"][0]["score"] == 0.5
    assert endpoint.requests == ROWS + len(busy)


@pytest.mark.parametrize(
    ("mood", "code", "says"),
    [
        ((503, {}, b"{}"), 1, "503, tried 3 times"),
        ((429, {"Retry-After": "7200"}, b"{}"), 1, "asks to wait 7,200 s"),
        ((200, {}, b"<html>welcome</html>"), 1, "the answer is no chat completion"),
        ((200, {}, b'{"choices": []}'), 1, "the answer is no chat completion"),
        ("truncated", 1, "the answer is no chat completion"),
        ("hang up", 1, "the connection broke"),
        ("never", 1, "no answer within 0.3 s"),
        ((401, {}, b"{}"), 2, "refuses the request (401); name the key's variable: endpoint.key_env=…"),
        ((400, {}, b'{"error": {"message": "no seeds here"}}'), 2, "refuses every request: 400 (no seeds here)"),
        ((302, {"Location": "http://elsewhere/"}, b""), 2, "sends on to another address"),
    ],
)
def test_an_endpoint_that_fails_is_said_in_one_line_and_what_was_answered_is_kept(
    endpoint: Endpoint, files: Path, finetune: Finetune, mood: Any, code: int, says: str
) -> None:
    endpoint.instead = lambda number, body: mood if number > 4 else None
    if code == 2:  # what is wrong from the first request on
        endpoint.instead = lambda number, body: mood
    given = (
        "evaluate",
        target(endpoint),
        "data.eval=new.jsonl",
        *FAST,
        "endpoint.timeout=0.3",
        "endpoint.concurrency=1",
    )
    found, out, err = finetune(*given)
    assert (found, out) == (code, ""), err
    assert says in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: endpoint 127.0.0.1")
    assert not list(files.rglob("eval.json"))
    answered = sum(endpoint.answered.values())
    assert answered == (4 if code == 1 else 0)
    endpoint.instead = lambda number, body: None
    asked = endpoint.requests
    found, _, err = finetune(*given)
    assert found == 0, err
    assert endpoint.requests - asked == ROWS - answered


def test_one_prompt_that_is_refused_keeps_the_rest(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    def instead(number: int, body: dict[str, Any]) -> Any:
        refused = body["messages"][-1]["content"] == "jugs 43"
        return (400, {}, b'{"error": {"message": "not this one"}}') if refused else None

    endpoint.instead = instead
    code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", *FAST)
    assert (code, out) == (1, "")
    assert "1 prompt of 12 not answered (400 (not this one)); 11 answers are kept" in err.splitlines()[-1]


def test_nobody_there_is_said_at_once(files: Path, finetune: Finetune) -> None:
    code, out, err = finetune("evaluate", "http://127.0.0.1:9/v1#big", "data.eval=new.jsonl", *FAST)
    assert (code, out) == (1, "")
    assert "error: endpoint 127.0.0.1:9: cannot be reached (connection refused); start it" in err


def test_an_endpoint_beside_a_run_is_tried_before_any_model_answers(
    make_run: Runs, files: Path, finetune: Finetune
) -> None:
    make_run()
    code, out, err = finetune("evaluate", "mine", "http://127.0.0.1:9/v1#big", "data.eval=new.jsonl", *FAST)
    assert (code, out) == (1, ""), err
    assert "127.0.0.1:9" in err.splitlines()[-1]
    assert not any(line.startswith(("base: ", "prompts: ", "mine: ")) for line in err.splitlines()), err
    assert not list(Path("runs/.answers").glob("*.jsonl"))


def test_a_model_that_is_not_served_is_named(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    code, _, err = finetune("evaluate", target(endpoint, "huge"), "data.eval=new.jsonl")
    assert code == 2
    assert "model huge: not found: 404 (the model huge does not exist)" in err


def test_rows_with_tools_and_plain_text_are_not_put_to_an_endpoint(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    write_rows(files / "tools.jsonl", [{**asked_row(number), "tools": [tool]} for number in range(4)])
    write_rows(files / "texts.jsonl", [{"text": f"The fox {number}."} for number in range(4)])
    for name, says in (("tools", "rows with tools"), ("texts", "rows of plain text")):
        code, _, err = finetune("evaluate", target(endpoint), f"data.eval={name}.jsonl")
        assert code == 2
        assert err.startswith(f"error: {target(endpoint)}: ") and says in err
    assert endpoint.requests == 0


def test_a_server_that_counts_nothing_leaves_the_tokens_open(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    endpoint.usage = False
    endpoint.finish = "length"
    code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", "--json")
    assert code == 0, err
    (rung,) = json.loads(out)["rungs"]
    assert (rung["tokens_per_answer"], rung["prompt_tokens"], rung["stop_rate"]) == (None, None, 0.0)
    answers = read_lines(Path(json.loads(out)["run_dir"]) / "answers.jsonl")
    assert {answers[0]["answers"]["tuned"][name] for name in ("tokens", "prompt_tokens", "nll")} == {None}


def left_behind(folder: Path) -> list[Path]:
    """What stands in the folder of runs, but for kept answers."""
    return [path for path in folder.glob("runs/*") if path.name != ".answers"]


def test_where_nothing_was_answered_no_folder_is_left(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    code, _, err = finetune("evaluate", "http://127.0.0.1:9/v1#big", "data.eval=new.jsonl", *FAST)
    assert code == 1, err

    def interrupt(messages: Any) -> str:
        signal.raise_signal(signal.SIGINT)
        return "no"

    code, _, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", "evaluate.metric=numeric", *FAST)
    assert code == 2, err
    endpoint.answer = interrupt
    code, _, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", *FAST)
    assert code == 130, err
    assert left_behind(files) == []


@pytest.mark.parametrize("place", ["a file", "a link to nothing"])
def test_a_place_for_results_that_cannot_be_is_refused_before_anything_is_asked(
    endpoint: Endpoint, files: Path, finetune: Finetune, place: str
) -> None:
    (files / "taken").write_text("mine") if place == "a file" else (files / "taken").symlink_to("nowhere")
    code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", "output_dir=taken")
    assert (code, out, endpoint.requests) == (2, "", 0)
    assert err.startswith("error: taken/.answers: cannot be made a folder ("), err


def test_results_that_cannot_differ_go_into_the_same_folder(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    def folder(*given: str) -> str:
        code, out, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", "--json", *given)
        assert code == 0, err
        return str(json.loads(out)["run_dir"])

    plain = folder()
    same = ("endpoint.concurrency=1", "endpoint.timeout=9", "endpoint.requests_per_minute=999", "evaluate.batch_size=2")
    assert [folder(one) for one in same] == [plain] * len(same)
    assert len({plain, folder("endpoint.temperature=0.5"), folder("evaluate.metric=f1"), folder("seed=7")}) == 4


def test_an_endpoint_that_never_says_anything_is_an_error(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    endpoint.answer, endpoint.finish = (lambda messages: None), "length"  # as a model that is still thinking answers
    given = ("evaluate", target(endpoint), "data.eval=new.jsonl", *FAST)
    for _ in range(2):  # also when the answers are kept
        code, out, err = finetune(*given, "evaluate.max_new_tokens=5")
        assert (code, out) == (1, ""), err
        said = err.splitlines()[-1]
        assert said.startswith("error: endpoint 127.0.0.1")
        assert f"big: {ROWS} answers, all of them empty, {ROWS} cut off at 5 tokens; raise evaluate.max_new" in said
        assert "delete runs/.answers/" in said
    assert endpoint.requests == ROWS and left_behind(files) == []
    endpoint.answer = lambda messages: ANSWER
    code, _, err = finetune(*given, "evaluate.max_new_tokens=6")
    assert code == 0, err


def test_an_endpoint_that_sometimes_says_nothing_is_warned_of(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    endpoint.answer = lambda messages: " \n" if messages[-1]["content"] in ("jugs 41", "jugs 45") else ANSWER
    code, _, err = finetune("evaluate", target(endpoint), "data.eval=new.jsonl", *FAST)
    assert code == 0, err
    assert f"warning: big: 2 of {ROWS} answers have no text" in err.splitlines()


def test_progress_names_the_target_and_says_what_is_really_asked(
    endpoint: Endpoint, files: Path, finetune: Finetune
) -> None:
    given = ("data.eval=new.jsonl", "data.train=learn.jsonl", "evaluate.few_shot=2", "evaluate.prompt_rows=4")
    code, _, err = finetune("evaluate", target(endpoint), *given)
    assert code == 0, err
    none, *lines = [line.partition(" in ")[0] for line in err.splitlines()]
    assert none.startswith("base is left out: ")
    assert lines == [
        "prompts: 3 × 4 training rows, 12 answers to choose one",
        "examples: with and without the prompt × 4 training rows, 8 answers",
        *(f"{name}: {ROWS} answers" for name in ("prompted", "few_shot", "big")),
    ]
    assert finetune("evaluate", target(endpoint), *given)[2].splitlines() == [err.splitlines()[0]]
    write_rows(files / "new.jsonl", [asked_row(number) for number in range(41, 41 + ROWS)])
    code, _, err = finetune("evaluate", target(endpoint), *given)
    _, *lines = [line.partition(" in ")[0] for line in err.splitlines()]
    assert lines == [f"{name}: 1 answer" for name in ("prompted", "few_shot", "big")]


def test_a_score_that_a_setting_was_given_for_is_shown(endpoint: Endpoint, files: Path, finetune: Finetune) -> None:
    given = ("evaluate", target(endpoint), "data.eval=new.jsonl")
    code, out, err = finetune(*given, r"evaluate.pattern=\d", "evaluate.tolerance=0")
    assert code == 0, err
    assert "pattern right" in out.splitlines()[0]
    assert "pattern right" not in finetune(*given)[1]
    assert finetune(*given, r"evaluate.pattern=\d", "evaluate.metric=regex")[1].count("pattern right") == 1
