"""The schema of a run: every setting, its type, its default, its limits and its help. Imports no torch.

A default is written here and nowhere else. `None` means that the right value depends on the device, the tuning,
the method or the data: `plan` then chooses it, once, and says why. The settings of a method stand in its own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
    example: str | None = None,
) -> Any:
    """A field with its help and limits: `low` and `high` are allowed values, `above` and `below` are not."""
    limits = {
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "example": example,
    }
    metadata = {"help": help, **{key: value for key, value in limits.items() if value is not None}}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    """The base model."""

    name: str = setting(
        MISSING, "Hub id, folder, run directory, or `tiny` for the embedded model.", example="Qwen/Qwen3-0.6B"
    )
    revision: str | None = setting(None, "Commit, tag or branch of a hub model; local folders have none.")
    chat_template: str | None = setting(None, "File with a Jinja chat template, used instead of the model's own.")
    precision: str | None = setting(
        None,
        "Number format of training; by default what the device does best.",
        choices=("fp32", "bf16", "fp16"),
    )
    attention: str | None = setting(
        None,
        "Attention kernel; by default the fastest that is installed and exact.",
        choices=("eager", "sdpa", "flash_attention_2", "flash_attention_3"),
    )
    trust_remote_code: bool = setting(
        False,
        "Run Python code that the model's repository ships; needs `model.revision` to be a full commit.",
    )


@dataclass
class TuningConfig:
    """How much of the model is trained."""

    option: ClassVar[str] = ""
    start: str | None = setting(
        None,
        "When `model.name` holds an adapter: go on training it, or merge it into the base and train anew.",
        choices=("continue", "merge"),
    )
    new_tokens: list[str] = setting([], "Tokens added to the vocabulary; with an adapter only their rows are trained.")


@dataclass
class FullTuning(TuningConfig):
    """Every weight is trained."""

    option: ClassVar[str] = "full"


@dataclass
class LoraTuning(TuningConfig):
    """Small low-rank matrices are trained beside frozen weights."""

    option: ClassVar[str] = "lora"
    rank: int = setting(16, "Rank of the adapter's matrices.", low=1, high=4096)
    alpha: float | None = setting(None, "Scale of the adapter; by default twice the rank.", above=0)
    dropout: float = setting(0.0, "Dropout on the adapter's input.", low=0, below=1)
    targets: list[str] = setting(
        ["all-linear"], "Layers that get an adapter, by the end of their names; all linear layers by default."
    )
    rslora: bool = setting(False, "Scale by the square root of the rank, which keeps high ranks stable.")
    dora: bool = setting(False, "Train magnitude and direction apart (DoRA): better at low rank, slower.")
    initialization: str = setting(
        "default",
        "How the adapter's matrices start.",
        choices=("default", "gaussian", "pissa", "pissa_niter_4", "olora", "orthogonal"),
    )
    modules_to_save: list[str] = setting([], "Further modules that are trained whole and saved with the adapter.")


@dataclass
class QloraTuning(LoraTuning):
    """LoRA over a base held in 4 or 8 bits."""

    option: ClassVar[str] = "qlora"
    bits: int = setting(4, "Bits of a base weight: 4 or 8.", choices=(4, 8))
    quant_type: str = setting("nf4", "Number format of a 4-bit weight.", choices=("nf4", "fp4"))
    double_quantization: bool = setting(True, "Quantize the 4-bit scales too, saving about 0.4 bits a weight.")


@dataclass
class MethodConfig:
    """What the model is trained towards; the settings of each method stand in its own file."""

    option: ClassVar[str] = ""
    trl: dict[str, Any] = setting({}, "Arguments passed on to TRL's own configuration, checked against it by name.")


@dataclass
class RowsConfig:
    """Rows as their files hold them."""

    columns: dict[str, str] = setting({}, "Names of columns: ours to the file's, such as `prompt: question`.")
    layout: str | None = setting(
        None,
        "Layout of the rows; by default found from their columns.",
        choices=(
            "prompt_chosen_rejected",
            "question_chosen_rejected",
            "instruction_chosen_rejected",
            "messages_chosen_rejected",
            "conversations_chosen_rejected",
            "chosen_rejected",
            "preferred_output",
            "response_j_k",
            "response_a_b",
            "response_0_1",
            "conversation_a_b",
            "prompt_completions",
            "prompt_responses",
            "instruction_completions",
            "prompt_completion_label",
            "prompt_response_label",
            "messages_label",
            "messages_rating",
            "messages_feedback",
            "messages",
            "sharegpt",
            "contents",
            "alpaca",
            "dolly",
            "openorca",
            "prompt_completion",
            "prompt_response",
            "query_response",
            "question_answer",
            "problem_solution",
            "input_output",
            "text",
            "prompt",
            "problem",
            "question",
            "asked_messages",
        ),
    )
    split: str = setting("train", "Split of a hub dataset.")
    revision: str | None = setting(None, "Commit, tag or branch of a hub dataset.")
    limit: int | None = setting(None, "Use only the first rows of each source; for trying things out.", low=1)


@dataclass
class GroupedRowsConfig(RowsConfig):
    """Rows, some of which belong together."""

    group_by: list[str] = setting(
        [],
        "Columns such as a user or a source document: rows that have the same value in one of them are trained on "
        "together or held out together, and are not taken for independent when models are compared.",
    )


@dataclass
class DataConfig(GroupedRowsConfig):
    """The rows: where they come from and how they are cut."""

    train: Any = setting(MISSING, "File, folder, hub id or a list of them with the training rows.", example="my.jsonl")
    eval: Any = setting(None, "The same for held-out rows; without it a part of the training rows is held out.")
    eval_share: float = setting(
        0.1, "Share of the rows held out when `data.eval` is not given; 0 for none.", low=0, below=1
    )
    benchmarks: Any = setting(
        None, "Files with the rows of benchmarks, of which the training rows must hold none.", example="exam.jsonl"
    )
    contamination_words: int = setting(
        13, "Words in a row that training rows may not share with held-out rows and those of `data.benchmarks`.", low=5
    )
    allow_contamination: bool = setting(
        False, "Train although training rows stand in `data.eval` or `data.benchmarks`; the report then says so."
    )
    weights: list[float] = setting([], "How often the rows of each source in `data.train` are seen in one epoch.")
    counts: list[int] = setting(
        [],
        "Rows of each source in `data.train` in one epoch, chosen by seed; more than a source has repeat its rows.",
    )
    streaming: bool = setting(
        False, "Prepare the rows a window at a time while training, for more rows than the disk may hold prepared."
    )
    window: int = setting(50_000, "Rows of a window of `data.streaming`, among which their order is drawn.", low=2)
    max_length: int | None = setting(None, "Longest row in tokens; by default the model's context.", low=2)
    on_long: str = setting("fail", "What happens to rows over `data.max_length`.", choices=("fail", "truncate", "drop"))


@dataclass
class TrainingConfig:
    """The optimisation."""

    epochs: float | None = setting(3.0, "Passes over the rows.", above=0)
    max_steps: int | None = setting(None, "Optimizer steps; when given, it decides instead of `epochs`.", low=1)
    learning_rate: float | None = setting(None, "Peak learning rate; by default right for the tuning.", above=0)
    batch_size: int = setting(8, "Rows per device in one forward pass.", low=1)
    accumulation: int = setting(1, "Forward passes per optimizer step.", low=1)
    scheduler: str = setting(
        "cosine",
        "Shape of the learning rate over the run.",
        choices=(
            "cosine",
            "linear",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "cosine_with_min_lr",
        ),
    )
    warmup: float = setting(0.03, "Steps over which the rate rises: a share of the run below 1, a count from 1.", low=0)
    weight_decay: float = setting(0.0, "Decoupled weight decay.", low=0)
    max_grad_norm: float = setting(1.0, "Largest norm of a gradient; larger ones are scaled down.", above=0)
    optimizer: str | None = setting(
        None,
        "Optimizer; by default right for the tuning and the device.",
        choices=(
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_8bit",
            "paged_adamw_8bit",
            "paged_adamw_32bit",
            "adafactor",
        ),
    )
    gradient_checkpointing: bool | None = setting(
        None, "Recompute activations to save memory; by default only where the plan says it is needed."
    )
    batching: str | None = setting(
        None,
        "How rows make a batch: `flat` end to end without padding, `grouped` with rows of like length, or `padded`; by "
        "default the fastest that is exact.",
        choices=("flat", "grouped", "padded"),
    )
    log_every: int | None = setting(None, "Steps between rows of metrics.jsonl.", low=1)
    save_every: int | None = setting(None, "Steps between checkpoints.", low=1)
    eval_every: int | None = setting(None, "Steps between evaluations on the held-out rows.", low=1)
    keep_checkpoints: int = setting(2, "Checkpoints kept beside the best one.", low=1)
    keep_best: str | None = setting(
        None,
        "Metric of held-out rows whose best checkpoint becomes the result, by default the method's; `none` takes the "
        "last checkpoint.",
        choices=("eval_loss", "eval_accuracy", "eval_reward", "none"),
    )
    early_stopping: int | None = setting(
        None, "Stop after this many evaluations without a better `keep_best` metric.", low=1
    )
    max_time: str | None = setting(None, "Stop, resumable, after this long: `90m`, `3h`, `1h30m`.", example="3h")


@dataclass
class EvaluateConfig:
    """The comparison on held-out rows."""

    rows: int = setting(200, "Most held-out rows that are answered.", low=2)
    few_shot: int = setting(3, "Training rows shown as examples in the few-shot prompt.", low=1, high=32)
    metric: str = setting(
        "exact",
        "Score that decides.",
        choices=(
            "exact",
            "contains",
            "f1",
            "rouge_l",
            "bleu",
            "numeric",
            "choice",
            "json_valid",
            "json_fields",
            "json_schema",
            "regex",
        ),
    )
    schema: str | None = setting(None, "File of the JSON schema that answers are held against.", example="schema.json")
    pattern: str | None = setting(
        None, "Regular expression: what it finds last in the answer is compared with what it finds in the reference."
    )
    tolerance: float = setting(
        0.0, "How far a number may be off to count as the reference's, as a share of it.", low=0, below=1
    )
    max_new_tokens: int | None = setting(None, "Longest answer; by default a little over the longest reference.", low=1)
    batch_size: int = setting(32, "Rows answered together.", low=1)
    rungs: list[str] = setting(
        [],
        "Baselines to climb; by default all that the rows allow.",
        choices=("base", "prompted", "few_shot"),
    )
    prompts: list[str] = setting([], "Text files with a system prompt each; by default prompts are made from the rows.")
    prompt_rows: int = setting(64, "Training rows on which prompts are compared.", low=2)
    choose_again: bool = setting(False, "Choose the prompt again, by this metric, although it was chosen before.")
    neutral: str | None = setting(
        None,
        "File with prompts that have nothing to do with the task, to see what tuning forgot; by default some of ours.",
    )
    neutral_rows: int = setting(64, "Most neutral prompts that are answered.", low=2)
    neutral_tokens: int = setting(64, "Longest answer to a neutral prompt.", low=1)
    max_kl: float | None = setting(
        None, "Most nats a token that the tuned model may diverge from the base on neutral prompts.", low=0
    )
    max_length_change: float | None = setting(
        None, "Largest factor by which answers to neutral prompts may grow longer or shorter.", low=1
    )
    max_refusal_rise: float | None = setting(
        None, "Largest share of ordinary neutral prompts that may be refused in addition.", low=0, high=1
    )
    max_refusal_fall: float | None = setting(
        None, "Largest share of neutral prompts of kind `refuse` that may be refused no longer.", low=0, high=1
    )
    strengths: list[float] = setting(
        [], "Parts of the adapter's strength to try without training again, such as 0.25, 0.5 and 1.", low=0, high=2
    )
    tasks: list[str] = setting(
        [], "Tasks of lm-evaluation-harness for base and tuned model: names of its own, or task files."
    )
    task_documents: int | None = setting(None, "Use only the first documents of each task.", low=2)
    tasks_as_chat: bool = setting(False, "Put tasks through the chat template; by default their text is given bare.")
    allow_task_code: bool = setting(False, "Run code that task files name, and code that models write for a task.")
    max_task_drop: float | None = setting(
        None, "Most by which a task's metric may get worse, in the metric's own unit.", low=0
    )


@dataclass
class LaunchConfig:
    """How many processes run, and who starts them."""

    option: ClassVar[str] = ""
    processes: int = setting(1, "Processes, one per device.", low=1)


@dataclass
class AutoLaunch(LaunchConfig):
    """In this process when one is asked for, through accelerate when more are."""

    option: ClassVar[str] = "auto"


@dataclass
class InlineLaunch(LaunchConfig):
    """In this very process."""

    option: ClassVar[str] = "inline"


@dataclass
class AccelerateLaunch(LaunchConfig):
    """Through `accelerate launch` with a generated configuration file."""

    option: ClassVar[str] = "accelerate"
    processes: int = setting(2, "Processes, one per device.", low=1)
    port: int | None = setting(None, "Port of the first process; by default a free one.", low=1024, high=65535)


@dataclass
class ParallelConfig:
    """How several processes share the work."""

    option: ClassVar[str] = ""


@dataclass
class DdpParallel(ParallelConfig):
    """Every process holds the whole model."""

    option: ClassVar[str] = "ddp"


@dataclass
class FsdpParallel(ParallelConfig):
    """Weights, gradients and optimizer are sharded by PyTorch."""

    option: ClassVar[str] = "fsdp"
    offload: bool = setting(False, "Keep shards in the computer's memory between uses.")


@dataclass
class Zero3Parallel(ParallelConfig):
    """Weights, gradients and optimizer are sharded by DeepSpeed."""

    option: ClassVar[str] = "zero3"
    offload: bool = setting(False, "Keep optimizer state and weights in the computer's memory.")


@dataclass
class TrackingConfig:
    """Where metrics go besides metrics.jsonl."""

    option: ClassVar[str] = ""


@dataclass
class NoTracking(TrackingConfig):
    """Only metrics.jsonl and the report."""

    option: ClassVar[str] = "none"


@dataclass
class TensorboardTracking(TrackingConfig):
    """TensorBoard files in the run directory."""

    option: ClassVar[str] = "tensorboard"


@dataclass
class WandbTracking(TrackingConfig):
    """Weights & Biases."""

    option: ClassVar[str] = "wandb"
    project: str = setting("finetune", "Project that the run is filed under.")


@dataclass
class MlflowTracking(TrackingConfig):
    """MLflow."""

    option: ClassVar[str] = "mlflow"
    project: str = setting("finetune", "Experiment that the run is filed under.")


@dataclass
class TrackioTracking(TrackingConfig):
    """Trackio, which keeps its records on this machine."""

    option: ClassVar[str] = "trackio"
    project: str = setting("finetune", "Project that the run is filed under.")


@dataclass
class RunConfig:
    """One run: everything that a user can set."""

    name: str | None = setting(None, "Name of the run's directory; by default made from method, model and settings.")
    seed: int = setting(42, "Seed of every random choice.", low=0, high=2**32 - 1)
    output_dir: str = setting("runs", "Folder of the run directories.")
    resume: str = setting("auto", "Continue an interrupted run: auto, must, none, or the path of a checkpoint.")
    allow_change: list[str] = setting([], "Settings that may differ from those of the run that is continued.")
    model: ModelConfig = field(default_factory=ModelConfig)
    tuning: TuningConfig = field(default_factory=LoraTuning)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    launch: LaunchConfig = field(default_factory=AutoLaunch)
    parallel: ParallelConfig = field(default_factory=DdpParallel)
    tracking: TrackingConfig = field(default_factory=NoTracking)


# What a group's option names: `tuning=lora` is LoraTuning. A group without an entry (model, data) has one schema.
OPTIONS: dict[str, dict[str, type[Any]]] = {
    "tuning": {kind.option: kind for kind in (LoraTuning, QloraTuning, FullTuning)},
    "launch": {kind.option: kind for kind in (AutoLaunch, InlineLaunch, AccelerateLaunch)},
    "parallel": {kind.option: kind for kind in (DdpParallel, FsdpParallel, Zero3Parallel)},
    "tracking": {
        kind.option: kind for kind in (NoTracking, TensorboardTracking, WandbTracking, MlflowTracking, TrackioTracking)
    },
}

# Keys that hold a path (or several): quoted before Hydra's grammar sees them, and never read as a sweep.
PATH_KEYS = (
    "data.train",
    "data.eval",
    "data.benchmarks",
    "evaluate.prompts",
    "evaluate.tasks",
    "evaluate.neutral",
    "model.name",
    "model.chat_template",
    "method.teacher",
    "evaluate.schema",
    "method.rewards",
    "method.schema",
    "output_dir",
    "output",
    "resume",
)

# Mappings whose keys are the user's: an override of them needs no `+`.
OPEN_KEYS = ("method.trl", "data.columns")

# Settings that do not change what is learned: the same run whatever their value.
NOT_IDENTITY = (
    "name",
    "output_dir",
    "resume",
    "allow_change",
    "launch",
    "parallel",
    "tracking",
    "evaluate",
    "training.epochs",
    "training.max_steps",
    "training.max_time",
    "training.log_every",
    "training.save_every",
    "training.eval_every",
    "training.keep_checkpoints",
    "training.early_stopping",
)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Every leaf of a config object: dotted key, value, and the metadata of its field."""
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{key}.")
        else:
            yield key, value, item.metadata
