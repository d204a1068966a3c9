"""Broken and hidden characters: what a person who reads the rows would not see or would stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune.data.examine.view import Hit

# What the bytes 0x80 to 0xBF become when they are read as Windows-1252 or as Latin-1.
REST = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
MOJIBAKE = re.compile(f"Ã{REST}|Â[\u00a0-\u00bf]|â[€‚„†‰Šœž\u0080-\u009f]{REST}|ðŸ{REST}{REST}|(?:[ÐÑ]{REST}){{2}}")
MOJIBAKE_BEGINS = ("Ã", "Â", "â", "ðŸ", "Ð")
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Joiners are part of scripts and of emoji; between Latin letters they are not. A black flag begins emoji made of tags.
INVISIBLE = re.compile(
    "[\u200b\u2060-\u2064\ufeff\u00ad\u180e]|(?<=[A-Za-z])[\u200c\u200d](?=[A-Za-z])"
    "|(?<![\U0001f3f4\U000e0000-\U000e007f])[\U000e0000-\U000e007f]"
)
BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|[lr][sd]quo|[mn]dash|hellip|#\d{2,6}|#x[0-9A-Fa-f]{2,5});")


def text_hits(text: str) -> Iterator[Hit]:
    """The first defect of each kind in a text."""
    if not text.isprintable() and (match := CONTROL.search(text)):
        yield _hit("control-character", match, f"U+{ord(match[0]):04X}")
    if "&" in text and ";" in text and (match := ENTITY.search(text)):
        yield _hit("html-entity", match, match[0])
    if text.isascii():
        return
    if any(begin in text for begin in MOJIBAKE_BEGINS) and (match := MOJIBAKE.search(text)):
        yield _hit("mojibake", match, match[0])
    if "\ufffd" in text:
        begin = text.index("\ufffd")
        yield Hit("replacement-character", begin, begin + 1, "U+FFFD")
    if match := INVISIBLE.search(text):
        yield _hit("invisible-character", match, f"U+{ord(match[0]):04X}")
    if match := BIDIRECTIONAL.search(text):
        yield _hit("bidirectional-character", match, f"U+{ord(match[0]):04X}")


def _hit(code: str, match: re.Match[str], what: str) -> Hit:
    return Hit(code, match.start(), match.end(), what)
