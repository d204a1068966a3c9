"""From overrides and a recipe to one typed configuration, through Hydra; every fault is found on the way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from omegaconf import MISSING

from finetune.config import NOT_IDENTITY, OPEN_KEYS, RunConfig, flatten
from finetune.errors import SHOWN_FAULTS, Fault, UserError, did_you_mean, listed
from finetune.settings.catalogue import (
    GROUPS,
    Setting,
    check_limits,
    converted,
    cut,
    open_key,
    option_kind,
    outside,
    schema_of,
    sections_of,
    settings_of,
    shown,
    typed_options,
    unknown_key,
)
from finetune.settings.overrides import Assignment, group_choice, is_group, parse_override, split_overrides
from finetune.settings.recipe import OWN_PATHS, Recipe, read_recipe
from finetune.settings.refused import refused
from finetune.settings.shipped import configs_folder
from finetune.settings.trl_keys import check_trl
from finetune.settings.yaml_files import read_entries

__all__ = ["Composed", "check_limits", "compose", "config_from_dict", "config_to_dict", "identity"]


@dataclass(frozen=True)
class Composed:
    """A composed configuration and where its values came from."""

    config: RunConfig
    sources: dict[str, str]  # dotted key, or group → override, recipe NAME, configs/…; a default has no entry
    choices: dict[str, str]  # group → option
    recipe: str | None
    yaml: str  # as `--cfg job` prints it; usable as a recipe
    arguments: tuple[str, ...] = ()  # as a person gave them


def compose(arguments: Sequence[str], recipe: str | None = None) -> Composed:
    """The configuration that overrides make on top of a recipe, the options' files and the schema's defaults.

    Every fault that can be found is raised at once as a UserError.
    """
    return compose_on(arguments, read_recipe(recipe) if recipe is not None else None)


def compose_on(arguments: Sequence[str], base: Recipe | None) -> Composed:
    """The same on a recipe that was read."""
    faults: list[Fault] = []
    pairs = split_overrides(arguments, faults)
    chosen = _chosen(pairs, base, faults)
    defaults = default_choices()
    choices = {**defaults, **{choice.key: choice.value for choice in chosen}}
    settings = settings_of(choices)
    # An option that is picked on the command line wins over the recipe with all that its file says.
    picked = {choice.key: choice.value for choice in chosen if choice.source == "override"}
    layers = _from_group_files({group: choices[group] for group in choices if group not in picked}, faults)
    layers += [layer for layer in _from_recipe(base, faults) if not _replaced(layer, base, defaults, picked, settings)]
    layers += _from_group_files(picked, faults)
    layers += [
        assignment
        for key, raw in pairs
        if not is_group(key) and (assignment := parse_override(key, raw, settings, faults))
    ]
    given = _checked(opened_mappings(layers), choices, settings, faults)
    if faults:
        raise UserError(faults)
    as_given = (*arguments, *(("--recipe", base.name) if base is not None else ()))
    return replace(_composed(choices, chosen, given, base), arguments=as_given)


def _composed(
    choices: dict[str, str], chosen: list[Assignment], given: dict[str, Assignment], base: Recipe | None
) -> Composed:
    tree = _through_hydra(choices, given)
    if faults := _missing(tree, given):
        raise UserError(faults)
    from omegaconf import OmegaConf

    config: RunConfig = OmegaConf.to_object(tree)  # type: ignore[assignment]
    if faults := check_limits(config, {key: assignment.where for key, assignment in given.items()}):
        raise UserError(faults)
    sources = {item.key: item.source for item in [*chosen, *given.values()]}
    return Composed(config, sources, choices, base.name if base else None, written(config))


def default_choices() -> dict[str, str]:
    """The option of each group that is picked when nothing is said."""
    (entry,) = read_entries(configs_folder() / "config.yaml", "configs/config.yaml")
    options = [item for item in entry.value if isinstance(item, dict)]
    return {group: option for item in options for group, option in item.items() if option is not None}


def _chosen(pairs: list[tuple[str, str]], base: Recipe | None, faults: list[Fault]) -> list[Assignment]:
    """The options picked by the recipe, then by overrides; names that no option has become faults."""
    picked = {choice.key: choice for choice in (base.choices if base else ())}
    for key, raw in pairs:
        if is_group(key) and (option := group_choice(key, raw, faults)):
            picked[key] = Assignment(key, option, option, key, "override")
    known = {}
    for group, choice in picked.items():
        if choice.value in options_of(group):
            known[group] = choice
        else:
            faults.append(_unknown_option(choice))
    return list(known.values())


def options_of(group: str) -> list[str]:
    """The options of a group: the names of its files."""
    return sorted(path.stem for path in (configs_folder() / group).glob("*.yaml"))


def _unknown_option(choice: Assignment) -> Fault:
    group, option, names = choice.key, str(choice.value), options_of(choice.key)
    if choice.value is None:
        return Fault(choice.where, "names no option", f"known are {listed(names, 40)}")
    what = f"no option {shown(option)}" + (f"; known are {listed(names, 40)}" if names else "")
    if group == "model":
        return Fault(
            choice.where,
            what,
            did_you_mean(option, names) or f"for any other model write model.name={cut(option)}",
        )
    if group == "data":
        return Fault(
            choice.where,
            what,
            did_you_mean(option, names) or f"for your own rows write data.train={cut(option)}",
        )
    return Fault(choice.where, what, did_you_mean(option, names, f"did you mean {group}={{}}?"))


def _from_group_files(choices: Mapping[str, str], faults: list[Fault]) -> list[Assignment]:
    layers = []
    for group, option in choices.items():
        shown_as = f"configs/{group}/{option}.yaml"
        try:
            entries = read_entries(configs_folder() / group / f"{option}.yaml", shown_as, _inside(group))
        except UserError as error:
            faults += error.faults
            continue
        for entry in entries:
            where = f"{shown_as}:{entry.line} {entry.key}"
            layers.append(Assignment(f"{group}.{entry.key}", entry.value, entry.text, where, shown_as))
    return [layer for layer in layers if _harmless(layer, faults)]


def _inside(group: str) -> tuple[str, ...]:
    return tuple(key.removeprefix(f"{group}.") for key in OPEN_KEYS)


def _from_recipe(base: Recipe | None, faults: list[Fault]) -> list[Assignment]:
    return [assignment for assignment in (base.settings if base else ()) if _harmless(assignment, faults)]


def _replaced(
    layer: Assignment,
    base: Recipe | None,
    defaults: Mapping[str, str],
    picked: Mapping[str, str],
    settings: Mapping[str, Setting],
) -> bool:
    """Whether a recipe's setting belongs to an option in whose place the command line picked another."""
    if base is None or layer.key in settings or layer.key.partition(".")[0] not in picked:
        return False
    meant = {**defaults, **{choice.key: choice.value for choice in base.choices}}
    known = {group: option for group, option in meant.items() if option in options_of(group)}
    return layer.key in settings_of({**defaults, **known})


def _harmless(assignment: Assignment, faults: list[Fault]) -> bool:
    fault = refused(assignment.key, assignment.value, assignment.where)
    if fault:
        faults.append(fault)
    return fault is None


def opened_mappings(layers: list[Assignment]) -> list[Assignment]:
    """The same, with a mapping given to an open key as a whole made one assignment for each of its keys."""
    opened: list[Assignment] = []
    for layer in layers:
        if layer.key in OPEN_KEYS and isinstance(layer.value, dict):
            for name, value in layer.value.items():
                text = value if isinstance(value, str) else None
                opened.append(replace(layer, key=f"{layer.key}.{name}", value=value, text=text))
        else:
            opened.append(layer)
    return opened


def _checked(
    layers: list[Assignment], choices: Mapping[str, str], settings: Mapping[str, Setting], faults: list[Fault]
) -> dict[str, Assignment]:
    """What is given to each key in the end, in the key's type; wrong keys and types become faults."""
    given: dict[str, Assignment] = {}
    for layer in layers:
        if checked := _check(layer, choices, settings, faults):
            given.pop(layer.key, None)
            given[layer.key] = checked
    return given


def _check(
    layer: Assignment, choices: Mapping[str, str], settings: Mapping[str, Setting], faults: list[Fault]
) -> Assignment | None:
    mapping = open_key(layer.key)
    if layer.text == MISSING and (mapping or layer.key in settings):
        return replace(layer, value=MISSING)
    if mapping == "method.trl":
        found = check_trl(choices["method"], layer.key.removeprefix("method.trl."), layer.value, layer.where)
        faults += found
        return None if found else layer
    if mapping:
        return checked_column(layer, faults)
    setting = settings.get(layer.key)
    if setting is None:
        hinted = len(faults) < SHOWN_FAULTS
        faults.append(_misplaced(layer, choices) if hinted else Fault(layer.where, "unknown key"))
        return None
    try:
        value = converted(setting, layer.value, layer.text)
    except ValueError as error:
        faults.append(Fault(layer.where, str(error), _example(setting)))
        return None
    for item in value if isinstance(value, list) else [value]:
        if wrong := outside(item, setting.metadata):
            faults.append(Fault(layer.where, *wrong))
            return None
    return replace(layer, value=_plain_path(layer.key, value))


def checked_column(layer: Assignment, faults: list[Fault]) -> Assignment | None:
    """The name of a column as text."""
    if layer.value is None or isinstance(layer.value, (list, dict)):
        faults.append(Fault(layer.where, f"{shown(layer.value)} is not a column's name", f"write {layer.key}=question"))
        return None
    return replace(layer, value=layer.text if layer.text is not None else str(layer.value))


def _misplaced(layer: Assignment, choices: Mapping[str, str]) -> Fault:
    if layer.key in sections_of(choices) or layer.key in OPEN_KEYS:
        if layer.value in ({}, None):
            return Fault(layer.where, "holds nothing", "remove it, or set something in it")
        return Fault(layer.where, f"{shown(layer.value)} is not a mapping", f"set one of its keys: {layer.key}.<key>")
    return Fault(layer.where, *unknown_key(layer.key, choices))


def _example(setting: Setting) -> str:
    example = setting.metadata.get("example")
    return f"such as {setting.key}={example}" if example else ""


def _plain_path(key: str, value: Any) -> Any:
    """A data path without a leading `./`, which in a recipe would mean the recipe's own folder."""
    if key not in OWN_PATHS:
        return value
    if isinstance(value, list):
        return [_plain_path(key, item) for item in value]
    return os.path.normpath(value) if isinstance(value, str) and value.startswith("./") else value


def _through_hydra(choices: Mapping[str, str], given: Mapping[str, Assignment]) -> Any:
    """Compose the groups over the schema, then set what was given; all of it was checked before."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="schema", node=schema_of(choices))
    with initialize_config_dir(config_dir=str(configs_folder()), version_base="1.3", job_name="finetune"):
        tree = hydra_compose("config", overrides=[f"{group}={option}" for group, option in choices.items()])
    for key, assignment in given.items():
        OmegaConf.update(tree, key, assignment.value, merge=False, force_add=open_key(key) is not None)
    return tree


# What to do about the two settings that every run must be given.
FIRST_STEPS = {
    "model.name": ("no model is chosen", "write model=tiny, or model.name=Qwen/Qwen3-0.6B for any other"),
    "data.train": (
        "no training rows are given",
        "name a file, a folder or a hub id, such as data.train=my.jsonl",
    ),
}


def _missing(tree: Any, given: Mapping[str, Assignment]) -> list[Fault]:
    """Settings that must be given and were not, in the schema or where a file says `???`."""
    from omegaconf import OmegaConf

    missing = {str(key) for key in OmegaConf.missing_keys(tree)}
    ordered = [key for key in FIRST_STEPS if key in missing] + sorted(missing - FIRST_STEPS.keys())
    return [
        Fault(
            given[key].where if key in given else key,
            *FIRST_STEPS.get(key, ("must be given", f"write {key}=…")),
        )
        for key in ordered
    ]


def written(config: RunConfig) -> str:
    """The configuration as YAML: a recipe that composes to the same configuration."""
    from omegaconf import OmegaConf

    options = [{group: getattr(config, group).option} for group in GROUPS if typed_options(group)]
    return OmegaConf.to_yaml(OmegaConf.create({"defaults": options})) + OmegaConf.to_yaml(config)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON values, each typed section with the name of its option."""
    plain: dict[str, Any] = _plain(config)
    for group in GROUPS:
        if typed_options(group):
            plain[group] = {"option": getattr(config, group).option, **plain[group]}
    return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def config_from_dict(plain: Mapping[str, Any]) -> RunConfig:
    """The configuration that config_to_dict wrote."""
    sections: dict[str, Any] = {}
    shape = RunConfig()
    for key, value in plain.items():
        if is_dataclass(getattr(shape, key)):
            settings = {name: item for name, item in value.items() if name != "option"}
            kind = option_kind(key, value["option"]) if "option" in value else type(getattr(shape, key))
            if kind is None:
                raise UserError.at(
                    key, f"no option {value['option']!r} in this version", "use the version that wrote it"
                )
            sections[key] = kind(**settings)
        else:
            sections[key] = value
    return RunConfig(**sections)


def identity(config: RunConfig) -> str:
    """Eight hex digits of all that decides what is learned: the same for the same run."""
    options = {f"{group}.option": getattr(config, group).option for group in GROUPS if typed_options(group)}
    values = {**options, **{key: value for key, value, _ in flatten(config)}}
    kept = {
        key: value
        for key, value in values.items()
        if not any(key == out or key.startswith(f"{out}.") for out in NOT_IDENTITY)
    }
    canonical = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:8]
