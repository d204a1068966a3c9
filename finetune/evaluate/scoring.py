"""A reward model on the pairs that its run held out: how often it pays the better answer more, and where length would.

The baselines are chance and the length of the answers: whoever learns only that longer answers win is no better than
a ruler. The pairs are looked at apart where length says nothing, and where it says the wrong thing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune.config import EvaluateConfig
from finetune.data.encode import Encoder, Refused
from finetune.data.rows import Chat, Pair, question
from finetune.data.sides import Sided, encode_sides
from finetune.errors import Fault, UserError, listed
from finetune.evaluate.contents import ANSWERS, EVALUATION, artefact_digest
from finetune.evaluate.engines import Said
from finetune.evaluate.heldout import check_rows
from finetune.evaluate.ladder import ACCURACY, TUNED, Evaluation, Rung, answer_rows, as_json, judge, sliced
from finetune.evaluate.questions import choose_rows
from finetune.evaluate.report import write_report
from finetune.evaluate.settings import EvaluateSettings
from finetune.evaluate.slices import LEAST, Slice
from finetune.evaluate.subjects import Subject
from finetune.model_files.scoring import SCORE
from finetune.tokenizer import stop_ids

if TYPE_CHECKING:
    from finetune.plan import RunPlan
    from finetune.rewards.learned import Learned

CHANCE, LENGTH = "chance", "length"
ALIKE = 0.1  # answers whose tokens differ by no larger a share of the longer one count as equally long
READ = ("rows",)  # the settings of an evaluation that decide something here
PARTS = ("equally long", "chosen is longer", "chosen is shorter")


@dataclass(frozen=True)
class Scoring:
    """What is decided before anything is scored."""

    subjects: tuple[Subject, ...]
    settings: EvaluateSettings
    pairs: tuple[Pair, ...]
    clusters: tuple[object, ...]

    @property
    def folder(self) -> Path:
        """The run, where the result goes."""
        assert self.subjects[0].plan is not None
        return Path(self.subjects[0].plan.run_dir)

    @property
    def answers(self) -> Path:
        """Where what an interrupted evaluation has found is kept; scoring is quick, so that is nowhere else."""
        return self.folder


@dataclass(frozen=True)
class Paired:
    """What a model pays both answers of each pair, and how many tokens they have."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def right(self) -> tuple[float, ...]:
        """1 where the better answer is paid more; paying both alike is wrong."""
        return tuple(float(chosen > other) for chosen, other in zip(self.chosen, self.rejected, strict=True))


def is_scoring(subject: Subject) -> bool:
    """Whether a target is a run that made a reward model."""
    return subject.plan is not None and subject.plan.model.head == SCORE


def idle(settings: EvaluateConfig) -> list[Fault]:
    """Settings of an evaluation that a reward model, which answers nothing, does not read."""
    standard = EvaluateConfig()
    given = [item.name for item in fields(settings) if getattr(settings, item.name) != getattr(standard, item.name)]
    what = "has no effect: a reward model answers nothing, and is measured by pairs"
    return [Fault(f"evaluate.{name}", what, "leave it out") for name in given if name not in READ]


def plan_scoring(subjects: Sequence[Subject], settings: EvaluateSettings) -> Scoring:
    """The pairs that the first run held out; what cannot be scored on them is refused."""
    faults = idle(settings.evaluate)
    for other in subjects[1:]:
        if not is_scoring(other):
            what = "is no run with method=reward, as the first target is"
            faults.append(Fault(other.given, what, "evaluate it apart"))
    if settings.data.eval is not None:
        what = "has no effect: a reward model is measured on the pairs that its run held out"
        faults.append(Fault("data.eval", what, "leave it out, or give it to `finetune train`"))
    if faults:
        raise UserError(faults)
    plan = subjects[0].plan
    assert plan is not None
    from finetune.data.prepare import read_groups, read_rows

    split, most = check_rows(Path(plan.run_dir), plan), settings.evaluate.rows
    chosen = choose_rows(zip(read_rows(split), read_groups(split), strict=True), split.rows, most, settings.seed)
    if len(chosen) < 2:
        what = f"{len(chosen)} held-out pair, and a comparison needs at least 2"
        raise UserError.at("data.eval", what, "train with more held-out rows, or a larger data.eval_share")
    pairs = tuple(row for row, _ in chosen if isinstance(row, Pair))
    return Scoring(tuple(subjects), settings, pairs, tuple(group for _, group in chosen))


def evaluate_scoring(work: Scoring) -> dict[str, Any]:
    """Score both answers of each pair, compare, and write eval.json, answers.jsonl and the report."""
    from finetune.rewards.learned import find
    from finetune.rundir import write_json, write_text

    models = [find(str(one.run_dir), one.given) for one in work.subjects]
    scored = [_scored(model, work.pairs, _plan(work).resolved.max_length) for model in models]
    found = _compared(work, scored)
    result = as_json(found) | sliced(found, *_parts(scored[0].sizes)) | _origin(work, models)
    result["held_out"] |= {"given": None, "split_fingerprint": _plan(work).data.held_out_fingerprint}
    result["rewards"] = {one.name: _paid(paid) for one, paid in zip(work.subjects, scored, strict=True)}
    rows = answer_rows(found)
    for row, *paid in zip(rows, scored[0].chosen, scored[0].rejected, strict=True):
        row["rewards"] = paid  # of the first target, for the better answer and the other one
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(work.folder / ANSWERS, "".join(lines))
    write_json(work.folder / EVALUATION, result)
    write_report(work.folder)
    return result


def _compared(work: Scoring, scored: Sequence[Paired]) -> Evaluation:
    """Every way of choosing side by side: both baselines, the first target, and the others."""
    rule, by_length = _by_length(scored[0].sizes)
    ways = [(CHANCE, "chance", (0.5,) * len(work.pairs)), (LENGTH, rule, by_length)]
    named = [TUNED, *(one.name for one in work.subjects[1:])]
    ways += [(name, name, paid.right) for name, paid in zip(named, scored, strict=True)]
    rungs = [_rung(name, of, work.pairs, values) for name, of, values in ways]
    found = judge(ACCURACY, work.pairs, rungs, work.settings.seed, work.clusters, baselines=(CHANCE, LENGTH))
    return replace(
        found,
        prompts=tuple(question(pair) for pair in work.pairs),
        references=tuple(_answer(pair.chosen) for pair in work.pairs),
    )


def _plan(work: Scoring) -> RunPlan:
    plan = work.subjects[0].plan
    assert plan is not None
    return plan


def _scored(model: Learned, pairs: Sequence[Pair], longest: int) -> Paired:
    """What a model pays both answers of each pair, which are cut where training cut them."""
    encoder = Encoder(model.tokenizer, "last", longest, stop_ids(model.facts, model.tokenizer))
    sides = encode_sides(encoder, pairs)
    if wrong := [f"pair {at}: {one.what}" for at, one in enumerate(sides, 1) if isinstance(one, Refused)]:
        raise UserError.at(f"{model.path} data.eval", listed(wrong), "evaluate runs of one template together")
    encoded = [one for one in sides if isinstance(one, Sided)]
    paid = model.rewards([one.prompt + answer for one in encoded for answer in one.answers])
    sizes = tuple((len(one.answers[0]), len(one.answers[1])) for one in encoded)
    return Paired(tuple(paid[::2]), tuple(paid[1::2]), sizes)


def _rung(name: str, of: str, pairs: Sequence[Pair], values: Sequence[float]) -> Rung:
    """What a way of choosing chose of each pair, and whether that is the better answer."""
    said = []
    for pair, value in zip(pairs, values, strict=True):
        text = "either of both" if value == 0.5 else _answer(pair.chosen if value else pair.rejected)
        said.append(Said(text, stopped=True, seconds=0.0, tokens=None, prompt_tokens=None))
    return Rung(name, (), tuple(said), ((ACCURACY, tuple(values)),), of)


def _by_length(sizes: Sequence[tuple[int, int]]) -> tuple[str, tuple[float, ...]]:
    """The better of both rules that know only the length; answers of equal length count half."""
    longer = tuple((chosen > other) + (chosen == other) / 2 for chosen, other in sizes)
    if fmean(longer) >= 0.5:
        return "the longer one", longer
    return "the shorter one", tuple(1 - value for value in longer)


def _parts(sizes: Sequence[tuple[int, int]]) -> tuple[list[Slice], list[Slice]]:
    """The pairs by which answer is longer: parts that are large enough, and those that are not."""
    members: dict[str, list[int]] = {name: [] for name in PARTS}
    for at, (chosen, other) in enumerate(sizes):
        alike = abs(chosen - other) <= ALIKE * max(chosen, other)
        members[PARTS[0 if alike else 1 if chosen > other else 2]].append(at)
    parts = [Slice("length", name, tuple(places)) for name, places in members.items() if places]
    return [one for one in parts if len(one.rows) >= LEAST], [one for one in parts if len(one.rows) < LEAST]


def _paid(scored: Paired) -> dict[str, float]:
    """What better and worse answers are paid on average, and how far they are apart."""
    chosen, rejected = fmean(scored.chosen), fmean(scored.rejected)
    return {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected}


def _origin(work: Scoring, models: Sequence[Learned]) -> dict[str, Any]:
    """What was evaluated, as other evaluations say it."""
    return {
        "targets": [
            {
                "name": one.name,
                "given": one.given,
                "kind": one.kind,
                "identity": model.digest,
                "made_by": str(one.run_dir),
            }
            for one, model in zip(work.subjects, models, strict=True)
        ],
        "contamination": [asdict(one) for one in _plan(work).data.contamination],
        "run_dir": str(work.folder),
        "artefact": artefact_digest(work.folder),
        "settings": asdict(work.settings.evaluate),
        **dict.fromkeys(("forgetting", "strengths", "tasks")),
    }


def _answer(chat: Chat) -> str:
    return str(chat.messages[-1]["content"])
