"""A reward of the user's own: `path/to/reward.py:function`, loaded and called in a process beside the run.

The file is run because its path was written on the command line or in a recipe that it lies beside; nothing else names
code. In a process of its own it can be stopped when it takes too long, whatever it does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from finetune.data.workers import Crew, Lost
from finetune.errors import UserError, did_you_mean, first_line, listed
from finetune.rewards.batch import Batch, Paid, finite

GIVEN = ("completions", "full_completions", "prompts", "messages")  # what a function may ask for beside columns
ENDING = ".py:"
SHOWN = "path/to/reward.py:function"


def is_own(name: str) -> bool:
    """Whether a reward's name is a file and a function in it."""
    return ENDING in name


def is_learned(name: str) -> bool:
    """Whether a reward's name is the folder of a trained reward model."""
    return Path(name).expanduser().is_dir()


def digests(names: Iterable[str]) -> dict[str, str]:
    """The files of the user's own among some rewards, whole paths, and the SHA-256 of each."""
    paths = [Path(name.rpartition(":")[0]).expanduser().resolve() for name in names if is_own(name)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


@dataclass(frozen=True)
class Signature:
    """What a function takes."""

    needed: tuple[str, ...]
    asked: tuple[str, ...]  # with what it can do without
    all_columns: bool


@dataclass(frozen=True)
class Own:
    """A function of the user's, ready to be called."""

    path: str
    function: str
    sha256: str
    signature: Signature
    crew: Crew = field(repr=False, compare=False)
    seconds: float = 10.0  # for one answer

    def pay(self, batch: Batch) -> Paid:
        """What the function pays; nothing for the whole batch when it raises or is not done in time."""
        count = len(batch.answers)
        if not count:
            return Paid(())
        every: dict[str, Any] = {**batch.columns, "messages": list(batch.messages), "prompts": list(batch.prompts)}
        every |= {"completions": list(batch.said), "full_completions": list(batch.answers)}
        wanted = batch.columns if self.signature.all_columns else ()
        arguments = {name: every[name] for name in every if name in self.signature.asked or name in wanted}
        self.crew.seconds = self.seconds * count
        (found,) = self.crew.mapped([(self.path, self.function, arguments, count)])
        if isinstance(found, Lost):
            failed = Paid((None,) * count, trace=f"{self.function}: {found}")
            return replace(failed, timeouts=count) if found.late else replace(failed, exceptions=count)
        return finite(found)

    def lacking(self, columns: Collection[str]) -> list[str]:
        """What the function must be given and no column gives."""
        return [name for name in self.signature.needed if name not in (*GIVEN, *columns)]

    @property
    def knows_rows(self) -> bool:
        """Whether it is given anything of a row beside the question: otherwise it cannot know what is right."""
        return self.signature.all_columns or not set(self.signature.asked) <= set(GIVEN)


def load(name: str, key: str, seconds: float) -> Own:
    """The function that a path names; a UserError says what is missing."""
    given, _, function = name.rpartition(":")
    path = Path(given).expanduser()
    where = f"{key} {name}"
    if not path.is_file():
        mend = did_you_mean(path.name, [one.name for one in _beside(path)]) or f"give {SHOWN}"
        raise UserError.at(where, f"no such file in {os.getcwd()}", mend)
    full = str(path.resolve())
    _check_source(path, function, where)
    crew = Crew(called, 1, seconds=seconds, begin=Begin(full, function, where))
    try:
        (signature,) = crew.mapped([(full, function, None, 0)])
    except UserError:
        crew.end()
        raise
    if isinstance(signature, Lost):
        crew.end()
        raise UserError.at(where, "does not load in time", f"raise {key.removesuffix('rewards')}reward_timeout")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Own(full, function, digest, signature, crew, seconds)


def _beside(path: Path) -> list[Path]:
    return [*path.parent.glob("*.py")] if path.parent.is_dir() else []


def _check_source(path: Path, function: str, where: str) -> None:
    """Refuse what is no Python before it is run."""
    try:
        ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UserError.at(f"{path}:{error.lineno}", f"is no Python: {error.msg}", "correct it") from None
    except ValueError as error:
        raise UserError.at(str(path), f"is no Python: {error}", "correct it") from None
    if not function.isidentifier():
        raise UserError.at(where, f"'{function}' names no function", f"give {SHOWN}")


# What follows runs in the process beside.


@dataclass(frozen=True)
class Begin:
    """What that process does first."""

    path: str
    function: str
    where: str

    def __call__(self) -> None:
        """Load the function; a UserError says why that does not work."""
        os.dup2(2, 1)  # stdout is for the results of the command
        try:
            module = _module(self.path)
        except Exception as error:  # the user's code may raise anything
            line = next(
                (
                    one.lineno
                    for one in reversed(traceback.extract_tb(error.__traceback__))
                    if one.filename == self.path
                ),
                0,
            )
            place = f"{self.path}:{line}" if line else self.where
            raise UserError.at(place, f"raises {type(error).__name__}: {first_line(error)}", "correct it") from None
        found = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
        if self.function in found:
            return
        if self.function in vars(module):
            raise UserError.at(self.where, f"'{self.function}' is not a function", "name one that is")
        mend = did_you_mean(self.function, found) or (f"it has {listed([*found])}" if found else "it has none at all")
        raise UserError.at(self.where, f"has no function '{self.function}'", mend)


def called(task: tuple[str, str, Mapping[str, Any] | None, int]) -> Signature | Paid:
    """What a function takes, or what it pays for the answers that it is given."""
    path, name, arguments, count = task
    function: Callable[..., Any] = vars(_module(path))[name]
    if arguments is None:
        return _signature(function)
    try:
        given = function(**arguments)
    except Exception:  # the user's code may raise anything
        return Paid((None,) * count, exceptions=count, trace=traceback.format_exc())
    if wrong := _wrong(given, count):
        return Paid((None,) * count, exceptions=count, refused=wrong)
    return Paid(tuple(None if value is None else float(value) for value in given))


def _wrong(given: Any, count: int) -> str:
    """Why what a function gave is no payment, if so."""
    if not isinstance(given, (list, tuple)):
        return f"gives a {type(given).__name__}, not a list of numbers"
    if len(given) != count:
        return f"gives {len(given)} numbers for {count} answers"
    bad = next((value for value in given if value is not None and not isinstance(value, Real)), None)
    return "" if bad is None else f"gives a list that holds a {type(bad).__name__}, not numbers"


@cache
def _module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"finetune_reward_{hashlib.sha256(path.encode()).hexdigest()[:12]}", path
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def _signature(function: Callable[..., Any]) -> Signature:
    taken = inspect.signature(function).parameters.values()
    named = [one for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    needed = tuple(one.name for one in named if one.default is one.empty)
    return Signature(needed, tuple(one.name for one in named), any(one.kind is one.VAR_KEYWORD for one in taken))
