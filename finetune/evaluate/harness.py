"""Tasks of lm-evaluation-harness on base and tuned model, compared document by document."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from finetune.config import EvaluateConfig
from finetune.errors import UserError, did_you_mean, first_line
from finetune.evaluate import stats
from finetune.evaluate.contest import Contest
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.local import Opener
from finetune.evaluate.task_files import read_task
from finetune.log import log

KEY = "evaluate.tasks"
SEED = 1234  # of the harness's own draws: its default, so that figures can be compared with published ones

Sample = Mapping[str, Any]
Compared = tuple[dict[str, Any], stats.Comparison]


@dataclass(frozen=True)
class Tasks:
    """The tasks that are asked, loaded with their documents."""

    contest: Contest
    settings: EvaluateConfig
    tasks: Mapping[str, Any]  # by name
    answers: Path  # where what was measured is kept

    @classmethod
    def load(cls, contest: Contest, settings: EvaluateConfig, answers: Path) -> Tasks:
        """Read the tasks and their documents; what cannot be run is refused before anything is answered."""
        if importlib.util.find_spec("lm_eval") is None:
            raise UserError.at(KEY, "needs lm-eval, which is not installed", "pip install 'finetune[harness]'")
        if settings.tasks_as_chat and not (contest.speech and contest.speech.tokenizer.chat_template):
            what = "the model has no chat template"
            raise UserError.at("evaluate.tasks_as_chat", what, "leave it out, or give one when you train")
        with _harness(settings.allow_task_code):
            return cls(contest, settings, _loaded(settings), answers)

    def compare(self, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Every metric of every task, tuned against base, and the documents that this rests on."""
        assert self.contest.base and self.contest.models
        sides = {}
        for name, engine, opener in (
            ("base", self.contest.base, self.contest.models.base),
            ("tuned", self.contest.judged, self.contest.models.tuned),
        ):
            sides[name] = self._samples(engine.identity, opener)
        found, documents = list[Compared](), list[dict[str, Any]]()
        for name, task in self.tasks.items():
            base, tuned = sides["base"][name], sides["tuned"][name]
            found += _metrics(name, task, base, tuned, seed)
            documents += [_document(name, *pair) for pair in zip(base, tuned, strict=True)]
        metrics = _judged(found)
        return {"metrics": metrics, "exceeded": too_far(metrics, self.settings.max_task_drop)}, documents

    def _samples(self, identity: str, opener: Opener) -> dict[str, list[Sample]]:
        """What one model made of every document of each task; what is kept is not asked again."""
        kept = Kept.open(self.answers, key_of("tasks", identity))
        keys = {name: self._key(task) for name, task in self.tasks.items()}
        left = {name: task for name, task in self.tasks.items() if keys[name] not in kept.found}
        if left:
            with opener() as model, _harness(self.settings.allow_task_code), _named(", ".join(left)):
                made = self._run(model, left)
            for name in left:
                kept.add({keys[name]: {"samples": [_plain(one) for one in made[name]]}})
        return {name: list(kept.found[key]["samples"]) for name, key in keys.items()}

    def _run(self, model: Any, tasks: Mapping[str, Any]) -> dict[str, list[Any]]:
        from lm_eval.evaluator import evaluate
        from lm_eval.utils import set_torch_seed

        speech = self.contest.speech
        assert speech
        log.info(f"{KEY}: {', '.join(tasks)}")
        set_torch_seed(SEED)
        for task in tasks.values():
            task.set_fewshot_seed(seed=SEED)
        done = evaluate(
            lm=_wrapped(model, copy.deepcopy(speech.tokenizer), speech.context, self.settings.batch_size),
            task_dict={"tasks": dict(tasks)},
            limit=self.settings.task_documents,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=self.settings.tasks_as_chat,
            fewshot_as_multiturn=self.settings.tasks_as_chat,
            confirm_run_unsafe_code=self.settings.allow_task_code,
        )
        return {name: sorted(done["samples"][name], key=lambda one: (one["filter"], one["doc_id"])) for name in tasks}

    def _key(self, task: Any) -> str:
        """What decides the answers to a task besides the model."""
        from lm_eval import __version__ as version

        digest = hashlib.sha256()
        shown = [task.fewshot_docs()] if task.get_config("num_fewshot") else []
        for documents in (task.eval_docs, *shown):
            for document in documents or ():
                digest.update(json.dumps(document, default=str, sort_keys=True).encode("utf-8", "surrogatepass"))
        config = json.dumps(task.dump_config(), default=str, sort_keys=True)
        settings = self.settings.task_documents, self.settings.tasks_as_chat
        return key_of(version, config, digest.hexdigest(), settings)


def too_far(found: Sequence[Mapping[str, Any]], most: float | None) -> list[str]:
    """The metrics that fell by more than is allowed with their whole interval, so not by chance; a line each."""
    if most is None:
        return []
    lines = []
    for one in found:
        low, high = one["interval"]
        if (high < -most) if one["higher_is_better"] else (low > most):
            said = f"{one['difference']:+.3g} (95 % interval {low:.3g} to {high:.3g})"
            lines.append(f"evaluate.max_task_drop={most:g}: {one['task']} {one['metric']} {said}")
    return lines


def _loaded(settings: EvaluateConfig) -> dict[str, Any]:
    """The tasks by name, with their documents."""
    from lm_eval.api import metrics  # noqa: F401  # fills the registry
    from lm_eval.api.registry import metric_registry
    from lm_eval.tasks import TaskManager

    files = {name: Path(name).expanduser() for name in settings.tasks if Path(name).expanduser().is_file()}
    manager = TaskManager(include_defaults=len(files) < len(settings.tasks))
    tasks: dict[str, Any] = {}
    for name in settings.tasks:
        given: Any = name
        if name in files:
            given = str(files[name]) if settings.allow_task_code else read_task(files[name], list(metric_registry))
        elif name not in manager.task_index:
            what = "is no file, and no task of the harness"
            raise UserError.at(f"{KEY} {name}", what, did_you_mean(name, manager.all_tasks))
        with _named(name):
            tasks |= manager.load([given])["tasks"]
    for name, task in tasks.items():
        _check_task(name, task, settings)
    return tasks


def _check_task(name: str, task: Any, settings: EvaluateConfig) -> None:
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    if task.get_config("unsafe_code") and not settings.allow_task_code:
        mend = "if you want that, set evaluate.allow_task_code=true"
        raise UserError.at(f"{KEY} {name}", "runs code that the model writes", mend)
    if len(task.eval_docs) < 2:
        raise UserError.at(f"{KEY} {name}", "has fewer than 2 documents", "give more")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What the harness says of a task that it cannot use, as a fault of that task."""
    import jinja2

    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, jinja2.TemplateError) as error:
        raise UserError.at(f"{KEY} {name}", first_line(error), "correct the task or its data") from error


@contextmanager
def _harness(trusted: bool) -> Iterator[None]:
    """The harness with its templates in a sandbox, where they come from, and without its warnings about our model."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    logger, own = logging.getLogger("lm_eval"), utils.env
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not trusted:
        utils.env = ImmutableSandboxedEnvironment(undefined=own.undefined, keep_trailing_newline=True)
        utils.env.filters.update(own.filters)
    try:
        yield
    finally:
        utils.env = own
        logger.setLevel(level)


def _wrapped(model: Any, tokenizer: Any, context: int | None, batch_size: int) -> Any:
    """A model in memory as the harness takes it."""
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    # The harness ties weights anew, which they are already, and which fails where rows of new tokens were trained.
    inner.__dict__["tie_weights"] = lambda: None
    try:
        return HFLM(pretrained=inner, tokenizer=tokenizer, batch_size=batch_size, max_length=context)
    finally:
        del inner.__dict__["tie_weights"]


def _plain(sample: Sample) -> dict[str, Any]:
    """A document and what the model made of it, as JSON has it."""
    kept = ("doc_id", "filter", "doc", "target", "filtered_resps", "metrics", *sample["metrics"])
    return dict(json.loads(json.dumps({key: sample[key] for key in kept}, default=_value)))


def _value(value: Any) -> Any:
    """What JSON does not know: a number of numpy as a number, all else as text."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else str(value)


def _metrics(name: str, task: Any, base: Sequence[Sample], tuned: Sequence[Sample], seed: int) -> list[Compared]:
    """Each metric that has a number for each document; what has none cannot be compared by document."""
    better, found = task.higher_is_better(), list[Compared]()
    for way in dict.fromkeys(one["filter"] for one in base):
        pairs = [(one, other) for one, other in zip(base, tuned, strict=True) if one["filter"] == way]
        for metric in pairs[0][0]["metrics"]:
            first, second = (_numbers([pair[at] for pair in pairs], metric) for at in (0, 1))
            if first is None or second is None:
                log.info(f"{KEY} {name}: {metric} has no number for each document and is left out")
                continue
            compared = stats.paired_difference(second, first, seed=seed)
            entry = {
                "task": name,
                "metric": metric if way == "none" else f"{metric}, {way}",
                "n": len(pairs),
                "shots": task.get_config("num_fewshot"),
                "higher_is_better": bool(better.get(metric, True)),
                "base": fmean(first),
                "tuned": fmean(second),
            }
            found.append((entry, compared))
    return found


def _numbers(samples: Sequence[Sample], metric: str) -> list[float] | None:
    """The metric of each document; none where it is not a number, as where only the whole task has one."""
    found = [float(one[metric]) for one in samples if isinstance(one.get(metric), (int, float))]
    return found if len(found) == len(samples) else None


def _judged(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """The comparisons with p-values corrected for the number of metrics, and a verdict each."""
    return [
        {
            **entry,
            "difference": compared.difference,
            "interval": list(compared.interval),
            "p": compared.p,
            "p_corrected": p,
            "verdict": stats.verdict(compared, p, lower_is_better=not entry["higher_is_better"]),
        }
        for (entry, compared), p in zip(found, stats.holm([one.p for _, one in found]), strict=True)
    ]


def _document(name: str, base: Sample, tuned: Sample) -> dict[str, Any]:
    """One line of tasks.jsonl."""
    shared = {key: base[key] for key in ("doc_id", "filter", "doc", "target")}
    sides = {
        side: {"answers": one["filtered_resps"], **{metric: one[metric] for metric in one["metrics"]}}
        for side, one in (("base", base), ("tuned", tuned))
    }
    return {"task": name, **shared, **sides}
