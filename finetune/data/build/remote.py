"""An endpoint as a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.build.settings import TeacherSettings
from finetune.endpoint.asked import Asked, Outcome, Request
from finetune.endpoint.asking import Asking
from finetune.endpoint.client import Names, find_endpoint
from finetune.endpoint.limits import Ceiling

NAMES = Names("teacher.url", "teacher.model", "teacher", "teacher.max_tokens")


class RemoteTeacher:
    """A model that others serve."""

    def __init__(self, teacher: TeacherSettings) -> None:
        endpoint = find_endpoint(teacher.url, teacher.model, teacher, NAMES)
        self.name = self.identity = endpoint.model
        self.host = endpoint.host
        self.license = teacher.license
        self.ceiling = Ceiling(
            teacher.max_tokens_total, teacher.max_cost, teacher.price_in or 0.0, teacher.price_out or 0.0
        )
        self._asking = Asking(endpoint, teacher, self.ceiling)

    def ask(self, requests: Sequence[Request], asked: Asked) -> Outcome:
        """Have every request answered that is not in the journal yet."""
        return self._asking.ask(requests, asked)
