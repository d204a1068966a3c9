"""Answers that teach what nobody means to teach: phrases of chat models, refusals, nothing, half an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

from finetune.data.examine.view import Hit, View

BOILERPLATE = (
    "as an ai language model",
    "as a large language model",
    "as an ai assistant",
    "as an artificial intelligence",
    "i'm just an ai",
    "i am just an ai",
    "i hope this helps",
    "i hope that helps",
    "hope this helps!",
    "let me know if you have any other questions",
    "let me know if you have any questions",
    "let me know if you need any",
    "let me know if you'd like",
    "feel free to ask",
    "feel free to reach out",
    "is there anything else i can help",
    "is there anything else you'd like",
    "my knowledge cutoff",
    "as of my last update",
    "as of my last knowledge update",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "i don't have access to real-time",
    "it's important to note that",
    "it is important to note that",
    "great question!",
    "happy to help!",
)
TEACHERS = (
    "developed by openai",
    "trained by openai",
    "created by openai",
    "i am chatgpt",
    "i'm chatgpt",
    "as chatgpt",
    "made by anthropic",
    "created by anthropic",
    "i'm claude",
    "i am claude",
    "trained by google",
    "i'm gemini",
    "i am gemini",
    "developed by meta ai",
    "developed by deepseek",
    "created by alibaba cloud",
    "developed by mistral ai",
)
REFUSALS = (
    "i can't assist with",
    "i cannot assist with",
    "i can't help with",
    "i cannot help with",
    "i can't provide",
    "i cannot provide",
    "i can't fulfill",
    "i cannot fulfill",
    "i can't comply",
    "i cannot comply",
    "i can't create",
    "i cannot create",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i must decline",
    "i won't be able to",
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i apologize, but i",
    "sorry, i can't",
    "sorry, i cannot",
)
OPENING = 240  # characters in which a refusal stands
PLACEHOLDERS = frozenset(
    ("", "n/a", "nan", "null", "todo", "tbd", "tba", "undefined", "fixme", "xxx", "placeholder", "insert answer here")
)
LEAST_PROMPT = 20  # characters; a shorter question may well stand at the beginning of its answer
LEAST_WORDS = 8  # of an answer that is expected to be sentences
ENDS = frozenset(".!?…。！？｡؟।\"'”’»)]}`*_>:;|~")


def answer_hits(view: View) -> Iterator[Hit]:
    """The first of each kind in the answers of a row; plain text has no answer."""
    for begin, answer in view.answers():
        lower = answer.lower()
        if not answer.isascii():
            lower = lower.replace("’", "'")
        yield from _phrase("boilerplate", BOILERPLATE, lower, begin)
        yield from _phrase("teacher-name", TEACHERS, lower, begin)
        yield from _phrase("refusal", REFUSALS, lower[:OPENING], begin)
        if answer.count("```") % 2:
            place = begin + answer.rindex("```")
            yield Hit("fence-open", place, place + 3, "``` is opened and not closed")
        if len(answer) <= LEAST_PROMPT and _says_nothing(lower):
            yield Hit("answer-placeholder", begin, begin + len(answer), "says nothing")
    yield from _repetition(view)


def _phrase(code: str, phrases: tuple[str, ...], lower: str, begin: int) -> Iterator[Hit]:
    for phrase in phrases:
        if phrase in lower:
            place = begin + lower.index(phrase)
            yield Hit(code, place, place + len(phrase), f"says {phrase!r}")
            return


def _says_nothing(lower: str) -> bool:
    return lower.strip(" \t\r\n.,!?-–—…_[](){}<>*\"'") in PLACEHOLDERS and lower.strip() not in ("[]", "{}")


def _repetition(view: View) -> Iterator[Hit]:
    asked, turns = view.asked().strip(), zip(reversed(view.parts), reversed(view.begins), strict=True)
    last = next(((part, begin) for part, begin in turns if part.role == "assistant"), None)
    if last and len(asked) >= LEAST_PROMPT and last[0].text.lstrip().startswith(asked):
        begin = last[1]
        yield Hit("answer-repeats-prompt", begin, begin + len(asked), "begins with the whole question")


def ends_well(answer: str) -> bool | None:
    """Whether an answer of several words ends as a sentence does; None where nothing can be said."""
    if answer.count(" ") < LEAST_WORDS - 1:
        return None
    return answer.rstrip()[-1:] in ENDS or not answer.rstrip()[-1:].isascii()


def is_json(answer: str) -> bool:
    """Whether an answer is a JSON object or list."""
    begin = answer.lstrip()[:1]
    if begin not in ("{", "["):
        return False
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True
