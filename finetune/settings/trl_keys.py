"""The arguments that TRL's own configuration takes, read from its source without importing it or torch.

Importing a TRL configuration costs seconds; walking the syntax tree of the three files that define one costs
milliseconds and gives the same names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from finetune.errors import Fault, did_you_mean
from finetune.methods import METHODS
from finetune.model_files.architectures import package_folder

# transformers exports its names lazily, so that the import of a name does not say which file defines it.
DEFINED_IN = {("transformers", "TrainingArguments"): "transformers.training_args"}
PLAIN: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "dict": dict,
    "list": list,
    "None": type(None),
}
SAID = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping",
}


@cache
def trl_arguments(method: str) -> dict[str, str]:
    """Every argument of the TRL configuration that a method builds, with its annotation."""
    module, name = METHODS[method].TRL_CONFIG
    return dict(_fields(module, name))


def check_trl(method: str, key: str, value: Any, where: str) -> list[Fault]:
    """What is wrong with `method.trl.<key>=<value>`: unknown, ours to set, or of the wrong type."""
    arguments, owned = trl_arguments(method), METHODS[method].OWNED
    config = METHODS[method].TRL_CONFIG[1]
    if key in owned:
        return [Fault(where, f"{key} is set by {owned[key]}", f"use {owned[key]}")]
    if key not in arguments:
        near = did_you_mean(key, arguments, "{}")
        meant = owned.get(near) or (f"method.trl.{near}" if near else "")
        mend = f"did you mean {meant}?" if meant else f"see the documentation of {config}"
        return [Fault(where, f"TRL's {config} has no argument {key}", mend)]
    wanted = _plain_kinds(arguments[key])
    if wanted and not any(_fits(value, kind) for kind in wanted):
        said = " or ".join(SAID.get(kind, "null" if kind == "None" else f"a {kind}") for kind in wanted)
        return [Fault(where, f"{value!r} is not {said}", f"TRL's {config} takes {arguments[key]}")]
    return []


def _fits(value: Any, kind: str) -> bool:
    return isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))


def _plain_kinds(annotation: str) -> list[str]:
    """The plain types that an annotation allows; none when a part is not plain: then all may be right."""
    kinds = []
    for part in _parts(ast.parse(annotation, mode="eval").body):
        name = "None" if isinstance(part, ast.Constant) and part.value is None else ast.unparse(part).partition("[")[0]
        if name not in PLAIN:
            return []
        kinds.append(name)
    return kinds


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield node


def _fields(module: str, name: str) -> Iterator[tuple[str, str]]:
    """Names and annotations of a dataclass's fields, those of its bases first."""
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    node = next(item for item in tree.body if isinstance(item, ast.ClassDef) and item.name == name)
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id != "object":
            yield from _fields(*_defined_in(base.id, tree, module))
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_argument(item):
            yield item.target.id, ast.unparse(item.annotation)


def _is_argument(item: ast.AnnAssign) -> bool:
    """Whether a class-level annotation is a field that the constructor takes."""
    if "ClassVar" in ast.unparse(item.annotation):
        return False
    given = item.value.keywords if isinstance(item.value, ast.Call) else []
    return not any(word.arg == "init" and ast.unparse(word.value) == "False" for word in given)


def _defined_in(name: str, tree: ast.Module, module: str) -> tuple[str, str]:
    """The module that defines a name used in another one."""
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and name in [alias.asname or alias.name for alias in item.names]:
            parent = ".".join(module.split(".")[: -item.level]) if item.level else ""
            source = ".".join(part for part in (parent, item.module) if part)
            return DEFINED_IN.get((source, name), source), name
    return module, name


def _source(module: str) -> Path:
    package, *rest = module.split(".")
    path = package_folder(package).joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
