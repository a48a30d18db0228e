"""Which tracer's text a file holds, and how it writes time."""

from __future__ import annotations

import re

from hvtrace.parsers.text.block import Stamps
from hvtrace.parsers.text.prefix import PATTERNS, Dialect

__all__ = ["DIALECTS", "counts_cycles", "dialect_of", "sniff_text", "stamps_of"]

#: Format (see `Source.format`) → how its lines are written.
DIALECTS: dict[str, Dialect] = {
    "ftrace text": "ftrace",
    "trace-cmd report text": "ftrace",
    "perf script text": "perf",
}

_LINES = {dialect: [re.compile(p) for p in patterns] for dialect, patterns in PATTERNS.items()}
#: trace-cmd pads the tracepoint's name to twenty columns.
_PADDED = re.compile(r": [a-z_]\w*:  +\S")
#: Lines looked at, and the length each is cut to.
_LOOK = 400
_LONGEST = 400
#: A head this long need not be the whole file.
_LONG_HEAD = 1 << 12
#: Ticks from one event to the next, on the average, from which they must be cycles.
_CYCLES = 50


def _lines(head: bytes) -> list[str]:
    lines = head.decode("latin-1").splitlines()
    if len(lines) > 1 and len(head) >= _LONG_HEAD and not head.endswith(b"\n"):
        # The last line is cut where the head ends.
        lines.pop()
    return [line[:_LONGEST] for line in lines]


def sniff_text(head: bytes) -> str | None:
    """The format of a text recording by its first bytes (some tens of KiB); None where it is none.

    One of the keys of DIALECTS.
    """
    if not head or head.count(0) > len(head) // 100:
        return None
    lines = _lines(head)
    if any(line.startswith("# tracer:") for line in lines[:20]):
        return "ftrace text"
    if any(re.fullmatch(r"cpus=\d+", line) for line in lines[:20]):
        return "trace-cmd report text"
    wanted = [line for line in lines if line.strip() and not line.startswith("#")][:_LOOK]
    count = {
        dialect: sum(any(p.match(line) for p in patterns) for line in wanted)
        for dialect, patterns in _LINES.items()
    }
    if not any(count.values()):
        return None
    if count["perf"] > count["ftrace"]:
        return "perf script text"
    return "trace-cmd report text" if any(_PADDED.search(line) for line in wanted) else "ftrace text"


def dialect_of(format_name: str) -> Dialect:
    """How lines of a format are written."""
    return DIALECTS[format_name]


def counts_cycles(head: bytes, format_name: str) -> bool:
    """Whether ticks advance as a TSC's do: the clock "counter" advances by about one an event."""
    patterns = _LINES[dialect_of(format_name)]
    found = [
        m for line in _lines(head)[:_LOOK] if (m := next((m for p in patterns if (m := p.match(line))), None))
    ]
    stamps = [int(m["sec"]) for m in found]
    return len(stamps) > 1 and (max(stamps) - min(stamps)) // (len(stamps) - 1) >= _CYCLES


def stamps_of(head: bytes, format_name: str) -> Stamps | None:
    """How stamps are written, by the file's first lines; None where they do not tell yet.

    A whole number is a count of ticks, unless it is at most one second: trace-cmd report then prints so many µs
    (or ns, where it prints ns). What the clock counts is known once a line has a fraction, or a larger number.
    """
    patterns = _LINES[dialect_of(format_name)]
    largest = -1
    for line in _lines(head):
        found = next((m for p in patterns if (m := p.match(line))), None)
        if found is None:
            continue
        if found["frac"]:
            return Stamps(ticks=False, whole_ns=1 if len(found["frac"]) == 9 else 1000)
        largest = max(largest, int(found["sec"]))
        if format_name != "trace-cmd report text" or largest > 1_000_000_000:
            return Stamps(ticks=True)
    return None if largest >= 0 else Stamps(ticks=False)
