"""The journal of what was asked and answered: an answer is on disk before it counts.

Lines of JSON, only ever added, each on disk before anything is done about it. A request leaves a line when it is sent,
with the most that it can cost, and one when it is answered or certainly was not: what lies between when a process
is killed may have been billed, and counts as such.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune.data.rows import Message
from finetune.errors import UserError


@dataclass(frozen=True)
class Usage:
    """Tokens that were asked and answered."""

    asked: int = 0
    answered: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.asked + other.asked, self.answered + other.answered)

    @property
    def total(self) -> int:
        """Both together."""
        return self.asked + self.answered


@dataclass(frozen=True)
class Sampling:
    """How words are chosen."""

    temperature: float | None
    top_p: float | None
    max_tokens: int


@dataclass(frozen=True)
class Request:
    """One thing to ask."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    where: str = ""  # what it is about, as messages name it; no part of its key

    def key(self, model: str) -> str:
        """The same for the same request to the same model."""
        content = {"model": model, "messages": self.messages, **asdict(self.sampling), "seed": self.seed}
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What was answered, or why this one request was refused."""

    text: str
    usage: Usage
    finished: str = "stop"  # length when the limit of tokens cut it off; refused when it was not answered
    reasoning: str = ""
    served: str = ""  # the model that the endpoint says has answered
    counted: bool = True  # the endpoint said the usage; otherwise it is the most that it can be
    seconds: float = 0.0  # from asking to having the answer


@dataclass(frozen=True)
class Outcome:
    """How asking ended. The answers are in the journal."""

    failed: Mapping[str, str] = field(default_factory=dict)  # key of a request without an answer → why
    ceiling: bool = False  # something was left unasked because of the ceiling


class Asked:
    """The journal, open for adding; made by `open_asked`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._places: dict[str, tuple[int, int]] = {}  # key → where its answer stands in the file
        self._open: dict[int, Usage] = {}  # attempts of which nobody knows what became
        self._last = 0  # number of the last attempt
        self.requests = 0  # answered
        self.settled = Usage()
        self.hosts: set[str] = set()
        self.served: set[str] = set()
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        place = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                # The process was killed while it wrote; what it wrote about had not counted yet.
                self._file.truncate(place)
                break
            try:
                self._note(json.loads(line), place, len(line))
            except (ValueError, KeyError, TypeError) as error:
                mend = "delete the line (what it held is asked for again)"
                raise UserError.at(f"{self._path}:{number}", "is damaged", mend) from error
            place += len(line)

    def _note(self, entry: dict[str, Any], place: int, length: int) -> None:
        attempt = int(entry["attempt"])
        self._last = max(self._last, attempt)
        if entry["event"] == "sent":
            self._open[attempt] = Usage(**entry["most"])
            return
        self._open.pop(attempt, None)
        if entry["event"] == "answered":
            self._places[entry["key"]] = (place, length)
            self.settled += Usage(**entry["reply"]["usage"])
            self.requests += 1
            self.hosts.add(str(entry["host"]))
            self.served.add(str(entry["reply"]["served"]))

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def reply(self, key: str) -> Reply | None:
        """What was answered to a request, if it was."""
        if key not in self._places:
            return None
        place, length = self._places[key]
        found = json.loads(os.pread(self._file.fileno(), length, place))["reply"]
        return Reply(**{**found, "usage": Usage(**found["usage"])})

    @property
    def committed(self) -> Usage:
        """The most that everything sent so far can have used."""
        return sum(self._open.values(), self.settled)

    @property
    def unknown(self) -> Usage:
        """The part of it of which nobody knows whether it was used."""
        return sum(self._open.values(), Usage())

    def sent(self, key: str, most: Usage) -> int:
        """Note that a request is about to be sent, and the most that it can use; gives the attempt's number."""
        self._write({"event": "sent", "attempt": self._last + 1, "key": key, "most": asdict(most)})
        return self._last

    def released(self, attempt: int) -> None:
        """Note that an attempt certainly used nothing."""
        self._write({"event": "released", "attempt": attempt})

    def answered(self, attempt: int, key: str, messages: Sequence[Message], reply: Reply, host: str) -> None:
        """Note an answer."""
        entry = {"event": "answered", "attempt": attempt, "key": key, "host": host, "messages": list(messages)}
        self._write({**entry, "reply": asdict(reply)})

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(entry, place, len(line))


@contextmanager
def open_asked(path: Path) -> Iterator[Asked]:
    """The journal in a file, which is made when it is not there. The caller holds the folder's lock."""
    path.touch()
    with path.open("r+b") as file:
        yield Asked(path, file)
