"""The methods: one module each, with the same names in every one.

OPTION          the name that `method=` picks
Config          its settings, a subclass of config.MethodConfig
ROW_SHAPE       the row shapes it learns from
TRL_CONFIG      the TRL class (module and name) that `method.trl.<key>` is checked against
OWNED           TRL's names for what our own settings decide, with our key: refused inside `method.trl`
learned_tokens  its settings → which tokens of a conversation are learned
check           its settings and the rows → what they cannot mean together
build_args      RunPlan → TRL's arguments
build_trainer   TRL's arguments, model, tokenizer, rows, callbacks → TRL's trainer
"""

from __future__ import annotations

from types import ModuleType

from finetune.methods import sft

METHODS: dict[str, ModuleType] = {module.OPTION: module for module in (sft,)}
