"""The documentation says what is true: its commands run, its links lead somewhere, its names exist.

The blocks of a page are carried out in order, in a folder with the files of `workplace`. A ```bash block holds commands
that succeed; a ```console block holds commands after `$ ` that are refused with the lines under them, in which …
stands for anything; a ```python block is a program. A comment behind a command says why it is not run here: it needs
a GPU or the network, or installs packages.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import chat_row, counted_row, pair_row, vote_row, write_rows

from finetune import errors
from finetune.cli import VERBS, main, split_arguments
from finetune.compose import compose, options_of
from finetune.config import OPTIONS, RunConfig
from finetune.data.build import synth
from finetune.data.build.gates import GATES
from finetune.data.build.settings import SynthSettings
from finetune.data.formats import LAYOUTS
from finetune.errors import FinetuneError, GateRefused, UserError
from finetune.evaluate import changes
from finetune.evaluate import settings as evaluate_settings
from finetune.methods import METHODS
from finetune.settings.catalogue import GROUPS, settings_in, settings_of
from finetune.settings.reference import said_default

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Why a command of a page is not run here; its comment begins with one of these.
REASONS = ("needs a GPU", "needs the network", "needs a server", "installs packages")
# Commands that another part of continuous integration runs, and where.
ELSEWHERE = {"finetune demo": "scripts/wheel"}

EXAM = """
task: exam
dataset_path: json
dataset_kwargs: {data_files: {test: exam-questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: right
"""

Run = Callable[[list[str]], tuple[int, str, str]]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    line: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Line:
    """A command of a page, its words and the comment behind it."""

    where: str
    words: tuple[str, ...]
    comment: str

    @property
    def reason(self) -> str:
        """Why it is not run here; empty when it is."""
        return next((reason for reason in REASONS if self.comment.startswith(reason)), "")


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages."""
    found: list[Block] = []
    opened: tuple[str, int] | None = None  # language and line of the block that is open
    lines: list[str] = []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif opened is None:
            opened, lines = (line[3:].strip(), number), []
        else:
            found.append(Block(page, opened[0], opened[1], tuple(lines)))
            opened = None
    assert opened is None, f"{page}: a block is not closed"
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)


def split_line(where: str, text: str) -> Line:
    """A command's words and its comment."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    at = words.index("#") if "#" in words else len(words)
    return Line(where, tuple(words[:at]), " ".join(words[at + 1 :]))


def commands(block: Block) -> Iterator[Line]:
    """Every command of a ```bash block."""
    for offset, text in enumerate(block.lines, 1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield split_line(f"{block.page}:{block.line + offset}", text)


def examples(block: Block) -> Iterator[tuple[Line, list[str]]]:
    """Every command of a ```console block, with the lines that it prints."""
    starts = [index for index, text in enumerate(block.lines) if text.startswith("$ ")]
    assert starts and starts[0] == 0, f"{block.page}:{block.line} begins with no command"
    for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
        line = split_line(f"{block.page}:{block.line + start + 1}", block.lines[start][2:])
        yield line, list(block.lines[start + 1 : end])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder for each page, with the files that its commands name."""
    folders: dict[str, Path] = {}

    def of(page: str) -> Path:
        if page not in folders:
            folder = folders[page] = tmp_path_factory.mktemp("page")
            write_rows(folder / "my.jsonl", [_json_row(number) for number in range(30)])
            write_rows(folder / "heldout.jsonl", [_json_row(number) for number in range(100, 104)])
            (folder / "exam.txt").write_text("A question that no row asks?\n", encoding="utf-8")
            schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
            (folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
            write_rows(folder / "long.jsonl", [{"messages": [*_json_row(1)["messages"]] * 4}])
            pairs = [f"question {number},answer {number}" for number in range(24)]
            (folder / "qa.csv").write_text("\n".join(["asked,reply", *pairs]) + "\n", encoding="utf-8")
            alpaca = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(4)]
            (folder / "alpaca.json").write_text(json.dumps(alpaca), encoding="utf-8")
            cut = json.dumps(_json_row(0)) + "\n" + json.dumps(_json_row(1))[:-30]
            (folder / "cut.jsonl").write_text(cut, encoding="utf-8")
            write_rows(folder / "copied.jsonl", [_json_row(0)])
            write_rows(folder / "pairs.jsonl", [pair_row(number) for number in range(24)])
            write_rows(folder / "votes.jsonl", [vote_row(number) for number in range(24)])
            write_rows(folder / "prompts.jsonl", [{"prompt": f"What is {n} plus {n + 3}?"} for n in range(12)])
            exam = [
                {"question": f"What is {n} plus 1?", "choices": [str(n), str(n + 1)], "right": 1} for n in range(12)
            ]
            write_rows(folder / "exam-questions.jsonl", exam)
            cities = [("France", "Paris", "Lyon"), ("Italy", "Rome", "Milan"), ("Austria", "Vienna", "Graz")]
            asked = [{"prompt": f"Capital of {land}?", "answer": right, "wrong": bad} for land, right, bad in cities]
            write_rows(folder / "capitals.jsonl", asked * 4)
            write_rows(folder / "counts.jsonl", [counted_row(number) for number in range(40)])
            (folder / "exam.yaml").write_text(EXAM, encoding="utf-8")
        return folders[page]

    return of


def _json_row(number: int) -> dict[str, Any]:
    row = chat_row(number)
    return {"messages": [row["messages"][0], {"role": "assistant", "content": json.dumps({"answer": str(number)})}]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `finetune …` in this process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def one(words: list[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return one


@pytest.mark.parametrize("page", NAMES)
def test_a_page_does_what_it_says(
    page: str, workplace: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks, in order: commands succeed, examples of errors are what is printed, programs run."""
    monkeypatch.chdir(workplace(page))
    for block in blocks(page):
        if block.language == "bash":
            for line in commands(block):
                _check_command(line, run)
        elif block.language == "console":
            for line, expected in examples(block):
                _check_example(line, expected, run)
        elif block.language == "python":
            named = re.match(r"# (\w+\.py)\n", block.text)  # a file that later commands name
            name = named[1] if named else "program.py"
            Path(name).write_text(block.text, encoding="utf-8")
            runpy.run_path(name)


def _check_command(line: Line, run: Run) -> None:
    command = shlex.join(line.words)
    if command in ELSEWHERE:
        assert command in (ROOT / ELSEWHERE[command]).read_text(encoding="utf-8"), line.where
    elif line.reason or line.words[0].startswith("scripts/"):
        _check_unrun(line)
    else:
        assert line.words[0] == "finetune", f"{line.where}: say why {command} is not run"
        code, _, said = run(list(line.words[1:]))
        assert code == 0, f"{line.where}: {command}\n{said}"


def _check_example(line: Line, expected: list[str], run: Run) -> None:
    """The command is refused, with these faults and no others."""
    assert line.words[0] == "finetune", line.where
    code, _, said = run(list(line.words[1:]))
    assert code in (UserError.exit_code, GateRefused.exit_code), f"{line.where}: {said}"
    given = [text for text in said.splitlines() if text.startswith("error: ")]
    assert len(given) == len(expected), f"{line.where}: {given}"
    for text, pattern in zip(given, expected, strict=True):
        wanted = "*".join(_literal(part) for part in pattern.split("…"))
        assert fnmatch.fnmatchcase(text, wanted), f"{line.where}: {text}"


def _literal(text: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", text)


def _check_unrun(line: Line) -> None:
    """What can be said of a command without its GPU, network or packages: it is there, and it composes."""
    words = list(line.words)
    if words[0].startswith("scripts/"):
        _check_script(line)
    elif "finetune.train" in words:
        assert words[:2] == ["accelerate", "launch"], line.where
        _composes(words[words.index("finetune.train") + 1 :], line.where)
    elif words[:2] == ["docker", "run"]:
        image = words.index("finetune")
        _composes(words[image + 2 :], line.where)
    elif words[1:4] == ["data", "build", "synth"]:
        try:
            synth.read_settings(words[4:])
        except FinetuneError as error:
            pytest.fail(f"{line.where}: {error}")
    elif words[:2] == ["finetune", "evaluate"]:
        try:
            assert evaluate_settings.read(words[2:])[0], line.where
        except FinetuneError as error:
            pytest.fail(f"{line.where}: {error}")
    elif words[0] == "finetune":
        assert words[1] in VERBS, line.where
        assert words[1] in ("train", "plan"), f"{line.where}: nothing of it can be checked"
        _composes(words[2:], line.where)
    else:
        assert words[0] in ("pip", "docker"), f"{line.where}: {shlex.join(words)}"
        assert (ROOT / "Dockerfile").is_file() and (ROOT / "constraints.txt").is_file()


def _check_script(line: Line) -> None:
    script = ROOT / line.words[0]
    assert script.is_file() and os.access(script, os.X_OK), line.where
    text = script.read_text(encoding="utf-8")
    for flag in (word for word in line.words[1:] if word.startswith("--")):
        assert flag in text, f"{line.where}: {script.name} has no {flag}"


def _composes(arguments: list[str], where: str) -> None:
    try:
        overrides, recipe = split_arguments(arguments)
        compose(overrides, recipe)
    except FinetuneError as error:
        pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert found.exists() and found.is_relative_to(ROOT), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    heads = re.findall(r"^#+ (.+)$", prose(str(page.relative_to(ROOT))), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def known_settings() -> set[str]:
    """Every key of every combination of options."""
    known = {key for key in vars(RunConfig()) if key not in GROUPS}
    for method in METHODS:
        for group, options in OPTIONS.items():
            for option in options:
                chosen = {"tuning": "lora", "method": method, "launch": "auto", "parallel": "ddp", "tracking": "none"}
                known |= set(settings_of({**chosen, group: option}))
    return known


SECTION = r"(?:model|tuning|method|data|training|evaluate|launch|parallel|tracking)"
FILE_ENDINGS = ("py", "md", "json", "jsonl", "yaml", "csv", "html", "txt", "safetensors")


def code_of(page: str) -> list[str]:
    """What a page sets in code: between backticks, and in its blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        *re.findall(r"`([^`\n]+)`", prose(page)),
        *(block.text for block in blocks(page)),
        *re.findall(r"^    (.+)$", text, re.M),
    ]


@pytest.mark.parametrize("page", NAMES)
def test_every_setting_that_is_named_exists(page: str) -> None:
    known = known_settings()
    open_keys = ("method.trl", "data.columns")
    for code in code_of(page):
        for key in re.findall(rf"(?<![\w./-]){SECTION}\.[a-z_]\w*(?![\w(/])", code):
            if key.rpartition(".")[2] in FILE_ENDINGS or key == "training.learning_rat":
                continue
            assert key in known or key in open_keys, f"{page}: {key}"


@pytest.mark.parametrize("page", NAMES)
def test_every_assignment_in_the_prose_composes(page: str) -> None:
    """`key=value` between backticks is a value that the key takes, under some option of its group."""
    top = "|".join(key for key in vars(RunConfig()) if key not in GROUPS)
    form = re.compile(rf"'?(?:(?:{SECTION})(?:\.\w+)*|{top})=[^…<>\s]+'?")
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if not form.fullmatch(code) or re.search(r"FILE|NAME|\bfile:", code):
            continue
        (word,) = shlex.split(code)
        group, _, option = word.partition("=")
        if group in GROUPS:
            assert option in options_of(group), f"{page}: {code}"
        else:
            assert any(_takes(word, extra) for extra in _options_for(word)), f"{page}: {code}"


def _options_for(word: str) -> list[list[str]]:
    group = word.partition(".")[0]
    methods = METHODS if group == "method" else {}
    own = {"distill": ["method.teacher=tiny"]}
    others = [[f"method={name}", *own.get(name, [])] for name in methods]
    return [[], *([f"{group}={option}"] for option in OPTIONS.get(group, {})), *others]


def _takes(word: str, extra: list[str]) -> bool:
    given = [pair for pair in ("model=tiny", "data.train=my.jsonl") if pair.partition("=")[0] not in word]
    try:
        compose([*given, *extra, word])
    except UserError as error:
        # A path that is not there is no matter of composing; nor is what a page says is refused.
        return "sweep" in str(error)
    return True


@pytest.mark.parametrize("page", NAMES)
def test_every_verb_that_is_named_exists(page: str) -> None:
    for code in code_of(page):
        for words in re.findall(r"(?:^|\$ |\b)finetune ((?:[a-z]+\b ?){1,3})", code, flags=re.M):
            said = words.split()
            verbs = {" ".join(said[:count]) for count in (1, 2, 3)}
            assert verbs & set(VERBS) or re.search(rf"(run|build).*finetune {said[0]}", code), (
                f"{page}: finetune {words}"
            )


@pytest.mark.parametrize("page", NAMES)
def test_data_in_the_pages_is_well_formed(page: str) -> None:
    for block in blocks(page, "json"):
        for line in block.lines:
            assert isinstance(json.loads(line), dict), f"{page}:{block.line}"
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block.text), dict), f"{page}:{block.line}"


@pytest.mark.parametrize("page", NAMES)
def test_every_yaml_block_is_a_recipe(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        (tmp_path / "recipe.yaml").write_text(block.text, encoding="utf-8")
        missing = [] if "model" in block.text else ["model=tiny", "data.train=my.jsonl"]
        compose(missing, "recipe.yaml")


def test_the_layouts_that_are_documented_are_those_there_are() -> None:
    rows = table("docs/data-formats.md", "Layouts")
    assert [code(row[0]) for row in rows] == list(LAYOUTS)
    for name, needs, may in ((code(row[0]), codes(row[1]), codes(row[2])) for row in rows):
        assert (tuple(needs), set(may)) == (LAYOUTS[name].needs, set(LAYOUTS[name].may))


def test_every_row_in_the_page_of_formats_is_a_row_of_its_layout() -> None:
    from finetune.data.check import check
    from finetune.data.formats import convert, detect
    from finetune.data.rows import SHAPES

    for block in blocks("docs/data-formats.md", "json"):
        for line in block.lines:
            values = json.loads(line)
            row = convert(detect(values, SHAPES) or "", values)
            assert not list(check(row)), line


def test_the_exit_codes_that_are_documented_are_those_there_are() -> None:
    raised = {errors.RunFailed("").exit_code, UserError([]).exit_code, errors.GateRefused("").exit_code, errors.StoppedEarly("").exit_code,
              errors.Interrupted("").exit_code, 128 + 15, 0}  # fmt: skip
    assert {int(row[0]) for row in table("docs/errors.md", "Exit codes")} == raised
    reserved = {errors.GateRefused("").exit_code}
    for page in NAMES:
        for number in re.findall(r"(?:exit code|with code|exits? with) (\d+)", prose(page)):
            assert int(number) in raised | reserved, f"{page}: {number}"


def test_the_learning_rates_that_are_documented_are_those_of_the_plan() -> None:
    from dataclasses import replace

    from finetune.compose import compose
    from finetune.methods import METHODS
    from finetune.model_files import inspect_model
    from finetune.plan.table import best_rate

    configs = {
        tuning: compose(["model=tiny", "data.train=my.jsonl", f"tuning={tuning}"]).config
        for tuning in ("full", "lora", "qlora")
    }
    sizes = {"below 50 million": (1e6, 49e6), "below a billion": (5e7, 999e6), "a billion and more": (1e9, 7e10)}
    tiny = inspect_model("tiny")
    rows = table("docs/methods.md", "Learning rate")
    assert [row[0] for row in rows] == list(sizes)
    for size, full, adapter in rows:
        for parameters in sizes[size]:
            model = replace(tiny, parameters=int(parameters))
            rates = {tuning: best_rate(config, model)[0] for tuning, config in configs.items()}
            assert rates == {"full": float(full), "lora": float(adapter), "qlora": float(adapter)}
    assert "`dpo` and `kto` take a twentieth" in " ".join(prose("docs/methods.md").split())
    assert METHODS["dpo"].RATE == METHODS["kto"].RATE == 1 / 20


def test_the_files_and_fields_of_a_run_are_those_that_are_documented(
    workplace: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workplace("the run directory")
    monkeypatch.chdir(folder)
    assert run(["train", "model=tiny", "data.train=my.jsonl", "name=first", "training.max_steps=4"])[0] == 0
    assert run(["evaluate", "runs/first", "evaluate.strengths=[0.5]", "evaluate.tasks=[exam.yaml]"])[0] == 0
    made = folder / "runs" / "first"
    documented = {name.rstrip("/") for row in table("docs/resuming.md", "The run directory") for name in codes(row[0])}
    assert {path.name for path in made.iterdir()} <= documented

    def keys(name: str) -> set[str]:
        return set(json.loads((made / name).read_text(encoding="utf-8")))

    for name in ("outcome.json", "lineage.json", "plan.json"):
        assert keys(name) == fields("docs/resuming.md", f"`{name}`"), name
    (newest,) = (made / "checkpoints").glob("checkpoint-4/MANIFEST.json")
    assert set(json.loads(newest.read_text())) == fields("docs/resuming.md", "Checkpoints")
    metrics = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert {key for row in metrics for key in row} == fields("docs/resuming.md", "`metrics.jsonl`")
    evaluation = json.loads((made / "eval.json").read_text())
    assert set(evaluation) == fields("docs/evaluating.md", "`eval.json`")
    assert {key for rung in evaluation["rungs"] for key in rung} == fields("docs/evaluating.md", "A rung")
    assert set(evaluation["comparisons"][0]) == fields("docs/evaluating.md", "A comparison")
    assert [rung["name"] for rung in evaluation["rungs"]] == [
        code(row[0]) for row in table("docs/evaluating.md", "The rungs")
    ]
    assert set(evaluation["forgetting"]) == fields("docs/evaluating.md", "`forgetting`")
    assert set(evaluation["strengths"][0]) == fields("docs/evaluating.md", "A strength")
    assert set(evaluation["tasks"]["metrics"][0]) == fields("docs/evaluating.md", "A task's metric")
    assert [code(row[0]) for row in table("docs/evaluating.md", "Measures")] == list(changes.NAMES)
    answers = json.loads((made / "answers.jsonl").read_text().splitlines()[0])
    assert set(answers) == fields("docs/evaluating.md", "`answers.jsonl`")
    assert set(evaluation["prompts"]) == fields("docs/evaluating.md", "How the prompt was chosen")
    known = {setting.key: setting for setting in settings_in(evaluate_settings.EvaluateSettings())}
    told = {code(row[0]): row[1:] for row in table("docs/evaluating.md", "Endpoints")}
    assert told == {
        key: [f"`{said_default(setting)}`", setting.help]
        for key, setting in known.items()
        if key.startswith("endpoint.")
    }


def test_the_fields_of_runs_are_those_that_are_documented(
    evaluated_runs: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluated_runs)

    def printed(*words: str) -> dict[str, Any]:
        code, out, said = run(["runs", *words, "--json"])
        assert code == 0, said
        return dict(json.loads(out))

    page, listing = "docs/runs.md", printed("list")
    known = fields(page, "What `--json` prints")
    assert set(listing["runs"][0]) == known
    assert set(listing) == {"folder", "runs", "others"}
    assert set(printed("show", "good")) == known | fields(page, "`runs show`")
    assert set(printed("compare", "poor", "good")) == fields(page, "`runs compare`")
    states = {"finished", "running", "interrupted", "failed", "unstarted"}
    assert {code(row[0]) for row in table(page, "`runs list`")} == states
    assert set(printed("verify", "good")) == {"path", "whole", "parts"}


def test_the_page_of_synthetic_data_is_complete(
    workplace: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, known = "docs/synthetic-data.md", {setting.key: setting for setting in settings_in(SynthSettings())}
    told = {code(row[0]): row[1:] for row in table(page, "Settings")}
    assert told == {
        key: [f"`{said_default(setting)}`", setting.help]
        for key, setting in known.items()
        if not key.startswith("model.")
    }
    for key in re.findall(r"`((?:teacher|gates)\.[a-z_]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert key in known, key
    (template,) = blocks(page, "jinja")
    assert template.text == (ROOT / "finetune/data/build/prompts/pairs.jinja").read_text(encoding="utf-8")
    monkeypatch.chdir(workplace("synthetic data"))
    command = ["data", "build", "synth", "prompts=prompts.jsonl", "model=tiny", "teacher.max_tokens=8"]
    assert run(command)[0] == 0
    assert {path.name for path in Path("synth").iterdir()} - {".lock"} == fields(page, "Files")
    assert set(json.loads(Path("synth/synth.json").read_text(encoding="utf-8"))) == fields(page, "`synth.json`")
    gates = {*GATES, "no_answer", "parses", "held_out", "copy", "repeated", "round_trip"}
    assert gates == {code(row[0]) for row in table(page, "Gates")}


def test_the_fields_of_verified_rewards_are_those_that_are_documented(
    workplace: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace("verified rewards"))
    ended, out, _ = run(["reward", "verify", "rewards=[exact]", "data=capitals.jsonl", "--json"])
    found = json.loads(out)
    assert ended == 0
    assert set(found) == fields("docs/rewards.md", "What `reward verify --json` prints")
    (told,) = [
        row[1] for row in table("docs/rewards.md", "What `reward verify --json` prints") if code(row[0]) == "rewards"
    ]
    (one,) = found["rewards"]
    assert set(codes(told)) == {"holds", "judged", "reasons", "tried", "name", *one["tried"]["good"]}


def test_every_module_is_on_the_page_of_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    there = {str(path.relative_to(ROOT / "finetune")) for path in (ROOT / "finetune").rglob("*.py")}
    modules = {path for path in there if not path.endswith(("__init__.py", "__main__.py"))}
    assert modules - named == set(), "modules without a line on the page"
    assert named - there - {"methods/x.py", "make_data.py"} == set(), "lines without a module"


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    wanted = {re.split(r"[<>=]", name)[0] for name in [*project["dependencies"], *extras]}
    given = {name for row in table("docs/architecture.md", "Dependencies") for name in codes(row[0])}
    assert given == wanted


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    text = (ROOT / page).read_text(encoding="utf-8")
    match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text, flags=re.S | re.M)
    assert match, f"{page} has no heading {heading!r}"
    lines = re.search(r"(?:^\|.*\n)+", match[1], flags=re.M)
    assert lines, f"{page}: no table under {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[0].splitlines()[2:]]


def fields(page: str, heading: str) -> set[str]:
    """The names in the first column of a table."""
    return {name for row in table(page, heading) for name in codes(row[0])}


def codes(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def code(cell: str) -> str:
    """The one thing that stands between backticks."""
    (found,) = codes(cell)
    return found


def test_the_fields_of_a_check_are_those_that_are_documented(
    workplace: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace("checked rows"))
    code, out, _ = run(["data", "check", "my.jsonl", "cut.jsonl", "--json"])
    found = json.loads(out)
    assert code == 2
    assert set(found) == fields("docs/data-checks.md", "What `--json` prints")
    assert all(set(problem) == fields("docs/data-checks.md", "A problem") for problem in found["problems"])
