"""Values of a JSON file, taken by dotted key and type: one that is not there names file and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from finetune.errors import UserError
from finetune.evaluate.contents import read_object

T = TypeVar("T")


@dataclass(frozen=True)
class Values:
    """What a file holds."""

    path: Path
    found: Mapping[str, Any]

    def at(self, key: str, kind: type[T]) -> T:
        """The value of a dotted key."""
        value: Any = self.found
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise self._fault(key, "is missing")
            value = value[part]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._fault(key, f"cannot be {value!r:.60}")
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """The same of a key that may be null or missing, with all that it stands in."""
        value: Any = self.found
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return None if value is None else self.at(key, kind)

    def interval(self, key: str) -> tuple[float, float]:
        """The two ends of an interval."""
        ends = self.at(key, list)
        if len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends):
            raise self._fault(key, f"cannot be {ends!r:.60}")
        return float(ends[0]), float(ends[1])

    def _fault(self, key: str, what: str) -> UserError:
        return UserError.at(f"{self.path} {key}", what, "the file is damaged, or another version's: make it anew")


def read_values(path: Path) -> Values | None:
    """The values of a file; None when it is not there."""
    found = read_object(path)
    return None if found is None else Values(path, found)
