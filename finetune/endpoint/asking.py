"""Asking an endpoint many things: several at once, not too fast, not too dear, and none of them twice.

One thread decides and writes the journal. Each attempt has a thread of its own that does nothing but wait for the
answer, and that nobody waits for when the command is interrupted.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.endpoint.asked import Asked, Outcome, Reply, Request, Usage
from finetune.endpoint.client import Endpoint, Trouble
from finetune.endpoint.limits import Ceiling, Pace, likely, most
from finetune.endpoint.settings import EndpointSettings
from finetune.errors import RunFailed, UserError, counted
from finetune.log import log

LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more is not waited for
GRACE = 5.0  # seconds that an attempt may outlast its timeout, as finding an address does
MANY_REFUSED = 3  # refusals before the first answer, from which it is not a matter of single requests
SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Flight:
    """An attempt under way."""

    key: str
    request: Request
    tries: int  # before this one
    reckoned: int  # tokens
    ends: float
    answers_before: int  # how many requests were answered when this one first failed


class Asking:
    """Many requests to one endpoint, however many calls they come in."""

    def __init__(self, endpoint: Endpoint, settings: EndpointSettings, ceiling: Ceiling) -> None:
        self._endpoint, self._settings, self._ceiling = endpoint, settings, ceiling
        self._pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        self._met = False  # it has answered

    def ask(self, requests: Sequence[Request], asked: Asked) -> Outcome:
        """Have every request answered that is not in the journal yet."""
        new = {key: request for request in requests if (key := request.key(self._endpoint.model)) not in asked}
        asking = _Round(self._endpoint, self._settings, self._ceiling, self._pace, asked, self._met)
        outcome = asking.run(new)
        self._met = asking.met
        return outcome


class _Round:
    """The requests of one call, and what became of them."""

    def __init__(
        self, endpoint: Endpoint, settings: EndpointSettings, ceiling: Ceiling, pace: Pace, asked: Asked, met: bool
    ) -> None:
        self._endpoint, self._settings = endpoint, settings
        self._ceiling, self._pace, self._asked, self.met = ceiling, pace, asked, met
        self._waiting: list[tuple[float, int, str, Request, int, int]] = []  # when, order, key, request, tries, since
        self._order = itertools.count()
        self._flying: dict[int, Flight] = {}
        self._landed: queue.Queue[tuple[int, Reply | Exception]] = queue.Queue()
        self._failed: dict[str, str] = {}
        self._answers = self._refusals = self._total = 0
        self._over = False  # the ceiling is reached
        self._quiet = 0.0  # when the request that finds out whether all is well may be tried again
        self._said = time.monotonic()
        self._ended = threading.Event()

    def run(self, requests: dict[str, Request]) -> Outcome:
        """Ask until all is answered, refused or too dear."""
        self._total = len(requests)
        for key, request in requests.items():
            heapq.heappush(self._waiting, (0.0, next(self._order), key, request, 0, 0))
        try:
            while self._waiting or self._flying:
                pause = self._start()
                if self._over and not self._flying:
                    break
                self._land(pause)
                self._say()
        finally:
            self._ended.set()  # a thread that has not sent its request yet need not
        return Outcome(dict(sorted(self._failed.items())), self._over)

    def _start(self) -> float:
        """Start what may start now; the seconds until something else may."""
        while self._waiting and not self._over:
            # Until the first answer one request alone finds out whether all is well.
            if len(self._flying) >= (self._settings.concurrency if self.met else 1):
                break
            due, _, key, request, tries, since = self._waiting[0]
            wait = max(due, self._quiet) - time.monotonic()
            wait = max(wait, self._pace.wait(likely(request)))
            if wait > 0:
                return min(wait, 1.0)
            limit = most(request)
            if not self._ceiling.allows(self._asked.committed + limit):
                self._over = not self._flying  # what is under way may turn out cheaper than it could be
                break
            heapq.heappop(self._waiting)
            self._send(key, request, tries, since, limit)
        return 1.0

    def _send(self, key: str, request: Request, tries: int, since: int, limit: Usage) -> None:
        reckoned = likely(request)
        self._pace.start(reckoned)
        attempt = self._asked.sent(key, limit)
        ends = time.monotonic() + self._settings.timeout + GRACE
        self._flying[attempt] = Flight(key, request, tries, reckoned, ends, since)
        threading.Thread(target=self._wait_for, args=(attempt, request), daemon=True).start()

    def _wait_for(self, attempt: int, request: Request) -> None:
        if self._ended.is_set():
            return
        try:
            self._landed.put((attempt, self._endpoint.ask(request)))
        except Exception as error:  # the edge of this thread: raised again in the other
            self._landed.put((attempt, error))

    def _land(self, pause: float) -> None:
        """Take in what has come back; give up what never will."""
        try:
            landed = [self._landed.get(timeout=pause)]
            while not self._landed.empty():
                landed.append(self._landed.get_nowait())
        except queue.Empty:
            landed = []
        now = time.monotonic()
        for attempt in [attempt for attempt, flight in self._flying.items() if flight.ends < now]:
            landed.append((attempt, Trouble(f"no answer within {self._settings.timeout:g} s", used=True)))
        for attempt, result in landed:
            flight = self._flying.pop(attempt, None)
            if flight is None:
                continue  # given up before; it counts as used
            if isinstance(result, Reply):
                self._asked.answered(attempt, flight.key, flight.request.messages, result, self._endpoint.host)
                self._pace.settle(flight.reckoned, result.usage.total)
                self._answers, self.met = self._answers + 1, True
            elif isinstance(result, Trouble):
                self._mishap(attempt, flight, result)
            else:
                raise result

    def _mishap(self, attempt: int, flight: Flight, trouble: Trouble) -> None:
        if not trouble.used:
            self._asked.released(attempt)
            self._pace.settle(flight.reckoned, 0)
        if trouble.fatal is not None:
            raise trouble.fatal
        if not trouble.reached and not self.met:
            raise RunFailed(f"{self._endpoint.place}: {trouble.what}; start it, or correct the address")
        if not trouble.again:
            self._refuse(flight, trouble)
            return
        since = self._answers if flight.tries == 0 else flight.answers_before
        if flight.tries < self._settings.retries:
            self._again(flight, trouble, since)
            return
        if self._answers == since:
            tries = f"tried {flight.tries + 1} times" if flight.tries else f"{self._endpoint.names.section}.retries=0"
            kept = f"{counted(self._asked.requests, 'answer')} kept; the same command continues"
            raise RunFailed(f"{self._endpoint.place}: {trouble.what}, {tries}; {kept}")
        self._failed[flight.key] = trouble.what

    def _again(self, flight: Flight, trouble: Trouble, since: int) -> None:
        wait = self._settings.retry_wait * 2**flight.tries * random.uniform(0.75, 1.25)
        if trouble.after is not None:
            if trouble.after > LONGEST_WAIT:
                what = f"asks to wait {trouble.after:,.0f} s"
                raise RunFailed(f"{self._endpoint.place}: {what}; give the same command again then")
            wait = max(trouble.after, self._settings.retry_wait)
            self._pace.hold(trouble.after)
        log.info(f"{flight.request.where}: {trouble.what}; again in {wait:.1f} s")
        due, place = time.monotonic() + wait, next(self._order)
        if not self.met:
            self._quiet, due, place = due, 0.0, -1
        heapq.heappush(self._waiting, (due, place, flight.key, flight.request, flight.tries + 1, since))

    def _refuse(self, flight: Flight, trouble: Trouble) -> None:
        """One request that the endpoint does not take; when it takes none, that is another matter."""
        self._failed[flight.key] = trouble.what
        self._refusals += 1
        nothing_left = not self._waiting and not self._flying
        if not self.met and (self._refusals >= MANY_REFUSED or nothing_left):
            names = self._endpoint.names
            of_section = f"{names.section}.limit_name or {names.section}.send_seed"
            mend = f"correct {names.model}, {names.limit}, {of_section}"
            raise UserError.at(self._endpoint.place, f"refuses every request: {trouble.what}", mend)

    def _say(self) -> None:
        if time.monotonic() - self._said < SAY_EVERY:
            return
        self._said = time.monotonic()
        log.info(f"{self._answers + len(self._failed):,} of {self._total:,} requests done")
