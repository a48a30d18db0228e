"""What handling exits took, by reason. The answer of `hvtrace exits`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

from hvtrace.analysis.figures import FIGURES, SORT_KEYS, histograms, statistics
from hvtrace.analysis.pairs import BACKWARDS, EVENTS, LOST, WHOLE, Part, pairs
from hvtrace.analysis.scope import Scope
from hvtrace.analysis.subjects import ACCESSES, SUBJECTS, Subject, exit_reason
from hvtrace.errors import InputError
from hvtrace.store import Store

__all__ = ["BY", "Exits", "Question", "exits"]

#: What rows may be broken down by, beside the reason.
BY = ("vm", "vcpu", *(subject.name for subject in SUBJECTS))

#: Key → what it is called.
_PLACES = {"vm": "VM", "vcpu": "vCPU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Scope):
    """What is asked, of which part of the recording.

    `event` is one of hvtrace.analysis.pairs.EVENTS. `by` are words of BY; of those that are subjects at most one, and
    only with vmexit ("reason" may stand among them: it always is a key). `sort` is one of SORT_KEYS or "reason".

    `than_ns` lists only what took longer, and each pair by itself. With `interval_ns` there are rows for each such part
    of the time, from the recording's start on. `histogram` adds how the times are spread.
    """

    event: str = "vmexit"
    by: tuple[str, ...] = ()
    sort: str = "time"
    than_ns: int | None = None
    interval_ns: int | None = None
    histogram: bool = False

    @property
    def places(self) -> list[str]:
        """Of vm and vcpu those that are keys; a vCPU's id says nothing without its VM."""
        return [name for name in _PLACES if name in self.by or "vcpu" in self.by]

    @property
    def subject(self) -> Subject | None:
        """What exits are broken down by."""
        return next((subject for subject in SUBJECTS if subject.name in self.by), None)

    @property
    def columns(self) -> list[str]:
        """Names of the keys and figures that rows have, in order."""
        start = [] if self.interval_ns is None else ["from_ns"]
        own: dict[str, Any] = {}
        if self.event != "vmexit":
            own = ACCESSES[self.event][0](0)
        else:
            own["nested"] = False
            if self.subject is not None:
                own |= self.subject.columns(0)
        rate = [] if self.interval_ns is None else ["per_second"]
        return [*start, *self.places, "reason", *own, *rate, *FIGURES]


@dataclass(slots=True)
class Exits:
    """The answer.

    `rows`: keys ("from_ns", "vm", "vcpu" where asked for; "reason"; of exits "nested": from a guest's guest; what the
    subject gives), FIGURES, with interval_ns "per_second" (null where the clock counts ticks), and "histogram" where
    asked for: [from_ns, to_ns, count] for each step in which there is something. `labels`: the keys of each for
    people. `count` and `time_ns` are those of all pairs, also of those that no row lists because they have no subject
    or were short. `excluded`: events of the kind asked for that are in no pair or in none that counts, by why.

    `slow`: with than_ns the pairs themselves, the longest first: keys, seq and ts_ns of the event that begins the pair,
    end_seq and end_ns, ns, userspace_ns. `slow_labels` name them.
    """

    question: Question
    rows: list[dict[str, Any]]
    labels: list[str]
    count: int
    time_ns: int
    excluded: dict[str, int]
    slow: list[dict[str, Any]] = field(default_factory=list)
    slow_labels: list[str] = field(default_factory=list)

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame, without histograms."""
        columns = self.question.columns
        return pl.DataFrame({name: [row[name] for row in self.rows] for name in columns})

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them."""
        answer = {
            **asdict(self.question),
            "count": self.count,
            "time_ns": self.time_ns,
            "excluded": self.excluded,
            "rows": self.rows,
        }
        return answer if self.question.than_ns is None else answer | {"slow": self.slow}


def exits(store: Store, question: Question = Question()) -> Exits:
    """Answer the question from a store. Raises InputError where it holds no events that could answer it."""
    question.check(store)
    tables = _tables(store, question)
    lost = store.scan("lost").collect() if store.has("lost") else None
    subject = question.subject
    rows = () if subject is None else subject.rows
    found = pairs(tables, question.event, lost, rows, last=subject is not None and subject.last)
    kept = found.filter(pl.lit(value=True), *question.span(_own_time(question))).collect()
    whole = kept.filter(pl.col("state") == WHOLE)
    keys = [*question.places, "key"]
    keys += ["nested"] if question.event == "vmexit" else []
    keys += [] if subject is None else ["about"]
    listed = whole if subject is None else whole.filter(pl.col("about").is_not_null())
    if question.than_ns is not None:
        listed = listed.filter(pl.col("ns") > question.than_ns)
    if (width := question.interval_ns) is not None:
        start = store.manifest.time.get("first_ns") or 0
        listed = listed.with_columns(from_ns=(pl.col("ts_ns") - start) // width * width + start)
        keys.insert(0, "from_ns")
    answer = Exits(question, [], [], len(whole), int(whole["ns"].sum()), _excluded(question, tables, kept))
    named = _rows(listed, keys, answer, in_ns=store.manifest.clock.get("unit", "ns") == "ns")
    answer.labels, answer.rows = [label for label, _ in named], [row for _, row in named]
    if question.than_ns is not None:
        slow = listed.sort(["ns", "seq"], descending=[True, False]).with_columns(
            end_ns=pl.col("ts_ns") + pl.col("ns")
        )
        # A single one is of a vCPU, and has its own time.
        single = replace(question, by=(*question.by, "vcpu"), interval_ns=None)
        each = [(_keys(row, single), row) for row in slow.iter_rows(named=True)]
        answer.slow_labels = [label for (label, _), _ in each]
        answer.slow = [own | {name: row[name] for name in _PAIR} for (_, own), row in each]
    return answer


#: What is told of a single pair, beside its keys.
_PAIR = ("tid", "seq", "ts_ns", "end_seq", "end_ns", "ns", "userspace_ns")


def _rows(
    listed: pl.DataFrame, keys: list[str], answer: Exits, *, in_ns: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Labels and rows, in the order asked for."""
    question = answer.question
    spread: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
    if question.histogram:
        for *key, starts, ends, counts in histograms(listed.lazy(), keys).collect().iter_rows():
            spread[tuple(key)] = list(zip(starts, ends, counts, strict=True))
    named = []
    for figures in statistics(listed.lazy(), keys).collect().iter_rows(named=True):
        label, row = _keys(figures, question)
        time = answer.time_ns
        figures["count_share"] = figures["count"] / answer.count
        figures["time_share"] = figures["time_ns"] / time if time else 0.0
        if question.interval_ns is not None:
            row["per_second"] = figures["count"] * 1e9 / question.interval_ns if in_ns else None
        row |= {name: figures[name] for name in FIGURES}
        if question.histogram:
            row["histogram"] = spread[tuple(figures[key] for key in keys)]
        named.append((label, row))
    named.sort(key=lambda row: row[0])
    if question.sort != "reason":
        named.sort(key=lambda row: row[1][SORT_KEYS[question.sort]], reverse=True)
    if question.interval_ns is not None:
        named.sort(key=lambda row: row[1]["from_ns"])
    return named


def _keys(values: dict[str, Any], question: Question) -> tuple[str, dict[str, Any]]:
    """Label and keys of a row, or of a pair."""
    start = [] if question.interval_ns is None else ["from_ns"]
    keys: dict[str, Any] = {name: values[name] for name in [*start, *question.places]}
    label = [
        f"{title} {'?' if keys[name] is None else keys[name]}"
        for name, title in _PLACES.items()
        if name in keys
    ]
    if question.event == "vmexit":
        keys |= {"reason": exit_reason(values["key"]), "nested": values["nested"]}
        label += [*(["L2"] if values["nested"] else []), keys["reason"]]
        if (subject := question.subject) is not None:
            own = subject.columns(values["about"])
            label.append(subject.label(own))
            keys |= own
    else:
        columns, form = ACCESSES[question.event]
        own = columns(values["key"])
        keys |= {"reason": form(own), **own}
        label += [keys["reason"], *([] if "msr" not in own else [own["msr"]])]
    return " ".join(label), keys


def _tables(store: Store, question: Question) -> dict[str, pl.LazyFrame]:
    """Tables of the store, as far as the question concerns them."""
    begins = {begin.rows.table for begin in EVENTS[question.event]}
    if question.event == "vmexit" and not store.has("kvm_exit"):
        raise InputError(store.path, "holds no kvm_exit events: there is nothing to count")
    if not store.has("kvm_entry") and any(store.has(table) for table in begins):
        raise InputError(store.path, "holds no kvm_entry events: when an exit ends is not known")
    return question.tables(store)


def _own_time(question: Question) -> pl.Expr:
    """When the event was that a pair is about: at its beginning, but for reads of MMIO."""
    begin = pl.col("ts_ns")
    read = pl.col("key") % 2 == 0
    return pl.when(read).then(begin + pl.col("ns")).otherwise(begin) if question.event == "mmio" else begin


def _excluded(question: Question, tables: dict[str, pl.LazyFrame], kept: pl.DataFrame) -> dict[str, int]:
    """How many events have no pair that counts, by why."""
    told = [begin.rows for begin in EVENTS[question.event] if begin.part != Part.OPEN]
    span = question.span()

    def number(attributed: pl.Expr) -> int:
        counts = [
            tables[rows.table]
            .filter(attributed, *span, *([] if rows.where is None else [rows.where]))
            .select(pl.len())
            for rows in told
            if rows.table in tables
        ]
        return int(pl.concat(counts).sum().collect().item()) if counts else 0

    states = dict(kept["state"].value_counts().iter_rows())
    return {
        "lost": states.get(LOST, 0),
        "backwards": states.get(BACKWARDS, 0),
        "unpaired": number(pl.col("vcpu").is_not_null()) - len(kept),
        "unattributed": number(pl.col("vcpu").is_null()),
    }
