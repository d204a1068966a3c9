"""Questions on a terminal: on stderr, so that stdout holds the advice alone."""

from __future__ import annotations

import sys
from typing import Any

from finetune.choose.known import Question, read_answer


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: Question) -> Any:
    """The answer; None when there is none, and what is assumed then is told later."""
    _say(f"\n{question.asks}{' (several, with commas)' if question.many else ''}")
    for number, (_, words) in enumerate(question.answers, 1):
        _say(f"  {number}  {words}")
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            return read_answer(question, sys.stdin.readline())  # the end of the input is an answer left open
        except ValueError as error:
            _say(str(error))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
