"""The tokenizer and chat template of a model, loaded without torch."""

from __future__ import annotations

from typing import Any

from finetune.model_files import ModelFacts


def load_tokenizer(facts: ModelFacts, chat_template: str | None = None, new_tokens: tuple[str, ...] = ()) -> Any:
    """The model's fast tokenizer, with a padding token that is not its stop token, and the given template if any."""
    raise NotImplementedError
