"""The errors of the project, and the exit code of each.

FinetuneError
├── UserError          2    wrong usage, configuration or data: a list of faults, each with its mend
├── RunFailed          1    the run itself failed: NaN, out of memory, disk full, a dead rank
├── GateRefused        3    finished, but a check said no
├── StoppedEarly      75    stopped on purpose, resumable
└── Interrupted  130/143    a signal ended it

Anything else that reaches the top is a bug of ours and is reported as one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN_FAULTS = 20
LONGEST_LINE = 800


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it is, what it is, what to do about it.

    `where` is `file:row field` for data, `file:line key` for YAML, the key for an override; `code` is the name of the
    defect in `data/codes.py`, which faults of data have.
    """

    where: str
    what: str
    mend: str = ""
    code: str = ""

    def __str__(self) -> str:
        mend = f"; {self.mend}" if self.mend else ""
        return printable(f"{self.where}: {self.what}{mend}")


class FinetuneError(Exception):
    """The root: every error that we raise on purpose."""

    exit_code = 1

    def lines(self) -> list[str]:
        """What stderr shows."""
        return [f"error: {self}"]


class UserError(FinetuneError):
    """Something that the user can mend; carries every fault found, not only the first."""

    exit_code = 2

    def __init__(self, faults: Iterable[Fault], total: int | None = None) -> None:
        self.faults = tuple(faults)
        self.total = len(self.faults) if total is None else total
        super().__init__("\n".join(self.lines()))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[Fault, ...], int]]:
        """How it comes from another process with all its faults."""
        return type(self), (self.faults, self.total)

    @classmethod
    def at(cls, where: str, what: str, mend: str = "", code: str = "") -> UserError:
        """An error with a single fault."""
        return cls([Fault(where, what, mend, code)])

    def lines(self) -> list[str]:
        """One line a fault: the first twenty, then the total."""
        lines = [f"error: {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        hidden = self.total - len(lines)
        if hidden > 0:
            lines.append(f"error: {hidden} more of the same kind, {self.total} in all")
        return lines


class RunFailed(FinetuneError):
    """The run failed for a reason outside its settings."""


class GateRefused(FinetuneError):
    """The work is done, but a check on its result said no."""

    exit_code = 3


class StoppedEarly(FinetuneError):
    """Stopped on purpose before the end; the same command continues."""

    exit_code = 75

    def lines(self) -> list[str]:
        """A stop that was asked for is no error."""
        return [str(self)]


class Interrupted(FinetuneError):
    """A signal ended the run."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def lines(self) -> list[str]:
        """A stop that was asked for is no error."""
        return [str(self)]


def printable(text: str) -> str:
    """The text on one readable line: what a terminal would act on, such as an escape, is spelled out."""
    short = text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in short)


def did_you_mean(given: str, known: Iterable[str], say: str = "did you mean {}?") -> str:
    """A hint naming the nearest known name, or nothing when none is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return say.format(near[0]) if near else ""


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in one line, cut to a readable number."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def first_line(error: BaseException) -> str:
    """What a foreign exception says, in one line; its kind when it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def counted(count: float, noun: str) -> str:
    """A number with its noun."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}{'' if count == 1 else 's'}"
