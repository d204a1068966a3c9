"""The fault table, rows 75–80 and 83: runs that cannot begin or go on, and what the user sees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import GOOD, Refused, Run, everything, lines, refuse, write_files

START = ("model=tiny", "data.train=t.jsonl", "training.batch_size=2")
SAVES = ("training.save_every=1", "training.eval_every=1")
ROWS = {"t.jsonl": lines(GOOD)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps, two checkpoints, called x."""
    from finetune.cli import main

    folder = tmp_path_factory.mktemp("trained")
    write_files(folder, ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *START, *SAVES, "training.max_steps=2", "name=x"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, in the folder that commands run in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "x"


def again(finetune: Run, folder: Path, row: int, said: str, *more: str) -> str:
    return refuse(Refused(row, "", said, (*START, *SAVES, *more), keeps=True), finetune, folder)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("resume", "said"),
    [
        ("must", "resume: no checkpoint in runs/x/checkpoints; start without resume=must"),
        ("/nowhere/checkpoint-3", "resume /nowhere/checkpoint-3: is no checkpoint folder; give runs/<name>/checkpoints/checkpoint-<step>"),
        ("sometimes", "resume sometimes: is no checkpoint folder; give "),
        ("x" * 5000, "resume: 'xxxx"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_row_75_nothing_to_resume(resume: str, said: str, verb: str, finetune: Run, tmp_path: Path) -> None:
    if verb == "train":
        refuse(Refused(75, "", said, (*START, "name=x", f"resume={resume}"), ROWS, keeps=True), finetune, tmp_path)
    else:
        write_files(tmp_path, ROWS)
        code, out, err = finetune("plan", *START, "name=x", f"resume={resume}")
        assert (code, out) == (2, "") and err.startswith(f"error: {said}")


def test_row_76_the_newest_sound_checkpoint_is_taken(finetune: Run, run: Path) -> None:
    flip(run / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    code, _, err = finetune("train", *START, *SAVES, "training.max_steps=3", "name=x")
    assert code == 0, err
    assert "checkpoint-2: adapter_model.safetensors differs from what was saved" in err
    assert "continuing from step 1 of 3" in err


def test_rows_77_and_78_checkpoints_that_are_all_damaged_are_listed(finetune: Run, run: Path, tmp_path: Path) -> None:
    flip(run / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    (run / "checkpoints" / "checkpoint-1" / "optimizer.pt").unlink()
    mend = "start under another name, or with resume=none"
    said = f"runs/x/checkpoints/checkpoint-1: optimizer.pt is missing; {mend}"
    err = again(finetune, tmp_path, 77, said, "name=x", "training.max_steps=3")
    assert (
        f"error: runs/x/checkpoints/checkpoint-2: adapter_model.safetensors differs from what was saved; {mend}" in err
    )


CHANGES = [
    (("seed=7",), "seed: was 42 when runs/x began, is now 7; choose another name, or start anew in its place with resume=none, or allow it with 'allow_change=[seed]'"),
    (("training.learning_rate=1e-3",), "training.learning_rate: was None when runs/x began, is now 0.001; choose another name"),
    (("training.accumulation=2",), "training.batch_size: with processes and accumulation it makes 4 rows a step, and runs/x has 2; choose them so that their product is 2"),
    (("data.eval_share=0.3",), "data.eval_share: was 0.1 when runs/x began, is now 0.3; choose another name"),
    (("tuning.rank=4", "allow_change=[tuning.rank]"), "tuning.rank: was 16 when runs/x began, is now 4; choose another name, or start anew in its place with resume=none"),
    (("tuning=full",), "tuning.option: was 'lora' when runs/x began, is now 'full'; choose another name"),
    (("resume=none", "training.max_steps=0"), "training.max_steps: must be >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "said"), CHANGES, ids=[more[0] for more, _ in CHANGES])
def test_row_79_a_changed_run_is_not_continued(
    more: tuple[str, ...], said: str, finetune: Run, run: Path, tmp_path: Path
) -> None:
    length = () if any("max_steps" in override for override in more) else ("training.max_steps=3",)
    again(finetune, tmp_path, 79, said, "name=x", *length, *more)


def test_row_79_changed_rows_and_models_are_not_continued(
    finetune: Run, run: Path, tmp_path: Path, llama: Path
) -> None:
    other = ("data.train=t.jsonl", *START[2:], *SAVES, "name=x", "training.max_steps=3")
    said = f"model.name: was 'tiny' when runs/x began, is now '{llama}'; choose another name"
    refuse(Refused(79, "", said, (f"model.name={llama}", *other), keeps=True), finetune, tmp_path)
    write_files(tmp_path, {"t.jsonl": lines(GOOD[:-1])})
    again(
        finetune,
        tmp_path,
        79,
        "data.train: the rows differ from those that runs/x began with; ",
        "name=x",
        "training.max_steps=3",
    )


def test_row_79_resume_none_starts_anew_in_its_place(finetune: Run, run: Path) -> None:
    code, _, err = finetune("train", *START, *SAVES, "training.max_steps=1", "name=x", "tuning.rank=4", "resume=none")
    assert code == 0, err
    assert [path.name for path in (run / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_longer_run_begins_at_the_rate_of_its_own_schedule(finetune: Run, run: Path) -> None:
    code, _, err = finetune("train", *START, *SAVES, "training.max_steps=3", "name=x")
    assert code == 0, err
    rates = [json.loads(line).get("learning_rate") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [rate for rate in rates if rate is not None][2] > 0


def test_a_rate_and_a_decay_that_may_change_do_change(finetune: Run, run: Path) -> None:
    import torch

    given = ("training.learning_rate=0.5", "training.weight_decay=0.25", "training.max_steps=4")
    allowed = "allow_change=[training.learning_rate,training.weight_decay]"
    code, _, err = finetune("train", *START, *SAVES, "name=x", "training.scheduler=cosine", *given, allowed)
    assert code == 0, err
    state = torch.load(run / "checkpoints" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert state["param_groups"][0]["weight_decay"] == 0.25
    rates = [json.loads(line).get("learning_rate", 0) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(rates) > 0.1


def test_an_evaluation_does_not_outlive_the_result_that_it_is_of(finetune: Run, run: Path) -> None:
    for name in ("eval.json", "answers.jsonl"):
        (run / name).write_text("{}")
    code, _, err = finetune("train", *START, *SAVES, "training.max_steps=3", "name=x")
    assert code == 0, err
    assert not (run / "eval.json").exists() and not (run / "answers.jsonl").exists()


def test_a_checkpoint_of_another_run_is_not_continued(finetune: Run, run: Path, tmp_path: Path) -> None:
    there = "resume=runs/x/checkpoints/checkpoint-2"
    said = "resume runs/x/checkpoints/checkpoint-2: is of a run with other settings or rows; continue that run, or start from its result"
    again(finetune, tmp_path, 79, said, "name=y", "tuning.rank=4", "training.max_steps=3", there)
    assert not (tmp_path / "runs" / "y").exists()
    said = "training.max_steps: 1 step would be fewer than runs/x/checkpoints/checkpoint-2 has done; raise it, choose another name"
    again(finetune, tmp_path, 79, said, "name=y", "training.max_steps=1", there)


@pytest.mark.parametrize(("name", "content"), [("plan.json", "{"), ("plan.json", "{}"), ("outcome.json", "[]")])
def test_a_damaged_file_of_a_run_is_named(name: str, content: str, finetune: Run, run: Path, tmp_path: Path) -> None:
    (run / name).write_text(content)
    said = f"runs/x/{name}: is damaged; choose another name, or start anew in its place with resume=none"
    again(finetune, tmp_path, 78, said, "name=x", "training.max_steps=3")
    code, _, err = finetune("train", *START, *SAVES, "training.max_steps=1", "name=x", "resume=none")
    assert code == 0, err


def test_row_80_a_run_that_is_running_is_left_alone(finetune: Run, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from finetune.rundir import claimed; import sys\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program, str(tmp_path / "runs" / "x")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": root}
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        write_files(tmp_path, ROWS)
        code, _, err = finetune("train", *START, "name=x")
        assert code == 2 and err.startswith(f"error: runs/x: this run is running already (pid {holder.pid} on ")
        assert err.endswith("); wait for it, stop it, or choose another name\n")
        assert sorted(path.name for path in (tmp_path / "runs" / "x").iterdir()) == [".lock"]
        holder.kill()


def test_row_80_a_finished_run_says_so(finetune: Run, run: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    code, out, err = finetune("train", *START, *SAVES, "training.max_steps=2", "name=x")
    assert code == 0, err
    assert "finished" in out and everything(tmp_path) == before


PLACES = [
    ("output_dir=t.jsonl", "output_dir t.jsonl: is a file where a folder is wanted; choose another output_dir"),
    ("output_dir=t.jsonl/a", "output_dir t.jsonl: is a file where a folder is wanted; choose another output_dir"),
    ("output_dir=/proc/x", "output_dir /proc: is not writable ("),
    ("output_dir=/sys", "output_dir /sys: is not writable ("),
    ("output_dir=gone", "output_dir gone: is a link to nothing; choose another output_dir"),
    ("output_dir=links", "links/x: is a symbolic link; remove it, or choose another output_dir or name"),
    ("output_dir=cached", "cached/.prepared: is not a folder, and prepared rows are kept there; remove it"),
    (
        "output_dir=~nobody-here/x",
        "output_dir: '~nobody-here/x' begins with the home folder of a user that is not here",
    ),
    ("output_dir=papers", "papers/x: holds files that are not of a run; choose another name"),
    ("output_dir=" + "x" * 300, "output_dir: 'xxx"),
]


@pytest.mark.parametrize(("place", "said"), PLACES, ids=[place[:30] for place, _ in PLACES])
def test_row_83_a_place_that_takes_no_run_is_refused(place: str, said: str, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, {"papers/x/thesis.tex": "", "links/.keep": "", "cached/.prepared": ""})
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "links" / "x").symlink_to(tmp_path / "papers")
    refuse(Refused(83, "", said, (*START, "name=x", place), ROWS), finetune, tmp_path)


PASSED_ON = [
    ("method.trl.adam_beta2=2.0", "method.trl: TRL refuses what is passed on to it (Invalid beta parameter at index 1: 2.0); correct or leave out adam_beta2"),
    ("method.trl.loss_type=foo", "method.trl: TRL refuses what is passed on to it (Invalid `loss_type` foo passed."),
    ("method.trl.lr_scheduler_kwargs={foo: 1}", "method.trl: TRL refuses what is passed on to it (get_cosine_schedule_with_warmup() got an unexpected"),
    ("method.trl.neftune_noise_alpha=-5", "method.trl: TRL refuses what is passed on to it (uniform_ expects"),
    ("method.trl.use_liger_kernel=true", "method.trl: TRL refuses what is passed on to it (You have set `use_liger_kernel`"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), PASSED_ON, ids=[given for given, _ in PASSED_ON])
def test_what_trl_refuses_is_not_a_bug_of_ours(given: str, said: str, finetune: Run, tmp_path: Path) -> None:
    write_files(tmp_path, ROWS)
    code, _, err = finetune("train", *START, "training.max_steps=1", "name=x", given)
    assert code == 2 and f"error: {said}" in err
    code, _, err = finetune("train", *START, "training.max_steps=1", "name=x")
    assert code == 0, err
