"""What handling exits took, by reason: counts, times, percentiles. The answer of `hvtrace exits`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from hvtrace.analysis.pairs import BACKWARDS, EVENTS, LOST, WHOLE, Part, pairs
from hvtrace.analysis.subjects import ACCESSES, SUBJECTS, Subject, exit_reason
from hvtrace.errors import InputError
from hvtrace.store import Store

__all__ = ["BY", "FIGURES", "PERCENTILES", "SORT_KEYS", "Exits", "Question", "exits", "statistics"]

#: Column → permille of the pairs that took no longer. The value is one that occurred (nearest rank).
PERCENTILES = {"p50_ns": 500, "p90_ns": 900, "p99_ns": 990, "p99_9_ns": 999}

#: What every row says of its pairs, in this order; times in ns.
FIGURES = (
    "count",
    "count_share",
    "time_ns",
    "time_share",
    "kernel_ns",
    "userspace_ns",
    "min_ns",
    "mean_ns",
    "max_ns",
    "deviation",
    *PERCENTILES,
)

#: What rows may be broken down by, beside the reason.
BY = ("vm", "vcpu", *(subject.name for subject in SUBJECTS))

#: Word on the command line → figure.
SORT_KEYS = {name.removesuffix("_ns").replace("_", "."): name for name in FIGURES if "share" not in name}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    `event` is one of EVENTS. `by` are words of BY; of those that are subjects at most one, and only with vmexit
    ("reason" may stand among them: it always is a key). `vm` and `vcpu` restrict to a VM and to vCPUs with an id,
    `first_ns` and `last_ns` to events in that span. `sort` is one of SORT_KEYS or "reason".
    """

    event: str = "vmexit"
    by: tuple[str, ...] = ()
    vm: int | None = None
    vcpu: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    sort: str = "time"


@dataclass(slots=True)
class Exits:
    """The answer.

    `rows`: keys ("vm", "vcpu" where asked for, "reason", what the subject gives) and FIGURES; `labels`: the keys of
    each for people. `count` and `time_ns` are those of all pairs, also of those that no row lists because they have no
    subject. `excluded`: events of the kind asked for that are in no pair or in none that counts, by why.
    """

    question: Question
    rows: list[dict[str, Any]]
    labels: list[str]
    count: int
    time_ns: int
    excluded: dict[str, int]

    @property
    def columns(self) -> list[str]:
        """Names of the keys and figures that rows have, in order."""
        subject = _subject(self.question)
        if self.question.event != "vmexit":
            own = list(ACCESSES[self.question.event][0](0))
        else:
            own = [] if subject is None else list(subject.columns(0))
        return [*_places(self.question), "reason", *own, *FIGURES]

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them."""
        return {
            **asdict(self.question),
            "count": self.count,
            "time_ns": self.time_ns,
            "excluded": self.excluded,
            "rows": self.rows,
        }


def exits(store: Store, question: Question = Question()) -> Exits:
    """Answer the question from a store. Raises InputError where it holds no events that could answer it."""
    _check(store, question)
    tables = _tables(store, question)
    lost = store.scan("lost").collect() if store.has("lost") else None
    subject = _subject(question)
    rows = () if subject is None else subject.rows
    found = pairs(tables, question.event, lost, rows, last=subject is not None and subject.last)
    kept = found.filter(pl.lit(value=True), *_span(question)).collect()
    whole = kept.filter(pl.col("state") == WHOLE)
    keys = [*_places(question), "key", *([] if subject is None else ["about"])]
    listed = whole if subject is None else whole.filter(pl.col("about").is_not_null())
    count, time = len(whole), int(whole["ns"].sum())
    figures = statistics(listed.lazy(), keys).collect().iter_rows(named=True)
    named = [_row(one, question, count, time) for one in figures]
    named.sort(key=lambda row: row[0])
    if question.sort != "reason":
        named.sort(key=lambda row: row[1][SORT_KEYS[question.sort]], reverse=True)
    excluded = _excluded(question, tables, kept)
    return Exits(question, [row for _, row in named], [label for label, _ in named], count, time, excluded)


def statistics(pairs: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Figures of pairs (ns, userspace_ns; see hvtrace.analysis.pairs) by `keys`: those of FIGURES but the shares.

    deviation is that of the mean, in percent of it: standard deviation / √count / mean, as perf prints it.
    """
    ns, number = pl.col("ns"), pl.len().cast(pl.Int64)
    ranks = {name: (number * permille + 999) // 1000 - 1 for name, permille in PERCENTILES.items()}
    return (
        pairs.sort("ns")
        .group_by(keys)
        .agg(
            count=number,
            time_ns=ns.sum(),
            userspace_ns=pl.col("userspace_ns").sum(),
            min_ns=ns.first(),
            max_ns=ns.last(),
            mean=ns.mean(),
            std=ns.std(ddof=1),
            **{name: ns.get(rank) for name, rank in ranks.items()},
        )
        .with_columns(
            kernel_ns=pl.col("time_ns") - pl.col("userspace_ns"),
            mean_ns=pl.col("mean").round().cast(pl.Int64),
            deviation=pl.when(pl.col("mean") > 0)
            .then(100 * pl.col("std") / pl.col("count").sqrt() / pl.col("mean"))
            .fill_null(0.0),
        )
        .drop("mean", "std")
    )


def _row(figures: dict[str, Any], question: Question, count: int, time: int) -> tuple[str, dict[str, Any]]:
    """Label and row of one of the statistics; shares are those of `count` and `time`."""
    row: dict[str, Any] = {name: figures[name] for name in _places(question)}
    label = [f"{title} {'?' if row[name] is None else row[name]}" for name, title in _PLACES if name in row]
    if question.event == "vmexit":
        row["reason"] = exit_reason(figures["key"])
        label.append(row["reason"])
        if (subject := _subject(question)) is not None:
            own = subject.columns(figures["about"])
            label.append(subject.label(own))
            row |= own
    else:
        columns, form = ACCESSES[question.event]
        own = columns(figures["key"])
        row |= {"reason": form(own), **own}
        label += [row["reason"], *([] if "msr" not in own else [own["msr"]])]
    shares = {
        "count_share": figures["count"] / count,
        "time_share": figures["time_ns"] / time if time else 0.0,
    }
    return " ".join(label), row | {name: shares.get(name, figures.get(name)) for name in FIGURES}


_PLACES = (("vm", "VM"), ("vcpu", "vCPU"))


def _places(question: Question) -> list[str]:
    """Of vm and vcpu those that are keys; a vCPU's id says nothing without its VM."""
    return [name for name, _ in _PLACES if name in question.by or "vcpu" in question.by]


def _subject(question: Question) -> Subject | None:
    return next((s for s in SUBJECTS if s.name in question.by), None)


def _check(store: Store, question: Question) -> None:
    """Refuse a VM or vCPU that the store does not have."""
    vcpus = {vm["vm"]: {vcpu["vcpu"] for vcpu in vm["vcpus"]} for vm in store.manifest.vms}
    if question.vm is not None and question.vm not in vcpus:
        raise InputError(store.path, f"has no VM {question.vm}; it has {_listed(vcpus)}")
    chosen = set().union(*(own for vm, own in vcpus.items() if question.vm in (None, vm)))
    if question.vcpu is not None and question.vcpu not in chosen:
        raise InputError(store.path, f"has no vCPU {question.vcpu}; it has {_listed(chosen)}")


def _listed(numbers: Iterable[int]) -> str:
    several = sorted(numbers)
    return ", ".join(map(str, several[:20])) + (" …" if len(several) > 20 else "") or "none"


def _tables(store: Store, question: Question) -> dict[str, pl.LazyFrame]:
    """Tables of the store, as far as the question concerns them."""
    begins = {begin.rows.table for begin in EVENTS[question.event]}
    if question.event == "vmexit" and not store.has("kvm_exit"):
        raise InputError(store.path, "holds no kvm_exit events: there is nothing to count")
    if not store.has("kvm_entry") and any(store.has(table) for table in begins):
        raise InputError(store.path, "holds no kvm_entry events: when an exit ends is not known")
    wanted = [pl.lit(value=True)]
    if question.vm is not None:
        wanted.append(pl.col("vm") == question.vm)
    if question.vcpu is not None:
        wanted.append(pl.col("vcpu") == question.vcpu)
    return {name: store.scan(name).filter(*wanted) for name in store.tracepoints}


def _span(question: Question, ts: str = "ts_ns") -> list[pl.Expr]:
    """Conditions for a time stamp to lie in the span asked for."""
    first, last = question.first_ns, question.last_ns
    within = [] if first is None else [pl.col(ts) >= first]
    return within if last is None else [*within, pl.col(ts) <= last]


def _excluded(question: Question, tables: dict[str, pl.LazyFrame], kept: pl.DataFrame) -> dict[str, int]:
    """How many events have no pair that counts, by why."""
    told = [begin.rows for begin in EVENTS[question.event] if begin.part != Part.OPEN]
    span = _span(question)

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
