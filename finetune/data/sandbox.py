"""Limits around a chat template, which is a program that a stranger wrote.

Jinja's sandbox keeps a template from reaching the machine, but not from eating its memory or time. So the
source has a size limit, and while one renders, the process may grow by a bounded amount and the clock is
watched. Both belong to the whole process, so they are set in the main thread only, and the one on memory only
on Linux; elsewhere the limit on the rendered size is left.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jinja2

MAX_SOURCE = 256_000  # characters; the longest template of a known model has some 20,000
MAX_RENDERED = 20_000_000  # characters of one conversation: twice the longest row that is read
MAX_SECONDS = 20.0
MAX_MEMORY = 2 * 1024**3  # bytes by which the process may grow while templates render


class TemplateFault(Exception):
    """The template and this conversation do not go together."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


class _OutOfTime(Exception):
    pass


# What Python raises for an expression of a template that does not fit its data, such as text + nothing.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def check_source(source: str) -> None:
    """Refuse a template too large to be one."""
    if len(source) > MAX_SOURCE:
        what = f"the chat template has {len(source):,} characters, over the limit of {MAX_SOURCE:,}"
        raise TemplateFault(what, "give another with model.chat_template=FILE")


@contextmanager
def guarded(
    name: str = "the chat template", mend: str = "give another with model.chat_template=FILE"
) -> Iterator[None]:
    """Run a template within limits; whatever it raises comes out as a TemplateFault."""
    try:
        with _memory_limit(), _time_limit():
            yield
    except MemoryError:
        raise TemplateFault(f"{name} needs more than {MAX_MEMORY >> 20} MiB", mend) from None
    except _OutOfTime:
        raise TemplateFault(f"{name} did not finish within {MAX_SECONDS:g} s", mend) from None
    except TEMPLATE_ERRORS as error:
        line = _template_line(error)
        place = f" at line {line}" if line else ""
        raise TemplateFault(f"{name} raises{place}: {_first_line(error)}", mend) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _template_line(error: Exception) -> int | None:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
    return lines[-1] if lines else None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _time_limit() -> Iterator[None]:
    if not _in_main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= MAX_SECONDS:  # someone else's clock rings sooner
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    started, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001), interval)


@contextmanager
def _memory_limit() -> Iterator[None]:
    statm = Path("/proc/self/statm")
    if not _in_main_thread() or not statm.exists():  # two threads would restore each other's limits
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(statm.read_text().split()[0]) * resource.getpagesize() + MAX_MEMORY
    tighter = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(size, *tighter), hard) if tighter else (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
