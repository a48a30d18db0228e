"""Two recordings side by side: rates and times of what happened, and which of them changed. See `hvtrace diff`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.analysis.diff.facts import differences
from hvtrace.analysis.diff.measures import MEASURES, Measure
from hvtrace.analysis.diff.side import Side
from hvtrace.analysis.diff.significance import BLOCKS, F64, Series, Verdict, adjusted, compare
from hvtrace.analysis.scope import Scope
from hvtrace.store import Store

__all__ = ["ALPHA", "COLUMNS", "Diff", "diff"]

#: Of what is called changed, the share that is expected to be chance.
ALPHA = 0.05

#: With fewer events on both sides together nothing is said: most recordings have dozens of such subjects.
FEWEST_EVENTS = 20

#: Subjects of a measure that are compared, the commonest first.
SUBJECTS = 200

#: The longer recording has at most so many blocks for one of the shorter.
_LONGER = 16

#: A change by more than 2 to this counts no more.
_DOUBLINGS = 6.0

#: What every row has, in order.
COLUMNS = (
    "section",
    "subject",
    "figure",
    "unit",
    "a",
    "b",
    "change",
    "significant",
    "p",
    "q",
    "delta",
    "shift",
    "blocks_a",
    "blocks_b",
    "untested",
    "count_a",
    "count_b",
    "weight",
)


@dataclass(slots=True)
class Diff:
    """The answer.

    `rows` have COLUMNS: figure is "rate" (per_second of VM time), "time" (share of VM time), "mean", "p50" or "p99"
    (ns); a, b its value in each recording, null where there is none; change is b / a - 1, null where a is 0 or null;
    p, delta, shift and blocks those of hvtrace.analysis.diff.significance.Verdict (shift in the figure's unit; null for
    p50 and p99, of which shares above the common one are compared); q is p corrected for the number of rows that have
    one; untested says why there is no p: "few" events, "phases". `weight` is the larger of the subject's shares of its
    section, of the time where there is any, else of the events. Significant rows come first, those that matter most
    before others.

    `sides`: of each recording vms, seconds (of VM time; null where the clock counts ticks), and
    what was asked for. `facts`,
    `enlightenments` and `divergences` are those of hvtrace.analysis.diff.facts. `not_compared`: sections left out, by
    why.
    """

    sides: tuple[dict[str, Any], dict[str, Any]]
    alpha: float = ALPHA
    rows: list[dict[str, Any]] = field(default_factory=list)
    not_compared: list[dict[str, str]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    enlightenments: list[dict[str, Any]] = field(default_factory=list)
    divergences: dict[str, Any] = field(default_factory=dict)

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame."""
        return pl.DataFrame(self.rows, schema_overrides=_SCHEMA, infer_schema_length=None).select(COLUMNS)

    def beyond(self, threshold: float) -> list[dict[str, Any]]:
        """Significant rows that changed by more than `threshold` (0.1: 10 %), up or down."""
        return [row for row in self.rows if row["significant"] and _size(row) > threshold]

    @property
    def new_errors(self) -> list[dict[str, Any]]:
        """Kinds of divergences, of those that are errors, that B has and A, which was checked, has not."""
        return [
            row
            for row in self.divergences["rows"]
            if row["severity"] == "error" and row["b"] and row["a"] == 0
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as the JSON form has it."""
        found = asdict(self)
        found["a"], found["b"] = found.pop("sides")
        return found


_SCHEMA = dict.fromkeys(("a", "b", "change", "p", "q", "delta", "shift", "weight"), pl.Float64)


def diff(
    a: Store, b: Store, scope_a: Scope | None = None, scope_b: Scope | None = None, alpha: float = ALPHA
) -> Diff:
    """Compare two stores, or parts of them. Raises InputError where a part means nothing."""
    sides = Side(a, scope_a or Scope()), Side(b, scope_b or Scope())
    found = Diff((_about(sides[0]), _about(sides[1])), alpha)
    found.facts, found.enlightenments, found.divergences = differences(*sides)
    if why := _incomparable(sides):
        found.not_compared.append({"section": "all", "why": why})
        return found
    grid = _Grid(sides)
    for measure in MEASURES:
        absent = [name for name, side in zip("AB", sides, strict=True) if not side.recorded(measure)]
        if absent:
            found.not_compared.append(
                {"section": measure.section, "why": f"not recorded in {' and '.join(absent)}"}
            )
            continue
        found.rows += _compared(measure, sides, grid)
    tested = [row for row in found.rows if row["p"] is not None]
    for row, q in zip(tested, adjusted([row["p"] for row in tested]), strict=True):
        row["q"], row["significant"] = q, q <= alpha
    found.rows.sort(
        key=lambda row: (not row["significant"], -row["weight"] * min(_doublings(row), _DOUBLINGS))
    )
    return found


def _about(side: Side) -> dict[str, Any]:
    return {"vms": sorted(side.lives), "seconds": side.seconds if side.in_ns else None, **asdict(side.scope)}


def _incomparable(sides: tuple[Side, Side]) -> str | None:
    for name, side in zip("AB", sides, strict=True):
        if not side.in_ns:
            return f"the clock of {name} counts ticks of unknown length"
        if not side.lives:
            return f"{name} has no events of a VM"
        if not side.seconds:
            return f"no time of {name} is without losses"
    return None


class _Grid:
    """Blocks of the same width on both sides."""

    def __init__(self, sides: tuple[Side, Side]) -> None:
        self.width = max(
            1, *(side.length // (BLOCKS * _LONGER) for side in sides), min(s.length for s in sides) // BLOCKS
        )
        #: Seconds of VM time recorded in each block, by side.
        self.exposures = [
            side.exposure(side.start + self.width * np.arange(side.length // self.width + 1, dtype=np.int64))
            for side in sides
        ]


@dataclass(slots=True)
class _Sums:
    """Of one subject, on one side: sums by block, and figures of all its events."""

    counts: F64
    exposure: F64
    time: F64
    above_p50: F64
    above_p99: F64
    values: dict[str, float | None]
    count: int


@dataclass(frozen=True, slots=True)
class _Figure:
    unit: str
    series: Callable[[_Sums], Series]
    #: Whether the series' numbers are in that unit.
    shifts: bool = True


_FIGURES = {
    "rate": _Figure("per_second", lambda s: Series(s.counts, s.exposure)),
    "time": _Figure("share", lambda s: Series(s.time / 1e9, s.exposure)),
    "mean": _Figure("ns", lambda s: Series(s.time, s.counts, ratio=True)),
    # Which share of a block's events took longer than half of all did, or 99 % of all.
    "p50": _Figure("ns", lambda s: Series(s.above_p50, s.counts, ratio=True), shifts=False),
    "p99": _Figure("ns", lambda s: Series(s.above_p99, s.counts, ratio=True), shifts=False),
}


def _compared(measure: Measure, sides: tuple[Side, Side], grid: _Grid) -> list[dict[str, Any]]:
    """Rows of one measure."""
    events = [side.events(measure) for side in sides]
    if all(frame.is_empty() for frame in events):
        return []
    subjects = [_subjects(measure, frame) for frame in events]
    keys = _keys(measure, *subjects)
    sums = [
        _sums(measure, side, grid.exposures[number], grid.width, events[number], subjects[number], keys)
        for number, side in enumerate(sides)
    ]
    rows = []
    for key, weight, a, b in zip(keys["key"], keys["weight"], *sums, strict=True):
        for name in measure.figures:
            figure = _FIGURES[name]
            rare = a.count + b.count < FEWEST_EVENTS
            verdict = Verdict(why="few") if rare else compare(figure.series(a), figure.series(b))
            first, second = a.values[name], b.values[name]
            row = {
                "section": measure.section,
                "subject": measure.label(key),
                "figure": name,
                "unit": figure.unit,
                "a": first,
                "b": second,
                "change": second / first - 1 if first and second is not None else None,
                "significant": False,
                "p": verdict.p,
                "q": None,
                "delta": verdict.delta,
                "shift": verdict.shift if figure.shifts else None,
                "blocks_a": verdict.blocks[0],
                "blocks_b": verdict.blocks[1],
                "untested": verdict.why,
                "count_a": a.count,
                "count_b": b.count,
                "weight": weight,
            }
            rows.append(row)
    return rows


def _subjects(measure: Measure, events: pl.DataFrame) -> pl.DataFrame:
    """Of each key: count, and where the measure is timed sum, p50 and p99, as hvtrace.analysis.figures has them."""
    number = pl.len().cast(pl.Int64)
    wanted = {"count": number, "amount": number.cast(pl.Float64)}
    if measure.timed:
        ns = pl.col("ns")
        wanted |= {"amount": ns.sum().cast(pl.Float64)}
        wanted |= {
            name: ns.get((number * permille + 999) // 1000 - 1)
            for name, permille in (("p50", 500), ("p99", 990))
        }
        events = events.sort("ns")
    return events.group_by("key").agg(**wanted)


def _keys(measure: Measure, a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Keys of the subjects compared, the commonest, with their index and weight: the larger share of the section.

    Where the measure is timed, also p50 and p99: the times that half and 99 % do not exceed, the mean of both sides.
    """
    times = [pl.col("p50", "p99").mean()] if measure.timed else []
    shares = [frame.with_columns(share=pl.col("amount") / pl.col("amount").sum().clip(1)) for frame in (a, b)]
    return (
        pl.concat(shares)
        .group_by("key")
        .agg(pl.col("count").sum(), *times, weight=pl.col("share").max())
        .sort("count", "key", descending=[True, False])
        .head(SUBJECTS)
        .drop("count")
        .with_row_index("index")
    )


def _sums(
    measure: Measure,
    side: Side,
    exposure: F64,
    width: int,
    events: pl.DataFrame,
    subjects: pl.DataFrame,
    keys: pl.DataFrame,
) -> list[_Sums]:
    """Sums by block and figures of one side, for each of the keys."""
    known = events.join(keys.select("key", "index"), on="key", maintain_order="left")
    block = (known["ts_ns"].to_numpy() - side.start) // width
    index = known["index"].to_numpy().astype(np.int64)
    inside = block < len(exposure)
    cell = (index * len(exposure) + block)[inside]

    def total(weights: npt.NDArray[Any] | None = None) -> F64:
        amounts = None if weights is None else weights[inside].astype(np.float64)
        found = np.bincount(cell, amounts, minlength=len(keys) * len(exposure))
        return found.astype(np.float64).reshape(len(keys), len(exposure))

    counts = total()
    time = above_p50 = above_p99 = np.broadcast_to(np.zeros_like(exposure), counts.shape)
    if measure.timed:
        ns = known["ns"].to_numpy()
        time = total(ns)
        above_p50, above_p99 = (total(ns > keys[name].to_numpy()[index]) for name in ("p50", "p99"))
    figures = {row["key"]: row for row in subjects.iter_rows(named=True)}
    return [
        _Sums(
            counts[i],
            exposure,
            time[i],
            above_p50[i],
            above_p99[i],
            *_figures(figures.get(key), side.seconds),
        )
        for i, key in enumerate(keys["key"])
    ]


def _figures(subject: dict[str, Any] | None, seconds: float) -> tuple[dict[str, float | None], int]:
    """All figures of a subject on one side, and how many events it has there; None: it did not occur."""
    if subject is None:
        return {"rate": 0.0, "time": 0.0, "mean": None, "p50": None, "p99": None}, 0
    count, time = subject["count"], subject["amount"]
    times = {name: subject.get(name) for name in ("p50", "p99")}
    return {
        "rate": count / seconds,
        "time": time / 1e9 / seconds,
        "mean": round(time / count),
        **times,
    }, count


def _doublings(row: dict[str, Any]) -> float:
    """By how many doublings or halvings a figure changed; endless where it was or became nothing."""
    a, b = row["a"], row["b"]
    if a == b or a is None or b is None:
        return 0.0
    return abs(float(np.log2(b / a))) if a > 0 and b > 0 else float("inf")


def _size(row: dict[str, Any]) -> float:
    """Size of the change as a share of the first; endless where that was nothing."""
    change = row["change"]
    if change is not None:
        return abs(float(change))
    return float("inf") if row["b"] and not row["a"] else 0.0
