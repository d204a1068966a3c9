"""What is trained: the adapter on a base model, its size, and the proof that it was trained and saved."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import FullTuning, LoraTuning, QloraTuning, TuningConfig
from finetune.errors import Fault, did_you_mean, listed
from finetune.model_files import ModelFacts, inspect_model
from finetune.model_files.architectures import TRANSPOSED
from finetune.model_files.scoring import CAUSAL, LAYER, SCORE, with_score

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"

# Initialisations that take a part out of the base's weights, to train it in the adapter.
CHANGES_BASE = ("pissa", "pissa_niter_4", "olora")


@dataclass(frozen=True)
class TrainableReport:
    """How much of a model is trained."""

    trainable: int
    total: int
    modules: tuple[str, ...]  # kinds of layer that are trained, by the end of their names

    @property
    def share(self) -> float:
        return self.trainable / self.total if self.total else 0.0


def _ends(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.rpartition(".")[2] for name in names}))


def _matching(target: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == target or name.endswith(f".{target}")]


def check_targets(
    targets: Sequence[str], facts: ModelFacts, modules_to_save: Sequence[str] = ()
) -> tuple[list[Fault], tuple[str, ...]]:
    """The faults of `tuning.targets` and `tuning.modules_to_save`, and the names of the layers meant.

    Each name is checked by itself: peft complains only when none at all matches, and passes over one wrong
    name among several in silence.
    """
    known = _ends(facts.linear_shapes)
    faults: list[Fault] = []
    if not targets:
        faults.append(Fault("tuning.targets", "names no layer", f"use [{ALL_LINEAR}] or some of {listed(known)}"))
    if ALL_LINEAR in targets and len(targets) > 1:
        faults.append(Fault("tuning.targets", f"{ALL_LINEAR} already includes the others", f"use [{ALL_LINEAR}]"))
    for target in targets:
        if target != ALL_LINEAR and not _matching(target, facts.linear_shapes):
            faults.append(_target_fault(target, known))
    for name in modules_to_save:
        fault = _module_fault(name, facts, known)
        if fault is not None:
            faults.append(fault)
    return faults, known if ALL_LINEAR in targets else tuple(targets)


def _target_fault(target: str, known: tuple[str, ...]) -> Fault:
    if target in ("lm_head", "embed_tokens"):
        what = f"{target} cannot get an adapter: the loss reads its weights directly"
        return Fault("tuning.targets", what, f"use tuning.modules_to_save=[{target}]")
    hint = did_you_mean(target, known)
    return Fault("tuning.targets", f"no layer matches {target!r}; the model has {listed(known)}", hint)


def _module_fault(name: str, facts: ModelFacts, linear: tuple[str, ...]) -> Fault | None:
    where = "tuning.modules_to_save"
    others = _ends(facts.other_sizes)
    if name == LAYER and facts.head == SCORE:
        return Fault(where, f"{name} is trained whole in any case", "leave it out")
    if name == "lm_head" and facts.tied_embeddings and facts.head != SCORE:
        what = "lm_head shares its weights with the embedding; a copy of its own would part them"
        return Fault(where, what, "use embed_tokens, which trains both, or leave it out")
    if _matching(name, facts.other_sizes) or _matching(name, facts.linear_shapes):
        return None
    known = (*others, *linear)
    return Fault(where, f"no module matches {name!r}; the model has {listed(known)}", did_you_mean(name, known))


def check_tuning(tuning: TuningConfig, facts: ModelFacts) -> list[Fault]:
    """Every fault of a tuning that the model's files show: targets, rank, start, initialisation."""
    faults = start_faults(tuning, facts.name, facts.adapter is not None)
    if tuning.start == "continue" and facts.head == SCORE and facts.adapter and not facts.adapter.scores:
        what = f"'continue' trains the adapter that {facts.name} holds, which gives no score"
        faults.append(Fault("tuning.start", what, "use tuning.start=merge"))
    if not isinstance(tuning, LoraTuning):
        return faults
    faults += check_targets(tuning.targets, facts, tuning.modules_to_save)[0]
    if tuning.rank > facts.hidden_size:
        what = f"must be 1..{facts.hidden_size} (the width of the model), got {tuning.rank}"
        faults.append(Fault("tuning.rank", what, "lower it"))
    if isinstance(tuning, QloraTuning) and tuning.initialization in (*CHANGES_BASE, "orthogonal"):
        what = f"{tuning.initialization} needs full weights, but tuning=qlora holds them in {tuning.bits} bits"
        faults.append(Fault("tuning.initialization", what, "use tuning=lora, or initialization=default"))
    if isinstance(tuning, QloraTuning) and tuning.bits == 8 and tuning.dora:
        faults.append(Fault("tuning.dora", "is not supported over 8-bit weights", "use tuning.bits=4"))
    if tuning.initialization == "orthogonal" and tuning.rank % 2:
        what = f"must be even for orthogonal initialization, got {tuning.rank}"
        faults.append(Fault("tuning.rank", what, f"use {tuning.rank + 1}"))
    if tuning.initialization in CHANGES_BASE and tuning.dora:
        what = f"{tuning.initialization} does not go with tuning.dora"
        faults.append(Fault("tuning.initialization", what, "choose one of the two"))
    return faults


def start_faults(tuning: TuningConfig, name: str, has_adapter: bool) -> list[Fault]:
    """Whether `tuning.start` says what becomes of the adapter that a model holds, if it holds one."""
    if not has_adapter:
        if tuning.start is None:
            return []
        what = f"{tuning.start!r} has no effect: {name} holds no adapter"
        return [Fault("tuning.start", what, "leave it out")]
    if tuning.start is None:
        what = f"must say what becomes of the adapter that {name} holds"
        mend = "set tuning.start=continue to go on training it, or tuning.start=merge"
        if isinstance(tuning, FullTuning):
            mend = "set tuning.start=merge to train all weights with it merged in"
        return [Fault("tuning.start", what, mend)]
    if tuning.start == "continue" and isinstance(tuning, FullTuning):
        return [Fault("tuning.start", "'continue' trains the adapter, not every weight", "use tuning.start=merge")]
    return []


def as_continued(tuning: TuningConfig, facts: ModelFacts) -> TuningConfig:
    """The tuning with the shape of the adapter that is trained further, if one is."""
    if facts.adapter is None or tuning.start != "continue" or not isinstance(tuning, LoraTuning):
        return tuning
    return replace(tuning, rank=facts.adapter.rank, targets=list(facts.adapter.targets), alpha=facts.adapter.alpha)


def trainable_parameters(facts: ModelFacts, tuning: TuningConfig, token_ids: Sequence[int] = ()) -> int:
    """How many numbers are trained, from the model's files alone: what peft will count, layer by layer.

    `token_ids` are the rows that are trained for new tokens, as `new_token_ids` gives them.
    """
    added = sum(1 for token_id in token_ids if token_id >= facts.vocab_size)
    embeddings = 1 if facts.tied_embeddings or facts.head == SCORE else 2
    if not isinstance(tuning, LoraTuning):
        return facts.parameters + embeddings * added * facts.hidden_size
    saved = {*saved_modules(tuning, facts), *([LAYER] if facts.head == SCORE else [])}
    total = _matrix_numbers(facts, tuning, saved)
    for name in saved:
        shape = facts.linear_shapes.get(name)
        total += math.prod(shape) if shape else facts.other_sizes[name]
    # An embedding that is trained whole has its new rows among the others.
    whole = sum(1 for name in saved if name.rpartition(".")[2] in facts.embeddings)
    return total + (whole * added + (embeddings - whole) * len(token_ids)) * facts.hidden_size


def _matrix_numbers(facts: ModelFacts, tuning: LoraTuning, saved: set[str]) -> int:
    targets = _ends(facts.linear_shapes) if ALL_LINEAR in tuning.targets else tuple(tuning.targets)
    layers = {name for target in targets for name in _matching(target, facts.linear_shapes)} - saved
    total = 0
    for name in layers:
        out_size, in_size = facts.linear_shapes[name]
        total += tuning.rank * (out_size + in_size) + (out_size if tuning.dora else 0)
    return total


def saved_modules(tuning: LoraTuning, facts: ModelFacts) -> list[str]:
    """The full names of the modules that are trained whole: peft takes `norm` for every name that ends so."""
    names = (*facts.linear_shapes, *facts.other_sizes)
    return sorted({name for module in tuning.modules_to_save for name in _matching(module, names)})


def new_token_ids(tokenizer: Any, facts: ModelFacts, new_tokens: Sequence[str]) -> tuple[int, ...]:
    """The rows trained beside the adapter: those of the new tokens, and every row that the base lacks."""
    beyond = range(facts.vocab_size, len(tokenizer))
    return tuple(sorted({*tokenizer.convert_tokens_to_ids(list(new_tokens)), *beyond}))


def build_lora_config(
    tuning: LoraTuning, model: PreTrainedModel, facts: ModelFacts, token_ids: Sequence[int]
) -> LoraConfig:
    """peft's configuration of a new adapter."""
    from peft import LoraConfig, TaskType

    tied = bool(model.config.tie_word_embeddings)
    saved = saved_modules(tuning, facts)
    targets: str | list[str] = list(tuning.targets)
    if ALL_LINEAR in tuning.targets:
        # In a mixture, peft's own shorthand would put an adapter on every expert: many times the size.
        mixture = any(name.endswith(".experts") for name in facts.other_sizes)
        targets = list(_ends(facts.linear_shapes)) if mixture else ALL_LINEAR
    return LoraConfig(
        # Of a model that gives scores peft trains and saves the score whole; it would put an adapter on it otherwise.
        task_type=TaskType.SEQ_CLS if facts.head == SCORE else TaskType.CAUSAL_LM,
        r=tuning.rank,
        lora_alpha=alpha_of(tuning),
        lora_dropout=tuning.dropout,
        target_modules=targets,
        modules_to_save=saved or None,
        fan_in_fan_out=facts.model_type in TRANSPOSED,
        use_rslora=tuning.rslora,
        use_dora=tuning.dora,
        init_lora_weights=True if tuning.initialization == "default" else tuning.initialization,
        trainable_token_indices=_token_indices(model, token_ids, tied, saved),
        ensure_weight_tying=tied and bool(saved) and facts.head != SCORE,
        revision=facts.revision if facts.hub_id else None,
    )


def alpha_of(tuning: LoraTuning) -> float:
    """The adapter's scale: what was set, or twice the rank."""
    alpha = float(2 * tuning.rank) if tuning.alpha is None else tuning.alpha
    return int(alpha) if float(alpha).is_integer() else alpha


def _token_indices(
    model: PreTrainedModel, token_ids: Sequence[int], tied: bool, saved: Sequence[str]
) -> dict[str, list[int]] | None:
    """The embeddings whose new rows are trained by themselves: those that are not trained whole."""
    if not token_ids:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    layers = [model.get_input_embeddings()]
    if not tied and model.get_output_embeddings() is not None:
        layers.append(model.get_output_embeddings())
    named = set(_ends(names[id(layer)] for layer in layers)) - set(_ends(saved))
    return {name: list(token_ids) for name in sorted(named)} or None


def add_adapter(
    model: PreTrainedModel,
    tuning: LoraTuning,
    facts: ModelFacts,
    *,
    seed: int,
    token_ids: Sequence[int] = (),
    start_folder: Path | None = None,
    main_process: bool = True,
) -> PeftModel:
    """The model with an adapter to train, new or continued, and all its own weights frozen.

    A quantized base needs no further preparation: TRL does not raise its other weights to fp32 either, and
    enables gradients of the inputs when it checkpoints. An initialisation that changes the base is written
    to `start_folder` by the main process, so that the result can be saved as an ordinary adapter.
    """
    from peft import PeftModel, get_peft_model
    from transformers import set_seed

    if facts.adapter is not None:
        continued = PeftModel.from_pretrained(model, facts.adapter.path, is_trainable=True)
        _show_output_bias(continued)
        return continued
    # The adapter's matrices are drawn at random: the same on every rank and after every resume.
    set_seed(seed)
    tuned = get_peft_model(model, build_lora_config(tuning, model, facts, token_ids))
    _show_output_bias(tuned)
    if tuning.initialization in CHANGES_BASE and main_process:
        if start_folder is None:
            raise ValueError(f"initialization={tuning.initialization} needs a folder for the adapter's start")
        tuned.save_pretrained(str(start_folder), save_embedding_layers=False)
    return tuned


def keep_in_fp32(model: Any) -> None:
    """Raise what is trained to fp32, once TRL's trainer is built.

    TRL lowers an adapter over a quantized base to bf16, in which small steps are lost; and peft raises it to
    fp32 when a checkpoint is loaded, so that an interrupted run would end in other weights. Not to be used
    where FSDP shards the model: it wants one type.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _show_output_bias(model: PeftModel) -> None:
    """Let an output layer with trained rows show its bias, which is none in nearly every model.

    TRL's loss multiplies by `lm_head.weight` and asks for `lm_head.bias`; peft's wrapper around trained rows
    passes on the first only.
    """
    from peft.utils.other import TrainableTokensWrapper

    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper) and hasattr(module.original_module, "bias"):
            # Not an attribute of the module: a bias would be registered, and saved, a second time.
            module.__dict__["bias"] = module.original_module.bias


def merge_base(facts: ModelFacts, folder: Path, tokenizer: Any) -> ModelFacts:
    """Merge the adapter that a model holds into its base, written to `folder`, to be trained anew.

    It is written since the new adapter means nothing without it, and merged in the number format that the
    base is stored in, never in a quantized one, whose rounding would eat the adapter.
    """
    from finetune.model import load_model

    if facts.adapter is None:
        raise ValueError(f"{facts.name} holds no adapter")
    if not folder.exists():
        precision = facts.dtype if facts.dtype in ("fp32", "bf16", "fp16") else "fp32"
        own = replace(facts, head=SCORE if facts.adapter.scores else CAUSAL)
        base = load_model(own, precision=precision, attention="eager", full=False, tokenizer=tokenizer)
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        merged(base, facts).save_pretrained(str(unfinished), safe_serialization=True)
        tokenizer.save_pretrained(str(unfinished))
        unfinished.rename(folder)
    made = inspect_model(str(folder), scores=facts.adapter.scores)
    return with_score(made) if facts.head == SCORE else made


def merged(base: PreTrainedModel, facts: ModelFacts) -> PreTrainedModel:
    """The base with the adapter that its facts name, if any, merged into its weights."""
    from peft import PeftModel

    if facts.adapter is None:
        return base
    return PeftModel.from_pretrained(base, facts.adapter.path).merge_and_unload(safe_merge=True)


def trainable_report(model: Any) -> TrainableReport:
    """How much of a model is trained, counted in the model itself."""
    trainable = total = 0
    modules: set[str] = set()
    for name, parameter in model.named_parameters():
        # A 4-bit weight packs two numbers into a byte; ZeRO-3 leaves an empty tensor with its size beside it.
        size = parameter.ds_numel if hasattr(parameter, "ds_numel") else parameter.numel()
        if type(parameter).__name__ == "Params4bit" and parameter.quant_state is not None:
            size = math.prod(parameter.quant_state.shape)
        total += size
        if parameter.requires_grad:
            trainable += size
            modules.add(_kind(name))
    return TrainableReport(trainable, total, tuple(sorted(modules)))


def _kind(name: str) -> str:
    layer = re.split(r"\.(?:lora_|modules_to_save|token_adapter|original_module)", name)[0]
    return layer.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
