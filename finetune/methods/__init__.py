"""The methods: one module each, with the same names in every one.

OPTION          the name that `method=` picks
Config          its settings, a subclass of config.MethodConfig
ROW_SHAPE       the row shapes it learns from
TRL_CONFIG      the TRL class (module and name) that `method.trl.<key>` is checked against
OWNED           TRL's names for what our own settings decide, with our key: refused inside `method.trl`
HEAD            what the trained model ends in: causal (the next token) or score (one number for a text)
LAYS_FLAT       whether its trainer takes rows laid end to end instead of padded
RATE            its learning rate as a share of that of supervised tuning, where none is given
METRICS         what its trainer logs, besides what every trainer does, and metrics.jsonl keeps; a name that ends in /
                stands for all that begin so
BEST            the metric of held-out rows by which the best checkpoint is known
PATIENCE        steps by which the trained weights must have moved
ROWS_TOGETHER   texts that are in memory together for each row of a batch
keeps_reference its settings → whether a frozen copy of what training starts from is kept beside it
answers         its settings → the answers that it has the model give to each row, and the steps that learn from them
learned_tokens  its settings → which tokens of a conversation are learned
frozen_models   its settings → the models that it reads beside the trained one, by their role
open_settings   its settings and the facts → value and reason of each that may be left open
check           RunConfig and the facts → what they cannot mean together for this method
build_args      RunPlan → TRL's arguments
build_trainer   RunPlan and the parts (arguments, models, tokenizer, rows, callbacks) → TRL's trainer
"""

from __future__ import annotations

from types import ModuleType

from finetune.methods import distill, dpo, grpo, kto, reward, rloo, sft

METHODS: dict[str, ModuleType] = {module.OPTION: module for module in (sft, distill, dpo, kto, reward, grpo, rloo)}
