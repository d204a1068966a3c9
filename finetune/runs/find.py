"""Which run directory is meant: a path, a name under runs/, or the beginning of only one name there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.config import RunConfig
from finetune.errors import UserError, did_you_mean, listed
from finetune.runs.record import PLAN
from finetune.runs.values import read_values

FOLDER = Path(RunConfig.output_dir)
EVALUATIONS = "evaluations"  # beside the runs: what was evaluated and is no run
PIPELINE = "pipeline.json"  # in a directory beside the runs that are its stages


def find_run(target: str) -> Path:
    """The directory that is meant, whatever it holds."""
    path = Path(target).expanduser()
    for candidate in (path, FOLDER / target):
        if target and _is_folder(candidate):
            _refuse_pipeline(target, candidate)
            return candidate
    folder = path.parent if len(path.parts) > 1 else FOLDER
    known = names(folder)
    begun = [name for name in known if path.name and name.startswith(path.name)]
    if len(begun) == 1:
        return folder / begun[0]
    if begun:
        raise UserError.at(target, "begins the names of several runs", f"name one of {listed(begun)}")
    mend = did_you_mean(path.name, known, f"did you mean {folder}/{{}}?")
    raise UserError.at(target, f"no run directory of that path, or of that name under {folder}", mend or _there(known))


def _refuse_pipeline(target: str, folder: Path) -> None:
    """Refuse the folder of a pipeline, which is no run but has some."""
    told = None if (folder / PLAN).exists() else read_values(folder / PIPELINE)
    if told is not None:
        runs = [str(stage["run_dir"]) for stage in told.at("stages", list)]
        raise UserError.at(target, "is a pipeline of several runs", f"name one of {listed(runs)}")


def names(folder: Path) -> list[str]:
    """The names of the directories that runs may be in."""
    if not _is_folder(folder):
        return []
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_ours(path))
    except OSError as error:
        raise UserError.at(str(folder), f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def _is_ours(path: Path) -> bool:
    """Whether a directory beside the runs is kept there for them, such as prepared rows."""
    kept = path.name == EVALUATIONS or (path / PIPELINE).exists()
    return path.name.startswith(".") or (kept and not (path / PLAN).exists())


def _is_folder(path: Path) -> bool:
    """Whether there is such a folder; there is none of a name that is too long for one."""
    try:
        return path.is_dir()
    except OSError:
        return False


def one_run(verb: str, arguments: Sequence[str]) -> Path:
    """The one run that a verb takes."""
    if not arguments:
        raise UserError.at(verb, "no run is given", f"name one, such as finetune {verb} {FOLDER}/my-run")
    if len(arguments) > 1:
        raise UserError.at(arguments[1], f"`finetune {verb}` takes one run and nothing else", "leave it out")
    return find_run(arguments[0])


def _there(known: Sequence[str]) -> str:
    return f"there are {listed(known)}" if known else "train one with `finetune train`"
