"""The settings of a verb other than `train`: files and `key=value` → a typed schema, with the same messages."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from finetune.compose import checked_column, opened_mappings, options_of
from finetune.config import OPEN_KEYS
from finetune.errors import Fault, UserError, did_you_mean, listed
from finetune.settings.catalogue import (
    GROUPS,
    Setting,
    converted,
    open_key,
    outside,
    settings_in,
    shown,
)
from finetune.settings.overrides import Assignment, group_choice, parse_override, split_overrides
from finetune.settings.shipped import configs_folder
from finetune.settings.yaml_files import read_entries

T = TypeVar("T")


def read_verb(verb: str, schema: T, arguments: Sequence[str], idle: tuple[str, ...] = ()) -> tuple[list[str], T]:
    """The paths among the arguments, and the schema with the values that the others give.

    `schema`, which is not changed, is a dataclass whose sections are dataclasses, as RunConfig is; `model=tiny` picks
    a preset where it has a section of that name. Every fault is raised at once, and none of them proposes a setting
    that is `idle`, which the verb refuses.
    """
    schema, faults = copy.deepcopy(schema), list[Fault]()
    paths = [argument for argument in arguments if _is_path(argument)]
    pairs = split_overrides([argument for argument in arguments if not _is_path(argument)], faults)
    settings = {setting.key: setting for setting in settings_in(schema)}
    layers: list[Assignment] = []
    groups = [item.name for item in fields(schema) if item.name in GROUPS and is_dataclass(getattr(schema, item.name))]  # type: ignore[arg-type]
    for key, raw in pairs:
        if key in groups:
            layers += _preset(key, raw, faults)
    for key, raw in pairs:
        if key in settings or open_key(key) in settings:
            layers += [given] if (given := parse_override(key, raw, settings, faults)) else []
        elif key not in groups:
            faults.append(_unknown(verb, key, [name for name in settings if not name.startswith(idle)]))
    values = {layer.key: layer for layer in opened_mappings(layers)}
    for layer in values.values():
        _set(schema, layer, settings, faults)
    if faults:
        raise UserError(faults)
    return paths, schema


def _is_path(argument: str) -> bool:
    return "=" not in argument or os.path.exists(argument)


def _preset(group: str, raw: str, faults: list[Fault]) -> list[Assignment]:
    """What the file of an option says."""
    option = group_choice(group, raw, faults)
    if option is None:
        return []
    if option not in options_of(group):
        mend = did_you_mean(option, options_of(group)) or f"for any other write {group}.name={option}"
        faults.append(Fault(group, f"no option {shown(option)}", mend))
        return []
    shown_as = f"configs/{group}/{option}.yaml"
    entries = read_entries(configs_folder() / group / f"{option}.yaml", shown_as)
    return [Assignment(f"{group}.{entry.key}", entry.value, entry.text, group, shown_as) for entry in entries]


def _set(schema: Any, layer: Assignment, settings: Mapping[str, Setting], faults: list[Fault]) -> None:
    mapping = open_key(layer.key)
    section, _, name = layer.key.rpartition(".")
    if mapping:
        if column := checked_column(layer, faults):
            _at(schema, mapping)[layer.key.removeprefix(f"{mapping}.")] = column.value
        return
    setting = settings[layer.key]
    try:
        value = converted(setting, layer.value, layer.text)
    except ValueError as error:
        faults.append(Fault(layer.where, str(error)))
        return
    for item in value if isinstance(value, list) else [value]:
        if wrong := outside(item, setting.metadata):
            faults.append(Fault(layer.where, *wrong))
            return
    setattr(_at(schema, section), name, value)


def _at(schema: Any, section: str) -> Any:
    for name in section.split(".") if section else []:
        schema = getattr(schema, name)
    return schema


def _unknown(verb: str, key: str, settings: Sequence[str]) -> Fault:
    known = [name for name in settings if name not in OPEN_KEYS]
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    near = f"did you mean {same_leaf[0]}?" if same_leaf else did_you_mean(key, known)
    return Fault(key, f"`finetune {verb}` has no such setting", near or f"it has {listed(known, 30)}")
