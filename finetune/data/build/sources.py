"""What examples are made from: prompts, passages of documents, or examples that there are."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import DataConfig
from finetune.data import formats
from finetune.data.check import check
from finetune.data.faults import FaultLog
from finetune.data.formats import BadRow
from finetune.data.jsonl import BOM, decode
from finetune.data.load import load, noting
from finetune.data.read import SUFFIXES, Record, Source, find_sources, read
from finetune.data.rows import Chat, Message, answer, from_json, question
from finetune.errors import UserError, listed

PROMPT_COLUMNS = ("prompt", "question", "instruction")
PLAIN = (".txt", ".md", ".markdown", ".rst")
MAX_DOCUMENT = 100_000_000  # bytes


@dataclass(frozen=True)
class Item:
    """One thing to ask about."""

    where: str
    variables: Mapping[str, Any]  # of the template
    conversation: tuple[Message, ...] = ()  # what the student will be asked
    reference: str | None = None
    document: str | None = None
    group: str = ""  # the document or prompt that its examples belong to
    tools: tuple[dict[str, Any], ...] = field(default=())


def read_prompts(given: str, columns: Mapping[str, str], used: set[str]) -> list[Item]:
    """Rows to be answered: `prompt`, `question`, `instruction` and `input`, or `messages`; lines of a text file.

    Notes in `used` which of the columns they have.
    """
    path = Path(given).expanduser()
    if path.suffix.lower() == ".txt" and path.is_file():
        return [
            _item(Record(given, number, {"prompt": line}), {})
            for number, line in enumerate(_text(path, given).splitlines(), 1)
            if line.strip()
        ]
    faults, items = FaultLog(), []
    for source in find_sources(given, "prompts"):
        for record in noting(read(source, faults, wanted=(), others=True), columns, used):
            try:
                items.append(_item(record, columns))
            except BadRow as bad:
                faults.add(f"{record.where} {bad.field}".rstrip(), bad.what, bad.mend)
    faults.raise_any()
    return items


def _item(record: Record, columns: Mapping[str, str]) -> Item:
    values = {
        **record.values,
        **{ours: record.values[theirs] for ours, theirs in columns.items() if theirs in record.values},
    }
    messages, tools = asked(values)
    reference = values.get("reference")
    if reference is not None and not isinstance(reference, (str, int, float)):
        raise BadRow("reference", "must be text or a number", "put it in quotes")
    probe = Chat((*messages, {"role": "assistant", "content": "…"}))
    for found in check(probe):
        raise BadRow("messages" if "messages" in values else "", found.what, found.mend, found.code)
    said = {"prompt": messages[-1]["content"], **values}
    return Item(
        record.where, said, messages, None if reference is None else str(reference), group=record.where, tools=tools
    )


def asked(values: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """The conversation up to the answer that is wanted."""
    tools: tuple[dict[str, Any], ...] = ()
    if "messages" in values:
        row = formats.convert("messages", values)
        assert isinstance(row, Chat)
        messages, tools = list(row.messages), row.tools
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    else:
        name = next((name for name in PROMPT_COLUMNS if name in values), None)
        if name is None:
            mend = "name it, such as data.columns.prompt=text"
            raise BadRow(
                "", f"has no prompt (found: {listed(list(values))}; wanted: messages, prompt or question)", mend
            )
        parts = [values[name], values.get("input") if name == "instruction" else None]
        if any(part is not None and not isinstance(part, str) for part in parts):
            raise BadRow(name, "must be text", "put it in quotes")
        system = values.get("system")
        messages = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
        messages.append({"role": "user", "content": "\n".join(part for part in parts if part)})
    if not messages or not str(messages[-1]["content"]).strip():
        raise BadRow("", "asks nothing", "fill it in, or delete the row")
    return tuple(messages), tools


def read_documents(given: str, chunk: int, count: int) -> list[Item]:
    """Passages of a document, or of every document in a folder and the folders in it."""
    faults, items = FaultLog(), []
    for name, text in _documents(given, faults):
        for number, passage in enumerate(passages(text, chunk), 1):
            variables = {"text": passage, "document": name, "count": count}
            items.append(Item(f"{name}#{number}", variables, document=passage, group=name))
    faults.raise_any()
    if not items:
        raise UserError.at(f"documents {given}", "holds no text", f"give {', '.join(PLAIN)} or rows with a text column")
    return items


def _documents(given: str, faults: FaultLog) -> Iterator[tuple[str, str]]:
    root = Path(given).expanduser()
    if not root.exists():
        raise UserError.at(f"documents {given}", "no such file or folder", "correct the path")
    paths = [root]
    if root.is_dir():
        inside = (path for path in root.rglob("*") if not _is_hidden(path.relative_to(root)) and path.is_file())
        paths = sorted(path for path in inside if path.suffix.lower() in (*PLAIN, *SUFFIXES))
    for path in paths:
        name = str(path.relative_to(root)) if root.is_dir() else path.name
        if path.suffix.lower() in SUFFIXES:
            yield from _text_rows(path, name, faults)
        elif path.suffix.lower() in PLAIN:
            yield name, _text(path, str(path))
        else:
            mend = f"convert it to {' or '.join(PLAIN[:2])}"
            faults.add(f"documents {path}", f"unknown kind of document {path.suffix or '(no ending)'!r}", mend)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _text_rows(path: Path, name: str, faults: FaultLog) -> Iterator[tuple[str, str]]:
    for record in read(Source(str(path), (path,)), faults, wanted=("text", "id", "title")):
        text = record.values.get("text")
        if isinstance(text, str):
            yield f"{name}:{record.row}", text
        else:
            faults.add(f"{record.where} text", "a document needs text", "name the column `text`")


def _text(path: Path, shown: str) -> str:
    """A text file, whole."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_DOCUMENT:
            raise UserError.at(shown, f"is no file, or one over {MAX_DOCUMENT:,} bytes", "give a smaller text file")
        data = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise UserError.at(
            shown, f"cannot be read ({(error.strerror or str(error)).lower()})", "check its rights"
        ) from error
    faults = FaultLog()
    text = decode(data, shown, 1, faults)
    faults.raise_any()
    return text or ""


def passages(text: str, longest: int) -> list[str]:
    """The text in passages of at most so many characters, cut between paragraphs, else sentences, else words."""
    pieces = [piece for block in re.split(r"\n\s*\n", text) if block.strip() for piece in _cut(block.strip(), longest)]
    found: list[str] = []
    for piece in pieces:
        if found and len(found[-1]) + len(piece) + 2 <= longest:
            found[-1] = f"{found[-1]}\n\n{piece}"
        else:
            found.append(piece)
    return found


def _cut(block: str, longest: int) -> list[str]:
    pieces = []
    while len(block) > longest:
        ends = [match.end() for match in re.finditer(r"[.!?。！？]\s*|\n", block[:longest])]
        places = [end for end in ends if end > longest // 2] or [block.rfind(" ", longest // 2, longest) + 1]
        place = places[-1] or longest
        pieces.append(block[:place].strip())
        block = block[place:].strip()
    return [*pieces, block] if block else pieces


def read_examples(
    given: str, columns: Mapping[str, str], used: set[str], shots: int, count: int, seed: int
) -> list[Item]:
    """Rows that each stand first among some that are shown together; the others are drawn by seed.

    Notes in `used` which of the columns they have.
    """
    settings = DataConfig(train=given, columns=dict(columns))
    loaded = list(load(find_sources(given, "examples"), settings, ("chat",), used, set()))
    rows = [from_json(row.json) for row in loaded]
    shown = [{"question": question(row), "answer": answer(row)} for row in rows]
    systems = [_system(row) if isinstance(row, Chat) else () for row in rows]
    items = []
    for index, row in enumerate(loaded):
        others = [other for other in range(len(rows)) if other != index]
        drawn = random.Random(f"{seed} {row.json}").sample(others, min(shots - 1, len(others)))
        variables = {"examples": [shown[at] for at in (index, *drawn)], "count": count}
        items.append(Item(row.where, variables, systems[index], group=row.where))
    return items


def _system(row: Chat) -> tuple[Message, ...]:
    return tuple(message for message in row.messages[:1] if message["role"] == "system")


def chosen(items: Sequence[Item], rows: int | None, seed: int) -> list[Item]:
    """The order in which they are asked about: as they stand, or by seed where not all may be needed."""
    if rows is None:
        return list(items)
    return random.Random(seed).sample(items, len(items))
