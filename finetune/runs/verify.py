"""`finetune runs verify`: whether what a run left is whole; every byte of its checkpoints is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune import checkpoint
from finetune.artefact import ADAPTER, MODEL
from finetune.errors import GateRefused, UserError, counted
from finetune.evaluate.contents import ANSWERS, EVALUATION, artefact_digest
from finetune.rundir import OUTCOME
from finetune.runs.find import one_run
from finetune.runs.made import adapter_fault, model_fault, nothing_made
from finetune.runs.record import LINEAGE, METRICS, PLAN, read_run
from finetune.runs.values import read_values


@dataclass(frozen=True)
class Part:
    """A part of a run, and what is wrong with it."""

    path: Path
    wrong: str = ""
    cut_short: bool = False  # left so by an interruption, and known as such: the run goes on without it

    @property
    def broken(self) -> bool:
        """Whether it is other than the run left it."""
        return bool(self.wrong) and not self.cut_short

    @property
    def line(self) -> str:
        """What is said of it."""
        word = "broken" if self.broken else "cut short" if self.cut_short else "whole"
        return f"{word:<9}  {self.path}{f': {self.wrong}' if self.broken else ''}"


def command(arguments: Sequence[str], *, json_output: bool) -> int:
    """Carry out the verb; 3 when a part is broken."""
    run_dir = one_run("runs verify", arguments)
    parts = list(verify(run_dir))
    broken = [part for part in parts if part.broken]
    if json_output:
        told = [{"path": str(one.path), "wrong": one.wrong or None, "cut_short": one.cut_short} for one in parts]
        print(json.dumps({"path": str(run_dir), "whole": not broken, "parts": told}, ensure_ascii=False))
    else:
        print("\n".join([*(part.line for part in parts), f"{run_dir}: {counted(len(parts), 'part')} looked at"]))
    if broken:
        said = "; ".join(f"{part.path} {part.wrong}" for part in broken)
        raise GateRefused(f"{run_dir}: {counted(len(broken), 'part')} broken: {said}")
    return 0


def verify(run_dir: Path) -> Iterator[Part]:
    """Each part of a run, looked at; a directory that holds no run is refused."""
    if not (run_dir / PLAN).exists():
        read_run(run_dir)
    for name in (PLAN, LINEAGE, OUTCOME, EVALUATION):
        if (run_dir / name).exists():
            yield Part(run_dir / name, _said(run_dir / name))
    for name in (METRICS, ANSWERS):
        if (run_dir / name).exists():
            yield _lines(run_dir / name)
    for _, folder in sorted(checkpoint.folders(run_dir)):
        sealed = (folder / checkpoint.MANIFEST).exists()
        yield Part(folder, checkpoint.verify(folder) or "", cut_short=not sealed)
    yield from _artefact(run_dir)


def _said(path: Path) -> str:
    """What is wrong with a JSON file."""
    try:
        read_values(path)
    except UserError as error:
        return error.faults[0].what
    return ""


def _lines(path: Path) -> Part:
    """A file of JSON lines; a kill may cut the last one short."""
    lines = path.read_bytes().split(b"\n")
    bad = [number for number, line in enumerate(lines, 1) if line and not _is_json(line)]
    if bad == [len(lines)]:
        return Part(path, f"line {bad[0]:,} is not whole", cut_short=True)
    return Part(path, f"line {bad[0]:,} is not JSON" if bad else "")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _artefact(run_dir: Path) -> Iterator[Part]:
    """The saved adapter or model: its files, and whether it is still what was evaluated."""
    adapter, model = run_dir / ADAPTER, run_dir / MODEL
    finished = (run_dir / OUTCOME).exists()
    for folder, wrong in ((adapter, adapter_fault), (model, model_fault)):
        if folder.is_dir():
            said = wrong(folder) or (_other_weights(run_dir) if finished else "")
            # a save that was interrupted is made anew when the run goes on
            yield Part(folder, said, cut_short=bool(said) and not finished)
    if finished and not adapter.is_dir() and not model.is_dir():
        yield Part(run_dir, nothing_made())


def _other_weights(run_dir: Path) -> str:
    """Weights that changed after they were evaluated were changed by no run: that removes the evaluation first."""
    try:
        evaluation = read_values(run_dir / EVALUATION)
        same = evaluation is None or evaluation.at("artefact", str) == artefact_digest(run_dir)
    except UserError:  # told of already
        return ""
    return "" if same else f"holds other weights than those that {EVALUATION} is of"
