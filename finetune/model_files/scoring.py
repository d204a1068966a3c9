"""Models that give a text one number instead of words: which can, and what a language model becomes as one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.errors import Fault, UserError
from finetune.model_files.architectures import reads_last_token, scoring_architectures

if TYPE_CHECKING:
    from finetune.model_files import ModelFacts

CAUSAL, SCORE = "causal", "score"  # what a model ends in: words, or one number
LAYER = "score"  # that gives the number, in every family that is taken
OUTPUTS = ("lm_head", "embed_out")  # what gives the words, and is left out
SOME = "Llama, Qwen, Mistral, Gemma, Phi, SmolLM3, OLMo 2, DeepSeek or GPT-2"


def is_scoring(config: Mapping[str, Any], architecture: str) -> bool:
    """Whether a configuration is that of a model that gives scores."""
    return architecture == scoring_architectures().get(str(config.get("model_type"))) and not config.get("auto_map")


def score_faults(path: str, config: Mapping[str, Any]) -> list[Fault]:
    """What keeps a stored model that gives scores from being a reward model."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else 2  # what transformers takes where nothing is written
    if count != 1:
        what = f"has {count} labels, and a reward model gives one number"
        return [Fault(f"{path} id2label", what, "name a reward model, or a language model to make one from")]
    return [] if reads_last_token(str(config["model_type"])) else [_no_score(path, str(config["model_type"]))]


def with_score(facts: ModelFacts) -> ModelFacts:
    """A language model as it is loaded to give scores: its last layer makes one number, drawn at random."""
    if facts.head == SCORE:
        return facts
    if facts.trust_remote_code or not reads_last_token(facts.model_type):
        raise UserError([_no_score(facts.name, facts.architecture)])
    outputs = {name: size for name, size in facts.other_sizes.items() if name.rpartition(".")[2] in OUTPUTS}
    others = {name: size for name, size in facts.other_sizes.items() if name not in outputs}
    left_out = 0 if facts.tied_embeddings else sum(outputs.values())
    return replace(
        facts,
        architecture=scoring_architectures()[facts.model_type],
        parameters=facts.parameters - left_out + facts.hidden_size,
        other_sizes={**others, LAYER: facts.hidden_size},
        embeddings=tuple(name for name in facts.embeddings if name not in OUTPUTS),
        head=SCORE,
        new_head=True,
    )


def _no_score(where: str, kind: str) -> Fault:
    what = f"{kind} has no score at its last token in the installed transformers, so no reward model is made from it"
    return Fault(where, what, f"use a model of another family: {SOME}")
