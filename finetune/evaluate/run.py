"""Evaluating a finished run: its model and its rows, from the files of its directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import EvaluateConfig
from finetune.data.rows import Chat
from finetune.errors import UserError
from finetune.evaluate.contents import ANSWERS, EVALUATION, artefact_digest
from finetune.evaluate.ladder import Models, answer_rows, as_json, run_ladder, run_text_ladder
from finetune.evaluate.questions import Speech, choose_rows
from finetune.evaluate.report import write_report

if TYPE_CHECKING:
    from finetune.data.prepare import SplitFacts
    from finetune.model_files import ModelFacts
    from finetune.plan import RunPlan

POOL = 10_000  # training rows that few-shot examples are drawn from


def evaluate_run(run_dir: Path, settings: EvaluateConfig) -> dict[str, Any]:
    """Compare what a run made with its baselines; writes eval.json, answers.jsonl and the report."""
    from finetune.data.prepare import read_rows
    from finetune.plan import load_plan
    from finetune.rundir import write_json, write_text

    check_finished(run_dir)
    plan = load_plan(run_dir)
    seed, split = plan.config.seed, check_rows(run_dir, plan)
    held_out = choose_rows(read_rows(split), split.rows, settings.rows, seed)
    speech, models = open_run(plan)
    if plan.data.shape == "text":
        evaluation = run_text_ladder(models, speech, held_out, settings, seed=seed)
    else:
        chats = [row for row in held_out if isinstance(row, Chat)]
        training = [row for row in read_rows(plan.data.train, POOL) if isinstance(row, Chat)]
        evaluation = run_ladder(models, speech, chats, training, settings, seed=seed)
    made = {"run_dir": str(run_dir), "artefact": artefact_digest(run_dir), "settings": asdict(settings)}
    found = as_json(evaluation)
    held = {**found["held_out"], "split_fingerprint": plan.data.held_out_fingerprint}
    result = {**found, "held_out": held, **made}
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in answer_rows(evaluation)]
    write_text(run_dir / ANSWERS, "".join(lines))
    write_json(run_dir / EVALUATION, result)
    write_report(run_dir)
    return result


def find_run(target: str) -> Path:
    """The run directory that is meant: a path, or the name of one under runs/."""
    for path in (Path(target).expanduser(), Path("runs") / target):
        if (path / "plan.json").is_file():
            return path
    known = sorted(path.parent.name for path in Path("runs").glob("*/plan.json"))
    said = f"there are {', '.join(known[:8])}" if known else "train one with `finetune train`"
    raise UserError.at(target, "no run directory of that path, or of that name under runs/", said)


def stored_evaluation(run_dir: Path, settings: EvaluateConfig) -> dict[str, Any] | None:
    """The evaluation that was made of this run's result with these settings, if there is one."""
    if not (run_dir / EVALUATION).is_file():
        return None
    stored = dict(json.loads((run_dir / EVALUATION).read_text(encoding="utf-8")))
    same = stored["settings"] == asdict(settings) and stored["artefact"] == artefact_digest(run_dir)
    return stored if same else None


def check_finished(run_dir: Path) -> None:
    """Refuse a run that has not come to its end."""
    from finetune.rundir import read_outcome

    if read_outcome(run_dir) is None:
        mend = "give its `finetune train` command again"
        raise UserError.at(str(run_dir), "the run has not finished", mend)


def check_rows(run_dir: Path, plan: RunPlan) -> SplitFacts:
    """The rows that a run held out; a run that held out none, or whose rows are gone, is refused."""
    split = plan.data.held_out
    if split is None:
        mend = "train with data.eval=FILE, or with data.eval_share above 0"
        raise UserError.at(f"{run_dir} data.eval", "the run held out no rows to compare on", mend)
    if not Path(split.path).exists():
        what = "the run's prepared rows are not there"
        mend = "evaluate from the folder that it was trained in, or train it there again"
        raise UserError.at(split.path, what, mend)
    return split


def override(settings: EvaluateConfig, overrides: Sequence[str]) -> EvaluateConfig:
    """The settings of a run, changed by `evaluate.key=value`; every fault is raised at once."""
    from finetune.settings.verb import read_verb

    paths, given = read_verb("evaluate", _Settings(settings), overrides)
    if paths:
        raise UserError.at(paths[0], "one run is evaluated at a time", "write settings as evaluate.key=value")
    return given.evaluate


@dataclass
class _Settings:
    """What `finetune evaluate` can be told."""

    evaluate: EvaluateConfig


def open_run(plan: RunPlan) -> tuple[Speech, Models]:
    """How the model of a run is spoken to, and how base and tuned model are opened."""
    from finetune.artefact import ADAPTER, MODEL
    from finetune.data.encode import Encoder
    from finetune.model_files import inspect_model
    from finetune.tokenizer import load_tokenizer, stop_ids

    tokenizer = load_tokenizer(plan.model, plan.config.model.chat_template, tuple(plan.config.tuning.new_tokens))
    encoder = Encoder(tokenizer, "last", stop_ids=stop_ids(plan.model, tokenizer))
    speech = Speech(tokenizer, encoder, plan.model.context)
    folder = Path(plan.run_dir)
    if (folder / ADAPTER).is_dir():
        return speech, adapter_models(partial(_load, plan, plan.model, tokenizer), folder / ADAPTER)
    tuned = inspect_model(str(folder / MODEL))
    return speech, Models(
        lambda: nullcontext(_load(plan, plan.model, tokenizer)),
        lambda: nullcontext(_load(plan, tuned, tokenizer)),
    )


def adapter_models(load_base: Callable[[], Any], folder: Path) -> Models:
    """Base and tuned model from one copy in memory: the base is the tuned one, its adapter switched off."""
    from peft import PeftModel

    @cache
    def tuned() -> Any:
        return PeftModel.from_pretrained(load_base(), str(folder))

    @contextmanager
    def switched_off() -> Iterator[Any]:
        with tuned().disable_adapter():
            yield tuned()

    return Models(switched_off, lambda: nullcontext(tuned()))


def _load(plan: RunPlan, facts: ModelFacts, tokenizer: Any) -> Any:
    """A model as the run trained it: same number format, same quantization, on the same kind of device."""
    from finetune.model import load_model, plan_quantization

    quantization = plan_quantization(plan.config.tuning)
    model = load_model(
        facts,
        precision=plan.resolved.precision,
        attention=plan.resolved.attention,
        full=False,
        tokenizer=tokenizer,
        quantization=quantization,
        device=plan.machine.device,
    )
    return model if quantization else model.to(plan.machine.device)
