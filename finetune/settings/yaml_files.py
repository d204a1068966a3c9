"""Strict reading of YAML files: every value keeps its line, and nothing is guessed, repeated or executed."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import Fault, UserError, did_you_mean

MOST_BYTES = 200_000
DEEPEST = 40
TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
# YAML 1.1 wants a dot and a signed exponent in a float; `1e-4` is a number to everybody else.
FLOAT = re.compile(r"^(?:[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+|[-+]?\.\d+([eE][-+]?\d+)?)$")


@dataclass(frozen=True)
class Entry:
    """One value of a YAML file, or one mapping that holds nothing."""

    key: str  # dotted, from the top of the file
    value: Any
    text: str | None  # a single value as it is written; None for null, lists and mappings
    line: int


class _Reader(yaml.SafeLoader):
    """Reads one document into nodes; nodes keep their place in the file."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not supported", problem_mark=mark)
        return super().compose_node(parent, index)


_Reader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def read_text(path: Path, shown: str) -> str:
    """A small text file's content; missing, unreadable and empty files each have their own message."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UserError.at(shown, "is a folder, not a file", "name the YAML file in it")
        if not stat.S_ISREG(found.st_mode):
            raise UserError.at(shown, "is not a regular file", "name a YAML file")
        if found.st_size > MOST_BYTES:
            raise UserError.at(shown, f"is over {MOST_BYTES:,} bytes", "name a configuration file, which is small")
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError.at(shown, "no such file", _nearest(path)) from error
    except OSError as error:
        raise UserError.at(shown, f"cannot be read ({error.strerror})", "check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError.at(shown, f"is not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    if not text.strip():
        raise UserError.at(shown, "the file is empty", "write at least one `key: value` in it")
    return text


def read_entries(path: Path, shown: str, whole: tuple[str, ...] = ()) -> list[Entry]:
    """Every value of the file, in order; all faults of its structure are raised at once as a UserError.

    Mappings become dotted keys, except the values inside the mappings that `whole` names.
    """
    root = _root(read_text(path, shown), shown)
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError.at(f"{shown}:{root.start_mark.line + 1}", "must hold `key: value` lines, not a list or a text")
    walk = _Walk(shown, whole, [])
    entries = list(walk.entries(root, "", 0))
    if walk.faults:
        raise UserError(walk.faults)
    return entries


def _root(text: str, shown: str) -> yaml.Node | None:
    try:
        return _Reader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise UserError([_syntax_fault(error, text, shown)]) from error
    except yaml.reader.ReaderError as error:
        where = f"{shown}:{text.count(chr(10), 0, error.position) + 1}"
        raise UserError.at(where, f"holds the control character {error.character!r}", "remove it") from error
    except RecursionError as error:
        raise UserError.at(shown, "is nested too deeply", f"use at most {DEEPEST} levels") from error


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, shown: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Fault(shown, f"not valid YAML ({error.problem})")
    where = f"{shown}:{mark.line + 1}:{mark.column + 1}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        return Fault(where, "a tab where YAML wants spaces", "indent with two spaces")
    if error.problem and "anchors" in error.problem:
        return Fault(where, error.problem, "write the value out")
    return Fault(where, f"not valid YAML ({error.problem})", "check the indentation, colons and quotes of this line")


@dataclass(frozen=True)
class _Walk:
    """One pass over a file's nodes; what is wrong with them is collected."""

    shown: str
    whole: tuple[str, ...]
    faults: list[Fault]

    def entries(self, node: yaml.MappingNode, prefix: str, depth: int) -> Iterator[Entry]:
        """Every value below a mapping."""
        if not self._harmless(node, depth):
            return
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, "a key must be a plain word")
            elif key_node.value in seen:
                what = f"duplicate key '{key_node.value}' (first at line {seen[key_node.value]})"
                self._fault(key_node, what, "keep one of them")
            elif self._harmless(key_node, depth):
                seen[key_node.value] = line
                yield from self._below(f"{prefix}{key_node.value}", value_node, line, depth)

    def _below(self, key: str, node: yaml.Node, line: int, depth: int) -> Iterator[Entry]:
        if isinstance(node, yaml.MappingNode) and node.value and key.rpartition(".")[0] not in self.whole:
            yield from self.entries(node, f"{key}.", depth + 1)
            return
        value = self._plain(node, depth)
        text = node.value if isinstance(node, yaml.ScalarNode) and value is not None else None
        yield Entry(key, value, text, line)

    def _plain(self, node: yaml.Node, depth: int) -> Any:
        """The plain value of a node, after its tag was found harmless."""
        if not self._harmless(node, depth):
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return {str(key.value): self._plain(value, depth + 1) for key, value in node.value}
        if node.tag == "tag:yaml.org,2002:float" and FLOAT.match(node.value):
            return float(node.value.replace("_", ""))
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError):
            self._fault(node, f"'{node.value[:40]}' is not a value that can be read", "quote it")
            return None

    def _harmless(self, node: yaml.Node, depth: int) -> bool:
        """Whether the node is plain data at a sane depth; a date counts as the text it is written as."""
        if node.tag == "tag:yaml.org,2002:timestamp" and isinstance(node, yaml.ScalarNode):
            node.tag = "tag:yaml.org,2002:str"
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        if depth > DEEPEST:
            self._fault(node, "is nested too deeply", f"use at most {DEEPEST} levels")
        elif tag in ("!!merge", "!!value"):
            self._fault(node, f"`{node.value}` is not supported", "write the values out")
        elif node.tag not in TAGS:
            self._fault(node, f"unsafe YAML tag {tag}", "write a plain value")
        else:
            return True
        return False

    def _fault(self, node: yaml.Node, what: str, mend: str = "") -> None:
        self.faults.append(Fault(f"{self.shown}:{node.start_mark.line + 1}", what, mend))


def _nearest(path: Path) -> str:
    """A hint with the nearest name in the same folder."""
    try:
        names = [item.name for item in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either"
    return did_you_mean(path.name, names) or "check the path"
