"""How advices say times, shares, rates, and what exits were about."""

from __future__ import annotations

from hvtrace.abi.exit_reasons import ISA_VMX
from hvtrace.analysis.subjects import SUBJECTS, exit_reason

__all__ = ["basic", "duration", "each_second", "exit_label", "listed", "percent", "times"]

_SUBJECTS = {subject.name: subject for subject in SUBJECTS}
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))


def duration(ns: float) -> str:
    """A time in ns, three digits: "1.25 s", "340 µs"."""
    for length, unit in _UNITS:
        if ns >= length:
            value = ns / length
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{ns:.0f} ns"


def percent(share: float) -> str:
    """A share of 1: "12 %", "0.4 %"."""
    return f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


def each_second(count: float, ns: float) -> str:
    """A rate: "4,100 a second"."""
    rate = count * 1e9 / ns if ns > 0 else 0.0
    return f"{rate:,.{1 if rate < 10 else 0}f} a second"


def times(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 exit", "1,200 exits"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(words: list[str]) -> str:
    """Words as a list: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def exit_label(reason: int, kind: str | None = None, key: int | None = None) -> str:
    """What an exit was: "io in 0x3fd". `reason` is isa << 32 | exit_reason; kind and key are those of Facts.exits."""
    name = exit_reason(reason)
    if kind is None or key is None:
        return name
    subject = _SUBJECTS[kind]
    return f"{name} {subject.label(subject.columns(key))}"


def basic(reason: int) -> tuple[int, int]:
    """(isa, exit reason without VMX's flags) of isa << 32 | exit_reason."""
    isa, number = reason >> 32, reason & 0xFFFFFFFF
    return isa, number & 0xFFFF if isa == ISA_VMX else number
