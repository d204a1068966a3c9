"""What asking may cost, and how fast it may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune.endpoint.asked import Request, Usage

# Tokens that an endpoint's chat template may put around a conversation and around each message.
AROUND, AROUND_MESSAGE = 64, 16


def most(request: Request) -> Usage:
    """The most tokens that a request can use: no tokenizer makes more tokens of a text than it has bytes."""
    texts = [text for message in request.messages for text in (message["role"], message["content"])]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return Usage(size + AROUND + AROUND_MESSAGE * len(request.messages), request.sampling.max_tokens)


def likely(request: Request) -> int:
    """About as many tokens as an endpoint reckons a request with, before it is answered."""
    return (most(request).asked - AROUND) // 4 + request.sampling.max_tokens


@dataclass(frozen=True)
class Ceiling:
    """The most that may be used."""

    tokens: int | None = None
    cost: float | None = None
    price_in: float = 0.0  # of a million tokens
    price_out: float = 0.0

    def price(self, usage: Usage) -> float:
        """What so many tokens cost."""
        return (usage.asked * self.price_in + usage.answered * self.price_out) / 1e6

    def allows(self, usage: Usage) -> bool:
        """Whether so much may have been used in all."""
        return (self.tokens is None or usage.total <= self.tokens) and (
            self.cost is None or self.price(usage) <= self.cost
        )


class Pace:
    """Requests and tokens a minute: says how long to wait before the next request."""

    def __init__(
        self, requests: float | None = None, tokens: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._every = 60 / requests if requests else 0.0
        self._rate = tokens / 60 if tokens else 0.0
        self._room = tokens or 0.0
        self._left = self._room
        self._now, self._seen, self._next = now, now(), now()

    def wait(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may start; one over a whole minute's share waits for a full one."""
        self._refill()
        short = min(tokens, self._room) - self._left if self._rate else 0.0
        return max(0.0, self._next - self._now(), short / self._rate if self._rate else 0.0)

    def start(self, tokens: int) -> None:
        """Count a request that starts now."""
        self._refill()
        self._next = max(self._next, self._now()) + self._every
        self._left -= tokens

    def hold(self, seconds: float) -> None:
        """Start nothing for a while, as the endpoint has asked."""
        self._next = max(self._next, self._now() + seconds)

    def settle(self, reckoned: int, used: int) -> None:
        """Correct the count of a request that was reckoned with another number of tokens than it used."""
        self._left += reckoned - used

    def _refill(self) -> None:
        now = self._now()
        self._left = min(self._room, self._left + (now - self._seen) * self._rate)
        self._seen = now
