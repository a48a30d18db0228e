"""Text that comes from recordings, made safe for a terminal; numbers and times as people write them."""

from __future__ import annotations

import os
import sys
from textwrap import wrap

__all__ = ["WIDTH", "count", "duration", "plural", "safe", "stamp", "styled", "wrapped"]

#: Lines for people fit a terminal of 80 columns.
WIDTH = 79


def safe(text: str, width: int | None = None) -> str:
    """Return `text` with control characters made visible, cut to `width`."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown if width is None or len(shown) <= width else shown[: width - 1] + "…"


def count(number: int) -> str:
    """Return 1234567 as 1,234,567."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Return "1 event", "2 events"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(ns: int | None) -> str:
    """Return a time span with a unit that suits it."""
    if ns is None:
        return "?"
    for limit, unit, digits in ((1_000, "ns", 0), (1_000_000, "µs", 1), (1_000_000_000, "ms", 1)):
        if abs(ns) < limit:
            return f"{ns / (limit / 1000):.{digits}f} {unit}"
    return f"{ns / 1e9:.3f} s"


def stamp(ns: int | None) -> str:
    """Return a time stamp in trace seconds."""
    return "?" if ns is None else f"{ns // 1_000_000_000}.{ns % 1_000_000_000 // 1000:06d}"


def styled(text: str, style: str) -> str:
    """Return `text` in a style ("red", "yellow", "green", "bold") where stdout is a terminal that wants colour."""
    codes = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "dim": "2"}
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{codes[style]}m{text}\033[0m"


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Return `text` made safe, in lines at most WIDTH wide: the first begins with `first`, the others with `rest`.

    Without `rest` the others are indented as far as the first. A word longer than a line is broken.
    """
    if rest is None:
        rest = " " * len(first)
    lines = wrap(safe(text), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return lines or [first.rstrip()]
