"""The round trip: the teacher is asked its own question again, and has to say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune.data.build.candidates import Candidate
from finetune.data.build.gates import agree, said_yes
from finetune.data.build.settings import GateSettings
from finetune.data.build.teacher import Teacher
from finetune.data.build.templates import find_template
from finetune.data.rows import Message
from finetune.endpoint.asked import Asked, Outcome, Request, Sampling
from finetune.evaluate.score import visible

UNASKED = "not asked again: the ceiling was reached"
WORD_TOKENS = 16  # of an answer of one word


def round_trip(
    candidates: Sequence[Candidate], teacher: Teacher, asked: Asked, settings: GateSettings, sampling: Sampling
) -> tuple[dict[int, str], bool]:
    """Which candidates fail, by their index, and why; and whether the ceiling was reached."""
    template = find_template("again")
    sure = Sampling(None if sampling.temperature is None else 0.0, None, sampling.max_tokens)
    requests: list[Request] = []
    for candidate in candidates:
        document = candidate.item.document if settings.round_trip == "document" else None
        variables = {"question": candidate.question, "document": document or ""}
        earlier = [*candidate.messages[:-2], *template.render(variables)]
        requests.append(Request(tuple(earlier), sure, 0, candidate.item.where))
    outcome = teacher.ask(requests, asked)
    second, failed = _replies(requests, teacher, asked, outcome)
    if settings.equivalent == "words":
        for index, text in second.items():
            if not agree(candidates[index].answer, text, settings.agreement):
                failed[index] = f"asked again it says {_short(text)!r}"
        return failed, outcome.ceiling
    over = _judged(candidates, second, failed, teacher, asked, sure)
    return failed, outcome.ceiling or over


def _judged(
    candidates: Sequence[Candidate],
    second: Mapping[int, str],
    failed: dict[int, str],
    teacher: Teacher,
    asked: Asked,
    sure: Sampling,
) -> bool:
    """Let the teacher say whether both answers agree; whether the ceiling was reached."""
    template, short = find_template("agree"), Sampling(sure.temperature, None, min(sure.max_tokens, WORD_TOKENS))
    order = list(second)
    requests = []
    for index in order:
        said: dict[str, str] = {"question": candidates[index].question, "first": candidates[index].answer}
        messages: tuple[Message, ...] = template.render({**said, "second": second[index]})
        requests.append(Request(messages, short, 0, candidates[index].item.where))
    outcome = teacher.ask(requests, asked)
    verdicts, missing = _replies(requests, teacher, asked, outcome)
    failed.update({order[place]: reason for place, reason in missing.items()})
    for place, verdict in verdicts.items():
        if not said_yes(verdict):
            failed[order[place]] = f"asked again it says {_short(second[order[place]])!r}"
    return outcome.ceiling


def _replies(
    requests: Sequence[Request], teacher: Teacher, asked: Asked, outcome: Outcome
) -> tuple[dict[int, str], dict[int, str]]:
    """What was answered to each request, and why others were not, by index."""
    texts, missing = {}, {}
    for index, request in enumerate(requests):
        key = request.key(teacher.identity)
        reply = asked.reply(key)
        if reply is None:
            missing[index] = outcome.failed.get(key, UNASKED)
        else:
            texts[index] = visible(reply.text).strip()
    return texts, missing


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
