"""What was found, by code: how often, and the first places. Notes of several parts of the rows can be joined."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from finetune.data.codes import CODES, ERROR, SEVERITIES
from finetune.data.faults import FaultLog
from finetune.errors import SHOWN_FAULTS, Fault

PLACE = re.compile(r"(.*:\d+)(?: (.+))?", re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """One place where a defect is; `mend` only where it says more than the catalogue."""

    where: str
    field: str
    text: str
    mend: str = ""

    @property
    def line(self) -> str:
        """The place and the defect as an error says them."""
        return str(Fault(f"{self.where} {self.field}".rstrip(), self.text, self.mend))


@dataclass
class Tally:
    """How often a defect is there, and the first places."""

    count: int = 0
    samples: list[Sample] = field(default_factory=list)


class Notes(FaultLog):
    """Tallies by code; takes the faults of the readers too. Codes that are disabled are not kept."""

    def __init__(self, samples: int, disabled: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.most, self.disabled = samples, disabled
        self.tallies: dict[str, Tally] = {}

    def add(self, where: str, what: str, mend: str = "", code: str = "refused") -> None:
        """Note one fault of the readers."""
        self.total += 1
        tally = self.tally(code)
        tally.count += 1
        if len(tally.samples) < self.room(code):
            place = PLACE.fullmatch(where)
            name, column = (place[1], place[2] or "") if place else (where, "")
            tally.samples.append(Sample(name, column, what, mend))

    def pass_over(self, where: str, what: str) -> None:
        """Note a record of which no pair can be made."""
        super().pass_over(where, what)
        self.note("pair-tie", Sample(where, "", what))

    def note(self, code: str, sample: Sample, count: int = 1) -> None:
        """Note something found in a row, or the same in several."""
        if code in self.disabled:
            return
        tally = self.tally(code)
        tally.count += count
        if len(tally.samples) < self.room(code):
            tally.samples.append(sample)

    def wants(self, code: str) -> bool:
        """Whether one more place of this code would be kept."""
        return code not in self.disabled and len(self.tally(code).samples) < self.room(code)

    def room(self, code: str) -> int:
        """How many places are kept: of errors as many as `train` shows."""
        return max(self.most, SHOWN_FAULTS) if CODES[code].severity == ERROR else self.most

    def tally(self, code: str) -> Tally:
        """The tally of a code; made when it is first asked for."""
        if code not in self.tallies:
            self.tallies[code] = Tally()
        return self.tallies[code]

    def join(self, other: Notes) -> None:
        """Take over what was found in the rows that come next."""
        self.total += other.total
        for code, theirs in other.tallies.items():
            ours = self.tally(code)
            ours.count += theirs.count
            ours.samples += theirs.samples[: self.room(code) - len(ours.samples)]

    def drop(self, code: str) -> None:
        """Forget a code: the rows together showed that it is no defect here."""
        self.tallies.pop(code, None)

    def sorted(self) -> list[tuple[str, Tally]]:
        """Codes and tallies, the worst and most frequent first."""
        found = [(code, tally) for code, tally in self.tallies.items() if tally.count]
        order = {code: number for number, code in enumerate(CODES)}
        return sorted(
            found, key=lambda item: (SEVERITIES.index(CODES[item[0]].severity), -item[1].count, order[item[0]])
        )
