"""What a run directory holds, as far as it is there, read for its report."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.artefact import ADAPTER, MODEL
from finetune.errors import UserError, counted

EVALUATION, ANSWERS = "eval.json", "answers.jsonl"
SAMPLES = "completions.jsonl"  # of what a model answered while it learned from its own answers
DIGESTED = 2**20  # bytes of each weights file's end

JsonObject = Mapping[str, Any]
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Contents:
    """The files of a run; what is missing is None or empty."""

    name: str
    plan: JsonObject | None
    metrics: tuple[JsonObject, ...]
    evaluation: JsonObject | None
    answers: tuple[JsonObject, ...]
    lineage: JsonObject | None
    config: str
    preview: str
    has_preview_page: bool
    samples: tuple[JsonObject, ...] = ()

    @property
    def subtitle(self) -> str:
        """One line under the name."""
        if self.plan is None:
            return "a run of finetune"
        config, train = self.plan["config"], self.plan["data"]["train"]
        tuned = f"{config['method']['option']}, {config['tuning']['option']}"
        rows = counted(train["rows"], "row") if self.plan["batch"]["epochs"] is not None else "streamed rows"
        length = f"{rows} · {counted(self.plan['batch']['steps'], 'step')}"
        return f"{self.plan['model']['name']} · {tuned} · {length}"

    @property
    def origin(self) -> str:
        """One line at the foot."""
        return f"Made from the files of the run directory. {self.machine}".strip()

    @property
    def machine(self) -> str:
        """What it ran on: the device and the versions."""
        versions = self.lineage["versions"] if self.lineage else {}
        device = [self.plan["machine"]["device_name"]] if self.plan else []
        return ", ".join([*device, *(f"{name} {version}" for name, version in versions.items())])

    @property
    def is_paid(self) -> bool:
        """Whether the model learned from what its own answers were paid, so that its loss says nothing."""
        return any("reward" in row for row in self.metrics)

    @property
    def warnings(self) -> Sequence[str]:
        """What the plan warned of."""
        return self.plan["warnings"] if self.plan else ()


def read_contents(run_dir: Path) -> Contents:
    """Read the files that are there, except an evaluation of weights that were replaced since."""
    evaluation = read_object(run_dir / EVALUATION)
    if evaluation is not None and evaluation["artefact"] != artefact_digest(run_dir):
        evaluation = None
    return Contents(
        run_dir.resolve().name,
        read_object(run_dir / "plan.json"),
        read_lines(run_dir / "metrics.jsonl"),
        evaluation,
        read_lines(run_dir / ANSWERS),
        read_object(run_dir / "lineage.json"),
        _text(run_dir / "config.yaml"),
        _text(run_dir / "preview.txt"),
        (run_dir / "preview.html").exists(),
        read_lines(run_dir / SAMPLES),
    )


def artefact_digest(run_dir: Path) -> str:
    """Changes when the run's result does."""
    return weights_digest([run_dir / ADAPTER, run_dir / MODEL])


def weights_digest(folders: Iterable[Path]) -> str:
    """Changes when weights do; quick, since only the ends of their files are read."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(max(0, size - DIGESTED))
                digest.update(f"{path.name} {size} ".encode() + file.read())
    return digest.hexdigest()[:16]


def tiles(contents: Contents) -> Pairs:
    """The numbers of the training that are looked for first: name and value."""
    steps = [row for row in contents.metrics if "loss" in row]
    name, best = ("reward", max) if contents.is_paid else ("loss", min)
    trained = [row[name] for row in steps if _finite(row.get(name))]
    held_out = [row[f"eval_{name}"] for row in contents.metrics if _finite(row.get(f"eval_{name}"))]
    pairs: Pairs = []
    if steps:
        pairs.append(("steps", f"{steps[-1]['step']:,}"))
    if trained:
        pairs.append((f"train {name} at the end", f"{trained[-1]:.3f}"))
    if held_out and contents.is_paid:
        pairs.append(("held-out reward at the start", f"{held_out[0]:.3f}"))
    if held_out:
        pairs.append((f"best held-out {name}", f"{best(held_out):.3f}"))
    if steps and _finite(steps[-1].get("tokens")):
        pairs.append(("tokens seen", f"{steps[-1]['tokens']:,.0f}"))
    speeds = sorted(row["tokens_per_second"] for row in steps if _finite(row.get("tokens_per_second")))
    if speeds:
        pairs.append(("tokens a second", f"{speeds[len(speeds) // 2]:,.0f}"))
    return pairs


def facts(contents: Contents) -> Pairs:
    """What was trained, on what, and where."""
    plan = contents.plan
    if plan is None:
        return []
    model, batch, data = plan["model"], plan["batch"], plan["data"]
    train, held_out = data["train"], data["held_out"]
    tokens = counted(train["tokens"], "token")
    if train["supervised_tokens"]:
        tokens += f", {train['supervised_tokens']:,} of them learned"
    is_stream = batch["epochs"] is None
    epochs = " over a stream of rows" if is_stream else f", {counted(batch['epochs'], 'epoch')}"
    share = f"{plan['trainable'] / max(1, model['parameters']):.2%} of the base"
    seen = counted(batch["effective"], "row" if batch.get("answers", 1) == 1 else "answer")
    arithmetic = f"{batch['micro']} × {batch['accumulation']} × {batch['processes']} = {seen}"
    return [
        ("base model", f"{model['name']} ({model['architecture']}, {model['parameters']:,} parameters)"),
        ("trained", f"{plan['config']['tuning']['option']}: {plan['trainable']:,} parameters, {share}"),
        ("first window of rows" if is_stream else "training rows", f"{counted(train['rows'], 'row')}, {tokens}"),
        ("held out", counted(held_out["rows"], "row") if held_out else "none"),
        ("batch", f"{arithmetic} a step"),
        ("length", f"{counted(batch['steps'], 'step')}{epochs}"),
        ("device", f"{batch['processes']} × {plan['machine']['device_name']}"),
        ("command", plan["command"]),
    ]


def settings(contents: Contents) -> list[tuple[str, str, str]]:
    """Each setting that is not a plain default: key, value, where it came from."""
    plan = contents.plan
    if plan is None:
        return []
    resolved = {key.rpartition(".")[2]: value for key, value in plan["resolved"].items()}
    rows = [
        (key, str(resolved.get(key.rpartition(".")[2])), plan["sources"].get(key) or f"plan: {reason}")
        for key, reason in plan["reasons"].items()
        if key.rpartition(".")[2] in resolved
    ]
    named = {key for key, _, _ in rows}
    rows += [
        (key, str(_at(plan["config"], key)), source) for key, source in plan["sources"].items() if key not in named
    ]
    return sorted(rows)


def passed(contents: Contents) -> Pairs:
    """The lineage as dotted names and values."""
    lineage = dict(contents.lineage or {})
    if before := lineage.pop("ancestors", []):
        lineage["ancestors"] = ", ".join(f"{one['run']} ({one['method']}, {one['tuning']})" for one in before)
    return list(_flat(lineage, ""))


def _flat(value: Any, prefix: str) -> Pairs:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}{key}.")]
    return [] if value is None else [(prefix[:-1], str(value))]


def _at(config: Any, key: str) -> Any:
    """The value of a dotted key; of a group, its option, and of a model its name."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ""
        config = config[part]
    return config.get("option", config.get("name", "")) if isinstance(config, Mapping) else config


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_object(path: Path) -> JsonObject | None:
    """What a JSON file of a run holds, None when it is not there; one that is damaged is named."""
    if not path.is_file():
        return None
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise UserError.at(str(path), "is damaged", "restore it, or make it anew")


def read_lines(path: Path) -> tuple[JsonObject, ...]:
    """The rows of a file of JSON lines; a last line that a kill cut short is left out."""
    rows = []
    for line in _text(path).split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return tuple(rows)
