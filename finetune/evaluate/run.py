"""The story of an evaluation: targets and rows → engines → the ladder → eval.json, answers and report."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import EvaluateConfig
from finetune.errors import UserError
from finetune.evaluate import settings as wanted
from finetune.evaluate.beyond import Beyond
from finetune.evaluate.climb import run_ladder, run_text_ladder
from finetune.evaluate.contents import ANSWERS, EVALUATION, artefact_digest
from finetune.evaluate.contest import Contest, open_contest
from finetune.evaluate.heldout import Measured, measured_rows
from finetune.evaluate.kept import CHOICES, FOLDER, Kept, key_of
from finetune.evaluate.ladder import answer_rows, as_json
from finetune.evaluate.report import write_report
from finetune.evaluate.scoring import Scoring, evaluate_scoring, is_scoring, plan_scoring
from finetune.evaluate.settings import EvaluateSettings
from finetune.evaluate.shapes import default_metric, formed
from finetune.evaluate.subjects import Subject, find_subjects
from finetune.failures import explained

RESULTS = "evaluations"  # under output_dir: results that belong to no run


@dataclass(frozen=True)
class Work:
    """All that is decided before anything is asked."""

    subjects: tuple[Subject, ...]
    settings: EvaluateSettings
    measured: Measured

    @property
    def folder(self) -> Path:
        """Where the result goes: into the run, or into a folder named for the targets and settings."""
        first = self.subjects[0]
        if first.run_dir:
            return first.run_dir
        given = key_of([one.given for one in self.subjects], wanted.deciding(self.settings))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", first.given.rpartition("/")[2]).strip(".-")
        return Path(self.settings.output_dir).expanduser() / RESULTS / f"{name[:40] or 'target'}-{given[:8]}"

    @property
    def answers(self) -> Path:
        """Where answers are kept: beside the runs."""
        run_dir = self.subjects[0].run_dir
        return (run_dir.parent if run_dir else Path(self.settings.output_dir).expanduser()) / FOLDER


def plan_evaluation(arguments: Sequence[str]) -> Work | Scoring:
    """Find the targets and the rows, and check what they cannot mean together."""
    targets, given = wanted.read(arguments)
    if not targets:
        raise UserError.at("evaluate", "nothing to evaluate is given", "name a run, such as runs/my-run")
    subjects = find_subjects(targets, Path(given.output_dir).expanduser(), given.endpoint)
    first = subjects[0].plan
    if first is not None:
        _, given = wanted.read(arguments, wanted.as_trained(given, first.config))
    wanted.check_twice(given.evaluate)
    wanted.check_idle(given, [subject.kind for subject in subjects])
    if is_scoring(subjects[0]):
        return plan_scoring(subjects, given)
    return _work(subjects, given)


def _work(subjects: Sequence[Subject], given: EvaluateSettings) -> Work:
    """The rows, and the metric that they are scored by where none is named."""
    measured = measured_rows(subjects, given, given.seed)
    metric = given.evaluate.metric or default_metric(measured.shape, subjects[0].trained)
    return Work(tuple(subjects), replace(given, evaluate=replace(given.evaluate, metric=metric)), measured)


def evaluate_run(run_dir: Path, settings: EvaluateConfig) -> dict[str, Any]:
    """Compare what a run made with its baselines on its own held-out rows."""
    found = find_subjects([str(run_dir)], run_dir.parent, wanted.AskedSettings())
    plan = found[0].plan
    if plan is None:
        raise UserError.at(str(run_dir), "holds no run", "train one with `finetune train`")
    wanted.check_twice(settings)
    given = replace(wanted.as_trained(EvaluateSettings(), plan.config), evaluate=settings)
    if is_scoring(found[0]):
        return evaluate_scoring(plan_scoring(found, given))
    return evaluate(_work(found, given))


def evaluate(work: Work | Scoring) -> dict[str, Any]:
    """Answer, compare, and write eval.json, answers.jsonl and the report."""
    from finetune.rundir import write_json, write_text

    if isinstance(work, Scoring):
        return evaluate_scoring(work)
    measured, settings, trained = work.measured, work.settings, work.subjects[0].trained
    chats = measured.chats
    for folder in (work.answers, work.folder):
        _check_place(folder)
    with formed(measured.shape, chats, trained) as form, explained(work.answers, "lower evaluate.batch_size"):
        contest = open_contest(work.subjects, settings, work.answers)
        beyond = Beyond.of(contest, settings.evaluate, settings.seed, work.answers)
        if measured.shape == "text":
            evaluation = run_text_ladder(
                contest, measured.held_out, seed=settings.seed, clusters=measured.clusters, aside=beyond.measure
            )
        else:
            evaluation = run_ladder(
                contest,
                chats,
                measured.training,
                settings.evaluate,
                seed=settings.seed,
                choices=Kept.open(work.answers, CHOICES),
                clusters=measured.clusters,
                aside=beyond.measure,
                where=measured.places.__getitem__,
                form=form,
            )
        result = {**as_json(evaluation), **beyond.found, **_origin(work, contest)}
        held = {"given": measured.given, "split_fingerprint": measured.split_fingerprint}
        result["held_out"] |= held
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in answer_rows(evaluation)]
        work.folder.mkdir(parents=True, exist_ok=True)
        write_text(work.folder / ANSWERS, "".join(lines))
        beyond.write(work.folder)
        write_json(work.folder / EVALUATION, result)
        write_report(work.folder)
    return result


def _check_place(folder: Path) -> None:
    """Refuse a place where no folder can be made, found out without leaving one there."""
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".finetune-", dir=there))
    except OSError as error:
        what = f"cannot be made a folder ({(error.strerror or str(error)).lower()})"
        raise UserError.at(str(folder), what, "choose another output_dir, or free it") from error


def _origin(work: Work, contest: Contest) -> dict[str, Any]:
    """What was evaluated: the targets, and all that decided their answers."""
    engines = [contest.judged, *contest.others]
    return {
        "targets": [
            {
                "name": one.name,
                "given": one.given,
                "kind": one.kind,
                "identity": engine.identity,
                "made_by": one.trained.run_dir if one.trained else None,
            }
            for one, engine in zip(work.subjects, engines, strict=True)
        ],
        "contamination": [asdict(one) for one in work.measured.contamination],
        "run_dir": str(work.folder),
        "artefact": artefact_digest(work.folder),
        "settings": asdict(work.settings.evaluate),
    }
