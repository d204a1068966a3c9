"""Interrupted and killed, the same command goes on, and nothing that was answered is asked again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import chat_row, write_rows
from teacher_server import Endpoint, serving

from finetune.cli import main
from finetune.endpoint.asked import Request, Sampling
from finetune.errors import counted
from finetune.evaluate.generate import generate

Run = Callable[..., tuple[int, str, str]]
COUNT = 12


def command(endpoint: Endpoint, *more: str) -> list[str]:
    teacher = [f"teacher.url={endpoint.url}", "teacher.model=big", "teacher.license=test", "teacher.concurrency=3"]
    return once(["data", "build", "synth", "prompts=prompts.jsonl", "output=made", *teacher, *more])


def once(words: list[str]) -> list[str]:
    """The last of each setting."""
    return list({word.partition("=")[0]: word for word in words}.values())


def prompts(folder: Path) -> None:
    write_rows(folder / "prompts.jsonl", [{"prompt": f"Describe the number {number}."} for number in range(COUNT)])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "made" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    with (folder / "child.log").open("w") as said:
        return subprocess.Popen([sys.executable, "-m", "finetune", *arguments], cwd=folder, stderr=said)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("at", [1, 2, 9])
def test_stopped_at_a_request_it_goes_on_and_asks_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, how: signal.Signals
) -> None:
    prompts(tmp_path)
    monkeypatch.chdir(tmp_path)
    children: list[subprocess.Popen[bytes]] = []
    sent: list[float] = []

    def stop(number: int, body: dict[str, Any]) -> str | None:
        if number != at:
            return None
        sent.append(time.monotonic())
        children[0].send_signal(how)
        return "never"

    with serving(Endpoint(instead=stop)) as endpoint:
        children.append(start(tmp_path, command(endpoint, "teacher.concurrency=1")))
        code = children[0].wait(60)
        said = (tmp_path / "child.log").read_text()
        assert code == (130 if how == signal.SIGINT else -how), said
        assert time.monotonic() - sent[0] < 25, "nobody waits for what is under way"
        if how == signal.SIGINT:
            kept = f"{counted(at - 1, 'answer')} kept in made/asked.jsonl"
            assert said.splitlines()[-1] == f"interrupted; {kept}; the same command continues"
        assert not (tmp_path / "made" / "rows.jsonl").exists()
        assert main(command(endpoint)) == 0
        assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == COUNT
        assert endpoint.requests == COUNT + 1, "only what was not answered is asked again"
        assert len(rows(tmp_path)) == COUNT


def test_killed_with_many_under_way_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts(tmp_path)
    monkeypatch.chdir(tmp_path)
    journal = tmp_path / "made" / "asked.jsonl"

    def kept() -> list[str]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [line for line in lines if '"event": "answered"' in line and line.endswith("}")]

    with serving(Endpoint(delay=0.05)) as endpoint:
        child, deadline = start(tmp_path, command(endpoint)), time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None and len(kept()) < 5:
            time.sleep(0.002)
        child.kill()
        child.wait()
        assert 5 <= len(kept()) < COUNT
        time.sleep(0.2)  # until what was under way has come in
        before, missing = endpoint.requests, COUNT - len(kept())
        assert main(command(endpoint)) == 0
        assert endpoint.requests == before + missing, "what was on disk is not asked again"
        broken = (tmp_path / "made" / "rows.jsonl").read_bytes()
        assert main(command(endpoint, "output=whole")) == 0
        assert (tmp_path / "whole" / "rows.jsonl").read_bytes() == broken


def test_two_commands_do_not_write_the_same_folder(tmp_path: Path, finetune: Run) -> None:
    prompts(tmp_path)
    with serving(Endpoint(instead=lambda number, body: "never")) as endpoint:
        child = start(tmp_path, command(endpoint))
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and child.poll() is None and not endpoint.requests:
                time.sleep(0.01)
            assert child.poll() is None, (tmp_path / "child.log").read_text()
            code, _, said = finetune(*command(endpoint))
            assert code == 2 and "running already" in said
        finally:
            child.terminate()
            assert child.wait(10) == -signal.SIGTERM, "nothing waits for what is under way"


def test_an_endpoint_is_asked_without_torch(tmp_path: Path) -> None:
    prompts(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [chat_row(number) for number in range(4)])
    with serving(Endpoint()) as endpoint:
        script = (
            "import sys; from finetune.cli import main; code = main(sys.argv[1:]); "
            "print(code, sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *command(endpoint, "data.train=rows.jsonl")],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


# A model of this machine


def local(*more: str) -> list[str]:
    words = ["data", "build", "synth", "prompts=prompts.jsonl", "model=tiny", "output=made", "teacher.max_tokens=12",
             "gates.near=1", *more]  # fmt: skip
    return once(words)


def test_a_local_model_answers_and_goes_on_where_it_was_interrupted(
    finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    batches: list[int] = []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        batches.append(len(arguments[2]))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return generate(*arguments, **settings)

    monkeypatch.setattr("finetune.data.build.local.generate", interrupted)
    code, _, said = finetune(*local("teacher.batch_size=4"))
    assert code == 130 and "4 answers kept" in said
    code, _, _ = finetune(*local("teacher.batch_size=4"))
    assert code == 0 and batches == [4, 4, 4, 4], "the batch that was interrupted is asked again, no other"
    broken = (tmp_path / "made" / "rows.jsonl").read_bytes()
    assert finetune(*local("teacher.batch_size=3", "output=whole"))[0] == 0
    assert (tmp_path / "whole" / "rows.jsonl").read_bytes() == broken, "the batch changes no answer"
    found = json.loads((tmp_path / "made" / "synth.json").read_text())
    assert found["teacher"] == {"name": "tiny", "hosts": ["this machine"], "license": "Apache-2.0", "served": ["tiny"]}
    assert finetune(*local("teacher.batch_size=4", "seed=7", "output=other"))[0] == 0
    assert (tmp_path / "other" / "rows.jsonl").read_bytes() != broken


def test_a_local_model_keeps_the_ceiling(finetune: Run, tmp_path: Path) -> None:
    prompts(tmp_path)
    assert finetune(*local("teacher.max_tokens_total=120"))[0] == 75
    found = json.loads((tmp_path / "made" / "synth.json").read_text())
    assert 80 < found["spent"]["tokens_in"] + found["spent"]["tokens_out"] <= 120
    assert found["counts"]["unasked"] > 0


def test_a_prompt_that_is_too_long_for_a_local_model_is_counted(finetune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "What is 3 plus 4?"}, {"prompt": "number 7 " * 2000}])
    assert finetune(*local())[0] == 0
    (entry,) = [json.loads(line) for line in (tmp_path / "made" / "rejects.jsonl").read_text().splitlines()]
    assert entry["gate"] == "no_answer" and "over the model's context of 2,048" in entry["reason"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.key_env=SOME_KEY", "has no effect on a model on this machine"),
        ("teacher.requests_per_minute=3", "has no effect on a model on this machine"),
        ("model.name=nowhere/at/all", "no such folder"),
    ],
)
def test_settings_that_a_local_model_has_not_are_refused(
    finetune: Run, tmp_path: Path, setting: str, says: str
) -> None:
    prompts(tmp_path)
    code, _, said = finetune(*local(setting))
    assert code == 2 and says in said


def test_drawing_follows_the_likelihoods_and_hangs_on_the_seed_alone() -> None:
    import torch

    from finetune.data.build.draw import drawing

    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def drawn(sampling: Sampling, seeds: range) -> torch.Tensor:
        choose = drawing(sampling, list(seeds))
        assert choose is not None
        return choose(range(len(seeds)))(torch.zeros(len(seeds), 1), scores.repeat(len(seeds), 1)).argmax(-1)

    warm = drawn(Sampling(1.0, None, 1), range(4000))
    shares = torch.bincount(warm, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)
    assert torch.equal(drawn(Sampling(1.0, None, 1), range(100, 200)), warm[100:200])
    assert set(drawn(Sampling(1.0, 0.8, 1), range(500)).tolist()) == {0, 1}
    cold = torch.bincount(drawn(Sampling(0.5, None, 1), range(4000)), minlength=4) / 4000
    assert torch.allclose(cold, torch.tensor([0.25, 0.09, 0.0225, 0.0025]) / 0.365, atol=0.03)
    assert drawing(Sampling(0.0, None, 1), [1]) is None


def test_a_request_is_the_same_when_it_asks_the_same() -> None:
    def key(model: str = "m", seed: int = 1, text: str = "x", where: str = "", **sampling: Any) -> str:
        chosen = {"temperature": 0.7, "top_p": None, "max_tokens": 9, **sampling}
        return Request(({"role": "user", "content": text},), Sampling(**chosen), seed, where).key(model)

    assert key() == key(where="elsewhere")
    others = [key("n"), key(seed=2), key(text="y"), key(temperature=0.1), key(top_p=0.5), key(max_tokens=8)]
    assert len({key(), *others}) == 7
