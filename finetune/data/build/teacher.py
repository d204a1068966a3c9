"""A teacher: who is asked, and the one way to ask it many things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omegaconf import MISSING

from finetune.config import ModelConfig
from finetune.data.build.settings import TeacherSettings
from finetune.endpoint.asked import Asked, Outcome, Request
from finetune.endpoint.limits import Ceiling
from finetune.errors import Fault, UserError

# What only an endpoint has: with a model on this machine these would do nothing.
OF_ENDPOINTS = (
    "key_env", "limit_name", "send_seed", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout",
    "retries", "retry_wait", "price_in", "price_out", "max_cost",
)  # fmt: skip
OF_MODELS = ("batch_size",)


class Teacher(Protocol):
    """Something that answers: an endpoint or a model on this machine."""

    name: str
    identity: str  # what decides its answers, besides the request
    host: str
    license: str | None
    ceiling: Ceiling

    def ask(self, requests: Sequence[Request], asked: Asked) -> Outcome:
        """Have every request answered that is not in the journal yet."""


def open_teacher(teacher: TeacherSettings, model: ModelConfig) -> Teacher:
    """The teacher that the settings name."""
    local = model.name != MISSING
    if faults := [*_faults(teacher, local), *_idle(model, local)]:
        raise UserError(faults)
    if local:
        from finetune.data.build.local import LocalTeacher

        return LocalTeacher(model, teacher)
    from finetune.data.build.remote import RemoteTeacher

    return RemoteTeacher(teacher)


def _idle(model: ModelConfig, local: bool) -> list[Fault]:
    """Settings of a model on this machine, where an endpoint is the teacher."""
    standard = vars(ModelConfig())
    given = [] if local else [name for name, value in vars(model).items() if value != standard[name]]
    return [Fault(f"model.{name}", "has no effect on an endpoint", "leave it out") for name in given]


def _faults(teacher: TeacherSettings, local: bool) -> list[Fault]:
    if local and (teacher.url or teacher.model):
        key = "teacher.url" if teacher.url else "teacher.model"
        return [Fault(key, "a model of this machine is the teacher already", f"leave out {key}, or model.name")]
    if not local and not teacher.url:
        mend = "write teacher.url=https://…/v1 teacher.model=NAME, or model=tiny for a model of this machine"
        return [Fault("teacher.url", "no teacher is given", mend)]
    standard, idle = TeacherSettings(), OF_ENDPOINTS if local else OF_MODELS
    whose = "a model on this machine" if local else "an endpoint"
    faults = [
        Fault(f"teacher.{name}", f"has no effect on {whose}", "leave it out")
        for name in idle
        if vars(teacher)[name] != vars(standard)[name]
    ]
    if teacher.max_cost is not None and None in (teacher.price_in, teacher.price_out):
        mend = "set teacher.price_in and teacher.price_out, per million tokens"
        faults.append(Fault("teacher.max_cost", "nothing is known about the prices", mend))
    if teacher.max_cost is None and teacher.price_in is None and teacher.price_out is not None:
        faults.append(Fault("teacher.price_out", "is given without teacher.price_in", "set both, or none"))
    if teacher.max_cost is None and teacher.price_out is None and teacher.price_in is not None:
        faults.append(Fault("teacher.price_in", "is given without teacher.price_out", "set both, or none"))
    return faults
