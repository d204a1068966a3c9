"""What the plan of a run would stand on: its rows in tokens, counted by the plan's own code where that can be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune.choose.seen import MOST_CHARACTERS, MOST_ROWS, samples
from finetune.choose.situation import COUNTED, GUESSED, SAMPLED, Rows, Tokens
from finetune.compose import Composed
from finetune.config import DataConfig, RunConfig
from finetune.data.prepare import PreparedData, SplitFacts
from finetune.errors import Fault, UserError
from finetune.machine import Machine
from finetune.methods import METHODS
from finetune.model_files import ModelFacts
from finetune.plan.checks import check_facts, check_settings
from finetune.plan.facts import Facts, gather, longest_possible

CHARACTERS_OF_A_TOKEN = 4  # of English text with a common tokenizer: a rough estimate
LENGTH = 1024  # tokens of a row, where none are shown


@dataclass(frozen=True)
class Basis:
    """What a plan is made from, and how far it is known."""

    config: RunConfig
    facts: Facts
    tokens: Tokens
    refused: str = ""  # the first fault for which the plan would refuse the run


def guess(rows: Sequence[Rows], data: DataConfig) -> Tokens:
    """The tokens of rows from their characters."""
    total = round(sum(one.characters for one in rows) * _trained_share(data) / CHARACTERS_OF_A_TOKEN)
    return Tokens(total, max((one.longest for one in rows), default=0) // CHARACTERS_OF_A_TOKEN, GUESSED)


def counted(run: Composed, rows: Sequence[Rows], model: ModelFacts, machine: Machine) -> Basis:
    """What the plan of a run would find out; guessed where it would refuse the rows."""
    config = run.config
    try:
        facts, tokens, misfits = _gathered(run, rows, machine)
    except UserError as error:
        return replace(guessed(run, rows, model, machine), refused=str(error.faults[0]))
    faults = [*check_settings(config, run.sources, machine), *misfits]
    return Basis(config, facts, tokens, str(faults[0]) if faults else "")


def guessed(run: Composed, rows: Sequence[Rows], model: ModelFacts, machine: Machine) -> Basis:
    """The same without a look at the rows, or at models beside the base."""
    data = run.config.data
    tokens, most = guess(rows, data), data.max_length or longest_possible(model)
    longest = min(tokens.longest or data.max_length or LENGTH, most)
    count = sum(one.count for one in rows)
    split = SplitFacts("", count, tokens.total, tokens.total, longest)
    facts = Facts(model, PreparedData("", "chat", split, None, "none", "", None), machine, False)
    return Basis(replace(run.config, method=METHODS["sft"].Config()), facts, tokens)


def _gathered(run: Composed, rows: Sequence[Rows], machine: Machine) -> tuple[Facts, Tokens, list[Fault]]:
    """The facts of the plan, and what does not fit them: of all rows where they are few, else of the first ones."""
    config = run.config
    few = sum(one.count for one in rows) <= MOST_ROWS and sum(one.characters for one in rows) <= MOST_CHARACTERS
    with TemporaryDirectory() as folder:
        there = replace(config, output_dir=folder)
        if few and all(one.exact for one in rows):
            facts = gather(there, machine)
            tokens = Tokens(facts.data.train.tokens, facts.data.train.longest, COUNTED)
            return facts, tokens, check_facts(there, run.sources, facts)
        files = _write_samples(config.data, Path(folder))
        try:
            facts = gather(replace(there, data=_of_samples(config.data, files)), machine)
        except UserError as error:
            names = dict(zip(files, (one.given for one in rows), strict=True))
            raise UserError([_renamed(fault, names) for fault in error.faults], error.total) from error
        misfits = check_facts(there, run.sources, facts)
    total = _of_all(config.data, rows, facts.data.mixture)
    return facts, Tokens(total, facts.data.train.longest, SAMPLED), misfits


def _renamed(fault: Fault, names: Mapping[str, str]) -> Fault:
    """A fault of a sample as one of its source, whose first rows it has."""
    file = next((file for file in names if fault.where.startswith(file)), "")
    return replace(fault, where=fault.where.replace(file, names[file], 1)) if file else fault


def _of_all(data: DataConfig, rows: Sequence[Rows], mixture: Sequence[tuple[int, int]]) -> int:
    """The tokens of an epoch, by the mean of what was kept of each source's sample."""
    share, total = _trained_share(data), 0.0
    for place, (one, (kept, tokens)) in enumerate(zip(rows, mixture, strict=False)):
        weight = data.weights[place] if data.weights else 1.0
        epoch = data.counts[place] if data.counts else one.count * share * weight
        total += epoch * tokens / max(1, kept)
    return round(total)


def _trained_share(data: DataConfig) -> float:
    """The share of the rows that is not held out."""
    return 1.0 if data.eval is not None else 1.0 - data.eval_share


def _write_samples(data: DataConfig, folder: Path) -> list[str]:
    """A file with the first rows of each source."""
    files = []
    for number, sample in enumerate(samples(data)):
        path = folder / f"source-{number}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(sample)
        files.append(str(path))
    return files


def _of_samples(data: DataConfig, files: list[str]) -> DataConfig:
    """The settings of the rows, for files of ours in place of the sources."""
    return replace(
        data,
        train=files,
        split="train",
        revision=None,
        limit=None,
        streaming=False,
        weights=[],
        counts=[],
        benchmarks=None,
    )
