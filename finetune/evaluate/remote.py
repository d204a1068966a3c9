"""Endpoints as engines. What they answer is kept in a journal, as what teachers answer is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from finetune.data.rows import Chat, Message
from finetune.endpoint.asked import Asked, Reply, Request, Sampling, open_asked
from finetune.endpoint.asking import Asking
from finetune.endpoint.client import Endpoint, Names
from finetune.endpoint.limits import Ceiling
from finetune.errors import RunFailed, counted
from finetune.evaluate.engines import Prompt, Said
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.kept import key_of
from finetune.evaluate.settings import AskedSettings
from finetune.rundir import claimed

NAMES = Names("endpoint", "model", "endpoint", "evaluate.max_new_tokens")
JOURNAL = "asked.jsonl"
SEED = 0  # answers are greedy; a server that draws all the same draws alike
BYTES = 2  # of a reference to a token: fewer than any tokenizer needs for ordinary text


class EndpointEngine:
    """A model that others serve. How likely it finds a text cannot be known."""

    def __init__(self, name: str, endpoint: Endpoint, settings: AskedSettings, folder: Path) -> None:
        self.name, self.identity = name, identity_of(endpoint)
        self._endpoint, self._temperature = endpoint, settings.temperature
        self._asking = Asking(endpoint, settings, Ceiling())
        self._folder, self._open = folder / self.identity, ExitStack()
        self._asked: Asked | None = None
        self._heard = False  # it has given text

    def reference(self, row: Chat) -> str:
        """The expected answer, as it stands in the row."""
        return str(row.messages[-1]["content"])

    def length(self, row: Chat) -> int:
        """Enough for the reference in any tokens."""
        return len(self.reference(row).encode("utf-8", "surrogatepass")) // BYTES

    def room(self, rows: Sequence[Chat]) -> int:
        """A little over the longest reference."""
        return max(map(self.length, rows)) + 16

    def is_bare(self, row: Chat) -> bool:
        """An endpoint has a template of its own."""
        return False

    def prompt(self, row: Chat, messages: Sequence[Message]) -> Prompt:
        """The messages, as they are sent."""
        return Prompt(row, tuple({"role": one["role"], "content": one["content"]} for one in messages))

    def fits(self, prompt: Prompt, room: int) -> bool:
        """The endpoint itself says when a prompt is too long."""
        return True

    def shown(self, prompt: Prompt) -> str:
        """The messages, one after another."""
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt.messages)

    def unkept(self, prompts: Sequence[Prompt], room: int) -> int:
        """For how many of the prompts no answer is kept."""
        asked = self._journal()
        return sum(request.key(self._endpoint.model) not in asked for request in self._requests(prompts, room))

    def answer(self, prompts: Sequence[Prompt], room: int) -> list[Said]:
        """The answer to each prompt."""
        answers = self._answered(prompts, room)
        self._check_heard(answers, room)
        return answers

    def probe(self, prompts: Sequence[Prompt], room: int) -> None:
        """Fail now if it cannot be asked: one of the prompts whose answer is not kept is put to it, and then is."""
        asked = self._journal()
        requests = self._requests(prompts, room)
        new = [at for at, request in enumerate(requests) if request.key(self._endpoint.model) not in asked]
        self._answered([prompts[at] for at in new[:1]], room)

    def _answered(self, prompts: Sequence[Prompt], room: int) -> list[Said]:
        requests, asked = self._requests(prompts, room), self._journal()
        outcome = self._asking.ask(requests, asked)
        if outcome.failed:
            said = f"{counted(len(outcome.failed), 'prompt')} of {len(prompts):,} not answered"
            why = next(iter(outcome.failed.values()))
            kept = f"{asked.requests:,} answers are kept; the same command continues"
            raise RunFailed(f"{self._endpoint.place}: {said} ({why}); {kept}")
        return [_said(asked.reply(request.key(self._endpoint.model))) for request in requests]

    def _requests(self, prompts: Sequence[Prompt], room: int) -> list[Request]:
        sampling = Sampling(self._temperature, None, room)
        return [Request(prompt.messages, sampling, SEED, self.name) for prompt in prompts]

    def _check_heard(self, answers: Sequence[Said], room: int) -> None:
        """Fail when nothing that it was ever asked had any text for an answer."""
        self._heard = self._heard or any(not one.is_empty for one in answers)
        if self._heard or not answers:
            return
        cut = sum(not one.stopped for one in answers)
        said = f"{counted(len(answers), 'answer')}, all of them empty, {cut:,} cut off at {counted(room, 'token')}"
        mend = "raise evaluate.max_new_tokens if the model reasons first, or correct the model's name"
        kept = f"once the server is mended delete {self._folder}, where they are kept"
        raise RunFailed(f"{self._endpoint.place} {self._endpoint.model}: {said}; {mend}; {kept}")

    def predict(self, prompts: Sequence[Prompt]) -> list[Likelihood]:
        """Nothing: an endpoint does not tell."""
        return []

    def close(self) -> None:
        """Close the journal."""
        self._open.close()
        self._open, self._asked = ExitStack(), None

    def _journal(self) -> Asked:
        if self._asked is None:
            self._open.enter_context(claimed(self._folder))
            self._asked = self._open.enter_context(open_asked(self._folder / JOURNAL))
        return self._asked


def identity_of(endpoint: Endpoint) -> str:
    """An endpoint is known by its address and the name of its model; what lies behind them may change unseen."""
    return key_of(endpoint.url, endpoint.model)


def _said(reply: Reply | None) -> Said:
    assert reply is not None, "what did not fail was answered"
    tokens = (reply.usage.answered, reply.usage.asked) if reply.counted else (None, None)
    return Said(reply.text, reply.finished == "stop", reply.seconds, *tokens)
