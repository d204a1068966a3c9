"""An endpoint on this machine that speaks OpenAI's chat completions, and misbehaves when it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a request is met with instead of an answer: status, headers and body.
Refusal = tuple[int, dict[str, str], bytes]


@dataclass
class Endpoint:
    """What the server was asked, and how it answers."""

    answer: Callable[[list[dict[str, str]]], str] = lambda messages: f"Answer to: {messages[-1]['content']}"
    delay: float = 0.0
    # By the number of a request, from 1, or by its content: what comes instead. A string is the name of a mishap.
    instead: Callable[[int, dict[str, Any]], Refusal | str | None] = lambda number, body: None
    models: tuple[str, ...] = ("big",)
    finish: str = "stop"
    usage: bool = True
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)  # by request
    most_at_once: int = 0
    now: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """How many requests have come."""
        return len(self.asked)

    def used(self) -> int:
        """Tokens of all that was answered."""
        return sum(count * sum(_usage(json.loads(body)).values()) for body, count in self.answered.items())


def _usage(body: dict[str, Any]) -> dict[str, int]:
    """As many tokens as words, and eight answered."""
    words = sum(len(message["content"].split()) for message in body["messages"])
    return {"prompt_tokens": words, "completion_tokens": 8}


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.asked.append(body)
                endpoint.headers.append(dict(self.headers))
                endpoint.times.append(time.monotonic())
                number = len(endpoint.asked)
                endpoint.now += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.now)
            try:
                self._meet(number, body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the one who asked has gone
            finally:
                with endpoint.lock:
                    endpoint.now -= 1

        def _meet(self, number: int, body: dict[str, Any]) -> None:
            endpoint.stopping.wait(endpoint.delay)
            instead = endpoint.instead(number, body)
            if instead == "never":
                endpoint.stopping.wait(60)
            elif instead == "drip":
                self._drip()
            elif instead == "hang up":
                self.connection.close()
            elif instead == "truncated":
                self._send(200, {}, self._completion(body)[:-20])
            elif isinstance(instead, tuple):
                self._send(*instead)
            elif self.path != "/v1/chat/completions":
                self._send(404, {}, b'{"error": {"message": "no such path"}}')
            elif body["model"] not in endpoint.models:
                said = {"error": {"message": f"the model {body['model']} does not exist", "code": "model_not_found"}}
                self._send(404, {}, json.dumps(said).encode())
            else:
                content = self._completion(body)
                with endpoint.lock:
                    endpoint.answered[json.dumps(body, sort_keys=True)] += 1
                self._send(200, {"Content-Type": "application/json"}, content)

        def _completion(self, body: dict[str, Any]) -> bytes:
            message = {"role": "assistant", "content": endpoint.answer(body["messages"])}
            choice = {"index": 0, "message": message, "finish_reason": endpoint.finish}
            content: dict[str, Any] = {"object": "chat.completion", "model": "big-2026", "choices": [choice]}
            if endpoint.usage:
                content["usage"] = _usage(body)
            return json.dumps(content).encode()

        def _drip(self) -> None:
            """An answer that comes a byte at a time, each well within any wait."""
            self.send_response(200)
            self.end_headers()
            while not endpoint.stopping.wait(0.05):
                self.wfile.write(b" ")

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint at an address of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(endpoint))
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]  # those who go away are expected
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        endpoint.stopping.set()
        server.shutdown()
        server.server_close()


def digest(text: str) -> int:
    """A number that hangs on a text, for answers that differ."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
