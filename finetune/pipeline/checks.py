"""What is found out about every stage before the first one trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.adapter import check_tuning, start_faults
from finetune.config import FullTuning
from finetune.data.leaks import check_leaks
from finetune.data.prepared import PreparedData
from finetune.errors import Fault, UserError, did_you_mean, listed
from finetune.evaluate.heldout import texts_of
from finetune.launch import already_finished, foresee
from finetune.machine import Machine, look
from finetune.methods import METHODS
from finetune.pipeline.stages import Pipeline, Stage, resolved, results
from finetune.plan import RunPlan, plan_run
from finetune.plan.checks import check_settings
from finetune.plan.facts import gather
from finetune.rundir import check_writable, has_progress


@dataclass(frozen=True)
class Checked:
    """A stage that nothing speaks against."""

    data: PreparedData
    plan: RunPlan | None  # None while a stage before it has yet to finish
    finished: bool


def check(pipeline: Pipeline) -> dict[str, Checked]:
    """Check every stage, as far as it can be known now; every fault of all of them is raised at once.

    A stage whose model another one has yet to make is checked with the recipe's own model in its place.
    """
    machine, checked, faults, untold = look(), dict[str, Checked](), list[Fault](), 0
    for stage in pipeline.stages:
        try:
            ready = all(need in checked and checked[need].finished for need in stage.needs)
            found = checked[stage.name] = _planned(stage, pipeline) if ready else _foreseen(stage, pipeline, machine)
            faults += _limit_faults(stage, found.data)
            if not found.finished:
                faults += _leaks(stage, pipeline, checked)
        except UserError as error:
            faults += map(stage.located, error.faults)
            untold += error.total - len(error.faults)
    if faults:
        faults = list(dict.fromkeys(faults))
        raise UserError(faults, len(faults) + untold)
    return checked


def plan_stage(stage: Stage, pipeline: Pipeline) -> RunPlan:
    """The plan of a stage whose turn has come."""
    plan = replace(plan_run(resolved(stage, results(pipeline))), command=pipeline.command)
    return foresee(plan)


def _planned(stage: Stage, pipeline: Pipeline) -> Checked:
    plan = plan_stage(stage, pipeline)
    return Checked(plan.data, plan, already_finished(plan) is not None)


def _foreseen(stage: Stage, pipeline: Pipeline, machine: Machine) -> Checked:
    """A stage that starts from, or reads, what is not there yet."""
    composed = resolved(stage, results(pipeline))
    if composed.config.resume != "none" and has_progress(Path(stage.run_dir)):
        before = listed(stage.needs)
        what = f"has begun from a result of {before} that is about to be replaced"
        raise UserError.at(stage.run_dir, what, "choose another name, or start anew in its place with resume=none")
    faults = [*_start_faults(stage, pipeline), *check_settings(composed.config, composed.sources, machine)]
    first = pipeline.root(stage).composed.config
    now = resolved(stage, dict.fromkeys(results(pipeline), first.model.name)).config
    if stage.start:
        model = replace(now.model, revision=first.model.revision)
        now = replace(now, model=model, tuning=replace(now.tuning, start=first.tuning.start))
    if unwritable := check_writable(Path(stage.run_dir)):
        raise UserError([*faults, *unwritable])
    try:
        facts = gather(now, machine, with_frozen=not stage.reads)
    except UserError as error:
        raise UserError([*faults, *error.faults], len(faults) + error.total) from error
    if faults := [*faults, *check_tuning(now.tuning, facts.model)]:
        raise UserError(faults)
    return Checked(facts.data, None, finished=False)


def _start_faults(stage: Stage, pipeline: Pipeline) -> list[Fault]:
    """Whether a stage says what becomes of the adapter that it starts from, if there will be one."""
    if stage.start is None:
        return []
    has_adapter = not isinstance(pipeline.stage(stage.start).composed.config.tuning, FullTuning)
    return start_faults(stage.composed.config.tuning, f"the stage {stage.start}", has_adapter)


def _limit_faults(stage: Stage, data: PreparedData) -> Iterator[Fault]:
    """Limits on what is not measured."""
    measured = ["eval_loss", *(f"eval_{name}" for name in METHODS[stage.composed.config.method.option].METRICS)]
    for limit in stage.limits:
        if limit.metric not in measured:
            mend = did_you_mean(limit.metric, measured) or f"it measures {listed(measured)}"
            method = stage.composed.config.method.option
            yield Fault(limit.where, f"method={method} measures no {limit.metric!r} on held-out rows", mend)
        elif data.held_out is None:
            mend = f"give {stage.name}.data.eval or {stage.name}.data.eval_share, or leave it out"
            yield Fault(limit.where, "there are no held-out rows to measure it on", mend)


def _leaks(stage: Stage, pipeline: Pipeline, checked: Mapping[str, Checked]) -> Iterator[Fault]:
    """Rows that the stage holds out, and on which one that it goes back to is trained."""
    data, settings = checked[stage.name].data, stage.composed.config.data
    before = stage.start
    if data.held_out is None or before is None or settings.allow_contamination:
        return
    held_out = texts_of(data.held_out, "data.eval", f"{stage.name} held-out row")
    while before is not None and before in checked:
        earlier = checked[before].data
        if not earlier.is_partial and earlier.fingerprint != data.fingerprint:
            trained = texts_of(earlier.train, "data.train", f"{before} training row")
            try:
                check_leaks(trained, [held_out], words=settings.contamination_words, allowed=False)
            except UserError as error:
                yield from map(stage.located, error.faults)
        before = pipeline.stage(before).start
