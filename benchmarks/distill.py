"""A small student taught by the embedded model, against the same student trained on the same rows without a teacher.

The student is made by `scripts/make_tiny_model` at half the size of the embedded model, after a short curriculum. The
rows are plain English of the kind that both have seen, in which many words could come next: an example shows one of
them, a teacher how likely each is. Both runs of a seed have the same rows in the same order and as many steps; what
differs is `method=` and the learning rate: for each the best of RATES on rows made for choosing. Of both the checkpoint
counts that was best on a part of the training rows.
Scored is the likelihood of further rows, whose names neither the student nor the teacher has seen.

    scripts/bench distill [--seeds 3] [--rows 120] [--epochs 8] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from finetune.compose import compose
from finetune.data.rows import Text
from finetune.evaluate import stats
from finetune.evaluate.generate import likelihoods
from finetune.evaluate.local import Opener, open_run
from finetune.evaluate.questions import Speech, tokens_of
from finetune.launch import launch
from finetune.plan import RunPlan, plan_run
from finetune.tiny import curriculum, make

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "distill.json"
PAGE = ROOT / "docs" / "benchmarks.md"
WIDTH, BLOCKS = 128, 16  # of the student
HELD_OUT = 160  # rows
SENTENCES = (3, 8)  # of a row, at least and at most
CHOOSING = 80  # rows on which the rates are chosen
RATES = ("3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
ALONE = ("method=sft",)
TAUGHT = ("method=distill", "method.teacher=tiny")
PACKAGES = ("torch", "transformers", "trl", "peft")


def student(folder: Path) -> Path:
    """The half-size model, made once."""
    if not (folder / "student" / "scores.json").exists():
        settings = ["--width", WIDTH, "--blocks", BLOCKS, "--threads", 1]
        make.main([str(word) for word in (*settings, "--output", folder / "student", "--work", folder / "making")])
    return folder / "student"


def write_rows(file: Path, split: curriculum.Split, count: int) -> list[str]:
    """Texts with names of one split, in a file of rows; other texts in a file of another name."""
    dice = Random(f"distill:{file.name}")
    texts = [curriculum.text(dice, split, dice.randint(*SENTENCES)).text for _ in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return texts


def trained(*settings: str) -> RunPlan:
    """A run, carried out or found finished."""
    composed = compose(list(settings))
    plan = plan_run(composed)
    launch(plan, composed)
    return plan


def scores(opened: Opener, speech: Speech, texts: list[str]) -> list[float]:
    """The mean log-likelihood of a token, of each text."""
    sequences = [tokens_of(Text(text), speech) for text in texts]
    with opened() as model:
        found = likelihoods(model, sequences, batch_size=32, pad_id=speech.tokenizer.pad_token_id)
    return [-one.nll / max(1, one.tokens) for one in found]


def best_rate(method: tuple[str, ...], same: tuple[str, ...], texts: list[str]) -> str:
    """The learning rate with which a method scores best on texts made for choosing."""
    found = {}
    for rate in RATES:
        plan = trained(*same, *method, f"training.learning_rate={rate}", "seed=1", f"name={method[0][7:]}-{rate}")
        speech, models = open_run(plan)
        found[rate] = fmean(scores(models.tuned, speech, texts))
    print(f"{method[0]}: " + ", ".join(f"{rate} {score:.4f}" for rate, score in found.items()), flush=True)
    return max(found, key=lambda rate: found[rate])


def measure(seeds: int, rows: int, epochs: int) -> dict[str, Any]:
    """Students with and without a teacher, trained and scored in the current folder."""
    small = student(Path.cwd())
    write_rows(Path("train.jsonl"), "train", rows)
    texts = write_rows(Path("held_out.jsonl"), "test", HELD_OUT)
    same = (f"model.name={small}", "data.train=train.jsonl", "tuning=full", "training.batching=padded",
            f"training.epochs={epochs}")  # fmt: skip
    choosing = write_rows(Path("choosing.jsonl"), "test", CHOOSING)
    sides = {
        name: (*method, f"training.learning_rate={best_rate(method, same, choosing)}")
        for name, method in {"alone": ALONE, "taught": TAUGHT}.items()
    }
    runs: list[dict[str, Any]] = []
    for seed in range(1, seeds + 1):
        alone = trained(*same, *sides["alone"], f"seed={seed}", f"name=alone-{seed}")
        taught = trained(*same, *sides["taught"], f"seed={seed}", f"name=taught-{seed}")
        if alone.batch.steps != taught.batch.steps or alone.data.fingerprint != taught.data.fingerprint:
            raise RuntimeError("the two runs differ in more than the method")
        speech, models = open_run(alone)
        found = {"base": scores(models.base, speech, texts), "alone": scores(models.tuned, speech, texts)}
        found["taught"] = scores(open_run(taught)[1].tuned, speech, texts)
        runs.append({"seed": seed, "steps": alone.batch.steps, **found})
        print(f"seed {seed}: " + ", ".join(f"{name} {fmean(values):.4f}" for name, values in found.items()), flush=True)
    return {
        "rows": alone.data.train.rows,
        "epochs": epochs,
        "settings": {"both": same[2:], **sides},
        "parameters": {"teacher": taught.frozen["teacher"].parameters, "student": taught.model.parameters},
        "runs": runs,
        "difference": compared(runs),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Taught minus alone over the same rows, each row's score the mean of its seeds."""
    means = [[fmean(row) for row in zip(*(run[kind] for run in runs), strict=True)] for kind in ("taught", "alone")]
    found = stats.paired_difference(means[0], means[1], seed=0)
    return {"mean": found.difference, "interval": list(found.interval), "p": found.p, "rows": found.rows}


def table(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    small, large = (result["parameters"][kind] / 1e6 for kind in ("student", "teacher"))
    found, runs = result["difference"], result["runs"]
    low, high = found["interval"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    said = ", ".join(f"{name}: `{' '.join(words)}`" for name, words in result["settings"].items())
    lines = [
        f"{result['rows']} rows, {result['epochs']} epochs, {runs[0]['steps']} steps, a student of {small:.1f}M and a "
        f"teacher of {large:.1f}M parameters. {said}. {result['machine']}. {versions}.",
        "", "| mean log-likelihood of a token | before | alone (`method=sft`) | taught (`method=distill`) |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for run in runs:
        cells = [f"{fmean(run[kind]):.3f}" for kind in ("base", "alone", "taught")]
        lines.append(f"| seed {run['seed']} | {' | '.join(cells)} |")
    said = f"Taught minus alone: {found['mean']:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    lines += ["", f"{said} over {found['rows']} held-out rows, each the mean of its {len(runs)} seeds."]
    return "\n".join(lines)


def main() -> None:
    """Measure, store, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=120, help="of training, a tenth of them to choose the checkpoint")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--work", type=Path, help="where models and runs are kept; found there again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        os.chdir(work)
        result = measure(options.seeds, options.rows, options.epochs)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    page = PAGE.read_text()
    begin, end = "<!-- distill: written by scripts/bench distill -->", "<!-- end of distill -->"
    head, rest = page.split(begin)
    PAGE.write_text(f"{head}{begin}\n{table(result)}\n{end}{rest.split(end)[1]}")
    print(table(result))


if __name__ == "__main__":
    main()
