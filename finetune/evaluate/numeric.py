"""The number that a text says, and whether two texts say the same."""

from __future__ import annotations

import re
from decimal import Decimal

_SPACES = "\u00a0\u2009\u202f"
_DIGITS = (
    rf"\d{{1,3}}(?:(?P<part>[,{_SPACES}'’_])\d{{3}})(?:(?P=part)\d{{3}})*(?:\.\d+)?(?!\d)"  # 1,234,567.8
    r"|\d{1,3}(?:\.\d{3})+,\d+"  # 1.234,5
    r"|(?<!\d,)\d+,\d{1,2}(?![\d,])"  # 3,5
    r"|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
)
# Digits that go on from a letter are a name (x5), those after a point or a line are the rest of another number.
NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>(?<![\w)\]])[-+−])?(?:[$€£¥]\s?(?P<late>[-−])?)?(?P<digits>{_DIGITS})"
    r"(?:\s?/\s?(?P<below>[1-9]\d*)(?![\d/]))?"
)
# After the number of a reference may stand a percent sign, a unit of one or two words, and marks that end it.
_UNIT = re.compile(r"\s*[%‰°$€£¥]?\s*(?:[^\W\d]+[²³]?(?:[ /][^\W\d]+[²³]?)?)?[\s.!)*]*")


def numeric(answer: str, reference: str, tolerance: float = 0.0) -> float:
    """1 when the last number of the answer is the one that the reference ends in, but for a share of it."""
    wanted, given = ending_number(reference), last_number(answer)
    if wanted is None or given is None:
        return 0.0
    if not tolerance:
        return float(given == wanted)
    return float(abs(given - wanted) <= Decimal(tolerance) * abs(wanted))


def last_number(text: str) -> Decimal | None:
    """The last number in a text."""
    found = [*NUMBER.finditer(text)]
    return _value(found[-1]) if found else None


def ending_number(text: str) -> Decimal | None:
    """The number that a text ends in, after which only a unit may stand."""
    found = [*NUMBER.finditer(text)]
    return _value(found[-1]) if found and _UNIT.fullmatch(text, found[-1].end()) else None


def _value(found: re.Match[str]) -> Decimal:
    digits = re.sub(rf"[{_SPACES}'’_]", "", found["digits"])
    if "," in digits:
        parts_thousands = found["part"] == ","
        digits = digits.replace(",", "") if parts_thousands else digits.replace(".", "").replace(",", ".")
    value = Decimal(digits)
    if found["below"]:
        value /= Decimal(found["below"])
    negative = (found["sign"] or found["late"]) in ("-", "−")
    return -value if negative else value
