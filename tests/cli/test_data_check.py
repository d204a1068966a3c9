"""`finetune data check` as a command: what it prints, where, and how it ends; bad files and rows as `train` names them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli import test_faults_files, test_faults_rows
from refusals import GOOD, MOST_SECONDS, Refused, Run, chat, error_lines, everything, lines, write_files

# What is no matter of the rows: how they are split, weighted and made into batches.
ELSEWHERE = ("training.", "data.weights", "data.eval_share")
# Rows from which other methods learn: they are checked as what they are.
OTHER_SHAPES = ("preference pairs", "votes", "prompt alone")
CASES = [
    case
    for case in (*test_faults_files.CASES, *test_faults_rows.CASES)
    if case.row != 57 and not (case.row == 27 and "data.train: " in case.said) and case.name not in OTHER_SHAPES
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_train_refuses_is_an_error_in_the_same_words(case: Refused, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, case.files)
    if case.build:
        case.build(tmp_path)
    arguments = [argument for argument in case.arguments if not argument.startswith(ELSEWHERE)]
    began = time.process_time()
    code, out, err = finetune("data", "check", *arguments, "--json")
    assert time.process_time() - began < MOST_SECONDS
    assert code == 2, err
    assert "Traceback" not in err and "bug of ours" not in err
    wanted = case.said.replace("FOLDER", str(tmp_path))
    said = [line.removeprefix("error: ") for line in err.splitlines()] if not out else error_lines(json.loads(out))
    assert any(line.startswith(wanted) for line in said), said


def test_every_error_of_the_table_has_its_own_code(finetune: Run, tmp_path: Path) -> None:
    """No message falls through to the code for everything else."""
    write_files(tmp_path, {"t.jsonl": lines([5, {"messages": "x"}, *GOOD])})
    _, out, _ = finetune("data", "check", "t.jsonl", "--json")
    assert [(p["code"], p["count"]) for p in json.loads(out)["problems"]] == [("row-not-object", 1), ("field-type", 1)]


def test_sound_rows_end_well_and_the_page_is_written_where_it_is_said(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    before = everything(tmp_path)
    code, out, err = finetune("data", "check", "t.jsonl", "check.output=out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "20 rows in 1 file"
    assert out.splitlines()[-1] == "The whole report: out/data-report.html"
    assert "Without a model" in out and "add model=tiny" in out
    assert everything(tmp_path) - before == {"out", "out/data-report.html"}


def test_json_is_one_object_with_the_documented_fields(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, chat(("user", "hi"))])})
    code, out, _ = finetune("data", "check", "t.jsonl", "model=tiny", "check.price_per_million=2", "--json")
    found = json.loads(out)
    assert code == 2
    assert (found["rows"], found["sound_rows"], found["errors"], found["warnings"]) == (21, 20, 1, 0)
    (problem,) = found["problems"]
    assert {"code", "severity", "what", "mend", "count", "samples"} == set(problem)
    assert problem["samples"][0] | {"text": "", "mend": ""} == {
        "where": "t.jsonl:21",
        "field": "messages",
        "text": "",
        "mend": "",
    }
    training = found["statistics"]["training"]
    assert training["exact"] and training["tokens"] == 3 * training["tokens_per_epoch"] > 0
    assert training["cost"] == pytest.approx(training["tokens"] * 2e-6, abs=1e-4)
    assert found["remarks"] == []


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("check.disable=[refusl]", "check.disable: there is no code 'refusl'; did you mean refusal?"),
        ("check.disable=[json-cut]", "check.disable: json-cut is an error: `train` refuses such rows whatever is said"),
        ("data.max_length=5", "data.max_length: has no effect without a model; add model=tiny"),
        ("data.weights=[1]", "data.weights: has no effect on `finetune data check`; leave it out"),
        ("data.counts=[3]", "data.counts: has no effect on `finetune data check`; leave it out"),
        ("data.split=test", "data.split: has no effect: no rows come from the hub; leave it out"),
        ("data.revision=abc", "data.revision: has no effect: no rows come from the hub; leave it out"),
        ("model.trust_remote_code=true", "model.trust_remote_code: has no effect without a model; add model=tiny"),
        (
            "data.contamination_words=8",
            "data.contamination_words: has no effect without data.eval or data.benchmarks; leave it out",
        ),
        (
            "data.allow_contamination=true",
            "data.allow_contamination: has no effect without data.eval or data.benchmarks; leave it out",
        ),
        ("model.precision=bf16", "model.precision: has no effect on `finetune data check`; leave it out"),
        ("data.train=u.jsonl", "data.train: files are given twice, alone and under this key; keep one of them"),
        ("check.output=t.jsonl", "check.output t.jsonl: cannot be made: file exists; name another folder"),
        (
            "seed=3",
            "seed: `finetune data check` has no such setting; it has model.name, model.revision, model.chat_template, model.trust_remote_code, data.layout, data.split, data.revision, data.limit, data.train, data.eval, data.benchmarks, data.cont",
        ),
        ("check.sample=3", "check.sample: `finetune data check` has no such setting; did you mean check.samples?"),
    ],
)
def test_a_setting_without_effect_or_sense_is_refused(argument: str, said: str, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    code, out, err = finetune("data", "check", "t.jsonl", argument)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}"), err
    assert not (tmp_path / "data-report.html").exists()


def test_words_of_a_leak_have_no_effect_where_none_is_looked_for(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD[:5]), "e.jsonl": lines(GOOD[5:])})
    given = ("data.eval=e.jsonl", "check.near=false", "data.contamination_words=8")
    code, _, err = finetune("data", "check", "t.jsonl", *given)
    assert (code, err) == (
        2,
        "error: data.contamination_words: has no effect with check.near=false; leave one of them out\n",
    )


def test_benchmarks_need_the_search_for_likeness(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD), "e.jsonl": lines(GOOD)})
    code, _, err = finetune("data", "check", "t.jsonl", "data.benchmarks=e.jsonl", "check.near=false")
    assert (code, err) == (2, "error: data.benchmarks: has no effect with check.near=false; leave one of them out\n")


def test_what_is_left_out_without_likeness_is_said(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD[:5]), "e.jsonl": lines(GOOD[5:])})
    for more, parts in (([], ""), (["data.eval=e.jsonl"], ", and passages in common with held-out rows,")):
        _, out, _ = finetune("data", "check", "t.jsonl", "check.near=false", "--json", *more)
        said = f"Near-copies{parts} were not looked for: leave check.near=false out."
        assert json.loads(out)["remarks"][0] == said


def test_a_file_without_a_sound_row_is_counted_too(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD), "u.jsonl": lines([{"prompt": 1, "completion": 2}])})
    _, out, _ = finetune("data", "check", "t.jsonl", "u.jsonl", "--json")
    assert json.loads(out)["files"] == ["t.jsonl", "u.jsonl"]


def test_a_disabled_code_is_not_looked_for(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, GOOD[0]])})
    for disable, codes in (("[]", ["duplicate-row"]), ("[duplicate-row]", [])):
        _, out, _ = finetune("data", "check", "t.jsonl", f"check.disable={disable}", "--json")
        assert [problem["code"] for problem in json.loads(out)["problems"]] == codes


def test_no_more_places_are_shown_than_asked_for(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, *GOOD])})
    _, out, _ = finetune("data", "check", "t.jsonl", "check.samples=2", "--json")
    (problem,) = json.loads(out)["problems"]
    assert (problem["count"], len(problem["samples"])) == (20, 2)


WIDE = 100_000


def wide_rows() -> Iterator[tuple[str, bytes]]:
    names = [f"c{number}" for number in range(WIDE)]
    yield "t.csv", (",".join(["prompt", "completion", *names]) + "\n" + ",".join(["a", "b", *names]) + "\n").encode()
    yield "u.csv", (",".join([*names, names[-1]]) + "\n").encode()
    yield "t.jsonl", lines([{**GOOD[0], **dict.fromkeys(names, 1)}] * 3).encode()
    yield "u.jsonl", lines([dict.fromkeys(names, 1)] * 3).encode()
    yield "v.jsonl", b'{"a": 1, ' + b", ".join(b'"%s": 1' % name.encode() for name in names) + b', "c99999": 2}\n'
    yield "w.jsonl", lines([chat(("user", "a " * 2_400_000), ("assistant", "b@" * 2_400_000))]).encode()


@pytest.mark.parametrize(("name", "content"), wide_rows(), ids=lambda value: value if isinstance(value, str) else "")
def test_enormous_rows_end_in_time(name: str, content: bytes, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {name: content})
    began = time.process_time()
    code, out, err = finetune("data", "check", name, "--json")
    assert time.process_time() - began < MOST_SECONDS
    assert code in (0, 2) and "bug of ours" not in err
    assert len(out) < 100_000 and len(err) < 10_000


class Outside(HTMLParser):
    """Collects what a page would load, run or send, and checks that its elements are closed."""

    VOID = ("meta", "rect", "line", "circle", "br")

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)
        if tag in ("script", "iframe", "img", "link", "object", "form"):
            self.outside.append(tag)
        self.outside += [f"{name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_shows_text_as_text(finetune: Run, tmp_path: Path) -> None:
    row = chat(
        ("user", "<script>alert(1)</script> &amp;"),
        ("assistant", "</pre><img src=x onerror=alert(1)> As an AI language model"),
    )
    write_files(tmp_path, {"t.jsonl": lines([*GOOD, row, row, chat(("user", "<b>"))])})
    finetune("data", "check", "t.jsonl", "model=tiny")
    text = (tmp_path / "data-report.html").read_text(encoding="utf-8")
    found = Outside()
    found.feed(text)
    found.close()
    assert found.outside == [] and found.open == []
    assert "&lt;img src=x onerror" in text and "<img" not in text
    assert "would refuse this data: 1 error in 23 rows." in text
    for heading in ("Can this data be trained on?", "Errors", "Warnings", "How long the rows are", "What to do next"):
        assert f"<h2>{heading}</h2>" in text


SECRETS = {
    "personal-email": "bob.smith@corporate-mail.com",
    "secret-key": "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2,
    "personal-card": "4111 1111 1111 1111",
}


def test_what_is_private_is_counted_and_never_shown(finetune: Run, tmp_path: Path) -> None:
    said = "As an AI language model I say " + " and ".join(SECRETS.values())
    write_files(
        tmp_path, {"t.jsonl": lines([*GOOD, *[chat(("user", f"{said} {n}?"), ("assistant", said)) for n in range(3)]])}
    )
    _, out, err = finetune("data", "check", "t.jsonl", "--json")
    _, shown, also = finetune("data", "check", "t.jsonl")
    page = (tmp_path / "data-report.html").read_text(encoding="utf-8")
    counts = {problem["code"]: problem["count"] for problem in json.loads(out)["problems"]}
    for code, value in SECRETS.items():
        assert counts[code] == 3
        assert not any(value in text for text in (out, err, shown, also, page))
    assert json.loads(out)["statistics"]["private"]["an e-mail address"] == 6


def test_help_and_the_overview_name_the_verb(finetune: Callable[..., tuple[int, str, str]]) -> None:
    assert "data check" in finetune("--help")[1]
    said = finetune("data", "check", "--help")[1]
    assert "FILE… [key=value …]" in said and "check.disable=[]" in said and "data.eval=null" in said
    assert "data.weights" not in said and "tuning." not in said


def test_a_page_that_cannot_be_written_is_refused_before_reading(finetune: Run, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "data-report.html").mkdir()
    else:
        tmp_path.chmod(0o500)
    code, _, err = finetune("data", "check", "/dev/zero")
    tmp_path.chmod(0o700)
    assert code == 2 and "data-report.html cannot be written there" in err


def test_a_leak_that_is_allowed_is_no_error_and_is_said(finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD), "e.jsonl": lines(GOOD[:2])})
    arguments = ("data", "check", "t.jsonl", "data.eval=e.jsonl", "check.near=true")
    assert finetune(*arguments)[0] == 2
    code, out, _ = finetune(*arguments, "data.allow_contamination=true")
    assert code == 0 and "2 rows of data.eval are trained on too, which data.allow_contamination allows: " in out
