"""Models of this machine as engines: loaded when something is asked that is not kept, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Chat, Message, Row, to_json
from finetune.evaluate.engines import Prompt, Said
from finetune.evaluate.generate import IGNORED, Likelihood, generate, likelihoods
from finetune.evaluate.kept import Kept, contents_digest, key_of
from finetune.evaluate.questions import Speech, ask, tokens_of
from finetune.log import log

if TYPE_CHECKING:
    from finetune.model import QuantizationPlan
    from finetune.model_files import ModelFacts
    from finetune.plan import RunPlan

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
Opener = Callable[[], AbstractContextManager[Any]]

ENOUGH = 5.0  # seconds of work that are kept together; a kill costs about so many
SAY_EVERY = 10.0  # seconds
DECIDING = ("torch", "transformers", "peft", "bitsandbytes")  # packages that an answer may hang on


@dataclass(frozen=True)
class Held:
    """How weights are held in memory."""

    precision: str
    attention: str
    device: str
    quantization: QuantizationPlan | None = None


@dataclass(frozen=True)
class Models:
    """A base and what was made of it. Each is opened when its turn comes, and let go after it."""

    base: Opener
    tuned: Opener
    release: Callable[[], None] = field(default=lambda: None)  # lets go of what both share


class LocalEngine:
    """A model, asked with the encoding that training used."""

    def __init__(self, name: str, speech: Speech, opener: Opener, kept: Kept, batch_size: int) -> None:
        self.name, self.identity = name, kept.path.stem
        self._speech, self._opener, self._kept, self._batch_size = speech, opener, kept, batch_size
        self._open, self._model = ExitStack(), None
        self._expected: dict[str, tuple[str, tuple[int, ...]]] = {}  # row → its reference, as text and as tokens

    def reference(self, row: Chat) -> str:
        """The expected answer, with tool calls as the template writes them."""
        return self._expecting(row)[0]

    def length(self, row: Chat) -> int:
        """Tokens of the expected answer, with the one that ends it."""
        return len(self._expecting(row)[1])

    def room(self, rows: Sequence[Chat]) -> int:
        """A little over the longest reference, so that a wordy answer is seen to be one."""
        longest = max(map(self.length, rows))
        return longest + longest // 4 + 8

    def is_bare(self, row: Chat) -> bool:
        """Whether messages are joined as they are."""
        return row.plain and not self._speech.tokenizer.chat_template

    def prompt(self, row: Chat, messages: Sequence[Message]) -> Prompt:
        """The messages as tokens."""
        return Prompt(row, tuple(messages), tuple(self._speech.encoder.prompt_ids(messages, row.tools, row.plain)))

    def fits(self, prompt: Prompt, room: int) -> bool:
        """Whether the context holds the prompt and its answer."""
        return self._speech.context is None or len(prompt.ids) + room <= self._speech.context

    def shown(self, prompt: Prompt) -> str:
        """The prompt as the template writes it."""
        return str(self._speech.tokenizer.decode(prompt.ids))

    def unkept(self, prompts: Sequence[Prompt], room: int) -> int:
        """For how many of the prompts no answer is kept."""
        return sum(self._key(prompt, room) not in self._kept.found for prompt in prompts)

    def answer(self, prompts: Sequence[Prompt], room: int) -> list[Said]:
        """The most likely answer to each prompt."""
        stops = self._speech.encoder.stop_ids
        keys = {self._key(prompt, room): prompt for prompt in prompts}
        for part in self._unkept(keys, lambda prompt: len(prompt.ids), "answers"):
            given = [keys[key].ids for key in part]
            answers = generate(
                self._loaded(),
                self._speech.tokenizer,
                given,
                stop_ids=stops,
                max_new_tokens=room,
                batch_size=self._batch_size,
                context=self._speech.context,
            )
            said = [
                Said(one.text, one.stopped, one.seconds, one.tokens, len(ids))
                for one, ids in zip(answers, given, strict=True)
            ]
            self._kept.add({key: asdict(one) for key, one in zip(part, said, strict=True)})
        return [Said(**self._kept.found[self._key(prompt, room)]) for prompt in prompts]

    def predict(self, prompts: Sequence[Prompt]) -> list[Likelihood]:
        """How well each row's reference is predicted after its prompt."""
        sequences = []
        for prompt in prompts:
            wanted = self._expecting(prompt.row)[1]
            sequences.append(([*prompt.ids, *wanted], [IGNORED] * len(prompt.ids) + list(wanted)))
        return self._likelihoods(sequences)

    def read(self, rows: Sequence[Row]) -> list[Likelihood]:
        """How well whole rows are predicted."""
        return self._likelihoods([tokens_of(row, self._speech) for row in rows])

    def close(self) -> None:
        """Let go of the model."""
        self._open.close()
        self._open, self._model = ExitStack(), None

    def _key(self, prompt: Prompt, room: int) -> str:
        return key_of("answer", prompt.ids, room, self._speech.encoder.stop_ids)

    def _likelihoods(self, sequences: Sequences) -> list[Likelihood]:
        most = self._speech.context
        cut = [(list(ids[:most]), list(labels[:most])) for ids, labels in sequences]
        keys = {key_of("likelihood", ids, labels): (ids, labels) for ids, labels in cut}
        for part in self._unkept(keys, lambda sequence: len(sequence[0]), "likelihoods"):
            found = likelihoods(
                self._loaded(),
                [keys[key] for key in part],
                batch_size=self._batch_size,
                pad_id=self._speech.tokenizer.pad_token_id,
            )
            self._kept.add({key: asdict(one) for key, one in zip(part, found, strict=True)})
        return [Likelihood(**self._kept.found[key_of("likelihood", ids, labels)]) for ids, labels in cut]

    def _unkept(self, keys: Mapping[str, Any], size: Callable[[Any], int], what: str) -> Iterator[list[str]]:
        """What is to be computed, the longest first, in portions that are kept together."""
        left = sorted((key for key in keys if key not in self._kept.found), key=lambda key: -size(keys[key]))
        portion, total, said = self._batch_size, len(left), time.monotonic()
        while left:
            part, left = left[:portion], left[portion:]
            began = time.monotonic()
            yield part
            if time.monotonic() - began < ENOUGH:
                portion *= 2
            if left and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                log.info(f"{self.name}: {total - len(left):,} of {total:,} {what}")

    def _expecting(self, row: Chat) -> tuple[str, tuple[int, ...]]:
        key = to_json(row)
        if key not in self._expected:
            question = ask(row, self._speech)
            self._expected[key] = question.reference, question.reference_ids
        return self._expected[key]

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = self._open.enter_context(self._opener())
        return self._model


def identity_of(facts: ModelFacts, adapter: Path | None, held: Held, tokenizer: Any, folder: Path) -> str:
    """What decides the answers of a model, besides the prompt: weights, how they are held, tokenizer, versions."""
    from finetune.data.encode import tokenizer_digest
    from finetune.machine import package_versions
    from finetune.model_files.adapters import CONFIG, WEIGHTS

    if facts.hub_id is not None:
        weights = f"{facts.hub_id}@{facts.revision}"  # a commit's files never change
    else:
        weights = contents_digest(sorted(Path(facts.path).glob("*.safetensors")), folder)
    added = contents_digest([adapter / CONFIG, adapter / WEIGHTS], folder) if adapter else None
    found = package_versions()
    versions = {name: found.get(name) for name in DECIDING}
    return key_of(facts.fingerprint, weights, added, asdict(held), tokenizer_digest(tokenizer), versions)


def open_run(plan: RunPlan) -> tuple[Speech, Models]:
    """How the model of a run is spoken to, and how base and tuned model are opened."""
    from finetune.artefact import ADAPTER, MODEL
    from finetune.model_files import inspect_model

    held, folder = held_as(plan), Path(plan.run_dir)
    speech = speech_of(plan.model, plan.config.model.chat_template, tuple(plan.config.tuning.new_tokens))
    if (folder / ADAPTER).is_dir():
        return speech, adapter_models(partial(load, plan.model, held, speech.tokenizer), folder / ADAPTER)
    tuned = inspect_model(str(folder / MODEL))
    return speech, Models(opener(plan.model, held, speech.tokenizer), opener(tuned, held, speech.tokenizer))


def speech_of(facts: ModelFacts, chat_template: str | None = None, new_tokens: tuple[str, ...] = ()) -> Speech:
    """How a model is spoken to."""
    from finetune.data.encode import Encoder
    from finetune.tokenizer import load_tokenizer, stop_ids

    tokenizer = load_tokenizer(facts, chat_template, new_tokens)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=stop_ids(facts, tokenizer)), facts.context)


def held_as(plan: RunPlan | None) -> Held:
    """As the run trained it: number format, quantization; without a run as the device does best."""
    from finetune.machine import look
    from finetune.model import plan_quantization
    from finetune.plan.table import best_precision

    machine = look()
    if plan is None:
        return Held(best_precision(machine)[0], "sdpa", machine.device)
    same = machine.device == plan.machine.device
    precision = plan.resolved.precision if same else best_precision(machine)[0]
    attention = plan.resolved.attention if same else "sdpa"
    return Held(precision, attention, machine.device, plan_quantization(plan.config.tuning))


def opener(facts: ModelFacts, held: Held, tokenizer: Any) -> Opener:
    """Opens one model."""
    return lambda: nullcontext(load(facts, held, tokenizer))


def adapter_models(load_base: Callable[[], Any], folder: Path) -> Models:
    """Base and tuned model from one copy in memory: the base is the tuned one, its adapter switched off."""
    loaded: list[Any] = []

    def tuned() -> Any:
        from peft import PeftModel

        if not loaded:
            loaded.append(PeftModel.from_pretrained(load_base(), str(folder)))
        return loaded[0]

    @contextmanager
    def switched_off() -> Iterator[Any]:
        with tuned().disable_adapter():
            yield tuned()

    return Models(switched_off, lambda: nullcontext(tuned()), loaded.clear)


def alone(models: Models) -> Opener:
    """Opens the tuned model for a turn after which nobody needs either of both."""

    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            with models.tuned() as model:
                yield model
        finally:
            models.release()

    return opened


def load(facts: ModelFacts, held: Held, tokenizer: Any) -> Any:
    """A model in memory, on its device; an adapter that it has is not loaded here."""
    from finetune.model import load_model

    model = load_model(
        facts,
        precision=held.precision,
        attention=held.attention,
        full=False,
        tokenizer=tokenizer,
        quantization=held.quantization,
        device=held.device,
    )
    return model if held.quantization else model.to(held.device)
