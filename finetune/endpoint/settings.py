"""How an endpoint is asked, whoever asks it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune.config import setting


def verbatim(help: str, default: Any = None) -> Any:
    """A setting that is taken as it is written, such as a path with commas in it."""
    return field(default=default, metadata={"help": help, "verbatim": True})


@dataclass
class EndpointSettings:
    """How, and how fast."""

    key_env: str | None = verbatim("Environment variable that holds the endpoint's key.")
    limit_name: str = setting(
        "max_tokens",
        "What the endpoint calls the longest answer.",
        choices=("max_tokens", "max_completion_tokens"),
    )
    send_seed: bool = setting(True, "Send a seed with each request; false for endpoints that refuse one.")
    concurrency: int = setting(4, "Requests under way at once.", low=1, high=256)
    requests_per_minute: float | None = setting(None, "Most requests a minute.", above=0)
    tokens_per_minute: float | None = setting(None, "Most tokens a minute, asked and answered.", above=0)
    timeout: float = setting(120.0, "Longest wait for one answer, in seconds.", above=0)
    retries: int = setting(5, "How often a request is tried again.", low=0, high=20)
    retry_wait: float = setting(1.0, "Seconds before the first retry; they double with each.", above=0)
