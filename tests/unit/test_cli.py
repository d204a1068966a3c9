"""The command line: verbs, flags, exit codes, and what is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune import cli, log
from finetune.errors import GateRefused, Interrupted, RunFailed


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which says at its end which libraries were imported."""
    code = (
        "import sys; from finetune.cli import main; code = main(); "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'hydra', 'omegaconf'} & set(sys.modules); "
        "print('IMPORTED', *sorted(heavy), file=sys.stderr); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


def imported(result: subprocess.CompletedProcess[str]) -> set[str]:
    return set(result.stderr.splitlines()[-1].split()[1:])


def test_help_imports_nothing_heavy() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert imported(result) == set()
    assert all(verb in result.stdout for verb in cli.VERBS)


def test_help_costs_less_than_importing_torch() -> None:
    started = time.monotonic()
    run("--help")
    ours = time.monotonic() - started
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert ours < time.monotonic() - started


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: finetune {verb}")
    assert all(flag in said for flag in cli.VERBS[verb].flags)


def test_the_help_of_train_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    said = capsys.readouterr().out
    for key in (
        "data.train",
        "training.learning_rate",
        "tuning.rank",
        "tuning.bits",
        "method.learn",
        "launch.processes",
    ):
        assert f"{key}=" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("training.learning_rat=1",),
            "training.learning_rat: unknown key; did you mean training.learning_rate?",
        ),
        (("method.trl.bta=1",), "method.trl.bta: TRL's SFTConfig has no argument bta"),
        (("--recipe", "recipe.yaml"), "recipe.yaml:1 training.learning_rat: unknown key; did you mean"),
    ],
)
def test_a_typo_ends_with_2_and_without_torch(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("training.learning_rat: 1\n")
    result = run("train", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {said}")
    assert not {"torch", "transformers", "trl", "datasets"} & imported(result)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_cfg_job_prints_the_composed_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", "job", "model=tiny", "data.train=a.jsonl", "tuning=full"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["plan", "model=tiny", "data.train=a.jsonl", "tuning=full", "--cfg=job"]) == 0
    assert capsys.readouterr().out == printed
    assert "- tuning: full" in printed and "  train: a.jsonl" in printed


def test_what_is_printed_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--cfg", "job", "model=tiny", "data.train=a.jsonl", "tuning=qlora", "tuning.rank=4"])
    printed = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(printed)
    cli.main(["train", "--cfg", "job", "--recipe", str(tmp_path / "mine.yaml")])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "error: trian: no such command; did you mean train?"),
        (
            ["train", "--recipie", "x"],
            "error: --recipie: `finetune train` has no such flag; did you mean --recipe?",
        ),
        (["train", "--recipe"], "error: --recipe: needs a value; write --recipe NAME"),
        (["train", "--recipe", ""], "error: --recipe: needs a value; write --recipe NAME"),
        (["train", "--recipe", "a", "--recipe=b"], "error: --recipe: is given twice; keep one of them"),
        (["train", "--json=1"], "error: --json=1: --json takes no value; write --json"),
        (
            ["train", "--cfg", "hydra"],
            "error: --cfg hydra: there is only one configuration to print; write --cfg job",
        ),
        (["train", "-m", "seed=1,2"], "error: -m: sweeps are not supported; run one command for each value"),
        (
            ["train", "--multirun"],
            "error: --multirun: sweeps are not supported; run one command for each value",
        ),
        (["evaluate"], "error: evaluate: nothing to evaluate is given; name a run, such as runs/my-run"),
        (
            ["demo", "model=tiny"],
            "error: model=tiny: `finetune demo` takes no arguments; use `finetune train`",
        ),
        (
            ["demo", "--recipe", "x"],
            "error: --recipe: `finetune demo` has no such flag; known are --json, --debug, --help",
        ),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.strip() == said
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunFailed("loss became NaN"), 1, "error: loss became NaN\n"),
        (GateRefused("worse than the base"), 3, "error: worse than the base\n"),
        (Interrupted("stopped by SIGTERM", 143), 143, "stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_each_error_has_its_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _main_raising(error, monkeypatch) == code
    assert capsys.readouterr().err == said


def _main_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    def raising(command: cli.Command) -> int:
        raise error

    monkeypatch.setitem(cli.VERBS, "demo", cli.Verb(raising, "", "", cli.EVERY))
    return cli.main(["demo", *flags])


def test_an_unexpected_error_is_one_line_with_a_saved_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _main_raising(ZeroDivisionError("by\nzero"), monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    (trace,) = tmp_path.iterdir()
    assert line == f"error: ZeroDivisionError: by; this is a bug of ours, please report it with {trace}"
    assert "Traceback" in trace.read_text() and "in raising" in trace.read_text()
    assert trace.stat().st_mode & 0o077 == 0


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _main_raising(RunFailed("no"), monkeypatch, "--debug")
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m finetune train --help | head -1"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=environment
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_arguments_of_a_direct_launch_are_split() -> None:
    assert cli.split_arguments(["seed=1", "--recipe", "x", "name=a"]) == (["seed=1", "name=a"], "x")


def test_the_plan_takes_what_the_command_line_gives(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["plan", "model.name=./missing", f"data.train={tmp_path}/none.jsonl", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "missing" in captured.err


def test_the_log_is_plain_and_quiet_on_other_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up()
    log.log.info("hello")
    log.log.warning("careful")
    assert capsys.readouterr().err == "hello\nwarning: careful\n"
    monkeypatch.setenv("RANK", "3")
    log.set_up()
    log.log.info("hello")
    log.log.warning("careful")
    assert capsys.readouterr().err == "[rank 3] warning: careful\n"


def test_a_users_own_library_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    log.set_up()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
