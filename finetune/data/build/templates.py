"""What a teacher is asked: templates as files, each part of a conversation in Jinja.

A line that holds `[system]`, `[user]` or `[assistant]` begins a turn; `[messages]` stands for the conversation that
is to be answered. The file is parted before anything is filled in, so that no document can begin a turn of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune.data.rows import Message
from finetune.data.sandbox import MAX_RENDERED, MAX_SOURCE, TemplateFault, guarded
from finetune.errors import UserError, did_you_mean, listed

SHIPPED = Path(__file__).parent / "prompts"
HEAD = re.compile(r"^\[(system|user|assistant|messages)\][ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Template:
    """A template, parted."""

    name: str
    digest: str
    parts: tuple[tuple[str, str], ...]  # role, Jinja source

    def render(self, variables: Mapping[str, Any], conversation: Sequence[Message] = ()) -> tuple[Message, ...]:
        """The messages for the teacher; a part that comes out empty is left out. Raises TemplateFault."""
        messages: list[Message] = []
        for role, source in self.parts:
            if role == "messages":
                messages += conversation
                continue
            with guarded(f"the template {self.name}", "correct the template, or add the column"):
                text = _environment().from_string(source).render(variables).strip()
            if len(text) > MAX_RENDERED:
                raise TemplateFault(f"makes {len(text):,} characters, over the limit of {MAX_RENDERED:,}")
            if text:
                messages.append({"role": role, "content": text})
        return _with_one_system(messages)


def find_template(given: str) -> Template:
    """The template of a name, or in a file; what is wrong with it is raised with its line."""
    shipped = sorted(path.stem for path in SHIPPED.glob("*.jinja"))
    path = SHIPPED / f"{given}.jinja" if given in shipped else Path(given).expanduser()
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such template or file"
        mend = did_you_mean(given, shipped) or f"known are {listed(shipped)}"
        raise UserError.at(f"template {given}", what, mend)
    if path.stat().st_size > MAX_SOURCE:
        raise UserError.at(f"template {given}", f"is over {MAX_SOURCE:,} bytes", "give a template, not other data")
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError.at(f"template {given}", f"is not UTF-8 at byte {error.start}", "convert it") from error
    parts = _parts(source, given)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return Template(given if given in shipped else path.name, digest, parts)


def _parts(source: str, given: str) -> tuple[tuple[str, str], ...]:
    heads = list(HEAD.finditer(source))
    before = re.sub(r"\{#.*?#\}", "", source[: heads[0].start()] if heads else source, flags=re.DOTALL)
    if not heads or before.strip():
        mend = "begin it with a line [user] (or [system], [assistant], [messages])"
        raise UserError.at(f"template {given}", "has text that belongs to no turn" if heads else "has no turn", mend)
    ends = [*(head.start() for head in heads[1:]), len(source)]
    parts = []
    for head, end in zip(heads, ends, strict=True):
        text, line = source[head.end() : end], source.count("\n", 0, head.start()) + 1
        if head[1] == "messages" and text.strip():
            raise UserError.at(f"template {given}:{line}", "text stands under [messages]", "begin a turn before it")
        try:
            _environment().parse(text)
        except TemplateSyntaxError as error:
            raise UserError.at(
                f"template {given}:{line + error.lineno - 1}", str(error.message), "correct it"
            ) from error
        parts.append((head[1], text))
    if not any(role in ("user", "messages") for role, _ in parts):
        raise UserError.at(f"template {given}", "asks nothing", "add a [user] or [messages] part")
    return tuple(parts)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja that reaches nothing and fills in nothing that is not there."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _with_one_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with the template's system turn and the row's own as one, at the front."""
    systems = [str(message["content"]) for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    first: list[Message] = [{"role": "system", "content": "\n\n".join(systems)}] if systems else []
    return (*first, *others)
