"""What a guest waited for, and how long. The answer of `hvtrace latency`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from hvtrace.analysis.figures import PERCENTILES, histograms, statistics
from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.latency.measure import BACKWARDS, LOST, UNATTRIBUTED, UNPAIRED, WHOLE, Measure, spans_of
from hvtrace.analysis.latency.periods import periods
from hvtrace.analysis.latency.table import MEASURES
from hvtrace.analysis.scope import Scope
from hvtrace.errors import InputError
from hvtrace.store import Store

__all__ = ["BY", "FIGURES", "Latency", "Question", "latency", "spans"]

#: What rows may be broken down by, beside what they are about.
BY = ("vm", "vcpu")

#: What every row says of its spans, in this order; times in ns.
FIGURES = ("count", "time_ns", "min_ns", "mean_ns", *PERCENTILES, "max_ns")

#: Key → what it is called.
_PLACES = {"vm": "VM", "vcpu": "vCPU"}

#: Why a measure is not told: a tracepoint has no events (it was not recorded, or never fired); stamps count ticks.
NO_EVENTS, TICKS = "no-events", "ticks"

#: What perf's text lacks.
IN_INTERRUPTS = (
    "perf script leaves out what is traced in interrupts while a guest runs: there were more callbacks of timers and"
    " more wake-ups than are counted"
)

#: What is told of a single span, beside its measure, subject and keys.
_SPAN = ("vm", "vcpu", "seq", "ts_ns", "end_seq", "end_ns", "ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Scope):
    """What is asked, of which part of the recording. A span is in a part of the time where it begins.

    `measures` are names of MEASURES, none: all. `by` are words of BY. `histogram` adds how the times are spread;
    `worst` lists so many of the longest spans of each measure.
    """

    measures: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    histogram: bool = False
    worst: int = 0

    @property
    def places(self) -> list[str]:
        """Of vm and vcpu those that are keys; a vCPU's id says nothing without its VM."""
        return [name for name in _PLACES if name in self.by or "vcpu" in self.by]

    @property
    def asked(self) -> list[Measure]:
        """The measures asked for, in the order of the table. Raises KeyError for a name that is none."""
        names = [MEASURES[name].name for name in self.measures] or list(MEASURES)
        return [measure for name, measure in MEASURES.items() if name in names]

    @property
    def columns(self) -> list[str]:
        """Names of the keys and figures that all rows have, in order."""
        return ["measure", *self.places, "subject", *FIGURES]


@dataclass(slots=True)
class Latency:
    """The answer.

    `rows`: "measure", "vm" and "vcpu" where asked for, "subject" (what it is about, in words), the measure's own keys,
    FIGURES, and "histogram" where asked for: [from_ns, to_ns, count] for each step in which there is something. Rows of
    a measure are by time, the longest first. `counted`: of each measure that could be told, "measure", "sentence" (from
    where to where), "count", "time_ns", "unpaired" (what has no end: a noun, and the rest) and "excluded": what does
    not count, by why. `absent`: those that could not: "measure", "sentence", "why", "missing" (tracepoints that have no
    events; of those joined by "|" one is enough).

    `timers`: periodic synthetic timers, as hvtrace.analysis.latency.periods has them; empty unless a measure of timers
    was asked for. `slowest`: with `worst` the spans themselves: measure, subject, vm, vcpu, keys, seq, ts_ns, end_seq,
    end_ns, ns. `notes`: sentences on what the recording does not show.
    """

    question: Question
    rows: list[dict[str, Any]] = field(default_factory=list)
    counted: list[dict[str, Any]] = field(default_factory=list)
    absent: list[dict[str, Any]] = field(default_factory=list)
    timers: list[dict[str, Any]] = field(default_factory=list)
    slowest: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame, without histograms and the measures' own keys."""
        return pl.DataFrame({name: [row[name] for row in self.rows] for name in self.question.columns})

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them."""
        answer = {
            **asdict(self.question),
            "counted": self.counted,
            "absent": self.absent,
            "rows": self.rows,
            "timers": self.timers,
            "notes": self.notes,
        }
        return answer | {"slowest": self.slowest} if self.question.worst else answer


def latency(store: Store, question: Question = Question()) -> Latency:
    """Answer the question from a store. Raises InputError for a VM or vCPU that it does not have."""
    question.check(store)
    events, answer = Events(store), Latency(question)
    in_ns = store.manifest.clock.get("unit", "ns") == "ns"
    for measure in question.asked:
        head: dict[str, Any] = {"measure": measure.name, "sentence": measure.sentence}
        missing = measure.missing(events)
        if missing or (measure.in_ns and not in_ns):
            answer.absent.append(head | {"why": NO_EVENTS if missing else TICKS, "missing": missing})
            continue
        found = _within(spans_of(measure, events), question)
        whole = found.filter(pl.col("state") == WHOLE)
        states = dict(found["state"].cast(pl.String).value_counts().iter_rows())
        excluded = {why: int(states.get(why, 0)) for why in (LOST, BACKWARDS, UNPAIRED, UNATTRIBUTED)}
        answer.counted.append(
            head
            | {"count": len(whole), "time_ns": int(whole["ns"].sum()), "unpaired": list(measure.unpaired)}
            | {"excluded": excluded}
        )
        answer.rows += _rows(measure, whole, question)
        answer.slowest += _slowest(measure, whole, question)
    if any("perf script" in str(source.get("format", "")) for source in store.manifest.sources):
        answer.notes.append(IN_INTERRUPTS)
    if any(measure.of_timers for measure in question.asked):
        answer.timers = periods(events, question).to_dicts()
    return answer


def spans(store: Store, scope: Scope, measure: str) -> pl.DataFrame:
    """Return the spans of a measure, a row each, in order of their begin.

    Columns: measure, subject (in words), vm, vcpu, the measure's own keys, seq and ts_ns of what begins, end_seq and
    end_ns of what ends it, ns between them, state: "whole", "lost" (events were lost meanwhile), "backwards" (it ends
    before it begins). Only whole ones make figures. Raises KeyError where there is no such measure, and InputError
    where its tracepoints were not recorded.
    """
    scope.check(store)
    chosen, events = MEASURES[measure], Events(store)
    if missing := chosen.missing(events):
        raise InputError(store.path, f"holds no {', '.join(missing)} events: {measure} is not known")
    if chosen.in_ns and store.manifest.clock.get("unit", "ns") != "ns":
        raise InputError(store.path, f"has stamps in ticks: {measure} is not known")
    found = _within(spans_of(chosen, events), scope).filter(
        pl.col("end_seq").is_not_null(), pl.col("vcpu").is_not_null()
    )
    return _named(chosen, found).sort("seq", "end_seq")


def _within(found: pl.DataFrame, scope: Scope) -> pl.DataFrame:
    conditions = [*scope.owners(), *scope.span()]
    return found.filter(*conditions) if conditions else found


def _named(measure: Measure, found: pl.DataFrame) -> pl.DataFrame:
    """Add `measure` and `subject` in front."""
    if measure.keys:
        keys = found.select(measure.keys).unique()
        labels = [measure.label(row) for row in keys.iter_rows(named=True)]
        table = keys.with_columns(subject=pl.Series(labels, dtype=pl.String))
        found = found.join(table, on=measure.keys, how="left", nulls_equal=True, maintain_order="left")
    else:
        found = found.with_columns(subject=pl.lit(measure.label({})))
    return found.select(pl.lit(measure.name).alias("measure"), "subject", pl.all().exclude("subject"))


def _rows(measure: Measure, whole: pl.DataFrame, question: Question) -> list[dict[str, Any]]:
    """Rows of a measure: by time, the longest first."""
    keys = [*question.places, *measure.keys]
    # Without a key all are one group.
    groups = keys or ["all"]
    listed = whole.select(*keys, "ns", userspace_ns=pl.lit(0, pl.Int64))
    listed = listed if keys else listed.with_columns(all=pl.lit(0, pl.Int8))
    spread: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
    if question.histogram:
        for *key, starts, ends, counts in histograms(listed.lazy(), groups).collect().iter_rows():
            spread[tuple(key)] = list(zip(starts, ends, counts, strict=True))
    rows = []
    for figures in statistics(listed.lazy(), groups).collect().iter_rows(named=True):
        row: dict[str, Any] = {"measure": measure.name}
        row |= {name: figures[name] for name in question.places}
        row |= {"subject": measure.label(figures)}
        row |= {name: figures[name] for name in (*measure.keys, *FIGURES)}
        if question.histogram:
            row["histogram"] = spread[tuple(figures[key] for key in groups)]
        rows.append(row)
    rows.sort(key=lambda row: _order(row, keys))
    return rows


def _order(row: dict[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return -row["time_ns"], *(str(row[key]) for key in keys)


def _slowest(measure: Measure, whole: pl.DataFrame, question: Question) -> Iterator[dict[str, Any]]:
    """The longest spans of a measure."""
    found = whole.sort("ns", "seq", "end_seq", descending=[True, False, False]).head(question.worst)
    for row in found.iter_rows(named=True):
        own = {name: row[name] for name in (*measure.keys, *measure.others)}
        head = {"measure": measure.name, "subject": measure.label(row)}
        yield head | own | {name: row[name] for name in _SPAN}
