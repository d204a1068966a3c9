"""Secrets and personal data, by their shapes and checksums. What is found is counted and placed, never shown.

A pattern runs only where the text holds what every match of it has. All repetitions are bounded, and none can begin
inside a match of itself, so that a text of millions of characters takes no longer a character than a short one.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from finetune.data.examine.view import Hit

MASK = "•"


class Span(NamedTuple):
    """Something private in a text."""

    code: str
    begin: int
    end: int
    what: str


class Shape(NamedTuple):
    """One kind of private text: its pattern, what a text must hold, and what proves a match."""

    code: str
    what: str
    holds: tuple[str, ...]  # one of them
    pattern: re.Pattern[str]
    proves: Callable[[str], bool]


def _has_digit(text: str) -> bool:
    return any(char.isdigit() for char in text)


def _any(text: str) -> bool:
    return True


def luhn(text: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether the checksum of an account number holds."""
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _public_address(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


def _person_address(text: str) -> bool:
    """Names that are kept for examples are nobody's."""
    domain = text.lower().rpartition("@")[2]
    return not re.search(r"(^|\.)example\.(com|org|net)$|\.(example|test|invalid|localhost)$", domain)


def _random(text: str) -> bool:
    """Whether a value looks drawn and not written: letters and digits, and few of them twice."""
    value = re.split(r"[:=]", text, maxsplit=1)[1].strip("\"' )")
    if not _has_digit(value) or not any(char.isalpha() for char in value):
        return False
    if re.search(r"(?i)your|xxx|example|placeholder|changeme|\*\*\*|\.\.\.|[<>{}$(]", value):
        return False
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values()) >= 3.2


WORD = "A-Za-z0-9_-"
KEYS = (
    (("AKIA", "ASIA"), r"(?<![A-Z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])", "the shape of an AWS access key"),
    (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        r"(?<![\w])gh[pousr]_[A-Za-z0-9]{36,255}",
        "the shape of a GitHub token",
    ),
    (("github_pat_",), r"(?<!\w)github_pat_\w{22,255}", "the shape of a GitHub token"),
    (("glpat-",), rf"(?<!\w)glpat-[{WORD}]{{20,64}}", "the shape of a GitLab token"),
    (("sk-",), rf"(?<![{WORD}])sk-[{WORD}]{{20,200}}", "the shape of an API key (sk-…)"),
    (("xox",), rf"(?<!\w)xox[abprs]-[{WORD}]{{10,200}}", "the shape of a Slack token"),
    (("AIza",), rf"(?<!\w)AIza[{WORD}]{{35}}(?![{WORD}])", "the shape of a Google API key"),
    (("k_live_",), r"(?<!\w)[spr]k_live_[A-Za-z0-9]{20,200}", "the shape of a Stripe key"),
    (("hf_",), r"(?<!\w)hf_[A-Za-z0-9]{30,64}(?!\w)", "the shape of a Hugging Face token"),
    (("npm_",), r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)", "the shape of an npm token"),
    (("SG.",), rf"(?<!\w)SG\.[{WORD}]{{16,32}}\.[{WORD}]{{16,64}}", "the shape of a SendGrid key"),
)
ASSIGNED = (
    r"(?i)(?<![a-z])(?:passw(?:or)?d|pwd|secret|token|(?:api|access|secret)[_ -]?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
)

SECRETS = (
    *(Shape("secret-key", what, holds, re.compile(pattern), _has_digit) for holds, pattern, what in KEYS),
    Shape(
        "secret-private-key",
        "a private key block",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:[A-Za-z0-9+/=\s\\:,]|-(?!-)){0,8000}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
        _any,
    ),
    Shape(
        "secret-token",
        "a signed token (JWT)",
        ("eyJ",),
        re.compile(rf"(?<![{WORD}])eyJ[{WORD}]{{8,2000}}\.eyJ[{WORD}]{{8,4000}}\.[{WORD}]{{8,1000}}"),
        _any,
    ),
    Shape(
        "secret-assignment",
        "a password in an address",
        ("://",),
        re.compile(r"(?<![a-z])[a-z][a-z+]{1,15}://[^\s/:@]{1,64}:[^\s/:@]{3,128}@[\w.-]{1,128}"),
        _any,
    ),
    Shape(
        "secret-assignment",
        "a password or key that is assigned",
        ("=", ":"),
        re.compile(ASSIGNED + r"[^\s\"',;]{12,200}"),
        _random,
    ),
)
PERSONAL = (
    Shape(
        "personal-email",
        "an e-mail address",
        ("@",),
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])"),
        _person_address,
    ),
)
# Only where the text has a run of digits.
NUMBERS = (
    Shape(
        "personal-card",
        "the number of a payment card",
        (),
        re.compile(r"(?<![\w.,-])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6\d{3}|3[47]\d\d)(?:[ -]?\d){9,15}(?![\w-])(?!\.\d)"),
        lambda text: sum(map(str.isdigit, text)) in (15, 16, 19) and luhn(text),
    ),
    Shape(
        "personal-iban",
        "the number of a bank account",
        (),
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"),
        iban,
    ),
    Shape(
        "personal-phone",
        "a phone number",
        ("+",),
        re.compile(r"(?<![\w+.])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?!\w)"),
        _any,
    ),
    Shape(
        "personal-phone",
        "a phone number",
        ("-", " ", "."),
        re.compile(r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}([ .-]))\d{3}(?(1)\1|[ .-])\d{4}(?![\w-])"),
        _any,
    ),
    Shape(
        "personal-ssn",
        "a number in the form of a social security number",
        ("-",),
        re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
        _any,
    ),
    Shape(
        "personal-ip",
        "a public IPv4 address",
        (".",),
        re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)(?!\w)"),
        _public_address,
    ),
)
DIGITS = re.compile(r"\d{3}|\d[. -]\d")
ASSIGNABLE = ("passw", "pwd", "secret", "token", "key")


def spans(text: str) -> Iterator[Span]:
    """Everything private in a text."""
    for shape in (*SECRETS[:-1], *PERSONAL):
        if any(held in text for held in shape.holds):
            yield from _of(shape, text)
    if ("=" in text or ":" in text) and _may_assign(text):
        yield from _of(SECRETS[-1], text)
    if DIGITS.search(text):
        for shape in NUMBERS:
            if not shape.holds or any(held in text for held in shape.holds):
                yield from _of(shape, text)


def _may_assign(text: str) -> bool:
    lower = text.lower()
    return any(word in lower for word in ASSIGNABLE)


def _of(shape: Shape, text: str) -> Iterator[Span]:
    for match in shape.pattern.finditer(text):
        if shape.proves(match[0]):
            yield Span(shape.code, match.start(), match.end(), shape.what)


def private_hits(text: str) -> Iterator[Hit]:
    """Everything private, as hits whose text is not shown."""
    for span in spans(text):
        yield Hit(span.code, span.begin, span.end, span.what, shown=False)


def masked(text: str) -> str:
    """The text with every character of what is private covered, at the same places."""
    parts, position = [], 0
    for span in sorted(spans(text), key=lambda span: span.begin):
        begin = max(span.begin, position)
        parts += [text[position:begin], MASK * (span.end - begin)]
        position = max(position, span.end)
    return "".join([*parts, text[position:]])
