"""The base model and the devices for it: what fits, and how long training would take, from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune.adapter import trainable_parameters
from finetune.choose.settings import ChooseSettings
from finetune.choose.situation import Base, Fit, Rows
from finetune.choose.tunings import EPOCHS, FULL, LORA, QLORA, SHARDED
from finetune.config import FullTuning, LoraTuning, QloraTuning, TrainingConfig, TuningConfig
from finetune.errors import UserError
from finetune.machine import Machine, look
from finetune.model_files import ModelFacts, check_quantization, inspect_model
from finetune.model_files.hub import is_hub_id
from finetune.plan.facts import longest_possible
from finetune.plan.memory import estimate
from finetune.plan.table import USABLE_MEMORY, best_optimizer, best_precision

LENGTH = 1024  # tokens of a row, where none are shown
# Presets that are proposed where no base is named: the least memory of a device, and the preset for it.
PROPOSED = ((16, "qwen3-4b"), (8, "qwen3-1.7b"), (0, "qwen3-0.6b"))
WITHOUT_GPU = "smollm2-135m"
# Operations a second that training reaches, of one device; for processors of one core. Only the order of magnitude
# counts: it tells hours from months.
SPEED = {"cuda": 1e13, "mps": 2e12, "cpu": 3e10}
SPEED_BF16 = 1e14
OPERATIONS = 6  # of training, for each parameter and token


def devices(settings: ChooseSettings) -> Machine:
    """The devices to train on: this machine's, or those that were said."""
    here, memory = look(), settings.choose.memory
    if memory is None:
        return here
    count = settings.choose.devices or 1
    return replace(
        here,
        device="cuda",
        device_name="GPU",
        devices=count,
        device_memory=int(memory * 2**30),
        bf16=True,
    )


def said(machine: Machine) -> str:
    """The devices in words."""
    many = f"{machine.devices} × " if machine.devices > 1 else ""
    return f"{many}{machine.device_name} with {machine.device_memory / 2**30:.0f} GB"


def proposed(machine: Machine) -> str:
    """The preset of a base for a machine."""
    if machine.device != "cuda":
        return WITHOUT_GPU
    return next(name for least, name in PROPOSED if machine.device_memory >= least * 2**30)


def look_at_base(settings: ChooseSettings, rows: Sequence[Rows], machine: Machine) -> tuple[Base, str]:
    """The base that is named, and why it could not be looked at; that is empty when it could."""
    model = settings.model
    try:
        facts = inspect_model(model.name, model.revision, model.trust_remote_code)
    except UserError as error:
        # What is on the hub may be out of reach, and advice can be given without it.
        if not is_hub_id(model.name) or error.total > 1:
            raise
        return Base(model.name, 0, machine.device, said(machine)), str(error.faults[0])
    if faults := check_quantization(facts, "lora"):
        raise UserError(faults)
    length = settings.data.max_length or max((one.longest for one in rows), default=0) or LENGTH
    fits = fits_of(facts, machine, min(length, longest_possible(facts)))
    is_adapter = facts.adapter is not None
    base = Base(
        model.name, facts.parameters, machine.device, said(machine), is_adapter, fits, _hours(facts, rows, machine)
    )
    return base, ""


def fits_of(facts: ModelFacts, machine: Machine, longest: int) -> tuple[Fit, ...]:
    """Every tuning that fits into memory; without it a smaller batch is tried first."""
    one: list[tuple[str, TuningConfig]] = [(LORA, LoraTuning())]
    if machine.device != "mps":
        one.append((QLORA, QloraTuning()))
    if facts.adapter is None:
        one.append((FULL, FullTuning()))
    fits = [_fit(name, tuning, facts, machine, longest) for name, tuning in one]
    if machine.device == "cuda" and machine.devices > 1:
        fits.append(_fit(SHARDED, LoraTuning(), facts, machine, longest))
    return tuple(fit for fit in fits if fit is not None)


def _fit(name: str, tuning: TuningConfig, facts: ModelFacts, machine: Machine, longest: int) -> Fit | None:
    batch, shared = TrainingConfig().batch_size, name == SHARDED
    while batch:
        for checkpointing in (False, True):
            needed = estimate(
                facts,
                tuning=tuning,
                trainable=trainable_parameters(facts, tuning),
                precision=best_precision(machine)[0],
                micro_batch=batch,
                longest=longest,
                gradient_checkpointing=checkpointing,
                optimizer=best_optimizer(machine)[0],
                parallel="fsdp" if shared else "ddp",
                processes=machine.devices if shared else 1,
            ).total
            if needed <= machine.device_memory * USABLE_MEMORY:
                return Fit(name, _settings(batch, machine.devices if shared else 1), needed / 2**30)
        batch //= 2
    return None


def _settings(batch: int, processes: int) -> tuple[str, ...]:
    usual, found = TrainingConfig().batch_size, list[str]()
    if batch < usual:
        found += [f"training.batch_size={batch}", f"training.accumulation={usual // batch}"]
    if processes > 1:
        found += [f"launch.processes={processes}", "parallel=fsdp"]
    return tuple(found)


def _hours(facts: ModelFacts, rows: Sequence[Rows], machine: Machine) -> float | None:
    tokens = sum(one.tokens for one in rows)
    if not tokens:
        return None
    speed = SPEED_BF16 if machine.bf16 else SPEED[machine.device] * (machine.cores if machine.device == "cpu" else 1)
    return OPERATIONS * facts.parameters * tokens * EPOCHS / speed / 3600
