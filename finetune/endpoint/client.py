"""One request to an endpoint that speaks OpenAI's chat completions, and what can come back instead of an answer."""

from __future__ import annotations

import email.utils
import functools
import http.client
import ipaddress
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from finetune import __version__
from finetune.endpoint.asked import Reply, Request, Usage
from finetune.endpoint.limits import most
from finetune.endpoint.settings import EndpointSettings
from finetune.errors import FinetuneError, RunFailed, UserError

MAX_ANSWER = 16 * 1024 * 1024  # bytes
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
PATH = "/chat/completions"
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,60}")


class Trouble(Exception):
    """An attempt without an answer."""

    def __init__(
        self,
        what: str,
        *,
        again: bool = True,
        after: float | None = None,
        used: bool = False,
        reached: bool = True,
        fatal: FinetuneError | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.again = again  # worth another try
        self.after = after  # seconds that the endpoint asks to wait
        self.used = used  # may have been billed
        self.reached = reached  # somebody was there
        self.fatal = fatal  # no request can succeed


@dataclass(frozen=True)
class Names:
    """What the user calls what an endpoint is given, so that messages say the same."""

    url: str
    model: str
    section: str  # of the settings
    limit: str  # of an answer's tokens


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how they are written."""

    names: Names
    url: str
    host: str
    model: str
    key: str | None
    key_env: str | None
    timeout: float
    limit_name: str
    send_seed: bool

    def __repr__(self) -> str:
        return f"Endpoint({self.host}, {self.model})"  # never the key

    @property
    def place(self) -> str:
        """The endpoint, as messages name it."""
        return f"{self.names.url} {self.host}".strip()

    def ask(self, request: Request) -> Reply:
        """One attempt; raises Trouble."""
        began = time.monotonic()
        deadline = began + self.timeout
        try:
            response = self._open(request)
            with response:
                content = _read(response, deadline)
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        if isinstance(response, urllib.error.HTTPError):
            self._refused(response, content)
        seconds = time.monotonic() - began
        return self._reply(request, content, response.headers.get_content_type(), seconds)

    def _open(self, request: Request) -> Any:
        """The response, whatever its status."""
        try:
            return self._opener().open(self._call(request), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            return error

    def _opener(self) -> urllib.request.OpenerDirector:
        opener = urllib.request.OpenerDirector()
        # A proxy of the environment is told the host of an https address only; on this machine none is asked.
        opener.add_handler(urllib.request.ProxyHandler({} if self.url.startswith("http:") else None))
        for handler in (urllib.request.HTTPHandler, urllib.request.HTTPDefaultErrorHandler):
            opener.add_handler(handler())
        opener.add_handler(urllib.request.HTTPSHandler(context=_trust()))
        opener.add_handler(urllib.request.HTTPErrorProcessor())
        return opener

    def _call(self, request: Request) -> urllib.request.Request:
        sampling = request.sampling
        content: dict[str, Any] = {"model": self.model, "messages": list(request.messages)}
        content[self.limit_name] = sampling.max_tokens
        if sampling.temperature is not None:
            content["temperature"] = sampling.temperature
        if sampling.top_p is not None:
            content["top_p"] = sampling.top_p
        if self.send_seed:
            content["seed"] = request.seed
        headers = {"Content-Type": "application/json", "User-Agent": f"finetune/{__version__}"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return urllib.request.Request(self.url, json.dumps(content).encode(), headers, method="POST")

    def _refused(self, error: urllib.error.HTTPError, content: bytes) -> NoReturn:
        """What a status other than 200 means."""
        status, said, names = error.code, self._said(content), self.names
        what = f"{status}{f' ({said})' if said else ''}"
        if status in (401, 403):
            mend = (
                f"check the key in {self.key_env}"
                if self.key_env
                else f"name the key's variable: {names.section}.key_env=…"
            )
            fatal: FinetuneError = UserError.at(self.place, f"refuses the request ({status})", mend)
            raise Trouble(what, again=False, fatal=fatal)
        if 300 <= status < 400:
            to = urlsplit(error.headers.get("Location") or "")
            mend = f"give the address itself{f', at {to.scheme}://{to.netloc}' if to.hostname else ''}"
            fatal = UserError.at(self.place, "sends on to another address", mend)
            raise Trouble(what, again=False, fatal=fatal)
        if status in (404, 405):
            mend = f"check {names.model}, and that {names.url} ends as the endpoint's manual says, often in /v1"
            fatal = UserError.at(f"{names.url} {self.url} {names.model} {self.model}", f"not found: {what}", mend)
            raise Trouble(what, again=False, fatal=fatal)
        if _code(content) == "insufficient_quota":
            fatal = RunFailed(f"{self.host}: {what}; the account has no money left: fill it up, and start again")
            raise Trouble(what, again=False, fatal=fatal)
        after = _seconds(error.headers.get("Retry-After")) if status in BUSY else None
        raise Trouble(what, again=status in BUSY or status > 504, after=after)

    def _unreachable(self, reason: object) -> Trouble:
        if isinstance(reason, TimeoutError):
            return Trouble(f"no answer within {self.timeout:g} s", used=True)
        if isinstance(reason, ssl.SSLCertVerificationError):
            what = f"its certificate is not trusted ({reason.verify_message})"
            fatal = UserError.at(self.place, what, "correct the address, or set SSL_CERT_FILE")
            return Trouble(what, again=False, fatal=fatal)
        said = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        sent = isinstance(reason, (ConnectionResetError, BrokenPipeError))
        return Trouble(f"cannot be reached ({said.lower()})", used=sent, reached=sent)

    def _broken(self, error: Exception) -> Trouble:
        if isinstance(error, TimeoutError):
            return Trouble(f"no answer within {self.timeout:g} s", used=True)
        return Trouble(f"the connection broke ({type(error).__name__})", used=True)

    def _reply(self, request: Request, content: bytes, kind: str, seconds: float) -> Reply:
        try:
            found = json.loads(content)
            choice = found["choices"][0]
            message = choice["message"]
            text, reasoning = _text(message.get("content")), _text(message.get("reasoning_content"))
            finished, served = str(choice.get("finish_reason") or "stop"), str(found.get("model") or "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            said = self._said(content) or f"{len(content):,} bytes of {kind}"
            raise Trouble(f"the answer is no chat completion ({said})", used=True) from None
        usage = _usage(found.get("usage"))
        limit = most(request)
        counted = usage is not None
        return Reply(text, usage or limit, finished, reasoning, served, counted, seconds)

    def _said(self, content: bytes) -> str:
        """What the endpoint says about it, in one short line, and without the key should it repeat that."""
        try:
            found = json.loads(content)
            error = found.get("error", found)
            said = error.get("message", "") if isinstance(error, dict) else error
        except (ValueError, AttributeError, RecursionError):
            return ""
        text = " ".join(str(said).split())
        if self.key:
            text = text.replace(self.key, "…")
        return text if len(text) <= 200 else f"{text[:199]}…"


@functools.cache
def _trust() -> ssl.SSLContext:
    """The certificates that this machine trusts; reading them takes longer than a small request."""
    return ssl.create_default_context()


def find_endpoint(url: str | None, model: str | None, settings: EndpointSettings, names: Names) -> Endpoint:
    """The endpoint of an address, with its key from the environment."""
    if not model:
        raise UserError.at(names.model, "no model is named", f"write {names.model}=NAME, as the endpoint calls it")
    parts = _checked_address(url or "", names)
    path = parts.path.rstrip("/")
    whole = f"{parts.scheme}://{parts.netloc}{path if path.endswith(PATH) else path + PATH}"
    key = _key(settings.key_env, f"{names.section}.key_env") if settings.key_env else None
    limit, seed = settings.limit_name, settings.send_seed
    return Endpoint(names, whole, parts.netloc, model, key, settings.key_env, settings.timeout, limit, seed)


def _checked_address(url: str, names: Names) -> SplitResult:
    """The parts of an address that a key may be sent to. What may hold a secret is not repeated."""
    where = names.url
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        parts.port  # noqa: B018  # raises when it is no number
    except ValueError:
        raise UserError.at(where, "is not an address", "such as https://host/v1") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        mend = f"give the bare address; the key comes from the variable that {names.section}.key_env names"
        raise UserError.at(where, "holds more than an address (a user, a password or a question mark)", mend)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise UserError.at(where, f"{url!r:.100} is not an address", "such as https://host/v1")
    if " " in url:
        raise UserError.at(where, "holds a space", "such as https://host/v1")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        what = f"http would send rows and key to {parts.hostname} for everyone on the way to read"
        raise UserError.at(where, what, "use https, or a tunnel to it on this machine: http://127.0.0.1:PORT/v1")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(variable: str, where: str) -> str:
    if not VARIABLE.fullmatch(variable):
        what = "is not the name of an environment variable in capitals"
        raise UserError.at(where, what, f"name the variable, not the key: {where}=MY_KEY")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError.at(where, f"the environment has no {variable}, or an empty one", f"export {variable}=…")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError.at(where, f"{variable} holds characters that no key has", "export it again")
    return key


def _read(response: Any, deadline: float) -> bytes:
    """The whole body, within size and time: each part of it may come just in time for ever."""
    parts, size = [], 0
    while part := response.read1(65536):  # what has come, rather than wait for so much
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise Trouble(f"the answer is over {MAX_ANSWER >> 20} MiB", used=True)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _text(value: Any) -> str:
    """The text of a content, which may come in parts."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(str(part["text"]) for part in value if part.get("type", "text") == "text")
    if not isinstance(value, str):
        raise TypeError
    return value


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    asked, answered = value.get("prompt_tokens"), value.get("completion_tokens")
    if not isinstance(asked, int) or not isinstance(answered, int) or min(asked, answered) < 0:
        return None
    return Usage(asked, answered)


def _code(content: bytes) -> object:
    try:
        return json.loads(content)["error"]["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _seconds(value: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
