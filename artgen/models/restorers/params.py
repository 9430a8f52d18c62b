"""What parameters of a network may be."""

from __future__ import annotations

from collections.abc import Sequence


def check_number(name: str, value: int, least: int, most: int = 4096) -> None:
    """Raises ValueError for what is no whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}; use a whole number from {least} to {most}")


def check_widths(widths: Sequence[int]) -> None:
    """Raises ValueError for no list of one to ten whole numbers above 0."""
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not 1 <= len(widths) <= 10:
        raise ValueError(f"widths is {widths!r}; use a list of 1 to 10 whole numbers, such as [48, 96, 192]")
    for width in widths:
        check_number("one of widths", width, 1)


def check_channels(channels: int) -> None:
    """Raises ValueError for anything but grey and RGB."""
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; use 1 (grey) or 3 (RGB)")
