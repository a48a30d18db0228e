"""What is compared: kinds of events that have a rate, and those that also take time. A new one is a new row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.latency.measure import Measure as Latency
from hvtrace.analysis.latency.measure import spans_of
from hvtrace.analysis.latency.table import MEASURES as LATENCIES
from hvtrace.analysis.pairs import WHOLE, Rows, pairs
from hvtrace.analysis.scope import Scope
from hvtrace.analysis.subjects import SUBJECTS, Subject, exit_reason
from hvtrace.store import Store

__all__ = ["MEASURES", "TIMES", "Measure", "Part"]

#: Marks the key of an exit from a nested guest; an exit's own is isa << 32 | exit_reason.
_NESTED = 1 << 40

#: Figures of events that take time; of latencies only the last three say something of their own.
TIMES = ("rate", "time", "mean", "p50", "p99")
_LATENESS = TIMES[2:]


class Part:
    """A part of a store, as measures read it."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self.store = store
        self.scope = scope

    @cached_property
    def latencies(self) -> Events:
        """What latencies are found in, kept from one to the next."""
        return Events(self.store)

    def rows(self, rows: Rows) -> pl.LazyFrame:
        """Rows of a table in this part: vm, ts_ns, key."""
        chosen = self.store.scan(rows.table).filter(True, *self.scope.owners(), *self.scope.span())
        chosen = chosen if rows.where is None else chosen.filter(rows.where)
        return chosen.select("vm", "ts_ns", key=rows.key)


@dataclass(frozen=True, slots=True)
class Measure:
    """A kind of events.

    `needs`: tracepoints without which nothing is known; of each group one is enough. `events` gives the events of a
    part: vm, ts_ns, key (what the event is about: a number, or the words themselves), and ns where `figures` have
    times. `label` names a key, for a person who does not see the section.
    """

    section: str
    needs: tuple[tuple[str, ...], ...]
    events: Callable[[Part], pl.LazyFrame]
    label: Callable[[Any], str] = str
    figures: tuple[str, ...] = ("rate",)
    key: type[pl.DataType] = pl.UInt64

    @property
    def timed(self) -> bool:
        """Whether the events take time."""
        return "mean" in self.figures


def _exits(part: Part) -> pl.LazyFrame:
    lost = part.store.scan("lost").collect() if part.store.has("lost") else None
    key = pl.col("key") + pl.col("nested").cast(pl.UInt64) * _NESTED
    found = pairs(part.scope.tables(part.store), "vmexit", lost)
    return found.filter(pl.col("state") == WHOLE, *part.scope.span()).select("vm", "ts_ns", "ns", key=key)


def _exit_label(key: int) -> str:
    return ("L2 exit " if key & _NESTED else "exit ") + exit_reason(key & (_NESTED - 1))


def _halts(part: Part) -> pl.LazyFrame:
    """Halts by their begin: the event tells of their end. One that began before the part is none of it."""
    ns = pl.col("ns").cast(pl.Int64)
    found = part.store.scan("kvm_vcpu_wakeup").filter(True, *part.scope.owners(), *part.scope.span())
    return found.select("vm", ts_ns=pl.col("ts_ns") - ns, key=pl.col("waited").cast(pl.UInt64), ns=ns)


def _counted(section: str, rows: tuple[Rows, ...], label: Callable[[int], str]) -> Measure:
    """Rows of tables, by their keys."""

    def events(part: Part) -> pl.LazyFrame:
        return pl.concat([part.rows(one) for one in rows if part.store.has(one.table)])

    return Measure(section, (tuple(one.table for one in rows),), events, label)


def _subject(subject: Subject, section: str, prefix: str) -> Measure:
    """What exits are about, each such event by itself, with or without an exit."""
    return _counted(
        section, subject.rows, lambda key: prefix + subject.label(subject.columns(key)).removeprefix("→ ")
    )


def _latency(latency: Latency) -> Measure:
    """A measure of `hvtrace latency`. Threads of the host are others in every recording: they are one."""
    prefix = latency.name.replace("-", " ", 1)
    keys = () if latency.name == "preempted" else latency.keys

    def label(row: Mapping[str, Any]) -> str:
        return prefix if not keys else f"{prefix} {latency.label(row)}"

    def events(part: Part) -> pl.LazyFrame:
        conditions = [*part.scope.owners(), *part.scope.span()]
        found = spans_of(latency, part.latencies).filter(pl.col("state") == WHOLE, *conditions)
        subjects = found.select(keys).unique() if keys else pl.DataFrame({"all": [True]})
        named = subjects.with_columns(
            key=pl.Series([label(row) for row in subjects.iter_rows(named=True)], dtype=pl.String)
        )
        if keys:
            found = found.join(named, on=keys, how="left", nulls_equal=True)
        else:
            found = found.with_columns(key=pl.lit(prefix))
        return found.lazy().select("vm", "ts_ns", "key", "ns")

    figures = TIMES if latency.name in ("userspace", "preempted") else _LATENESS
    return Measure(f"latency {latency.name}", latency.needs, events, figures=figures, key=pl.String)


#: Section → what subject of exits it counts; and what labels begin with.
_SECTIONS = {
    "MSR accesses": ("msr", ""),
    "hypercalls": ("hypercall", ""),
    "ports": ("port", "port "),
    "MMIO": ("address", "MMIO "),
    "CPUID": ("cpuid", "CPUID "),
    "interrupts injected": ("vector", "inject "),
}

_BY_NAME = {subject.name: subject for subject in SUBJECTS}

#: The same spans as another measure's.
_TWICE = frozenset({"hypercall-exit"})

MEASURES: tuple[Measure, ...] = (
    Measure("exits", (("kvm_exit",), ("kvm_entry",)), _exits, _exit_label, TIMES),
    *(_subject(_BY_NAME[name], section, prefix) for section, (name, prefix) in _SECTIONS.items()),
    Measure(
        "halts", (("kvm_vcpu_wakeup",),), _halts, lambda key: "halt slept" if key else "halt polled", TIMES
    ),
    _counted(
        "synthetic timers",
        (Rows("kvm_hv_stimer_expiration", pl.col("timer_index").cast(pl.UInt64, strict=False)),),
        lambda key: f"stimer {key} expires",
    ),
    _counted(
        "synthetic interrupts",
        (Rows("kvm_hv_synic_set_irq", pl.col("sint").cast(pl.UInt64)),),
        lambda key: f"SINT {key} raised",
    ),
    *(_latency(latency) for latency in LATENCIES.values() if latency.name not in _TWICE),
)
