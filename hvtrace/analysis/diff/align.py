"""Where two runs of the same boot first do something else. The answer of `hvtrace diff --align`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.analysis.diff.align_events import BELONGS, KINDS, by_chance, described, sequence_name
from hvtrace.analysis.diff.align_units import with_effects
from hvtrace.analysis.diff.side import Side
from hvtrace.analysis.scope import Scope
from hvtrace.store import Store

__all__ = ["COLUMNS", "Alignment", "align", "prefix", "walked"]

U64 = npt.NDArray[np.uint64]

#: Events told before and after a difference.
CONTEXT = 3

#: So many equal events in a row are a place where both go on together.
_TOGETHER = 6

#: How far such a place is looked for, and how many differences are walked over.
_WINDOW, _HUNKS = 4096, 1000

COLUMNS = (
    "vm_a",
    "vm_b",
    "vcpu",
    "sequence",
    "verdict",
    "common",
    "events_a",
    "events_b",
    "hunks",
    "only_a",
    "only_b",
    "rejoined",
    "seq_a",
    "ts_a",
    "seq_b",
    "ts_b",
)


#: Verdict → the order in which rows with it are told.
_VERDICTS = {"differs": 0, "a-goes-on": 0, "b-goes-on": 0, "unknown": 1, "same": 2}


@dataclass(slots=True)
class Alignment:
    """The answer.

    `rows`, one a sequence of a vCPU, those that differ first, by time: COLUMNS, and "a" and "b". verdict: "same",
    "differs", "a-goes-on", "b-goes-on" (where the other has ended), "unknown" (cut off by a loss, or only one recording
    has any such event and time decides that); common: events before the first difference, of events_a and events_b;
    hunks: how many differences were walked over, only_a and only_b: events in them; rejoined: whether both go on
    together after the last; seq and ts of the first event that differs, null where there is none. "a", "b":
    [{seq, ts_ns, text, common}] around it.

    `until_a`, `until_b`: where events were first lost; nothing after that was compared. `vms`: the pairs of VMs.
    `not_compared`: tracepoints that one recording has and the other was not recorded with, or what an event is
    held against where both have it.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    vms: list[tuple[int, int]] = field(default_factory=list)
    until_a: int | None = None
    until_b: int | None = None
    not_compared: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether any sequence differs."""
        return any(row["verdict"] not in ("same", "unknown") for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as the JSON form has it."""
        return {
            "vms": [list(pair) for pair in self.vms],
            "until_a": self.until_a,
            "until_b": self.until_b,
            "not_compared": self.not_compared,
            "rows": self.rows,
        }


def align(a: Store, b: Store, scope_a: Scope | None = None, scope_b: Scope | None = None) -> Alignment:
    """Align the sequences of two stores, vCPU by vCPU. Raises InputError where a part means nothing.

    VMs are paired in the order of their numbers.
    """
    sides = Side(a, scope_a or Scope()), Side(b, scope_b or Scope())
    answer = Alignment(vms=list(zip(*(sorted(side.lives) for side in sides), strict=False)))
    answer.until_a, answer.until_b = (side.first_loss for side in sides)
    tables = [kind.tracepoint for kind in KINDS] + list(BELONGS)
    shared = {name for name in tables if all(side.store.has(name) or side.whole_group for side in sides)}
    answer.not_compared = [
        name for name in tables if name not in shared and any(side.store.has(name) for side in sides)
    ]
    events = [_Events(side, shared) for side in sides]
    for vms in answer.vms:
        of_both = list(zip(events, vms, strict=True))
        for vcpu, number in sorted({key[1:] for own, vm in of_both for key in own.of(vm)}):
            first, second = (own.sequences.get((vm, vcpu, number), _NOTHING) for own, vm in of_both)
            row = {"vm_a": vms[0], "vm_b": vms[1], "vcpu": vcpu, "sequence": sequence_name(number)}
            row |= _compared(first, second, *events)
            if by_chance(number) and not (len(first.at) and len(second.at)):
                row["verdict"] = "unknown"
            answer.rows.append(row)
    starts = [side.start for side in sides]
    answer.rows.sort(
        key=lambda row: (_VERDICTS[row["verdict"]], _when(row, starts), row["vcpu"], row["sequence"])
    )
    return answer


def _when(row: dict[str, Any], starts: list[int]) -> int:
    """How long after its recording's start a difference shows, in the recording where it does so first."""
    times = [
        row[name] - start
        for name, start in zip(("ts_a", "ts_b"), starts, strict=True)
        if row[name] is not None
    ]
    return min(times, default=0)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Identities of events, and their rows in the events of all."""

    identity: U64
    at: npt.NDArray[np.int64]


_NOTHING = _Sequence(np.zeros(0, np.uint64), np.zeros(0, np.int64))


class _Events:
    """The events of one side that count: by vm, vcpu and sequence."""

    def __init__(self, side: Side, shared: set[str]) -> None:
        self.kinds = [kind for kind in KINDS if kind.tracepoint in shared and side.store.has(kind.tracepoint)]
        self.own: dict[str, pl.DataFrame] = {}
        #: Where events were lost, an end says nothing.
        self.whole = side.first_loss is None
        frames = []
        for number, kind in enumerate(self.kinds):
            rows = with_effects(side.store, kind.tracepoint, shared)
            conditions = [
                *side.scope.owners(),
                *side.scope.span(),
                *([] if kind.where is None else [kind.where]),
            ]
            conditions += [] if side.first_loss is None else [pl.col("ts_ns") <= side.first_loss]
            found = (
                rows.filter(pl.col("vm").is_not_null(), pl.col("vcpu").is_not_null(), *conditions)
                .select(
                    "vm",
                    "vcpu",
                    "seq",
                    "ts_ns",
                    sequence=kind.sequence,
                    **kind.identity,
                    **{f"shown_{name}": pl.col(name) for name in kind.shown},
                )
                .collect()
            )
            self.own[kind.tracepoint] = found
            identity = pl.struct(list(kind.identity)).hash(seed=1)
            own = {"kind": pl.lit(number), "identity": identity, "polled": kind.polled}
            frames.append(found.select("vm", "vcpu", "sequence", "seq", "ts_ns", **own))
        keys = ["vm", "vcpu", "sequence"]
        self.all = pl.concat(frames) if frames else pl.DataFrame(schema=_ALL)
        self.all = self.all.sort(*keys, "seq")
        # Of equal events that follow each other the first counts.
        again = pl.all_horizontal(
            pl.col(name).eq_missing(pl.col(name).shift(1)) for name in (*keys, "kind", "identity", "polled")
        )
        self.all = self.all.filter(~again)
        # Of several values read where the guest waited for one, the last.
        before = pl.all_horizontal(pl.col(name) == pl.col(name).shift(-1) for name in (*keys, "polled"))
        self.all = self.all.filter(~before.fill_null(value=False)).with_row_index("at")
        self.sequences = {
            (int(vm), int(vcpu), int(number)): _Sequence(
                rows["identity"].to_numpy(), rows["at"].to_numpy().astype(np.int64)
            )
            for (vm, vcpu, number), rows in self.all.partition_by(keys, as_dict=True).items()
        }

    def of(self, vm: int) -> list[tuple[int, int, int]]:
        """Keys of a VM's sequences."""
        return [key for key in self.sequences if key[0] == vm]

    def told(self, sequence: _Sequence, first: int, last: int, common: int) -> list[dict[str, Any]]:
        """What events of a sequence are, in words; those before `common` are so marked."""
        rows = []
        for place in range(max(first, 0), min(last, len(sequence.at))):
            event = self.all.row(int(sequence.at[place]), named=True)
            kind = self.kinds[event["kind"]]
            frame = self.own[kind.tracepoint]
            row = frame.row(int(frame["seq"].search_sorted(event["seq"])), named=True)
            text = described(kind, row)
            rows.append(
                {"seq": event["seq"], "ts_ns": event["ts_ns"], "text": text, "common": place < common}
            )
        return rows

    def first(self, sequence: _Sequence, place: int) -> tuple[int | None, int | None]:
        """Rank and time stamp of an event; None where the sequence has ended."""
        if place >= len(sequence.at):
            return None, None
        event = self.all.row(int(sequence.at[place]), named=True)
        return event["seq"], event["ts_ns"]


_ALL = {
    "vm": pl.UInt16,
    "vcpu": pl.UInt16,
    "sequence": pl.UInt64,
    "seq": pl.UInt64,
    "ts_ns": pl.Int64,
    "kind": pl.Int32,
    "identity": pl.UInt64,
    "polled": pl.UInt64,
}


def _compared(a: _Sequence, b: _Sequence, events_a: _Events, events_b: _Events) -> dict[str, Any]:
    """A row without its key."""
    common = prefix(a.identity, b.identity)
    ended = common == len(a.identity), common == len(b.identity)
    verdicts = {
        (True, True): "same",
        (True, False): "b-goes-on" if events_a.whole else "unknown",
        (False, True): "a-goes-on" if events_b.whole else "unknown",
    }
    row: dict[str, Any] = {
        "verdict": verdicts.get(ended, "differs"),
        "common": common,
        "events_a": len(a.identity),
        "events_b": len(b.identity),
        **walked(a.identity[common:], b.identity[common:]),
    }
    row["seq_a"], row["ts_a"] = events_a.first(a, common)
    row["seq_b"], row["ts_b"] = events_b.first(b, common)
    for side, events, sequence in (("a", events_a, a), ("b", events_b, b)):
        shown = (common - CONTEXT, common + CONTEXT) if row["verdict"] != "same" else (0, 0)
        row[side] = events.told(sequence, *shown, common)
    return row


def prefix(a: U64, b: U64) -> int:
    """How many events at the beginning are the same."""
    length = min(len(a), len(b))
    other = np.flatnonzero(a[:length] != b[:length])
    return int(other[0]) if len(other) else length


def walked(a: U64, b: U64) -> dict[str, Any]:
    """Walk over differences: after each, both go on where the next _TOGETHER events are equal again."""
    hunks = only_a = only_b = 0
    rejoined = True
    while len(a) or len(b):
        hunks += 1
        found = _together(a, b) if hunks <= _HUNKS else None
        if found is None:
            rejoined = False
            only_a, only_b = only_a + len(a), only_b + len(b)
            break
        only_a, only_b = only_a + found[0], only_b + found[1]
        a, b = a[found[0] :], b[found[1] :]
        same = prefix(a, b)
        a, b = a[same:], b[same:]
    return {"hunks": hunks, "only_a": only_a, "only_b": only_b, "rejoined": rejoined}


def _together(a: U64, b: U64) -> tuple[int, int] | None:
    """The nearest places from which on both are the same for a while, or to the end; None: there are none."""
    if not len(a) or not len(b):
        # One has ended: the rest of the other is missing there.
        return len(a), len(b)
    found = _run(a[:_WINDOW], b[:_WINDOW])
    if found is None and (same := prefix(a[::-1], b[::-1])):
        return len(a) - same, len(b) - same
    return found


def _run(a: U64, b: U64) -> tuple[int, int] | None:
    """The nearest places at which the same _TOGETHER events begin."""
    if min(len(a), len(b)) < _TOGETHER:
        return None
    runs_a, runs_b = (np.lib.stride_tricks.sliding_window_view(x, _TOGETHER) for x in (a, b))
    weights = np.array([pow(0x9E3779B97F4A7C15, n + 1, 1 << 64) for n in range(_TOGETHER)], np.uint64)
    with np.errstate(over="ignore"):
        keys_a, keys_b = ((runs * weights).sum(1, dtype=np.uint64) for runs in (runs_a, runs_b))
    # The first place of each run in B.
    values, first = np.unique(keys_b, return_index=True)
    at = np.minimum(np.searchsorted(values, keys_a), len(values) - 1)
    there = np.flatnonzero(values[at] == keys_a)
    if not len(there):
        return None
    best = there[np.argmin(there + first[at[there]])]
    return int(best), int(first[at[best]])
