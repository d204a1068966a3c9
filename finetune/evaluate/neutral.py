"""Prompts that have nothing to do with the task: on them it shows what else tuning has changed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data import formats
from finetune.data.build.sources import asked
from finetune.data.check import check
from finetune.data.encode import Refused
from finetune.data.examine.languages import language
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow
from finetune.data.read import Record, find_sources, read
from finetune.data.rows import Chat, Row, Text, every_turn
from finetune.data.sandbox import TemplateFault
from finetune.errors import UserError, counted
from finetune.evaluate.questions import Speech

OWN = Path(__file__).with_name("neutral.jsonl")
KEY = "evaluate.neutral"
REFUSE = "refuse"  # the kind of prompts that a careful model refuses
OTHER = "other"  # the kind of rows that name none


@dataclass(frozen=True)
class Neutral:
    """One prompt, as a person reads it and as the model is given it."""

    kind: str
    text: str
    language: str  # a rough guess; "" where it cannot be told
    ids: tuple[int, ...]


def read_neutral(given: str | None, most: int, speech: Speech, seed: int) -> list[Neutral]:
    """At most so many prompts of a file, drawn by seed; the project's own when no file is given."""
    faults, found = FaultLog(), list[tuple[str, str, Row]]()
    for source in find_sources(given or str(OWN), KEY):
        if source.on_hub:
            raise UserError.at(f"{KEY} {given}", "is on the hub", "download it first, and give the file")
        for record in read(source, faults, wanted=(), others=True):
            try:
                found.append((record.where, _kind(record), _prompt(record.values)))
            except BadRow as bad:
                faults.add(f"{record.where} {bad.field}".rstrip(), bad.what, bad.mend, bad.code)
    faults.raise_any()
    chosen = set(random.Random(seed).sample(range(len(found)), min(most, len(found))))
    prompts = [_encoded(*row, speech, faults) for index, row in enumerate(found) if index in chosen]
    faults.raise_any()
    if len(prompts) < 2:
        raise UserError.at(f"{KEY} {given}", f"holds {counted(len(prompts), 'prompt')}", "give at least 2, better 50")
    return prompts


def fingerprint(prompts: list[Neutral]) -> str:
    """Changes when any prompt does, or the tokens that it becomes."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.kind, prompt.text, prompt.ids)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _kind(record: Record) -> str:
    kind = record.values.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise BadRow("kind", "must be text", f"such as {REFUSE}, or leave it out")
    return kind or OTHER


def _prompt(values: Mapping[str, Any]) -> Row:
    """What is put to the model: a text to go on with, or a conversation with a stand-in for its answer."""
    layout = formats.detect(values)
    row = formats.convert(layout, values) if layout else None
    if isinstance(row, Chat):
        messages, tools = list(row.messages), row.tools
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        row = Chat((*messages, {"role": "assistant", "content": "…"}), tools)
    elif row is None:
        said, tools = asked(values)
        row = Chat((*said, {"role": "assistant", "content": "…"}), tools)
    for turn, what, mend, code in check(row):
        field = formats.column(layout, values, row, turn) if layout else "prompt"
        raise BadRow(field, what, mend, code)
    return row


def _encoded(where: str, kind: str, row: Row, speech: Speech, faults: FaultLog) -> Neutral:
    """The prompt in tokens; what the model cannot be given is a fault."""
    said = row.text if isinstance(row, Text) else "\n".join(str(turn["content"]) for turn in every_turn(row)[:-1])
    ids: list[int] = []
    try:
        ids = _ids(row, speech)
    except TemplateFault as fault:
        faults.add(where, fault.what, fault.mend)
    if speech.context is not None and len(ids) >= speech.context:
        what = f"{len(ids):,} tokens, and the model's context is {speech.context:,}"
        faults.add(where, what, "shorten it, or delete the row")
    return Neutral(kind, said, language(said), tuple(ids))


def _ids(row: Row, speech: Speech) -> list[int]:
    if isinstance(row, Chat):
        # plain: a model without a chat template is given the bare words
        return speech.encoder.prompt_ids(row.messages[:-1], row.tools, plain=True)
    (encoded,) = speech.encoder.encode([row])
    if isinstance(encoded, Refused):
        raise TemplateFault(encoded.what, encoded.mend)
    ends = encoded.input_ids[-1] == speech.tokenizer.eos_token_id  # a text that goes on has no end
    return encoded.input_ids[:-1] if ends else encoded.input_ids
