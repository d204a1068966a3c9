"""The faults found while reading rows, gathered so that all are told at once."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.errors import SHOWN_FAULTS, Fault, UserError


class FaultLog:
    """Keeps the first faults and counts the rest, so that a million bad rows cost no memory."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.total = 0
        self.ties = 0

    def add(self, where: str, what: str, mend: str = "", code: str = "refused") -> None:
        """Note one fault; `code` is its name in `data/codes.py`."""
        self.total += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(Fault(where, what, mend, code))

    def pass_over(self, where: str, what: str) -> None:
        """Count a record of which no pair can be made, though nothing is wrong with it."""
        self.ties += 1

    def extend(self, faults: Sequence[Fault], total: int) -> None:
        """Take over what another log kept and counted."""
        self.total += total
        self.faults += faults[: SHOWN_FAULTS - len(self.faults)]

    def raise_any(self) -> None:
        """Raise everything noted so far as one error."""
        if self.total:
            raise UserError(self.faults, self.total)


def kind_of(value: object) -> str:
    """What a value is, in the words of someone who writes data files."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"binary data ({type(value).__name__})" if isinstance(value, bytes) else f"a {type(value).__name__}"
