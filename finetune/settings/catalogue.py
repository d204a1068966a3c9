"""The settings that a run can have, by dotted key: which there are, what type each takes, and its limits."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from finetune.config import OPEN_KEYS, OPTIONS, PATH_KEYS, RunConfig, flatten
from finetune.errors import Fault, did_you_mean, listed
from finetune.methods import METHODS

GROUPS = ("model", "tuning", "method", "data", "launch", "parallel", "tracking")
NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE_SAID = "letters, digits, `.`, `_` and `-`, at most 64, starting with a letter or digit"
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
# What the file systems in use allow.
LONGEST_PATH, LONGEST_NAME = 4095, 255
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, type, default and the limits and help that stand on its field."""

    key: str
    kind: Any  # the type as annotated, without None
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def help(self) -> str:
        """One sentence about it."""
        return str(self.metadata["help"])


def schema_of(choices: Mapping[str, str]) -> RunConfig:
    """The schema with each group's section typed by the chosen option."""
    chosen = {group: kind() for group, option in choices.items() if (kind := option_kind(group, option))}
    return RunConfig(**chosen)


def option_kind(group: str, option: str) -> type[Any] | None:
    """The dataclass that an option of a group stands for; none for presets, such as a model's."""
    if group == "method":
        return METHODS[option].Config if option in METHODS else None
    return OPTIONS.get(group, {}).get(option)


def typed_options(group: str) -> dict[str, type[Any]]:
    """Every option of a group that has settings of its own."""
    return {name: module.Config for name, module in METHODS.items()} if group == "method" else OPTIONS.get(group, {})


def settings_of(choices: Mapping[str, str]) -> dict[str, Setting]:
    """Every setting that a run with these choices has."""
    return {setting.key: setting for setting in _settings(schema_of(choices), "")}


def sections_of(choices: Mapping[str, str]) -> set[str]:
    """Every key that holds settings but is none."""
    return {key.rpartition(".")[0] for key in settings_of(choices) if "." in key}


def settings_of_kind(kind: type[Any], prefix: str) -> list[Setting]:
    """The settings of one dataclass."""
    return settings_in(kind(), prefix)


def settings_in(config: Any, prefix: str = "") -> list[Setting]:
    """The settings of a dataclass and of its sections."""
    return list(_settings(config, prefix))


def _settings(config: Any, prefix: str) -> Iterator[Setting]:
    kinds = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
        else:
            kind, optional = _without_none(kinds[item.name])
            yield Setting(key, kind, optional, value, item.metadata)


def _without_none(kind: Any) -> tuple[Any, bool]:
    if kind is Any:
        return kind, True
    if isinstance(kind, types.UnionType):
        inner = [part for part in typing.get_args(kind) if part is not types.NoneType]
        return inner[0], True
    return kind, False


def is_list(setting: Setting) -> bool:
    """Whether the setting takes a list and nothing else."""
    return typing.get_origin(setting.kind) is list


def is_text(setting: Setting) -> bool:
    """Whether the setting takes text as it is written: `name=007` is the name 007, not the number 7."""
    return setting.kind is str or (setting.kind is Any and (setting.key in PATH_KEYS or is_verbatim(setting)))


def is_verbatim(setting: Setting) -> bool:
    """Whether the setting's field says that its commas and brackets are its own, as those of a path are."""
    return bool(setting.metadata.get("verbatim", False))


def converted(setting: Setting, value: Any, text: str | None) -> Any:
    """The value in the setting's type; a ValueError says what is wrong with it."""
    if value is None:
        if setting.optional and not (setting.kind is Any and setting.default == MISSING):
            return None
        raise ValueError("may not be null")
    if setting.kind is Any:
        return _text_or_texts(value, text)
    if is_list(setting):
        return _list(setting, value, text)
    if typing.get_origin(setting.kind) is dict:
        raise ValueError(f"{shown(value)} is not a mapping")
    return _scalar(setting.kind, value, text)


def _scalar(kind: type[Any], value: Any, text: str | None) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{shown(value)} is not {SAID[kind]}")
    if kind is str:
        return text if text is not None else str(value)
    if kind is bool:
        word = str(value).lower()
        if isinstance(value, bool) or word in TRUE + FALSE:
            return word in TRUE
    elif not isinstance(value, bool) and NUMBER.fullmatch(str(value)):
        number = float(value)
        if kind is float:
            return number
        if isinstance(value, int):
            return value
        if number.is_integer():
            return int(number)
    raise ValueError(f"{shown(text if text is not None else value)} is not {SAID[kind]}")


SAID: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _list(setting: Setting, value: Any, text: str | None) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{shown(text or value)} is not a list; write {setting.key}=[{cut(str(text or value))}]")
    (kind,) = typing.get_args(setting.kind)
    return [_scalar(kind, item, None) for item in value]


def _text_or_texts(value: Any, text: str | None) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, (str, int, float)) for item in value):
        return [str(item) for item in value]
    if isinstance(value, (list, dict)):
        raise ValueError(f"{shown(value)} is not a path or a list of paths")
    return text if text is not None else str(value)


def cut(text: str) -> str:
    """Text as a message repeats it: the beginning, when it is long."""
    return text if len(text) <= 80 else f"{text[:79]}…"


def shown(value: Any) -> str:
    """A value as a message shows it: quoted, and cut when long."""
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:76]}…" + ("'" if isinstance(value, str) else "")


def check_limits(config: RunConfig, where: Mapping[str, str] | None = None) -> list[Fault]:
    """Every value outside its field's limits; `where` says from which line a key's value came."""
    places = where or {}
    faults = []
    for key, value, metadata in flatten(config):
        for item in value if isinstance(value, list) else [value]:
            if wrong := outside(item, metadata) or (_no_path(item) if key in PATH_KEYS else None):
                faults.append(Fault(places.get(key, key), *wrong))
    if config.name is not None and not NAME_RULE.fullmatch(config.name):
        what = f"{shown(config.name)} cannot name a run"
        faults.append(Fault(places.get("name", "name"), what, f"use {NAME_RULE_SAID}"))
    if config.training.epochs is None and config.training.max_steps is None:
        place = places.get("training.epochs", "training.epochs")
        faults.append(Fault(place, "neither training.epochs nor training.max_steps is set", "set one of them"))
    return faults + _unknown_changes(config, places.get("allow_change", "allow_change"))


def _unknown_changes(config: RunConfig, place: str) -> list[Fault]:
    """Names in allow_change that no setting has, and that would therefore allow nothing."""
    known = [*(key for key, _, _ in flatten(config)), "data", *(f"{group}.option" for group in GROUPS)]
    return [
        Fault(place, f"{shown(name)} is not a setting", did_you_mean(name, known) or "leave it out")
        for name in config.allow_change
        if name not in known and not open_key(name)
    ]


def outside(value: Any, metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a value and how to mend it, by the limits on its field."""
    if value is None:
        return None
    choices = metadata.get("choices")
    if choices and value not in choices:
        names = [str(choice) for choice in choices]
        return f"{shown(value)} is not one of {', '.join(names)}", did_you_mean(str(value), names)
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, got {value}", ""
    rule = limits_said(metadata)
    if rule and isinstance(value, (int, float)) and not within(value, metadata):
        return f"must be {rule}, got {value:g}" if isinstance(value, float) else f"must be {rule}, got {value}", ""
    return None


def _no_path(value: Any) -> tuple[str, str] | None:
    """What keeps text from being a path: the system refuses it, whatever stands on the disk."""
    if not isinstance(value, str):
        return None
    if "\0" in value:
        return f"{shown(value)} holds a NUL character, which no path does", "remove it"
    if len(value) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in value.split("/")):
        return f"{shown(value)} is too long for a path", "check where its quotes end"
    if value.startswith("~") and os.path.expanduser(value) == value:
        what = f"{shown(value)} begins with the home folder of a user that is not here"
        return what, "write the whole path, or ./~… for a file that is called so"
    return None


def within(value: float, metadata: Mapping[str, Any]) -> bool:
    """Whether a number keeps its field's limits."""
    return (
        ("low" not in metadata or value >= metadata["low"])
        and ("high" not in metadata or value <= metadata["high"])
        and ("above" not in metadata or value > metadata["above"])
        and ("below" not in metadata or value < metadata["below"])
    )


def limits_said(metadata: Mapping[str, Any]) -> str:
    """The limits in words: `1..4096`, `> 0`, `in [0, 1)`."""
    low, high, above, below = (metadata.get(name) for name in ("low", "high", "above", "below"))
    if low is not None and high is not None:
        return f"{low}..{high}"
    if below is not None and (low is not None or above is not None):
        return f"in {'[' if low is not None else '('}{low if low is not None else above}, {below})"
    parts = [
        f"{sign} {limit}"
        for sign, limit in ((">=", low), (">", above), ("<=", high), ("<", below))
        if limit is not None
    ]
    return " and ".join(parts)


# What other tools call our settings, beside TRL's own names, which the methods list.
FOREIGN = {
    "lr": "training.learning_rate",
    "batch": "training.batch_size",
    "r": "tuning.rank",
    "lora_r": "tuning.rank",
    "lora_rank": "tuning.rank",
    "lora_alpha": "tuning.alpha",
    "lora_dropout": "tuning.dropout",
    "target_modules": "tuning.targets",
    "lora_target": "tuning.targets",
    "dataset": "data.train",
    "base_model": "model.name",
    "model_name_or_path": "model.name",
    "num_processes": "launch.processes",
    "cutoff_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "sequence_len": "data.max_length",
}


def unknown_key(key: str, choices: Mapping[str, str]) -> tuple[str, str]:
    """What to say of a key that no setting has, and what was probably meant."""
    known, (group, _, rest) = settings_of(choices), key.partition(".")
    owners = [
        option for option, kind in typed_options(group).items() if rest in {f.name for f in dataclasses.fields(kind)}
    ]
    if rest and owners and group in choices:
        having = " and ".join(f"{group}={option}" for option in owners)
        verb = "has" if len(owners) == 1 else "have"
        return f"{group}={choices[group]} has no such setting", f"{having} {verb} it"
    leaf = key.rpartition(".")[2]
    foreign = {**METHODS[choices["method"]].OWNED, **FOREIGN}
    same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
    if same_leaf:
        near = did_you_mean(key, same_leaf) or f"did you mean {listed(same_leaf)}?"
    elif leaf in foreign:
        near = f"did you mean {foreign[leaf]}?"
    elif "." in key:
        near = did_you_mean(key, known) or _nearest_leaf(leaf, known)
    else:
        near = did_you_mean(key, [*known, *GROUPS]) or _nearest_leaf(leaf, known)
    return "unknown key", near or "`finetune train --help` lists the settings"


def _nearest_leaf(leaf: str, known: Mapping[str, Setting]) -> str:
    leaves = {key.rpartition(".")[2]: key for key in known}
    near = did_you_mean(leaf, leaves, "{}")
    return f"did you mean {leaves[near]}?" if near else ""


def open_key(key: str) -> str | None:
    """The open mapping that a key lies in, if any."""
    return next((name for name in OPEN_KEYS if key.startswith(f"{name}.")), None)
