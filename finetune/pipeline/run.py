"""`finetune pipeline`: the story of several runs, each of which starts from one before it.

Check every stage → for each: plan, launch, hold its result against its limits → one artefact.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from finetune.errors import Interrupted, UserError
from finetune.launch import already_finished, launch
from finetune.log import log
from finetune.pipeline import gates
from finetune.pipeline.checks import Checked, check, plan_stage
from finetune.pipeline.stages import Pipeline, Stage, compose_pipeline, resolved, results, starts_from
from finetune.plan import PLAN_FILE, RunPlan
from finetune.plan import as_json as plan_json
from finetune.plan.text import describe
from finetune.rundir import claimed, write_json
from finetune.runs.find import PIPELINE
from finetune.runs.text import NOTHING, columns, shown_loss

Say = Callable[[str], None]
WAITING, UNFINISHED, FINISHED, ALREADY, REFUSED = "waiting", "unfinished", "finished", "already_finished", "refused"


@dataclass
class Account:
    """What has become of a pipeline so far; written to its file whenever that changes."""

    pipeline: Pipeline
    status: str = UNFINISHED
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: dict[str, list[gates.Measured]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        stages = self.pipeline.stages
        last = self.outcomes.get(stages[-1].name)
        return {
            "pipeline": self.pipeline.name,
            "recipe": self.pipeline.recipe,
            "command": self.pipeline.command,
            "status": self.status,
            "stages": [self._stage(stage) for stage in stages],
            "artefact": last["artefact"] if last and self.status in (FINISHED, ALREADY) else None,
        }

    def _stage(self, stage: Stage) -> dict[str, Any]:
        outcome = self.outcomes.get(stage.name, {})
        measured = self.measured.get(stage.name, [])
        refused = any(not one.holds for one in measured)
        return {
            "name": stage.name,
            "from": stage.start,
            "reads": list(stage.reads),
            "run_dir": stage.run_dir,
            "status": REFUSED if refused else outcome.get("status", WAITING),
            "steps": outcome.get("steps"),
            "train_loss": outcome.get("train_loss"),
            "artefact": outcome.get("artefact"),
            "gate": gates.as_json(measured),
        }

    def write(self) -> None:
        """Leave the account in the pipeline's folder."""
        write_json(self.pipeline.folder / PIPELINE, self.as_json())


def command(arguments: Sequence[str], recipe: str | None, *, json_output: bool, compose_only: bool) -> int:
    """Carry out the verb."""
    pipeline = _composed(arguments, recipe)
    if compose_only:
        print(configurations(pipeline))
        return 0

    def say(text: str) -> None:
        print(text, file=sys.stderr if json_output else sys.stdout, flush=True)

    account = Account(pipeline)
    try:
        run_pipeline(account, say)
    finally:
        if json_output and account.status != UNFINISHED:
            print(json.dumps(account.as_json(), ensure_ascii=False))
    say(summary(account))
    return 0


def plan_command(arguments: Sequence[str], recipe: str, *, json_output: bool, compose_only: bool) -> int:
    """Carry out `finetune plan` on a recipe with stages: every stage checked, and the plan of the next."""
    pipeline = _composed(arguments, recipe)
    if compose_only:
        print(configurations(pipeline))
        return 0
    checked = check(pipeline)
    turn = next((stage for stage in pipeline.stages if not checked[stage.name].finished), None)
    plan = checked[turn.name].plan if turn else None
    stages = [
        {
            "name": stage.name,
            "from": stage.start,
            "reads": list(stage.reads),
            "run_dir": stage.run_dir,
            "finished": checked[stage.name].finished,
        }
        for stage in pipeline.stages
    ]
    if json_output:
        told = {"pipeline": pipeline.name, "stages": stages, "plan": plan_json(plan) if plan else None}
        print(json.dumps(told, ensure_ascii=False))
        return 0
    print("\n".join(_overview(pipeline, checked)))
    if turn and plan:
        print(f"\nnext, {turn.name}:\n{describe(plan)}")
    return 0


def _composed(arguments: Sequence[str], recipe: str | None) -> Pipeline:
    if recipe is None:
        raise UserError.at("--recipe", "no recipe is given", "name one with `stages:`, or the path of your own")
    pipeline = compose_pipeline(arguments, recipe)
    if (pipeline.folder / PLAN_FILE).exists():
        raise UserError.at(str(pipeline.folder), "holds a run of that name", "choose another name")
    for note in pipeline.notes:
        log.info(note)
    return pipeline


def configurations(pipeline: Pipeline) -> str:
    """The configuration of each stage, as its run will keep it."""
    composed = [(stage.name, resolved(stage, results(pipeline)).yaml.rstrip()) for stage in pipeline.stages]
    return "\n".join(f"# stage {name}\n{text}" for name, text in composed)


def run_pipeline(account: Account, say: Say) -> None:
    """Carry out every stage that has not finished; raises where the pipeline has to stop."""
    pipeline = account.pipeline
    checked = check(pipeline)
    with _stopping(pipeline), claimed(pipeline.folder):
        account.write()
        for place, stage in enumerate(pipeline.stages, 1):
            say(f"stage {place} of {len(pipeline.stages)}: {stage.name}, from {starts_from(stage)}")
            try:
                _carry_out(stage, account, checked[stage.name].plan, say)
            except UserError as error:
                raise UserError(map(stage.located, error.faults), error.total) from error
        done = {outcome["status"] for outcome in account.outcomes.values()}
        account.status = ALREADY if done == {ALREADY} else FINISHED
        account.write()


def _carry_out(stage: Stage, account: Account, plan: RunPlan | None, say: Say) -> None:
    """Train one stage, or see that it has finished, and hold it against its limits."""
    pipeline = account.pipeline
    if plan is None or any(account.outcomes[need]["status"] != ALREADY for need in stage.needs):
        plan = plan_stage(stage, pipeline)
    if already_finished(plan) is None:
        say(describe(plan))
    with _as_if_alone():
        outcome = launch(plan, resolved(stage, results(pipeline)))
    account.outcomes[stage.name] = outcome
    account.measured[stage.name] = measured = gates.measure(stage, plan)
    say("\n".join([_said(outcome), *(f"  {one.said}" for one in measured), ""]))
    if refused := gates.refusal(stage, pipeline, measured):
        account.status = REFUSED
        account.write()
        raise refused
    account.write()


def _said(outcome: Mapping[str, Any]) -> str:
    if outcome["status"] == ALREADY:
        return f"  has finished already: {outcome['artefact']}"
    return f"  {outcome['steps']:,} steps, training loss {shown_loss(outcome['train_loss'])}: {outcome['artefact']}"


@contextmanager
def _as_if_alone() -> Iterator[None]:
    """Leave nothing to the next stage of what the libraries keep in the environment and in memory."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        gc.collect()
        if "torch" in sys.modules:
            import torch

            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


@contextmanager
def _stopping(pipeline: Pipeline) -> Iterator[None]:
    """Stop at once on SIGINT or SIGTERM between the stages; while one trains, it saves and stops by itself."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        number = received[-1] if received else signal.SIGINT
        raise Interrupted(f"stopped; continue with:\n  {pipeline.command}", 128 + number) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _overview(pipeline: Pipeline, checked: Mapping[str, Checked]) -> list[str]:
    """The stages, and how far each has come."""
    rows = [("stage", "from", "method", "run", "state")]
    for stage in pipeline.stages:
        config, state = stage.composed.config, FINISHED if checked[stage.name].finished else WAITING
        method = f"{config.method.option}, {config.tuning.option}"
        rows.append((stage.name, starts_from(stage), method, stage.run_dir, state))
    return [f"pipeline {pipeline.name}", *columns(rows, indent="  ")]


def summary(account: Account) -> str:
    """What the stages came to, and what to type next."""
    pipeline, told = account.pipeline, account.as_json()
    rows = [("stage", "from", "steps", "training loss", "result")]
    for stage, one in zip(pipeline.stages, told["stages"], strict=True):
        rows.append(
            (
                stage.name,
                starts_from(stage),
                f"{one['steps']:,}",
                shown_loss(one["train_loss"]),
                one["artefact"] or NOTHING,
            )
        )
    said = "has finished already; nothing was done" if account.status == ALREADY else "finished"
    return "\n".join(
        [
            f"pipeline {pipeline.name} {said}",
            *columns(rows, indent="  "),
            f"result: {told['artefact']}; the lineage of all stages: {pipeline.stages[-1].run_dir}/lineage.json",
            f"next: finetune evaluate {shlex.join(to_compare(pipeline))}",
        ]
    )


def to_compare(pipeline: Pipeline) -> list[str]:
    """The runs that lead to the result, the last one first."""
    stage: Stage | None = pipeline.stages[-1]
    found = []
    while stage is not None:
        found.append(stage.run_dir)
        stage = pipeline.stage(stage.start) if stage.start else None
    return found
