"""Text of a recording made fit to be shown: it may hold anything, and be of any length."""

from __future__ import annotations

__all__ = ["plain"]

#: Characters kept.
MOST = 1000


def plain(value: object, most: int = MOST) -> str:
    """`value` as one line of printable characters, cut to `most`; what cannot be printed is escaped as in Python."""
    text = str(value)[: most + 1]
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _escaped(character: str) -> str:
    return " " if character in "\n\r\t" else character.encode("unicode_escape").decode()
