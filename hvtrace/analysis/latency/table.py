"""The measures, in the order in which they are told. A new one is a new row in its file."""

from __future__ import annotations

from hvtrace.analysis.latency.calls import CALLS
from hvtrace.analysis.latency.interrupts import INTERRUPTS
from hvtrace.analysis.latency.ipis import IPIS
from hvtrace.analysis.latency.measure import Measure
from hvtrace.analysis.latency.synic import SYNIC
from hvtrace.analysis.latency.threads import THREADS
from hvtrace.analysis.latency.timers import TIMERS

__all__ = ["MEASURES"]

MEASURES: dict[str, Measure] = {
    measure.name: measure for measure in (*TIMERS, *SYNIC, *INTERRUPTS, *IPIS, *THREADS, *CALLS)
}
