"""What is evaluated: a run, an adapter, a model or an endpoint, found by what the user calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.endpoint.client import Endpoint, find_endpoint
from finetune.endpoint.settings import EndpointSettings
from finetune.errors import Fault, UserError, did_you_mean, listed
from finetune.evaluate.origin import check_made, run_that_made
from finetune.evaluate.remote import NAMES
from finetune.model_files import ModelFacts, hub, inspect_model
from finetune.model_files.adapters import is_adapter
from finetune.plan import PLAN_FILE, RunPlan, load_plan

RESERVED = ("base", "prompted", "few_shot", "tuned")


@dataclass(frozen=True)
class Subject:
    """One target."""

    name: str  # what results call it
    given: str
    kind: str  # run, adapter, model or endpoint
    plan: RunPlan | None = None
    facts: ModelFacts | None = None  # of an adapter or a model
    endpoint: Endpoint | None = None
    made_by: RunPlan | None = None  # the run that made an adapter or a model, where one is known

    @property
    def trained(self) -> RunPlan | None:
        """The run whose training rows it has seen."""
        return self.plan or self.made_by

    @property
    def run_dir(self) -> Path | None:
        """The directory of a run."""
        return Path(self.plan.run_dir) if self.plan else None


def find_subjects(targets: Sequence[str], runs: Path, asking: EndpointSettings) -> list[Subject]:
    """Every target; the faults of all are raised at once."""
    subjects, faults = list[Subject](), list[Fault]()
    for target in targets:
        try:
            subjects.append(find_subject(target, runs, asking))
        except UserError as error:
            faults += error.faults
    places = [subject.run_dir.resolve() if subject.run_dir else subject.given for subject in subjects]
    faults += [
        Fault(subject.given, "is given twice", "name each target once")
        for at, subject in enumerate(subjects)
        if places[at] in places[:at]
    ]
    if faults:
        raise UserError(faults)
    return _named_apart(subjects)


def find_subject(target: str, runs: Path, asking: EndpointSettings) -> Subject:
    """What a target is."""
    if "://" in target:
        return _endpoint(target, asking)
    if run_dir := find_run(target, runs):
        check_finished(run_dir)
        plan = load_plan(run_dir)
        check_made(plan)
        return Subject(run_dir.resolve().name, target, "run", plan=plan)
    name, revision = _model_name(target, runs)
    facts = inspect_model(name, revision)
    folder = Path(name).expanduser()
    made_by = run_that_made(folder, runs) if folder.is_dir() else None
    return Subject(target, target, "adapter" if facts.adapter else "model", facts=facts, made_by=made_by)


def find_run(target: str, runs: Path) -> Path | None:
    """The run directory that is meant: a path, or the name of one under the folder of runs."""
    for path in (Path(target).expanduser(), runs / target):
        if (path / PLAN_FILE).is_file():
            return path
    return None


def check_finished(run_dir: Path) -> None:
    """Refuse a run that has not come to its end."""
    from finetune.rundir import read_outcome

    if read_outcome(run_dir) is None:
        mend = "give its `finetune train` command again"
        raise UserError.at(str(run_dir), "the run has not finished", mend)


def _endpoint(target: str, asking: EndpointSettings) -> Subject:
    url, _, model = target.partition("#")
    if not model:
        raise UserError.at(url, "names no model", f"write {url}#NAME, as the endpoint calls it")
    return Subject(model, target, "endpoint", endpoint=find_endpoint(url, model, asking, NAMES))


def _model_name(target: str, runs: Path) -> tuple[str, str | None]:
    """The name and revision under which a model or an adapter is inspected."""
    from finetune.compose import options_of

    if target in options_of("model"):
        return _preset(target), None
    path = Path(target).expanduser()
    if path.is_dir():
        if not is_adapter(path) and not (path / "config.json").is_file():
            raise UserError.at(target, "is a folder without a run, an adapter or a model", _nearest(target, runs))
        return target, None
    bare, _, revision = target.partition("@")
    if not hub.is_hub_id(bare) or Path(bare).parent.is_dir():
        raise UserError.at(target, "is no run, adapter, model or endpoint", _nearest(target, runs))
    return bare, revision or None


def _preset(option: str) -> str:
    """The model that a preset names."""
    from finetune.settings.shipped import configs_folder
    from finetune.settings.yaml_files import read_entries

    shown_as = f"configs/model/{option}.yaml"
    entries = read_entries(configs_folder() / "model" / f"{option}.yaml", shown_as)
    return next(str(entry.value) for entry in entries if entry.key == "name")


def _nearest(target: str, runs: Path) -> str:
    """What was probably meant."""
    from finetune.compose import options_of

    known = sorted(path.parent.name for path in runs.glob(f"*/{PLAN_FILE}"))
    name = Path(target).name
    near = did_you_mean(name, known, f"did you mean {runs}/{{}}?") or did_you_mean(name, options_of("model"))
    if near:
        return near
    there = f"the runs are {listed(known, 8)}" if known else "train one with `finetune train`"
    return f"{there}; or name a model's folder, a hub id, or http://HOST:PORT/v1#NAME"


def _named_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with names that differ from each other and from those of rungs."""
    names = [subject.name for subject in subjects]
    return [
        replace(subject, name=f"{subject.kind} {subject.given}")
        if names.count(subject.name) > 1 or subject.name in RESERVED
        else subject
        for subject in subjects
    ]
