"""The methods: one module each, with the same names in every one.

    OPTION          the name that `method=` picks
    Config          its settings, a subclass of config.MethodConfig
    ROW_SHAPE       the row shapes it learns from
    TRL_CONFIG      the TRL class (module and name) that `method.trl.<key>` is checked against
    OWNED           TRL's names for what our own settings decide, with our key: refused inside `method.trl`
    build_args      RunPlan → TRL's arguments
    build_trainer   RunPlan, model, tokenizer, datasets → TRL's trainer
"""

from __future__ import annotations

from types import ModuleType

from finetune.methods import sft

METHODS: dict[str, ModuleType] = {module.OPTION: module for module in (sft,)}
