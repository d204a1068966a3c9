"""A model of this machine as a teacher, loaded and asked as everywhere else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from finetune.config import ModelConfig
from finetune.data.build.draw import drawing
from finetune.data.build.settings import TeacherSettings
from finetune.data.sandbox import TemplateFault
from finetune.endpoint.asked import Asked, Outcome, Reply, Request, Usage
from finetune.endpoint.limits import Ceiling
from finetune.evaluate.generate import generate
from finetune.log import log

CARD_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*(\S.*)\n(?:.*\n)*?---$", re.MULTILINE)
EMBEDDED_LICENSE = "Apache-2.0"  # it is part of this package


class LocalTeacher:
    """A model on this machine; it is loaded when there is something to ask."""

    def __init__(self, model: ModelConfig, teacher: TeacherSettings) -> None:
        from finetune.data.encode import Encoder
        from finetune.model_files import inspect_model
        from finetune.tokenizer import load_tokenizer, stop_ids

        self._config, self._settings = model, teacher
        self._facts = inspect_model(model.name, model.revision, model.trust_remote_code)
        self._tokenizer = load_tokenizer(self._facts, model.chat_template, ())
        self._encoder = Encoder(self._tokenizer, "last", stop_ids=stop_ids(self._facts, self._tokenizer))
        self._model: Any = None
        self.name, self.host = model.name, "this machine"
        self.identity = f"{self._facts.fingerprint}{self._adapter_digest()}"
        self.license = teacher.license or (EMBEDDED_LICENSE if model.name == "tiny" else _card(Path(self._facts.path)))
        self.ceiling = Ceiling(teacher.max_tokens_total)

    def _adapter_digest(self) -> str:
        if self._facts.adapter is None:
            return ""
        digest = hashlib.sha256()
        for path in sorted(Path(self._facts.adapter.path).glob("adapter_*")):
            digest.update(path.read_bytes())
        return f"+{digest.hexdigest()}"

    def ask(self, requests: Sequence[Request], asked: Asked) -> Outcome:
        """Have every request answered that is not in the journal yet."""
        new = {key: request for request in requests if (key := request.key(self.identity)) not in asked}
        failed: dict[str, str] = {}
        prompts = {key: ids for key, request in new.items() if (ids := self._prompt(key, request, failed))}
        waiting, done = list(prompts), 0
        while waiting:
            _, alike = next(groupby(waiting, key=lambda key: new[key].sampling))
            batch = self._affordable(list(islice(alike, self._settings.batch_size)), new, prompts, asked)
            if not batch:
                return Outcome(dict(sorted(failed.items())), ceiling=True)
            self._answer(batch, new, prompts, asked)
            waiting = waiting[len(batch) :]
            done += len(batch)
            log.info(f"{done:,} of {len(prompts):,} requests answered")
        return Outcome(dict(sorted(failed.items())))

    def _prompt(self, key: str, request: Request, failed: dict[str, str]) -> list[int]:
        """The tokens of a request; none, and the reason, when the model cannot take it."""
        try:
            ids = self._encoder.prompt_ids(request.messages)
        except TemplateFault as fault:
            failed[key] = fault.what
            return []
        if self._facts.context is not None and len(ids) >= self._facts.context:
            failed[key] = f"{len(ids):,} tokens, over the model's context of {self._facts.context:,}"
            return []
        return ids

    def _affordable(
        self, batch: list[str], new: dict[str, Request], prompts: dict[str, list[int]], asked: Asked
    ) -> list[str]:
        """The first of them that the ceiling bears; the tokens of a prompt are known here."""
        used = asked.committed
        for place, key in enumerate(batch):
            used += Usage(len(prompts[key]), new[key].sampling.max_tokens)
            if not self.ceiling.allows(used):
                return batch[:place]
        return batch

    def _answer(self, batch: list[str], new: dict[str, Request], prompts: dict[str, list[int]], asked: Asked) -> None:
        sampling = new[batch[0]].sampling
        most = {key: Usage(len(prompts[key]), new[key].sampling.max_tokens) for key in batch}
        attempts = {key: asked.sent(key, most[key]) for key in batch}
        answers = generate(
            self._loaded(),
            self._tokenizer,
            [prompts[key] for key in batch],
            stop_ids=self._encoder.stop_ids,
            max_new_tokens=sampling.max_tokens,
            batch_size=len(batch),
            context=self._facts.context,
            choose=drawing(sampling, [new[key].seed for key in batch]),
        )
        for key, answer in zip(batch, answers, strict=True):
            usage = Usage(len(prompts[key]), answer.tokens)
            reply = Reply(answer.text, usage, "stop" if answer.stopped else "length", served=self.name)
            asked.answered(attempts[key], key, new[key].messages, reply, self.host)

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> Any:
        from finetune.machine import look
        from finetune.model import load_model
        from finetune.plan.table import best_precision

        machine = look()
        model: Any = load_model(
            self._facts,
            precision=self._config.precision or best_precision(machine)[0],
            attention=self._config.attention or "sdpa",
            full=False,
            tokenizer=self._tokenizer,
            device=machine.device,
        )
        if self._facts.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self._facts.adapter.path)
        return model.to(machine.device)


def _card(folder: Path) -> str | None:
    """The licence that a model's card names."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    found = CARD_LICENSE.search(path.read_text(encoding="utf-8", errors="replace")[:100_000])
    return found[1].strip() if found else None
