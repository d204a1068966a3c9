"""Task files of lm-evaluation-harness, read as data: such a file can name code to run in more ways than one.

The harness would import what a tag `!function` or a key `class` names, download and run a metric that it does not
know, and render templates outside of a sandbox. Here the file is read without it, and what asks for code is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import SHOWN_FAULTS, Fault, UserError, listed
from finetune.settings.yaml_files import read_text

ALLOW = "if you trust it, set evaluate.allow_task_code=true"
CODE = ("class", "custom_dataset", "use_prompt")  # keys that stand for code of somebody's
LOADERS = ("json", "csv", "parquet", "text", "arrow")  # local data that holds nothing but rows
LOADING = ("data_files", "data_dir", "revision", "field", "sep", "delimiter", "column_names")
GENERATING = ("until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k")
DEEPEST = 8  # files that include one another


def read_task(path: Path, metrics: Sequence[str]) -> dict[str, Any]:
    """The task or group of a file, with what it includes; `metrics` are those that the harness has of its own."""
    config = _read(path, ())
    faults = list(_faults(config, str(path), metrics))
    if not any(isinstance(config.get(key), str) for key in ("task", "group")):
        faults.append(Fault(f"{path} task", "is missing", "give the task a name"))
    if faults:
        raise UserError(faults[:SHOWN_FAULTS], len(faults))
    return config


class _Plain(yaml.SafeLoader):
    """Data only: every tag is a fault."""


def _refuse(loader: _Plain, tag: str, node: yaml.Node) -> None:
    raise yaml.MarkedYAMLError(problem=f"!{tag} asks for code", problem_mark=node.start_mark)


_Plain.add_multi_constructor("!", _refuse)


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    real = path.expanduser().resolve()
    if real in above or len(above) > DEEPEST:
        raise UserError.at(f"{path} include", "files include one another in a circle", "take one of them out")
    try:
        found = yaml.load(read_text(real, str(path)), Loader=_Plain)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        asks = "asks for code" in str(error.problem)
        mend = ALLOW if asks else "correct the file"
        raise UserError.at(f"{path}{line}", str(error.problem or "is no YAML"), mend) from None
    except yaml.YAMLError:
        raise UserError.at(str(path), "is no YAML", "correct the file") from None
    if not isinstance(found, dict):
        raise UserError.at(str(path), "holds no task", "give the YAML file of one task or group")
    included = found.pop("include", None) or []
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _read(real.parent / str(name), (*above, real))
    return merged | found


def _faults(config: Mapping[str, Any], where: str, metrics: Sequence[str]) -> Iterator[Fault]:
    for key in CODE:
        if config.get(key) is not None:
            yield Fault(f"{where} {key}", "asks for code", ALLOW)
    if config.get("unsafe_code"):
        yield Fault(f"{where} unsafe_code", "runs code that the model writes", ALLOW)
    source = config.get("dataset_path")
    if isinstance(source, str) and source not in LOADERS and "/" not in source:
        what = f"{source!r} is no plain rows"
        yield Fault(f"{where} dataset_path", what, f"take {listed(LOADERS)}, or a hub id such as org/name")
    yield from _keys(config, "dataset_kwargs", LOADING, where)
    yield from _keys(config, "generation_kwargs", GENERATING, where)
    yield from _metrics(config.get("metric_list"), where, metrics)
    inner = config.get("task")
    for number, member in enumerate(inner if isinstance(inner, list) else [], 1):
        if isinstance(member, Mapping):
            yield from _faults(member, f"{where} task {number}", metrics)


def _keys(config: Mapping[str, Any], key: str, known: Sequence[str], where: str) -> Iterator[Fault]:
    given = config.get(key)
    for name in given if isinstance(given, Mapping) else ():
        if name not in known:
            yield Fault(f"{where} {key}.{name}", "is not known to be harmless", f"leave it out, or {ALLOW}")


def _metrics(given: Any, where: str, known: Sequence[str]) -> Iterator[Fault]:
    for entry in given if isinstance(given, list) else ():
        name = entry.get("metric") if isinstance(entry, Mapping) else entry
        if not isinstance(entry, Mapping) or entry.get("hf_evaluate") or name not in known:
            what = f"{name!r} is no metric of the harness, which would download and run it"
            yield Fault(f"{where} metric_list", what, f"take one of {listed(sorted(known), 8)}, or {ALLOW}")
