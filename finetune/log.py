"""One logger for the whole program: rank-aware, on stderr, plain."""

from __future__ import annotations

import logging
import os
import sys
import warnings

log = logging.getLogger("finetune")
COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}

# Read by the libraries when they are imported, so set before any of them is. A user's own value stays.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def rank() -> int:
    """This process's number among the ranks of a run, 0 when there is only one."""
    given = os.environ.get("RANK", "0")
    return int(given) if given.isdecimal() else 0


def set_up(debug: bool = False) -> None:
    """Quieten the libraries and let the logger write to stderr; ranks but 0 say warnings and errors only."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    # It offers to load a kernel from a hub, which runs code that nobody here has read.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    log.setLevel(logging.DEBUG if debug else logging.INFO if rank() == 0 else logging.WARNING)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain(rank(), coloured=sys.stderr.isatty() and "NO_COLOR" not in os.environ))
    log.addHandler(handler)


class _Plain(logging.Formatter):
    """The message alone; its level and rank only where they say something."""

    def __init__(self, rank: int, coloured: bool) -> None:
        super().__init__("%(message)s")
        self.rank, self.coloured = rank, coloured

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            text = f"{self._painted(record)}: {text}"
        return f"[rank {self.rank}] {text}" if self.rank else text

    def _painted(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        return (
            f"\x1b[{COLOURS[record.levelno]}m{level}\x1b[0m" if self.coloured and record.levelno in COLOURS else level
        )
