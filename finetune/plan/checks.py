"""What settings, taken together and with the facts, cannot mean: every contradiction, each with its mend."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import adapter
from finetune.config import AccelerateLaunch, DataConfig, LoraTuning, QloraTuning, RunConfig
from finetune.errors import Fault, UserError, counted
from finetune.evaluate.score import scorers
from finetune.flat import KEEP_ROWS_APART
from finetune.machine import Machine
from finetune.methods import METHODS
from finetune.model_files import check_quantization
from finetune.plan.memory import MemoryEstimate

if TYPE_CHECKING:
    from finetune.data.prepared import PreparedData
    from finetune.plan.batches import BatchPlan
    from finetune.plan.facts import Facts

SPANS = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
# Processes that any computer bears, for trying things out.
MOST_CPU_PROCESSES = 8
# Of one trained weight in a checkpoint or result.
SAVED_BYTES = 4
# Rows that one run sees: their order is drawn at once, at eight bytes each.
MOST_ROWS = 1_000_000_000
# Settings that decide an adapter's shape, which one that is trained further has already.
OF_THE_ADAPTER = ("rank", "alpha", "dropout", "targets", "rslora", "dora", "initialization", "modules_to_save")
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def check_settings(config: RunConfig, sources: dict[str, str], machine: Machine) -> list[Fault]:
    """Contradictions that need neither model nor rows."""
    return [
        *_check_duration(config, sources),
        *_check_data(config, sources),
        *_check_stream(config),
        *_check_device(config, machine),
        *_check_quantization(config, sources, machine),
        *_check_continued(config, sources),
        *_check_processes(config, machine),
        *_check_tracking(config),
        *_check_scores(config),
    ]


def check_facts(config: RunConfig, sources: dict[str, str], facts: Facts) -> list[Fault]:
    """Contradictions between the settings and what model and rows turned out to be."""
    model, data, method = facts.model, facts.data, METHODS[config.method.option]
    faults = adapter.check_tuning(config.tuning, model) + check_quantization(model, config.tuning.option)
    sharded_flat = config.training.batching == "flat" and config.parallel.option != "ddp"
    if sharded_flat and model.model_type not in KEEP_ROWS_APART:
        what = f"{model.model_type} is not known to keep rows apart, which cannot be tried on shared-out weights"
        faults.append(Fault("training.batching", what, "use grouped, or parallel=ddp"))
    if config.training.batching == "flat" and not method.LAYS_FLAT:
        what = f"method={config.method.option} pads its rows"
        faults.append(Fault("training.batching", what, "use grouped or padded"))
    faults += method.check(config, sources, facts)
    if data.held_out is None:
        for key in ("training.eval_every", "training.early_stopping", "training.keep_best"):
            if key in sources and not (key == "training.keep_best" and config.training.keep_best == "none"):
                mend = "give data.eval or data.eval_share, or leave it out"
                faults.append(Fault(key, "there are no held-out rows to measure on", mend))
    return faults


def check_batches(
    config: RunConfig, sources: dict[str, str], data: PreparedData, batch: BatchPlan, keep_best: str
) -> list[Fault]:
    """Cadences that the run's length does not allow."""
    faults = []
    every = batch.eval_every
    if every and every > batch.steps and "training.eval_every" in sources:
        mend = f"use at most {batch.steps}"
        faults.append(
            Fault("training.eval_every", f"{every} is more than the run's {counted(batch.steps, 'step')}", mend)
        )
    if every and keep_best != "none" and batch.save_every % every:
        what = f"{batch.save_every} is not a multiple of training.eval_every={every}, so the best is never saved"
        mend = f"use {every * max(1, batch.save_every // every)}, or training.keep_best=none"
        faults.append(Fault("training.save_every", what, mend))
    faults += _check_windows(config, batch)
    if batch.rows_ordered > MOST_ROWS:
        key = "training.max_steps" if config.training.max_steps else "training.epochs"
        seen = f"{batch.steps:,} steps of {batch.rows:,} rows"
        faults.append(Fault(key, f"{seen} are more than a run can order ({MOST_ROWS:,})", "lower it"))
    if data.is_partial and data.train.rows < batch.effective:
        what = f"the first window has {data.train.rows:,} rows, fewer than the {batch.effective:,} of a step"
        faults.append(Fault("data.window", what, "raise it"))
    if batch.warmup_steps >= batch.steps and "training.warmup" in sources:
        what = f"{batch.warmup_steps} warm-up steps leave nothing of the run's {batch.steps}"
        faults.append(Fault("training.warmup", what, "use a share such as 0.05"))
    return faults


def _check_windows(config: RunConfig, batch: BatchPlan) -> list[Fault]:
    """Steps between two generations, at which a run can be neither saved nor ended without losing its answers."""
    training, window = config.training, batch.window
    given = {
        "training.max_steps": training.max_steps,
        "training.save_every": training.save_every,
        "training.eval_every": training.eval_every,
    }
    return [
        Fault(key, f"{value} is no multiple of method.iterations={window}", f"use {-(-value // window) * window}")
        for key, value in given.items()
        if value is not None and value % window
    ]


def check_frozen(config: RunConfig, facts: Facts, estimate: MemoryEstimate) -> list[Fault]:
    """Models that are only read, and do not fit into memory beside the weights that are trained."""
    have = facts.machine.device_memory
    if estimate.weights + estimate.frozen <= have:
        return []
    named = METHODS[config.method.option].frozen_models(config.method)
    what = (
        f"its weights need about {estimate.frozen / 2**30:.1f} GB beside the {estimate.weights / 2**30:.1f} GB of the "
        f"trained model, and {facts.machine.device_name} has {have / 2**30:.1f} GB"
    )
    return [Fault(one.key, what, "name a smaller one, or use a larger device") for one in named.values()]


def check_room(run_dir: Path, trainable: int, optimizer: int) -> list[Fault]:
    """Whether the disk takes what a run saves at the least: a checkpoint beside the last one, and the result."""
    weights = trainable * SAVED_BYTES
    need = 2 * (weights + optimizer) + weights
    place = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if need <= free:
        return []
    what = f"two checkpoints and the result need about {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free"
    return [Fault(f"output_dir {run_dir.parent}", what, "free space there, or choose another output_dir")]


def warn(
    config: RunConfig, batch: BatchPlan, estimate: MemoryEstimate, machine: Machine, usable: float
) -> tuple[str, ...]:
    """Likely mistakes, each with what silences it."""
    warnings = []
    if (config.training.learning_rate or 0) >= 1:
        given = f"training.learning_rate={config.training.learning_rate:g}"
        warnings.append(f"{given} breaks nearly every model: leave it out for the default")
    if estimate.total > machine.device_memory * usable:
        need, have = estimate.total / 2**30, machine.device_memory / 2**30
        warnings.append(
            f"about {need:.1f} GB are needed and {machine.device_name} has {have:.1f} GB: lower training.batch_size "
            f"(now {config.training.batch_size}) and raise training.accumulation, cut data.max_length, or use qlora"
        )
    if machine.device == "cuda" and machine.devices > batch.processes:
        warnings.append(
            f"{batch.processes} of {machine.devices} GPUs is used: launch.processes={machine.devices} uses all of them"
        )
    return tuple(warnings)


def seconds(span: str) -> int | None:
    """A duration such as 1h30m in seconds, or None when it is none."""
    parts = SPANS.fullmatch(span.strip())
    if not parts or not any(parts.groups()):
        return None
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + rest


def _check_duration(config: RunConfig, sources: dict[str, str]) -> list[Fault]:
    training, faults = config.training, []
    if training.epochs is None and training.max_steps is None:
        faults.append(Fault("training.epochs", "neither it nor training.max_steps is set", "set one of them"))
    both = {"training.epochs", "training.max_steps"}
    if training.epochs is not None and training.max_steps is not None:
        origins = {sources.get(key) for key in both}
        if len(origins) == 1 and None not in origins:
            what = "is set together with training.max_steps, which decides the length alone"
            faults.append(Fault("training.epochs", what, "keep one of them"))
    if training.max_time is not None and not seconds(training.max_time):
        what = f"{training.max_time!r} is no duration"
        faults.append(Fault("training.max_time", what, "write it like 90m, 3h or 1h30m"))
    if training.warmup >= 1 and training.warmup != int(training.warmup):
        what = f"{training.warmup} is neither a share below 1 nor a whole number of steps"
        faults.append(Fault("training.warmup", what, "use 0.05 or 100"))
    if training.scheduler == "constant" and "training.warmup" in sources and training.warmup:
        mend = "use training.scheduler=constant_with_warmup, or leave it out"
        faults.append(Fault("training.warmup", "has no effect with training.scheduler=constant", mend))
    best = METHODS[config.method.option].BEST
    if training.keep_best not in (None, "none", "eval_loss", best):
        what = f"method={config.method.option} measures no {training.keep_best}"
        faults.append(Fault("training.keep_best", what, f"use {' or '.join(dict.fromkeys((best, 'eval_loss')))}"))
    if training.early_stopping is not None and training.keep_best == "none":
        what = "needs a metric to watch, and training.keep_best is none"
        faults.append(Fault("training.early_stopping", what, "set training.keep_best=eval_loss"))
    return faults


def _check_stream(config: RunConfig) -> list[Fault]:
    """What cannot be known, or done, before all rows are read."""
    data = config.data
    if not data.streaming:
        window = data.window != DataConfig().window
        return [Fault("data.window", "has no effect without data.streaming", "leave it out")] if window else []
    faults = []
    if config.training.max_steps is None:
        what = "is needed with data.streaming: how many rows an epoch has is not known"
        faults.append(Fault("training.max_steps", what, "set it"))
    if data.eval is None and data.eval_share > 0:
        what = "needs all rows, which data.streaming reads only as they are trained"
        faults.append(Fault("data.eval_share", what, "give data.eval, or set data.eval_share=0"))
    whole = {
        "weights": (data.weights, "name a file in data.train as often as it is to be seen"),
        "counts": (data.counts, "make files of that size"),
        "group_by": (data.group_by, "split the rows with `finetune data split`, and give data.eval"),
        "limit": (data.limit, "lower training.max_steps"),
        "allow_contamination": (data.allow_contamination, "delete the rows from data.eval"),
    }
    for key, (given, mend) in whole.items():
        if given:
            what = "is about all rows, and data.streaming knows only those of a window"
            faults.append(Fault(f"data.{key}", what, mend))
    return faults


def _check_data(config: RunConfig, sources: dict[str, str]) -> list[Fault]:
    faults = []
    if config.data.eval is not None and "data.eval_share" in sources:
        what = "has no effect when data.eval gives the held-out rows"
        faults.append(Fault("data.eval_share", what, "leave one of them out"))
    none_held_out = config.data.eval is None and config.data.eval_share <= 0
    if config.data.group_by and none_held_out and not config.data.streaming:
        what = "has no effect: it says which rows are held out together, and none are held out"
        faults.append(Fault("data.group_by", what, "leave it out"))
    if config.data.eval is None and not config.data.benchmarks:
        # A run's config.yaml names every setting, so only those that say something are refused.
        no_rows = config.data.eval_share <= 0 and config.data.contamination_words != DataConfig().contamination_words
        for key, idle in (("allow_contamination", config.data.allow_contamination), ("contamination_words", no_rows)):
            if idle:
                what = "has no effect without data.eval or data.benchmarks"
                faults.append(Fault(f"data.{key}", what, "leave it out"))
    revision = config.model.revision
    if config.model.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        what = "runs code from the model's repository, and model.revision pins no commit"
        faults.append(Fault("model.trust_remote_code", what, "set model.revision to the full 40-digit commit"))
    if revision is not None and Path(config.model.name).expanduser().exists():
        faults.append(Fault("model.revision", "has no effect on a local folder", "leave it out"))
    return faults


def _check_device(config: RunConfig, machine: Machine) -> list[Fault]:
    faults = []
    has = f"this machine has {machine.devices} × {machine.device_name}"
    precision, attention = config.model.precision, config.model.attention
    if precision == "bf16" and not machine.bf16:
        mend = "set model.precision=fp32" if machine.device != "cuda" else "set model.precision=fp16"
        faults.append(Fault("model.precision", f"{machine.device_name} does not compute in bf16", mend))
    if precision == "fp16" and machine.device != "cuda":
        faults.append(Fault("model.precision", f"fp16 needs an NVIDIA GPU; {has}", "set model.precision=fp32"))
    if attention and attention.startswith("flash"):
        package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}[attention]
        if machine.device != "cuda":
            faults.append(Fault("model.attention", f"{attention} needs an NVIDIA GPU; {has}", "use sdpa"))
        elif importlib.util.find_spec(package) is None:
            what = f"{attention} needs the package {package}, which is not installed"
            faults.append(Fault("model.attention", what, "install it, or use sdpa"))
    if config.method.trl.get("activation_offloading") and machine.device == "cpu":
        faults.append(Fault("method.trl.activation_offloading", f"needs a GPU; {has}", "leave it out"))
    optimizer = config.training.optimizer or ""
    if ("8bit" in optimizer or optimizer.startswith("paged")) and machine.device != "cuda":
        faults.append(Fault("training.optimizer", f"{optimizer} needs an NVIDIA GPU; {has}", "use adamw_torch"))
    return faults


def _check_continued(config: RunConfig, sources: dict[str, str]) -> list[Fault]:
    """What an adapter that is trained further has already."""
    if config.tuning.start != "continue":
        return []
    what = "has no effect with tuning.start=continue: the adapter keeps its own"
    mend = "leave it out, or use tuning.start=merge to train a new adapter"
    return [Fault(f"tuning.{name}", what, mend) for name in OF_THE_ADAPTER if f"tuning.{name}" in sources]


def _check_quantization(config: RunConfig, sources: dict[str, str], machine: Machine) -> list[Fault]:
    tuning = config.tuning
    faults: list[Fault] = []
    if not isinstance(tuning, QloraTuning):
        return faults
    if importlib.util.find_spec("bitsandbytes") is None:
        what = "qlora needs the package bitsandbytes, which is not installed"
        faults.append(Fault("tuning", what, "pip install bitsandbytes, or use tuning=lora"))
    if machine.device not in ("cuda", "cpu"):
        what = f"qlora does not run on {machine.device}"
        faults.append(Fault("tuning", what, "use tuning=lora"))
    if tuning.bits == 8:
        for key in ("tuning.quant_type", "tuning.double_quantization"):
            if key in sources:
                faults.append(Fault(key, "has no effect with tuning.bits=8", "leave it out"))
    return faults


def _check_processes(config: RunConfig, machine: Machine) -> list[Fault]:
    processes, parallel, faults = config.launch.processes, config.parallel.option, _check_port(config)
    if config.launch.option == "inline" and processes > 1:
        what = f"launch=inline runs one process, not {processes}"
        faults.append(Fault("launch.processes", what, "use launch=accelerate"))
    if machine.device == "cuda" and processes > machine.devices:
        what = f"{processes} are asked for, and this machine has {machine.devices} × {machine.device_name}"
        faults.append(Fault("launch.processes", what, f"use at most {machine.devices}"))
    if machine.device == "cpu" and processes > max(machine.cores, MOST_CPU_PROCESSES):
        what = f"{processes} are asked for, and this machine has {machine.cores} cores"
        faults.append(Fault("launch.processes", what, f"use at most {max(machine.cores, MOST_CPU_PROCESSES)}"))
    if machine.device == "mps" and processes > 1:
        faults.append(Fault("launch.processes", f"mps runs one process, not {processes}", "use 1"))
    if parallel == "ddp":
        return faults
    if machine.device != "cuda":
        # Without an accelerator FSDP silently trains independent copies.
        what = f"{parallel} needs GPUs, and this machine has {machine.device_name}"
        return [*faults, Fault("parallel", what, "use parallel=ddp")]
    if processes == 1:
        what = f"{parallel} has nothing to share out with one process"
        faults.append(Fault("parallel", what, "raise launch.processes, or use parallel=ddp"))
    if parallel == "zero3" and importlib.util.find_spec("deepspeed") is None:
        what = "zero3 needs the package deepspeed, which is not installed"
        faults.append(Fault("parallel", what, "pip install 'finetune[deepspeed]', or use parallel=fsdp"))
    if isinstance(config.tuning, LoraTuning) and config.tuning.initialization in adapter.CHANGES_BASE:
        what = f"{config.tuning.initialization} changes the base, which {parallel} has shared out by then"
        faults.append(Fault("tuning.initialization", what, "use initialization=default, or parallel=ddp"))
    if parallel == "zero3" and isinstance(config.tuning, QloraTuning):
        faults.append(Fault("parallel", "zero3 cannot shard a quantized base", "use parallel=ddp or fsdp"))
    return faults


def _check_port(config: RunConfig) -> list[Fault]:
    port = config.launch.port if isinstance(config.launch, AccelerateLaunch) else None
    if port is None:
        return []
    try:
        with socket.socket() as probe:
            # The ranks may take over a port that a finished run has only just left.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        what = f"{port} cannot be used ({(error.strerror or str(error)).lower()})"
        return [Fault("launch.port", what, "give another one, or leave it out for a free one")]
    return []


def _check_scores(config: RunConfig) -> list[Fault]:
    try:
        scorers(config.evaluate)
    except UserError as error:
        return list(error.faults)
    return []


def _check_tracking(config: RunConfig) -> list[Fault]:
    package = TRACKERS.get(config.tracking.option)
    if package is None or importlib.util.find_spec(package) is not None:
        return []
    what = f"needs the package {package}, which is not installed"
    return [Fault("tracking", what, f"pip install 'finetune[{package}]', or use tracking=none")]
