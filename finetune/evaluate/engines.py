"""What answers: the one way to ask a model of this machine or an endpoint, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune.data.rows import Chat, Message
from finetune.evaluate.generate import Likelihood


@dataclass(frozen=True)
class Prompt:
    """What an engine is given before it answers a row."""

    row: Chat
    messages: tuple[Message, ...]
    ids: tuple[int, ...] = ()  # the same as tokens, where the engine has a tokenizer here


@dataclass(frozen=True)
class Said:
    """An answer, and what it took."""

    text: str
    stopped: bool  # ended by itself rather than by the limit
    seconds: float  # of a batch its share
    tokens: int | None  # the stop token is not counted; None when the endpoint does not tell
    prompt_tokens: int | None

    @property
    def is_empty(self) -> bool:
        """Whether it has no text."""
        return not self.text.strip()


class Engine(Protocol):
    """Something that answers."""

    name: str  # what results call it
    identity: str  # what decides its answers, besides the prompt

    def reference(self, row: Chat) -> str:
        """The expected answer as this engine would write it."""

    def length(self, row: Chat) -> int:
        """Tokens of the expected answer, or a guess of them."""

    def room(self, rows: Sequence[Chat]) -> int:
        """Tokens that an answer to any of the rows may have: a little over the longest reference."""

    def is_bare(self, row: Chat) -> bool:
        """Whether messages are joined as they are, there being no chat template."""

    def prompt(self, row: Chat, messages: Sequence[Message]) -> Prompt:
        """What is given to have these messages answered."""

    def fits(self, prompt: Prompt, room: int) -> bool:
        """Whether the context holds the prompt and its answer."""

    def shown(self, prompt: Prompt) -> str:
        """The prompt as a person reads it."""

    def unkept(self, prompts: Sequence[Prompt], room: int) -> int:
        """For how many of the prompts no answer is kept."""

    def answer(self, prompts: Sequence[Prompt], room: int) -> list[Said]:
        """The most likely answer to each prompt; those that are kept are not asked for again."""

    def predict(self, prompts: Sequence[Prompt]) -> list[Likelihood]:
        """How well each row's reference is predicted after its prompt; nothing where that cannot be known."""

    def close(self) -> None:
        """Let go of what is held for answering."""
