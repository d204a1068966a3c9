"""Asking an endpoint: nothing twice, not too fast, not too dear, through every mishap."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rows import write_rows
from teacher_server import Endpoint, serving

from finetune.endpoint.limits import Pace

KEY = "topsecret-0123456789"
Run = Callable[..., tuple[int, str, str]]
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A teacher that answers everything."""
    with serving(Endpoint()) as found:
        yield found


@pytest.fixture
def synth(finetune: Run, endpoint: Endpoint, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`finetune data build synth` on twelve prompts at that endpoint, with quick retries."""
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Tell me of {name}."} for name in NUMBERS])

    def run(*arguments: object) -> tuple[int, str, str]:
        given = {str(argument).partition("=")[0] for argument in arguments}
        standard = {"prompts": "prompts.jsonl", "teacher.url": endpoint.url, "teacher.model": "big",
                    "teacher.retry_wait": "0.01", "teacher.license": "test", "output": "made"}  # fmt: skip
        settings = [f"{key}={value}" for key, value in standard.items() if key not in given]
        return finetune("data", "build", "synth", *settings, *arguments)

    return run


def rows(folder: Path, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "synth.json").read_text(encoding="utf-8")))


def instead(*mishaps: Any) -> Callable[[int, dict[str, Any]], Any]:
    """The first requests meet these, the others are answered."""
    return lambda number, body: mishaps[number - 1] if number <= len(mishaps) else None


def test_every_prompt_is_answered_once_and_in_order(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    code, said, _ = synth()
    assert code == 0 and "12 rows" in said
    assert endpoint.requests == 12 and set(endpoint.answered.values()) == {1}
    assert [row["messages"][0]["content"] for row in rows(tmp_path / "made")] == [f"Tell me of {n}." for n in NUMBERS]
    assert rows(tmp_path / "made")[0]["messages"][1] == {"role": "assistant", "content": "Answer to: Tell me of one."}
    body = endpoint.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.7, 1024)
    assert len({body["seed"] for body in endpoint.asked}) == 12


def test_the_same_command_again_asks_nothing_and_writes_the_same_bytes(
    synth: Run, endpoint: Endpoint, tmp_path: Path
) -> None:
    synth()
    names = ("rows.jsonl", "rejects.jsonl", "synth.json")
    before = [(tmp_path / "made" / name).read_bytes() for name in names]
    code, _, _ = synth()
    assert code == 0 and endpoint.requests == 12
    assert [(tmp_path / "made" / name).read_bytes() for name in names] == before


def test_another_setting_of_the_gates_judges_the_same_answers_anew(
    synth: Run, endpoint: Endpoint, tmp_path: Path
) -> None:
    synth()
    assert synth("gates.max_words=5")[0] == 3
    assert endpoint.requests == 12
    assert result(tmp_path / "made")["counts"]["rejected"] == {"length": 12}


def test_mishaps_are_tried_again_and_every_answer_counts_once(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    busy = (503, {}, b"busy")
    garbage = (200, {}, b"<html>sorry</html>")
    other = (200, {}, b'{"choices": []}')
    endpoint.instead = instead(None, busy, garbage, "truncated", "hang up", other, (500, {}, b"\xff\xfe"))
    code, _, said = synth()
    assert code == 0 and len(rows(tmp_path / "made")) == 12
    assert endpoint.requests == 12 + 6 and set(endpoint.answered.values()) == {1}
    assert "Traceback" not in said


def test_an_answer_that_never_comes_is_given_up_and_asked_again(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.instead = instead("never", "drip")
    began = time.monotonic()
    code, _, said = synth("teacher.timeout=0.5")
    assert code == 0, said
    assert time.monotonic() - began < 40, "the server would have waited for 60"
    assert len(rows(tmp_path / "made")) == 12
    # Nobody knows whether those two were billed.
    assert result(tmp_path / "made")["spent"]["unknown_tokens"] > 2 * 1024


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(synth: Run, endpoint: Endpoint, as_date: bool) -> None:
    wait = 2 if as_date else 1  # a date has whole seconds, of which a part may have passed
    said = email.utils.formatdate(time.time() + wait, usegmt=True) if as_date else str(wait)
    endpoint.instead = instead(None, (429, {"Retry-After": said}, b"{}"))
    code, _, _ = synth("teacher.concurrency=1")
    assert code == 0
    assert endpoint.times[2] - endpoint.times[1] >= (0.4 if as_date else 0.95)


def test_an_endpoint_that_asks_for_an_hour_is_not_waited_for(synth: Run, endpoint: Endpoint) -> None:
    endpoint.instead = instead(None, (429, {"Retry-After": "3600"}, b"{}"))
    code, _, said = synth()
    assert code == 1 and "asks to wait 3,600 s" in said


def test_giving_up_keeps_the_answers(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.instead = lambda number, body: (500, {}, b"{}") if number > 5 else None
    code, _, said = synth("teacher.retries=1", "teacher.concurrency=1")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert "500, tried 2 times; 5 answers kept; the same command continues" in line
    endpoint.instead = lambda number, body: None
    assert synth()[0] == 0
    assert set(endpoint.answered.values()) == {1} and len(rows(tmp_path / "made")) == 12


def test_a_request_that_alone_fails_is_counted_and_does_not_end_the_others(
    synth: Run, endpoint: Endpoint, tmp_path: Path
) -> None:
    def poisoned(number: int, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        if "seven" in text:
            return (400, {}, b'{"error": {"message": "too long for me"}}')
        return (500, {}, b"{}") if "nine" in text else None

    endpoint.instead = poisoned
    code, _, _ = synth("teacher.retries=2", "teacher.concurrency=2")
    assert code == 0
    reasons = {entry["where"]: entry["reason"] for entry in rows(tmp_path / "made", "rejects.jsonl")}
    assert reasons == {"prompts.jsonl:7": "400 (too long for me)", "prompts.jsonl:9": "500"}
    assert result(tmp_path / "made")["counts"]["rejected"] == {"no_answer": 2}


def test_no_more_requests_than_allowed_are_under_way(synth: Run, endpoint: Endpoint) -> None:
    endpoint.delay = 0.4
    assert synth("teacher.concurrency=3")[0] == 0
    assert endpoint.most_at_once == 3


def test_requests_keep_the_pace(synth: Run, endpoint: Endpoint) -> None:
    assert synth("rows=3", "teacher.concurrency=3", "teacher.requests_per_minute=60")[0] == 0
    assert endpoint.requests == 3 and endpoint.times[-1] - endpoint.times[0] > 1.5


def test_pace_spreads_requests_and_tokens_over_the_minute() -> None:
    now = [100.0]
    pace = Pace(requests=60, tokens=600, now=lambda: now[0])
    assert pace.wait(400) == 0
    pace.start(400)
    assert pace.wait(100) == pytest.approx(1)  # the next second's request
    assert pace.wait(400) == pytest.approx(20)  # 200 tokens are left, and ten more come each second
    pace.settle(400, 100)
    assert pace.wait(400) == pytest.approx(1)
    now[0] += 2
    assert pace.wait(400) == 0
    pace.hold(7)
    assert pace.wait(1) == pytest.approx(7)
    now[0] += 600
    assert pace.wait(10_000) == 0, "one that is over a whole minute's share waits for a full minute"


@pytest.mark.parametrize("setting", ["teacher.max_tokens_total=300", "teacher.max_cost=0.0003"])
def test_the_ceiling_is_never_passed_and_a_higher_one_goes_on(
    synth: Run, endpoint: Endpoint, tmp_path: Path, setting: str
) -> None:
    prices = ["teacher.price_in=1", "teacher.price_out=1"]
    code, _, why = synth(setting, "teacher.max_tokens=100", "teacher.concurrency=8", *prices)
    assert code == 75 and "stopped at the ceiling" in why
    first, counts = endpoint.requests, result(tmp_path / "made")["counts"]
    assert 0 < first < 12 and counts["unasked"] == 12 - first == 12 - counts["rows"]
    # The worst case of one more request no longer fitted: 64 + 16 + its bytes + 100 tokens.
    assert endpoint.used() <= 300 < endpoint.used() + 64 + 16 + 4 + 21 + 100
    higher = setting.replace("300", "100000").replace("0.0003", "1")
    assert synth(higher, "teacher.max_tokens=100", *prices)[0] == 0
    assert endpoint.requests == 12 and len(rows(tmp_path / "made")) == 12


def test_what_is_spent_is_what_the_endpoint_counted(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    _, said, _ = synth("teacher.price_in=2", "teacher.price_out=10")
    found = result(tmp_path / "made")["spent"]
    assert (found["tokens_in"], found["tokens_out"], found["unknown_tokens"]) == (12 * 4, 12 * 8, 0)
    assert found["cost"] == pytest.approx((48 * 2 + 96 * 10) / 1e6)
    assert "spent 48 + 96 tokens in 12 answers, 0.0011 by the prices given" in said


def test_an_endpoint_that_counts_nothing_is_taken_at_its_worst(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.usage = False
    code, _, _ = synth("teacher.max_tokens_total=700", "teacher.max_tokens=100")
    assert code == 75 and endpoint.requests == 3


def test_the_key_goes_to_the_host_and_nowhere_else(
    synth: Run, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    repeated = json.dumps({"error": {"message": f"the key {KEY} is busy"}}).encode()
    endpoint.instead = instead(None, (500, {}, repeated), (400, {}, repeated))
    code, said, why = synth("teacher.key_env=TEACHER_KEY", "--debug")
    assert code == 0
    assert {headers["Authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 5
    for text in (said, why, *(path.read_text(encoding="utf-8") for path in written)):
        assert KEY not in text and KEY[:9] not in text


def test_no_key_is_sent_where_none_is_named(synth: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    synth()
    assert not any("Authorization" in headers for headers in endpoint.headers)


def test_no_redirect_is_followed(synth: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with serving(Endpoint()) as other:
        endpoint.instead = lambda number, body: (307, {"Location": f"{other.url}/chat/completions"}, b"")
        code, _, said = synth("teacher.key_env=TEACHER_KEY")
        assert code == 2 and "sends on to another address; give the address itself" in said
        assert other.requests == 0 and endpoint.requests == 1


@pytest.mark.parametrize(
    ("mishap", "code", "says"),
    [
        ((401, {}, b'{"error": {"message": "bad key abc"}}'), 2, "refuses the request (401); name the key's variable"),
        ((403, {}, b""), 2, "refuses the request (403)"),
        (
            (404, {}, b'{"error": {"message": "no such model"}}'),
            2,
            "not found: 404 (no such model); check teacher.model",
        ),
        ((400, {}, b'{"error": {"message": "seed is unknown"}}'), 2, "refuses every request: 400 (seed is unknown)"),
        (
            (200, {"Content-Type": "text/html"}, b"<html>"),
            1,
            "no chat completion (6 bytes of text/html), tried 3 times",
        ),
        ((200, {}, b'{"error": "overloaded"}'), 1, "no chat completion (overloaded), tried 3 times"),
        ((500, {}, b""), 1, "500, tried 3 times"),
        ("hang up", 1, "the connection broke"),
        ((429, {}, b'{"error": {"message": "you are out", "code": "insufficient_quota"}}'), 1, "no money left"),
    ],
)
def test_an_endpoint_that_does_not_work_is_told_in_one_line(
    synth: Run, endpoint: Endpoint, mishap: Any, code: int, says: str
) -> None:
    endpoint.instead = lambda number, body: mishap
    found, said, why = synth("teacher.retries=2")
    lines = [line for line in why.splitlines() if not line.endswith(" s")]
    assert (found, said, len(lines)) == (code, "", 1), why
    assert lines[0].startswith("error: ") and says in lines[0]
    assert endpoint.requests <= 3


def test_a_wrong_model_is_told_in_one_line(synth: Run) -> None:
    code, _, said = synth("teacher.model=bigger")
    assert code == 2 and "teacher.model bigger: not found: 404 (the model bigger does not exist)" in said
    assert len(said.splitlines()) == 1


def test_an_endpoint_that_is_down_is_told_at_once(synth: Run) -> None:
    with serving(Endpoint()) as gone:
        pass
    began = time.monotonic()
    code, _, said = synth(f"teacher.url={gone.url}", "teacher.retry_wait=30")
    assert code == 1 and "cannot be reached (connection refused); start it, or correct the address" in said
    assert len(said.splitlines()) == 1 and time.monotonic() - began < 25


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.url=http://10.0.0.7:8000/v1", "use https, or a tunnel"),
        ("teacher.url=https://user:pw@host/v1", "holds more than an address"),
        ("teacher.url=https://host/v1?key=abc", "holds more than an address"),
        ("teacher.url=host/v1", "is not an address"),
        ("teacher.url=ftp://host/v1", "is not an address"),
        ("teacher.url=http://localhost:x/v1", "is not an address"),
        ("teacher.url=https://a..b/v1", "is not an address"),
        ("teacher.key_env=NOT_THERE_1", "the environment has no NOT_THERE_1"),
        (f"teacher.key_env={KEY}", "is not the name of an environment variable"),
        ("teacher.max_cost=1", "nothing is known about the prices"),
        ("teacher.price_in=1", "is given without teacher.price_out"),
        ("teacher.batch_size=2", "has no effect on an endpoint"),
        ("model=tiny", "a model of this machine is the teacher already"),
        ("teacher.api_key=abc", "looks like a secret; put it in the environment"),
        ("teacher.concurency=3", "did you mean teacher.concurrency?"),
        ("template=awnser", "no such template or file; did you mean answer?"),
        ("documents=prompts.jsonl", "prompts and documents are given; give one of"),
        ("chunk=500", "has no effect on prompts"),
        ("gates.round_trip=document", "prompts have no document"),
        ("gates.agreement=0.9", "gates.agreement: nothing is compared"),
        ("gates.equivalent=teacher", "gates.equivalent: nothing is compared"),
        ("model.attention=sdpa", "model.attention: has no effect on an endpoint; leave it out"),
        ("model.trust_remote_code=true", "model.trust_remote_code: has no effect on an endpoint; leave it out"),
        ("data.columns.prompt=asked", "data.columns.prompt: no row has a column 'asked', so it has no effect"),
        ("held_out=gone.jsonl", "no such file"),
        ("rows.jsonl", "rows.jsonl: is given without what it holds; write prompts=rows.jsonl, documents="),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(synth: Run, endpoint: Endpoint, setting: str, says: str) -> None:
    code, _, said = synth(setting)
    assert code == 2 and says in said, said
    assert endpoint.requests == 0 and "pw" not in said and "abc" not in said and KEY not in said


def test_the_share_of_words_has_no_effect_where_the_teacher_compares(synth: Run, endpoint: Endpoint) -> None:
    code, _, said = synth("gates.round_trip=question", "gates.equivalent=teacher", "gates.agreement=0.9")
    assert code == 2 and "gates.agreement: has no effect with gates.equivalent=teacher" in said
    assert endpoint.requests == 0


def test_the_worst_case_of_what_is_under_way_counts_too(synth: Run, endpoint: Endpoint) -> None:
    endpoint.delay = 0.3  # all that is started has to fit beside the others
    assert synth("teacher.max_tokens_total=650", "teacher.max_tokens=100", "teacher.concurrency=8")[0] in (0, 75)
    assert 1 < endpoint.most_at_once <= 3


def test_a_request_that_was_under_way_at_a_kill_counts_as_used(synth: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    synth("rows=2", "teacher.concurrency=1")
    journal = tmp_path / "made" / "asked.jsonl"
    sent = {"event": "sent", "attempt": 99, "key": "x", "most": {"asked": 100, "answered": 1024}}
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(sent) + "\n" + '{"event": "answ')  # killed while it wrote
    before = endpoint.requests
    code, said, _ = synth("teacher.max_tokens_total=1200")
    assert code == 75 and endpoint.requests == before
    assert "1,124 more at most, in requests that were cut off" in said
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_damaged_journal_is_named_with_its_line(synth: Run, tmp_path: Path) -> None:
    synth("rows=2")
    journal = tmp_path / "made" / "asked.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:1], "{oh}\n", *lines[1:]]))
    code, _, said = synth()
    assert code == 2 and "asked.jsonl:2: is damaged; delete the line" in said


def test_rows_of_something_else_are_not_overwritten(synth: Run, tmp_path: Path) -> None:
    synth("rows=2")
    write_rows(tmp_path / "others.jsonl", [{"prompt": "Hello."}])
    code, _, said = synth("prompts=others.jsonl")
    assert code == 2 and "holds rows made from prompts=prompts.jsonl by big; choose another output" in said
