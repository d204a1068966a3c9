"""Overrides, `key=value`: from the command line's arguments to assignments.

Hydra's grammar reads the values of numbers, switches, lists and mappings. Text and paths are taken as they
are written: that grammar knows neither `x(1).jsonl` nor `a=b.jsonl`, and takes `/d/a,b.jsonl` for a sweep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config import OPEN_KEYS, PATH_KEYS
from finetune.errors import Fault
from finetune.settings.catalogue import GROUPS, Setting, cut, is_list, is_text, is_verbatim, open_key
from finetune.settings.refused import refused

KEY = re.compile(r"[A-Za-z_][\w-]{0,99}(?:[./@:][\w.@:/-]{1,200})?")
ROWS = (".jsonl", ".json", ".csv", ".parquet", ".txt")
SWEEP = "is a sweep over several values, which is not supported"


@dataclass(frozen=True)
class Assignment:
    """A value for a key, and where it was given."""

    key: str
    value: Any
    text: str | None  # a single value as it was written; None for null, lists and mappings
    where: str  # as a message names it: the key of an override, `file:line key` in a file
    source: str  # as provenance names it: override, recipe NAME, configs/tuning/qlora.yaml


def split_overrides(arguments: Sequence[str], faults: list[Fault]) -> list[tuple[str, str]]:
    """Keys and raw values, in order; what is not `key=value`, is refused or given twice becomes a fault."""
    pairs: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        key = key.strip()
        if fault := _not_a_setting(argument, key if equals else None) or refused(key, value, key):
            faults.append(fault)
        elif key in pairs:
            faults.append(
                Fault(key, f"given twice, as {key}={cut(pairs[key])} and {key}={cut(value)}", "keep one of them")
            )
        else:
            pairs[key] = value
    return list(pairs.items())


def _not_a_setting(argument: str, key: str | None) -> Fault | None:
    """Why an argument is no `key=value`, if it is none."""
    if argument in ("-m", "--multirun"):
        return Fault(argument, "sweeps are not supported", "run one command for each value")
    if key is not None and KEY.fullmatch(key):
        return None
    if argument.startswith("~") and key is None:
        return Fault(argument, "a setting cannot be deleted", "give it another value, such as null")
    if key is None and (fault := refused("", argument, "an argument")):
        return fault
    if key is None and (os.path.exists(argument) or argument.endswith(ROWS)):
        return Fault(cut(argument), "is not a setting", f"for training rows write data.train={cut(argument)}")
    shown_argument = cut(argument) if argument.strip() else "an empty argument"
    return Fault(shown_argument, "is not a setting", "write key=value, such as training.epochs=3")


def parse_override(key: str, raw: str, settings: Mapping[str, Setting], faults: list[Fault]) -> Assignment | None:
    """The assignment that an override makes, or None when it cannot be read (a fault then says why)."""
    setting = settings.get(key)
    if not raw.strip():
        faults.append(Fault(key, "nothing stands after `=`", f"for no value write {key}=null"))
        return None
    if (setting and is_text(setting)) or (open_key(key) and not key.startswith("method.trl.")):
        written = key in PATH_KEYS or (setting is not None and is_verbatim(setting))
        return _as_text(key, raw, faults, sweeps=not written)
    if setting and is_list(setting) and _is_bracketed(raw) and setting.kind == list[str]:
        return Assignment(key, split_list(raw), None, key, "override")
    return _by_grammar(key, raw, setting, faults)


def group_choice(key: str, raw: str, faults: list[Fault]) -> str | None:
    """The option that `group=option` picks."""
    if "," in raw:
        faults.append(Fault(key, f"{key}={cut(raw)} {SWEEP}", "run one command for each option"))
        return None
    return _unquoted(raw.strip())


def is_group(key: str) -> bool:
    """Whether a key names a group, so that its value is an option."""
    return key in GROUPS


def split_list(raw: str) -> list[str]:
    """The items of `[a, 'b,c', d]`; only quotes protect a comma."""
    items = re.findall(r"""\s*('(?:[^'])*'|"(?:[^"])*"|[^,]*)\s*(?:,|$)""", raw.strip()[1:-1])
    return [_unquoted(item.strip()) for item in items if item.strip()]


def _as_text(key: str, raw: str, faults: list[Fault], sweeps: bool) -> Assignment | None:
    """Text as it is written; a path may also be a bracketed list."""
    text = raw.strip()
    if text == "null":
        return Assignment(key, None, None, key, "override")
    if not sweeps and _is_bracketed(text):
        return Assignment(key, split_list(text), None, key, "override")
    if sweeps and key not in OPEN_KEYS and _is_sweep(text):
        faults.append(Fault(key, f"'{cut(text)}' {SWEEP}", "run one command for each value"))
        return None
    value = _unquoted(text)
    return Assignment(key, value, value, key, "override")


def _by_grammar(key: str, raw: str, setting: Setting | None, faults: list[Fault]) -> Assignment | None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"x={raw}")
    except (HydraException, ValueError, RecursionError):
        what = f"'{cut(raw)}' cannot be read as a value"
        faults.append(Fault(f"{key}={cut(raw)}", what, f"""quote it twice: '{key}="{cut(raw)}"'"""))
        return None
    if parsed.is_sweep_override():
        mend = (
            f"for a list write {key}=[{cut(raw)}]" if setting and is_list(setting) else "run one command for each value"
        )
        faults.append(Fault(key, f"'{cut(raw)}' {SWEEP}", mend))
        return None
    value = parsed.value()
    text = None if value is None or isinstance(value, (list, dict)) else _unquoted(raw.strip())
    return Assignment(key, value, text, key, "override")


def _is_sweep(raw: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"x={raw}").is_sweep_override()
    except (HydraException, ValueError, RecursionError):
        return False


def _is_bracketed(raw: str) -> bool:
    return raw.strip().startswith("[") and raw.strip().endswith("]")


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
