"""From a plan to processes: in this one, or through `accelerate launch`; one run directory either way.

The launching process checks, claims the directory, writes what the ranks need, and holds the lock until they are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from finetune import checkpoint, lineage
from finetune.compose import Composed, compose, identity
from finetune.errors import Fault, FinetuneError, Interrupted, RunFailed, StoppedEarly, UserError, counted
from finetune.evaluate.contents import ANSWERS, EVALUATION
from finetune.failures import explained
from finetune.launch_command import accelerate_config, rank_command
from finetune.log import log, set_up
from finetune.plan import PLAN_FILE, RunPlan, as_json, load_plan, plan_run
from finetune.rundir import (
    OUTCOME,
    check_same_run,
    claimed,
    read_outcome,
    write_json,
    write_text,
)

# How long ranks started directly wait for the first one to check, plan and prepare.
PREPARE_SECONDS = 3600
ERRORS = "errors"


def launch(plan: RunPlan, composed: Composed) -> dict[str, Any]:
    """Carry out a plan that was foreseen; the result is what `train --json` prints."""
    run_dir = Path(plan.run_dir)
    if done := already_finished(plan):
        return done
    with failing_in_words(plan), claimed(run_dir):
        # Another process may have gone on with the run between the look at it and the claim.
        plan = foresee(plan)
        if done := already_finished(plan):
            return done
        plan = begin(plan, composed)
        LAUNCHERS[plan.resolved.launcher](plan)
        return finish(run_dir)


def failing_in_words(plan: RunPlan) -> AbstractContextManager[None]:
    """What a run that the machine does not bear says, with the settings to lower."""
    lower = (
        f"lower training.batch_size (now {plan.batch.micro}) and raise training.accumulation "
        f"(now {plan.batch.accumulation}), or cut data.max_length (now {plan.resolved.max_length})"
    )
    return explained(Path(plan.run_dir), lower, plan.command)


def foresee(plan: RunPlan) -> RunPlan:
    """The plan with the checkpoint that it continues from; refuses to continue what is another run."""
    if plan.config.resume != "none":
        refuse_another(plan)
    if already_finished(plan):
        return plan
    return dataclasses.replace(plan, resume_from=where_to_continue(plan))


def refuse_another(plan: RunPlan) -> None:
    """Refuse to go on in a directory that holds another run."""
    batch = plan.batch
    fingerprint, batching = plan.data.fingerprint, plan.resolved.batching
    check_same_run(Path(plan.run_dir), plan.config, fingerprint, batch.steps, batch.effective, batching)
    lineage.refuse_other_models(plan)


def already_finished(plan: RunPlan) -> dict[str, Any] | None:
    """The outcome of a run that has finished all the steps that are asked for."""
    if plan.config.resume == "none":
        return None
    outcome = read_outcome(Path(plan.run_dir))
    if outcome is None or outcome["planned_steps"] < plan.batch.steps:
        return None
    if not Path(outcome["artefact"]).is_dir():
        raise UserError.at(
            outcome["artefact"], "the run has finished, but its result is gone", "make it anew with resume=none"
        )
    return {**outcome, "status": "already_finished"}


def where_to_continue(plan: RunPlan) -> str | None:
    """The checkpoint that the run continues from, if any; those that do not verify are named."""
    found = checkpoint.choose(Path(plan.run_dir), plan.config.resume)
    for fault in found.skipped:
        log.warning(f"not continued from: {fault}")
    if found.newest is None:
        return None
    _check_own(plan, found.newest)
    return str(found.newest.path)


def _check_own(plan: RunPlan, newest: checkpoint.Checkpoint) -> None:
    """Refuse a checkpoint that is not of this run, or lies beyond its end."""
    if newest.step > plan.batch.steps:
        key = "training.max_steps" if plan.config.training.max_steps else "training.epochs"
        what = f"{counted(plan.batch.steps, 'step')} would be fewer than {newest.path} has done"
        raise UserError.at(key, what, "raise it, choose another name, or start anew with resume=none")
    facts = checkpoint.read_manifest(newest.path)
    same_config = facts["config"] == identity(plan.config) or newest.path.parent.parent == Path(plan.run_dir)
    if not same_config or (facts["data"] != plan.data.fingerprint and "data" not in plan.config.allow_change):
        other = newest.path.parent.parent
        what = "is of a run with other settings or rows"
        mend = f"continue that run, or start from its result: model.name={other} tuning.start=continue"
        raise UserError.at(f"resume {newest.path}", what, mend)


def begin(plan: RunPlan, composed: Composed) -> RunPlan:
    """Write what a reader and the ranks need into the claimed directory; the plan as the ranks will load it."""
    from finetune.data.preview import write_preview
    from finetune.tokenizer import load_tokenizer

    run_dir = Path(plan.run_dir)
    for name in (OUTCOME, EVALUATION, ANSWERS):  # of the result that is about to be replaced
        (run_dir / name).unlink(missing_ok=True)
    checkpoint.sweep(run_dir, after=checkpoint.step_of(plan.resume_from))
    for stale in (run_dir / ERRORS).glob("rank-*"):
        stale.unlink()
    if plan.resume_from is None:
        for name in ("base", "start", "windows"):  # of an earlier run in this directory, perhaps of another model
            shutil.rmtree(run_dir / name, ignore_errors=True)
    tokenizer = load_tokenizer(plan.model, plan.config.model.chat_template, tuple(plan.config.tuning.new_tokens))
    write_text(run_dir / "config.yaml", composed.yaml)
    lineage.begin(plan)
    write_preview(run_dir, plan.data, tokenizer)
    if plan.config.tuning.start == "merge":
        from finetune.adapter import merge_base

        plan = dataclasses.replace(plan, model=merge_base(plan.model, run_dir / "base", tokenizer))
    write_json(run_dir / PLAN_FILE, as_json(plan))
    return plan


def finish(run_dir: Path) -> dict[str, Any]:
    """Render the report, and give back what the ranks left."""
    from finetune.evaluate.report import write_report

    write_report(run_dir)
    outcome = read_outcome(run_dir)
    if outcome is None:
        raise RunFailed(f"{run_dir}: the run ended without a result; its log is above")
    return outcome


def _inline(plan: RunPlan) -> None:
    from finetune.train import train

    if plan.machine.device == "cuda" and plan.machine.devices > 1:
        # One process trains on one GPU; with several in sight Trainer would wrap the model in DataParallel.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as the driver counted them
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[0]
    try:
        train(plan)
    except (StoppedEarly, Interrupted):
        raise
    except Exception as error:  # as at the edge of a rank
        with suppress(OSError):  # a full disk takes no record either
            _record(error, 0, Path(plan.run_dir))
        raise


def _accelerate(plan: RunPlan) -> None:
    """Start the ranks, pass signals on to them, and report the first real failure."""
    run_dir = Path(plan.run_dir)
    write_text(run_dir / "accelerate.yaml", yaml.safe_dump(accelerate_config(plan), sort_keys=True))
    threads = max(1, plan.machine.cores // plan.batch.processes)
    environment = {"OMP_NUM_THREADS": str(threads), "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ}
    with _signals_passed_on() as ranks:
        ranks.child = subprocess.Popen(rank_command(plan), env=environment, start_new_session=True)
        code = ranks.child.wait()
    received = ranks.received
    if received and read_outcome(run_dir) is None:
        raise Interrupted(f"stopped; continue with:\n  {plan.command}", 128 + received[0])
    if code != 0:
        raise first_failure(run_dir, plan.command)


# A launcher carries out a plan whose directory is claimed; it returns when every rank is done.
LAUNCHERS: dict[str, Callable[[RunPlan], None]] = {"inline": _inline, "accelerate": _accelerate}


@dataclasses.dataclass
class _Ranks:
    """The process that starts the ranks, and the signals that came for it."""

    child: subprocess.Popen[bytes] | None = None
    received: list[int] = dataclasses.field(default_factory=list)


@contextmanager
def _signals_passed_on() -> Iterator[_Ranks]:
    """Pass the first signal on to the ranks, which save and stop; a second one ends them at once."""
    ranks = _Ranks()

    def forward(number: int, frame: FrameType | None) -> None:
        if ranks.child is not None:
            with suppress(ProcessLookupError):
                os.killpg(ranks.child.pid, signal.SIGKILL) if ranks.received else ranks.child.send_signal(number)
        ranks.received.append(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ranks
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def first_failure(run_dir: Path, command: str) -> FinetuneError:
    """The error of the rank that failed first, which the other ranks' errors only follow from."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (run_dir / ERRORS).glob("rank-*.json")]
    if not records:
        return RunFailed(f"a rank ended without a word (killed?); continue with:\n  {command}")
    first = min(records, key=lambda record: float(record["time"]))
    if first["faults"]:
        raise UserError([Fault(**fault) for fault in first["faults"]], first["total"])
    if first["code"] == StoppedEarly.exit_code:
        return StoppedEarly(first["error"])
    return RunFailed(f"rank {first['rank']}: {first['error']}; its trace is in {first['trace']}")


def rank_main(arguments: Sequence[str]) -> int:
    """What each process runs under `accelerate launch -m finetune.train`."""
    set_up()
    rank = int(os.environ.get("RANK", "0"))
    run_dir: Path | None = None
    try:
        if len(arguments) == 2 and arguments[0] == "--run-dir":
            from finetune.train import train

            run_dir = Path(arguments[1])
            plan = load_plan(run_dir)
            with failing_in_words(plan):
                train(plan)
            return 0
        return _direct(arguments, rank)
    except FinetuneError as error:
        _record(error, rank, run_dir)
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code
    except Exception as error:  # the outermost edge of a rank
        trace = _record(error, rank, run_dir)
        print(f"error: rank {rank}: {type(error).__name__}: {error}; its trace is in {trace}", file=sys.stderr)
        return 1


def _record(error: Exception, rank: int, run_dir: Path | None) -> Path | None:
    """Leave the error of a rank where the launching process looks for it."""
    if run_dir is None:
        return None
    folder = run_dir / ERRORS
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / f"rank-{rank}.txt"
    trace.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    text = str(error).removeprefix("error: ") if isinstance(error, FinetuneError) else repr(error)
    code = error.exit_code if isinstance(error, FinetuneError) else 1
    faults, total = (error.faults, error.total) if isinstance(error, UserError) else ((), 0)
    told = {"faults": [dataclasses.asdict(fault) for fault in faults], "total": total}
    record = {"rank": rank, "time": time.time(), "error": text, "code": code, "trace": str(trace), **told}
    write_json(folder / f"rank-{rank}.json", record)
    return trace


def _direct(arguments: Sequence[str], rank: int) -> int:
    """A rank that was started by hand: the first one checks, plans and claims; the others wait for its word."""
    from finetune.cli import split_arguments

    world = int(os.environ.get("WORLD_SIZE", "1"))
    overrides, recipe = split_arguments(arguments)
    given = [item for item in overrides if item.startswith("launch.processes=")]
    if given and given[-1] != f"launch.processes={world}":
        what = f"{given[-1].partition('=')[2]} differs from the {world} processes that were started"
        raise UserError.at("launch.processes", what, "leave it out under accelerate launch")
    composed = compose([*overrides, *([] if given else [f"launch.processes={world}"])], recipe)
    from finetune.rundir import run_directory

    word = run_directory(composed.config) / f".ready-{_launch_token()}"
    if rank != 0:
        return _follow(word)
    try:
        return _lead(composed, word)
    except FinetuneError as error:
        if word.parent.is_dir():
            write_json(word, {"failed": error.exit_code})
        raise
    finally:
        if world == 1:
            word.unlink(missing_ok=True)


def _lead(composed: Composed, word: Path) -> int:
    from finetune.train import train

    plan = plan_run(composed)
    run_dir = Path(plan.run_dir)
    plan = foresee(plan)
    if already_finished(plan):
        log.info(f"{run_dir} has finished already")
        write_json(word, {"failed": 0})
        return 0
    with failing_in_words(plan), claimed(run_dir):
        for stale in run_dir.glob(".ready-*"):
            stale.unlink()
        plan = begin(foresee(plan), composed)
        write_json(word, {"run_dir": str(run_dir)})
        if plan.batch.processes == 1:
            _inline(plan)
        else:
            train(plan)
        finish(run_dir)
    return 0


def _follow(word: Path) -> int:
    from finetune.train import train

    deadline = time.monotonic() + PREPARE_SECONDS
    parent = os.getppid()
    while not word.exists():
        if time.monotonic() > deadline or os.getppid() != parent:
            raise RunFailed(f"the first rank gave no word in {PREPARE_SECONDS} s; its log is above")
        time.sleep(0.2)
    said = json.loads(word.read_text(encoding="utf-8"))
    if "failed" in said:
        return int(said["failed"])
    plan = load_plan(said["run_dir"])
    with failing_in_words(plan):
        train(plan)
    return 0


def _launch_token() -> str:
    """A name that the ranks of this very launch share, and no earlier launch had."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE")
    parts = [os.environ.get(name, "") for name in names]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        parts.append(str(os.getppid()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]
