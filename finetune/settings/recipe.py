"""Recipes: files that hold the differences of a run from its defaults, in the same keys as the command line.

defaults:             options of groups, or shorter `tuning: qlora`, as on the command line
  - tuning: qlora
data:
  train: ./train.jsonl   a path that starts with `./` is relative to the recipe's own folder
training.epochs: 2       sections may be nested or dotted
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import OPEN_KEYS
from finetune.errors import Fault, UserError, did_you_mean, listed
from finetune.settings.catalogue import GROUPS, cut
from finetune.settings.overrides import Assignment
from finetune.settings.shipped import recipes_folder
from finetune.settings.yaml_files import Entry, read_entries

# Where `./` means the recipe's folder. Not `model.name`, where `./tiny` is a folder and `tiny` is ours.
OWN_PATHS = ("data.train", "data.eval", "data.benchmarks", "model.chat_template", "method.rewards")
# Which may name code, as `path/to/reward.py:function`: a recipe's must lie in its own folder.
MAY_NAME_CODE = ("method.rewards",)


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read: its options of groups and its settings."""

    name: str  # as it was asked for
    path: Path
    choices: tuple[Assignment, ...]
    settings: tuple[Assignment, ...]


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.parent.name for path in recipes_folder().glob("*/recipe.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe: a name of ours, or the path of a file, a recipe's folder or a run directory."""
    names = recipe_names()
    if name in names:
        return recipes_folder() / name / "recipe.yaml"
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        run = path / "config.yaml"  # of a run directory: the same run again
        return run if os.path.isfile(run) else path / "recipe.yaml"
    if os.path.exists(path) or path.suffix in (".yaml", ".yml") or os.sep in name:
        return path
    known = f"known are {listed(names)}" if names else "give the path of a recipe file"
    raise UserError.at(f"--recipe {cut(name)}", "no such recipe", did_you_mean(name, names) or known)


def read_recipe(name: str) -> Recipe:
    """Read a recipe; every fault of its structure is raised at once as a UserError."""
    path = find_recipe(name)
    faults: list[Fault] = []
    choices: dict[str, Assignment] = {}
    settings: dict[str, Assignment] = {}
    for assignment in _assignments(name, path, faults):
        kind = choices if assignment.key in GROUPS else settings
        if assignment.key in kind:
            first = kind[assignment.key].where.rpartition(":")[2].partition(" ")[0]
            faults.append(Fault(assignment.where, f"duplicate key (first at line {first})", "keep one of them"))
        else:
            kind[assignment.key] = assignment
    if not choices and not settings and not faults:
        faults.append(Fault(shown_path(path), "sets nothing", "write at least one `key: value` in it"))
    if faults:
        raise UserError(faults)
    return Recipe(name, path, tuple(choices.values()), tuple(settings.values()))


def _assignments(name: str, path: Path, faults: list[Fault]) -> list[Assignment]:
    shown, source = shown_path(path), f"recipe {name}"
    assignments = []
    for entry in read_entries(path, shown, OPEN_KEYS):
        if entry.key == "defaults":
            assignments += _defaults(entry, shown, source, faults)
        elif entry.key in GROUPS and entry.value == {}:
            continue  # an option without settings, as a written configuration has it
        else:
            value, text = _own_path(entry, path.parent)
            if entry.key in MAY_NAME_CODE and (strange := _strange_code(value, path.parent)):
                what = f"{cut(strange)} lies outside the recipe's folder, and a recipe runs no code from elsewhere"
                mend = f"put it there and write ./{Path(strange).name}, or give {entry.key} on the command line"
                faults.append(Fault(f"{shown}:{entry.line} {entry.key}", what, mend))
            assignments.append(Assignment(entry.key, value, text, f"{shown}:{entry.line} {entry.key}", source))
    return assignments


def _defaults(entry: Entry, shown: str, source: str, faults: list[Fault]) -> list[Assignment]:
    """The options in a `defaults:` list, as Hydra spells them (`- override /tuning: qlora`) or plainly."""
    where = f"{shown}:{entry.line} defaults"
    items = entry.value if isinstance(entry.value, list) else None
    if items is None:
        faults.append(Fault(where, "must be a list of `- group: option`", "such as `- tuning: qlora`"))
    chosen = []
    for item in items or []:
        if item == "_self_":
            continue
        if not isinstance(item, dict) or len(item) != 1:
            faults.append(Fault(where, f"'{cut(str(item))}' is not `group: option`", "such as `- tuning: qlora`"))
            continue
        ((key, option),) = item.items()
        group = key.removeprefix("override").strip().removeprefix("/")
        if group not in GROUPS:
            faults.append(Fault(where, f"'{cut(group)}' is not a group", did_you_mean(group, GROUPS) or listed(GROUPS)))
        elif option is not None:
            chosen.append(Assignment(group, option, str(option), f"{shown}:{entry.line} {group}", source))
    return chosen


def _own_path(entry: Entry, folder: Path) -> tuple[Any, str | None]:
    """The entry's value, with `./x` made a path that holds from the current folder."""
    if entry.key not in OWN_PATHS:
        return entry.value, entry.text
    if isinstance(entry.value, list):
        return [_from_here(item, folder) for item in entry.value], None
    text = None if entry.text is None else str(_from_here(entry.text, folder))
    return entry.value if text is None else text, text


def _strange_code(value: Any, folder: Path) -> str | None:
    """What names a Python file outside a folder, if anything does."""
    for item in value if isinstance(value, list) else [value]:
        file, colon, _ = str(item).rpartition(":")
        if colon and file.endswith(".py"):
            full = Path(os.path.expanduser(file)).resolve()
            if not full.is_relative_to(folder.resolve()):
                return str(item)
    return None


def _from_here(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value.startswith("./"):
        return value
    return shown_path(folder / value)


def shown_path(path: Path) -> str:
    """A path relative to the current folder when it lies below it, absolute when not."""
    full, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(full, here) if full.startswith(here.rstrip(os.sep) + os.sep) else full
