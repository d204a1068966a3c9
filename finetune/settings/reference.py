"""The reference of all settings, made from the schema: docs/config-reference.md, and the list in `--help`.

python -m finetune.settings.reference            write the page
python -m finetune.settings.reference --check    exit 1 when the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from finetune.config import NOT_IDENTITY, RunConfig
from finetune.settings.catalogue import GROUPS, Setting, limits_said, settings_in, settings_of_kind, typed_options
from finetune.settings.shipped import PACKAGE, configs_folder

PAGE = PACKAGE.parent / "docs" / "config-reference.md"
OPENING = """# Settings

Generated from `finetune/config.py` and `finetune/methods/` by `python -m finetune.settings.reference`: change those
instead of this page.

A setting is given on the command line as `key=value`, in a recipe as `key: value`. The command line wins
over the recipe, the recipe over the option's file in `configs/`, and that over the default below. With a
default of `null` the plan chooses by device, model, method or data, or does without; `finetune plan` shows
what was chosen and why. *Same run* marks the settings that do not make another run: with a new value of one,
the same run goes on.

`method.trl.<key>` takes any argument of TRL's own configuration for the method, but those that a key of
ours decides.

## Recipes

A recipe is a file with the differences of a run from the defaults, in the same keys as the command line;
sections may be nested or dotted, and a group takes the name of an option. `--recipe` takes the name of a
recipe that comes with the package, the path of a file, a recipe's folder or a run directory. An option picked
on the command line replaces the recipe's, with the settings that only the recipe's option has.

```yaml
model: tiny
tuning: qlora
tuning.rank: 32
data:
  # A path that starts with ./ is relative to the recipe's own folder.
  train: ./train.jsonl
training:
  epochs: 2
  learning_rate: 1e-4
```

The `config.yaml` of a run is such a recipe too. There the options stand in a list, as Hydra spells them,
because the groups' own keys hold their settings:

```yaml
defaults:
  - tuning: qlora
tuning:
  rank: 32
```
"""
TABLE = "| key | type | default | allowed | what it is |\n|---|---|---|---|---|"


def settings_in_brief() -> list[str]:
    """One line a setting, for `--help`."""
    lines = ["settings (key=value):"]
    for title, settings in sections():
        lines += ["", f"  {title.replace('`', '')}", *(brief(setting) for setting in settings)]
    return lines


def own_settings(schema: Any) -> list[str]:
    """One line a setting of a verb that has its own, for `--help`."""
    return ["settings (key=value):", *(brief(setting) for setting in settings_in(schema))]


def brief(setting: Setting) -> str:
    """One line about a setting."""
    limits = said_limits(setting)
    return f"    {setting.key}={said_default(setting)}  {setting.help}" + (f" ({limits})" if limits else "")


def sections() -> Iterator[tuple[str, list[Setting]]]:
    """Titles and settings of the sections: the top, each group, each option with settings of its own."""
    yield "the run", [setting for setting in settings_of_kind(RunConfig, "") if "." not in setting.key]
    shape = RunConfig()
    for item in fields(RunConfig):
        if not is_dataclass(getattr(shape, item.name)):
            continue
        options = typed_options(item.name)
        shared = settings_of_kind(_base(options, type(getattr(shape, item.name))), f"{item.name}.")
        if shared:
            yield f"`{item.name}`", shared
        yield from _options(item.name, options, shared)


def _options(group: str, options: dict[str, type[Any]], shared: list[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    """Each option's own settings; those of an option that it extends are named, not repeated."""
    for option, kind in options.items():
        extended = next((name for name, other in options.items() if other in kind.__mro__[1:]), None)
        known = settings_of_kind(options[extended], f"{group}.") if extended else shared
        own = [setting for setting in settings_of_kind(kind, f"{group}.") if setting not in known]
        title = f"`{group}={option}`" + (f", beside those of `{group}={extended}`" if extended else "")
        if own:
            yield title, own


def _base(options: dict[str, type[Any]], alone: type[Any]) -> type[Any]:
    """What all options of a group have in common: the last class before object that each of them extends."""
    if not options:
        return alone
    first, *others = options.values()
    shared: type[Any] = [kind for kind in first.__mro__ if all(issubclass(other, kind) for other in others)][-2]
    return shared


def page() -> str:
    """The whole page."""
    parts = [OPENING, _groups()]
    for title, settings in sections():
        rows = "\n".join(_row(setting) for setting in settings)
        parts.append(f"## {title}\n\n{TABLE}\n{rows}\n")
    return "\n".join(parts)


def _groups() -> str:
    rows = []
    for group in GROUPS:
        paths = sorted((configs_folder() / group).glob("*.yaml"))
        rows += [f"| `{group}={path.stem}` | {_purpose(path)} |" for path in paths]
    return "## Options of groups\n\n| option | when to use it |\n|---|---|\n" + "\n".join(rows) + "\n"


def _purpose(path: Path) -> str:
    """The comment at the top of an option's file, up to the command that it shows."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("# Run"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).replace("|", "\\|")


def _row(setting: Setting) -> str:
    same = " *Same run.*" if _same_run(setting.key) else ""
    cells = (
        f"`{setting.key}`",
        said_kind(setting),
        f"`{said_default(setting)}`",
        said_limits(setting),
        setting.help + same,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _same_run(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)


def said_kind(setting: Setting) -> str:
    """A type in the words of the page."""
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Any: "path or list of paths",
    }
    if setting.kind in words:
        return words[setting.kind]
    return {"list[str]": "list of texts", "list[float]": "list of numbers"}.get(str(setting.kind), "mapping")


def said_default(setting: Setting) -> str:
    """A default as one would type it."""
    if setting.default == MISSING:
        return "must be given"
    if setting.default is None:
        return "null"
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    if isinstance(setting.default, list):
        return f"[{','.join(map(str, setting.default))}]"
    return str(setting.default)


def said_limits(setting: Setting) -> str:
    """What values are allowed."""
    choices = setting.metadata.get("choices")
    return ", ".join(str(choice) for choice in choices) if choices else limits_said(setting.metadata)


def main(argv: Sequence[str]) -> int:
    """Write the page, or with `--check` say whether it is stale."""
    fresh = page()
    if list(argv) == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == fresh:
            return 0
        print(f"{PAGE.name} is stale; run python -m finetune.settings.reference", file=sys.stderr)
        return 1
    if argv:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
