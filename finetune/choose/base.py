"""The base model and the devices for it: what fits, and how long training would take, from files alone."""

from __future__ import annotations

from dataclasses import replace

from finetune.adapter import as_continued, trainable_parameters
from finetune.choose.commands import STAND_IN, Given, Preset, first_run
from finetune.choose.settings import ChooseSettings
from finetune.choose.situation import Base, Fit, Situation, Tokens
from finetune.choose.tokens import Basis, counted, guessed
from finetune.choose.tunings import EPOCHS, FULL, LORA, QLORA, SHARDED
from finetune.compose import compose
from finetune.config import FsdpParallel, FullTuning, LoraTuning, QloraTuning, RunConfig, TuningConfig
from finetune.errors import UserError
from finetune.machine import Machine, look
from finetune.model_files import ModelFacts, check_quantization, inspect_model
from finetune.model_files.hub import is_hub_id
from finetune.plan.facts import Facts
from finetune.plan.table import USABLE_MEMORY, resolve

# Presets that are proposed where no base is named: the least memory of a device, and the preset for it.
PROPOSED = (
    (16, Preset("qwen3-4b", 4_000_000_000)),
    (8, Preset("qwen3-1.7b", 1_700_000_000)),
    (0, Preset("qwen3-0.6b", 600_000_000)),
)
WITHOUT_GPU = Preset("smollm2-135m", 135_000_000)
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


def proposed(machine: Machine) -> Preset:
    """The preset of a base for a machine."""
    if machine.device != "cuda":
        return WITHOUT_GPU
    return next(preset for least, preset in PROPOSED if machine.device_memory >= least * 2**30)


def inspect_base(settings: ChooseSettings) -> tuple[ModelFacts | None, str]:
    """The base that is named, or why it could not be looked at."""
    model = settings.model
    try:
        facts = inspect_model(model.name, model.revision, model.trust_remote_code)
    except UserError as error:
        # What is on the hub may be out of reach, and advice can be given without it.
        if not is_hub_id(model.name) or error.total > 1:
            raise
        return None, str(error.faults[0])
    if faults := check_quantization(facts, "lora"):
        raise UserError(faults)
    return facts, ""


def look_at_base(situation: Situation, model: ModelFacts, machine: Machine, arguments: Given) -> tuple[Base, Basis]:
    """What of the base fits, by the plan of the first run that can be trained; by a guess where there is none."""
    shown = first_run(situation) if any(one.given for one in situation.rows) else ()
    start = ["tuning.start=continue"] if model.adapter is not None else []
    words = [*arguments.model, *(shown or [f"data.train={STAND_IN}"]), *arguments.data, *arguments.others, *start]
    find = counted if shown else guessed
    found = find(compose(words), situation.rows, model, machine)
    hours = _hours(model, found.tokens, machine)
    is_adapter, fits = model.adapter is not None, fits_of(found.config, found.facts)
    return Base(model.name, model.parameters, said(machine), is_adapter, fits, hours), found


def fits_of(config: RunConfig, facts: Facts) -> tuple[Fit, ...]:
    """Every tuning that fits into memory; without it a smaller batch is tried first."""
    machine, start = facts.machine, config.tuning.start
    one: list[tuple[str, TuningConfig]] = [(LORA, LoraTuning(start=start))]
    if machine.device != "mps":
        one.append((QLORA, QloraTuning(start=start)))
    if facts.model.adapter is None:
        one.append((FULL, FullTuning()))
    fits = [_fit(name, replace(config, tuning=tuning), facts) for name, tuning in one]
    if machine.device == "cuda" and machine.devices > 1:
        launch = replace(config.launch, processes=machine.devices)
        shared = replace(config, tuning=LoraTuning(start=start), launch=launch, parallel=FsdpParallel())
        fits.append(_fit(SHARDED, shared, facts))
    return tuple(fit for fit in fits if fit is not None)


def _fit(name: str, config: RunConfig, facts: Facts) -> Fit | None:
    trainable = trainable_parameters(facts.model, as_continued(config.tuning, facts.model), facts.new_rows)
    batch = config.training.batch_size
    while batch:
        training = replace(config.training, batch_size=batch)
        needed = resolve(replace(config, training=training), facts, trainable)[2].total
        if needed <= facts.machine.device_memory * USABLE_MEMORY:
            return Fit(name, _settings(config, batch), needed / 2**30)
        batch //= 2
    return None


def _settings(config: RunConfig, batch: int) -> tuple[str, ...]:
    usual, found = config.training.batch_size, list[str]()
    if batch < usual:
        found += [f"training.batch_size={batch}", f"training.accumulation={usual // batch}"]
    if config.launch.processes > 1:
        found += [f"launch.processes={config.launch.processes}", "parallel=fsdp"]
    return tuple(found)


def _hours(facts: ModelFacts, tokens: Tokens, machine: Machine) -> float | None:
    if not tokens.total:
        return None
    speed = SPEED_BF16 if machine.bf16 else SPEED[machine.device] * (machine.cores if machine.device == "cpu" else 1)
    return OPERATIONS * facts.parameters * tokens.total * EPOCHS / speed / 3600
