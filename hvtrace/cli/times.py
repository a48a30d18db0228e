"""Times on the command line: `12.5` (trace seconds), `+1.5s` (from the recording's start), `123456789ns`."""

from __future__ import annotations

import re
from decimal import Decimal

import typer

__all__ = ["TIME_HELP", "parse_time"]

TIME_HELP = "trace seconds (12.5), from the start (+1.5s), or a unit given (123456789ns)"

_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(r"(\+?)([0-9]{1,20}(?:\.[0-9]{1,12})?)(ns|us|ms|s|ticks)?")


def parse_time(text: str, first_ns: int, *, unit: str = "ns") -> int:
    """Return the time stamp that `text` means: ns of the trace clock, cut to whole ns.

    A number without a unit is in seconds. `first_ns` is the recording's start, `unit` that of its stamps: where
    they are "ticks", only `ticks` can be asked for. Raises typer.BadParameter.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time; write {TIME_HELP}")
    plus, digits, given = found.groups()
    if unit == "ticks" and given != "ticks":
        raise typer.BadParameter(f"{text!r}: this recording's clock counts ticks; write {digits}ticks")
    if unit != "ticks" and given == "ticks":
        raise typer.BadParameter(f"{text!r}: this recording's clock does not count ticks")
    value = int(Decimal(digits) * (1 if given == "ticks" else _UNITS[given or "s"]))
    return first_ns + value if plus else value
