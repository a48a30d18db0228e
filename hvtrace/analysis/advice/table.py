"""All kinds of advice. A new one is a row in the file of its subject, and a new subject a line here."""

from __future__ import annotations

from hvtrace.analysis.advice import (
    apicv,
    clock_source,
    enlightenments,
    faults,
    flags,
    ipis,
    nested,
    polling,
    progress,
    spin,
    storms,
    timers,
    tsc,
    userspace,
)
from hvtrace.analysis.advice.finding import Advice

__all__ = ["ADVICES", "FAMILIES", "advice_by_code"]

#: Beginnings of codes, and what their advices are about.
FAMILIES = {
    "AD1": "Enlightenments and flags",
    "AD2": "Clocks and timers",
    "AD3": "Interrupts",
    "AD4": "Exits",
    "AD5": "Halt polling",
    "AD6": "TSC and master clock",
    "AD7": "Nested guests",
    "AD8": "Userspace",
}

#: By code.
ADVICES: tuple[Advice, ...] = (
    *enlightenments.ADVICES,
    *flags.ADVICES,
    *clock_source.ADVICES,
    *timers.ADVICES,
    *apicv.ADVICES,
    *ipis.ADVICES,
    *storms.ADVICES,
    *progress.ADVICES,
    *faults.ADVICES,
    *spin.ADVICES,
    *polling.ADVICES,
    *tsc.ADVICES,
    *nested.ADVICES,
    *userspace.ADVICES,
)


def advice_by_code(code: str) -> Advice | None:
    """The advice of a code or name, in any case; None where there is none."""
    return next((row for row in ADVICES if code.upper() == row.code or code.lower() == row.name), None)
