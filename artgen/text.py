"""Words and numbers as messages and the page write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches


def visible(text: str) -> str:
    """A name as one visible line: control characters as their pictures (␊), others that hide or reorder as \\u....

    A name can hold newlines, tabs and marks that turn the direction of writing; it must be seen whole.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Cs"}:
        return f"\\u{code:04x}"
    return character


def count(number: int) -> str:
    """`1234567` -> `1,234,567`."""
    return f"{number:,}"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 picture`, `2,000 pictures`."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"


def nearest(name: str, known: Sequence[str], otherwise: str | None = None) -> str:
    """The end of a message on a name that is not known: which one it may have meant; else `otherwise`, or all that are known."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"known: {', '.join(known)}"


def measure(value: float | None) -> str:
    """A measure on the scale of 0-255, to a tenth."""
    return "–" if value is None or value != value else f"{value:.1f}"


def megapixels(pixels: float) -> str:
    """Pixels in millions, three digits."""
    millions = pixels / 1e6
    if millions >= 100:
        return f"{millions:,.0f}"
    return f"{millions:.3g}" if millions >= 0.001 else f"{millions:.6f}".rstrip("0").rstrip(".")


def size(number: int) -> str:
    """Bytes in decimal units."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 5 s`, `2 h 30 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def words(name: str) -> str:
    """`DecodeFailed` -> `Decode failed`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
