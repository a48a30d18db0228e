"""Slices of vCPU states, window by window: what is drawn, before it is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.details import (
    DETAILS,
    INJECTED,
    Shown,
    exit_label,
    userspace_label,
)
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.packets import Argument, Kind
from hvtrace.export.states import (
    ENTRY,
    EXIT,
    USERSPACE,
    Losses,
    Points,
    halts,
    vcpu_keys,
)

__all__ = ["Slices", "Timeline"]

I64 = npt.NDArray[np.int64]

#: Table → kind of point and columns.
POINTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "kvm_entry": (ENTRY, ()),
    "kvm_exit": (EXIT, ("isa", "exit_reason", "guest_rip", "info1", "info2")),
    "kvm_userspace_exit": (USERSPACE, ("reason", "errno")),
}
WAKEUP, POLLING = "kvm_vcpu_wakeup", "kvm_halt_poll_ns"

#: Arguments of an exit.
EXIT_SHOWN = (
    Shown("rip", "guest_rip", Kind.HEX),
    Shown("info1", "info1", Kind.HEX, unless_zero=True),
    Shown("info2", "info2", Kind.HEX, unless_zero=True),
)

#: Names of the parts of halts, by kind (hvtrace.export.states).
HALT_NAMES = ("halt poll (success)", "halt poll (failure)", "blocked")

#: Points kept for a vCPU that does not enter its guest; and rows kept of any other table.
CARRIED_POINTS, CARRIED_ROWS = 1 << 16, 1 << 18

#: Order of packets of one state, in the low bits of the key.
_SUB_BITS = 24
_SUB_LAST = (1 << _SUB_BITS) - 1

#: The unfinished state at the recording's end carries this argument.
UNFINISHED = "unfinished"


@dataclass(slots=True)
class Slices:
    """Slices of one kind. One entry a slice; `key_begin` and `key_end` order the packets of one vCPU."""

    category: str
    vcpu: I64
    start: I64
    end: I64
    name: npt.NDArray[np.uint64]
    key_begin: I64
    key_end: I64
    arguments: list[Argument] = field(default_factory=list)

    def within(self, first_ns: int | None, last_ns: int | None) -> Slices:
        """Slices that touch a span of time; they keep their whole length."""
        if first_ns is None and last_ns is None:
            return self
        keep = np.ones(len(self.start), np.bool_)
        if first_ns is not None:
            keep &= self.end >= first_ns
        if last_ns is not None:
            keep &= self.start <= last_ns
        arguments = [
            Argument(a.name_iid, a.kind, a.values[keep], None if a.present is None else a.present[keep])
            for a in self.arguments
        ]
        return Slices(
            self.category,
            self.vcpu[keep],
            self.start[keep],
            self.end[keep],
            self.name[keep],
            self.key_begin[keep],
            self.key_end[keep],
            arguments,
        )


class Timeline:
    """Turns windows of rows into slices; carries over what a window leaves unfinished.

    `polling_cap`: the host's halt_poll_ns, None where not known; `polling_first`: vCPU key → polling time before the
    first change in the recording.
    """

    def __init__(
        self,
        names: Interned,
        losses: Losses,
        polling_cap: int | None,
        polling_first: Mapping[int, int],
    ) -> None:
        self._names = names
        self._losses = losses
        self._cap = polling_cap
        self._polling = dict(polling_first)
        self._carry: dict[str, pl.DataFrame] = {}
        self._exit_labels = Labels(exit_label, names.event)
        self._userspace_labels = Labels(userspace_label, names.event)
        self._details = [(d, Labels(d.label, names.event)) for d in DETAILS]
        self._strings: dict[str, Labels] = {}

    @staticmethod
    def tables() -> dict[str, tuple[str, ...]]:
        """Tables the timeline is made of, and their columns."""
        wanted = {table: columns for table, (_, columns) in POINTS.items()}
        for detail in DETAILS:
            columns = [name for name, _ in detail.key] + [s.column for s in detail.shown]
            wanted[detail.tracepoint] = tuple(dict.fromkeys(columns))
            for table, shown in detail.more:
                wanted[table] = tuple(s.column for s in shown)
        wanted[INJECTED[0]] = (INJECTED[1].column,)
        wanted[WAKEUP] = ("ns", "waited", "valid")
        wanted[POLLING] = ("new", "old")
        return wanted

    def exit_names(self, exits: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return the iid of each exit's name, for rows of kvm_exit."""
        reason = _column(exits, "exit_reason") & 0xFFFFFFFF
        return self._exit_labels(_column(exits, "isa") << 32 | reason)

    def add(
        self, window: dict[str, pl.DataFrame], final: bool, open_until: Mapping[int, int]
    ) -> list[Slices]:
        """Return slices that are complete after this window.

        After the `final` one, the unfinished state of vCPUs in `open_until` (key → time stamp) is drawn as well.
        """
        frames = {
            table: pl.concat([self._carry[table], rows]) if table in self._carry else rows
            for table, rows in window.items()
        }
        points = self._points(frames)
        cut = points.cuts(CARRIED_POINTS)
        index = np.arange(len(points))
        done = points.next & (index < cut) if not final else points.next
        whole = points.whole & done
        end = np.append(points.ts[1:], 0) if len(points) else points.ts
        if final:
            whole, end = self._left_open(points, whole, end, open_until)
        places = {table: self._place(points, rows) for table, rows in frames.items() if table not in POINTS}
        slices = [
            self._guest(points, whole, end, frames),
            self._exits(points, whole, end, frames),
            self._userspace(points, whole, end, frames),
            *self._detail_slices(points, whole, end, frames, places),
            *self._halts(points, whole, frames, places, cut, final),
        ]
        self._carry = {} if final else self._left(points, cut, frames, places)
        return [s for s in slices if len(s.start)]

    def _points(self, frames: Mapping[str, pl.DataFrame]) -> Points:
        found = [(kind, frames[table]) for table, (kind, _) in POINTS.items() if table in frames]

        def joined(parts: list[I64]) -> I64:
            return np.concatenate(parts) if parts else np.zeros(0, np.int64)

        def column(name: str) -> I64:
            return joined([_column(rows, name) for _, rows in found])

        kinds = [np.full(len(rows), kind, np.int64) for kind, rows in found]
        return Points.of(
            key=joined([_keys(rows) for _, rows in found]),
            seq=column("seq"),
            ts=column("ts_ns"),
            cpu=column("cpu"),
            kind=joined(kinds).astype(np.int8),
            row=joined([np.arange(len(rows)) for _, rows in found]),
            losses=self._losses,
        )

    @staticmethod
    def _place(points: Points, rows: pl.DataFrame) -> I64:
        return points.before(_keys(rows), _column(rows, "seq"))

    @staticmethod
    def _left_open(
        points: Points, whole: npt.NDArray[np.bool_], end: I64, open_until: Mapping[int, int]
    ) -> tuple[npt.NDArray[np.bool_], I64]:
        whole, end = whole.copy(), end.copy()
        for last in np.flatnonzero(~points.next).tolist():
            until = open_until.get(int(points.key[last]))
            if until is not None and until > points.ts[last]:
                whole[last], end[last] = True, until
        return whole, end

    def _of_points(
        self,
        category: str,
        points: Points,
        at: I64,
        end: I64,
        names: npt.NDArray[np.uint64],
        arguments: list[Argument],
    ) -> Slices:
        """Slices of states themselves (the outermost ones)."""
        unfinished = ~points.next[at]
        if unfinished.any():
            arguments = [
                *arguments,
                Argument(self._names.argument(UNFINISHED), Kind.BOOL, np.ones(len(at), np.uint8), unfinished),
            ]
        base = at << _SUB_BITS
        return Slices(
            category, points.key[at], points.ts[at], end[at], names, base, base | _SUB_LAST, arguments
        )

    def _guest(
        self,
        points: Points,
        whole: npt.NDArray[np.bool_],
        end: I64,
        frames: Mapping[str, pl.DataFrame],
    ) -> Slices:
        at = np.flatnonzero(whole & (points.kind == ENTRY))
        names = np.full(len(at), self._names.event("guest"), np.uint64)
        arguments = []
        table, shown = INJECTED
        if table in frames and len(frames[table]):
            target = points.entry_after(_keys(frames[table]), _column(frames[table], "seq"))
            vector = np.full(len(points) + 1, -1, np.int64)
            # The last one before the entry is the one injected; target −1 is the spare last entry.
            vector[target] = _column(frames[table], shown.column)
            vector[-1] = -1
            injected = vector[at]
            arguments = [self._argument(shown, np.maximum(injected, 0), injected >= 0)]
        return self._of_points("guest", points, at, end, names, arguments)

    def _exits(
        self, points: Points, whole: npt.NDArray[np.bool_], end: I64, frames: Mapping[str, pl.DataFrame]
    ) -> Slices:
        at = np.flatnonzero(whole & (points.kind == EXIT))
        rows = _rows(frames, "kvm_exit", points.row[at])
        names = self.exit_names(rows) if rows is not None else np.zeros(0, np.uint64)
        return self._of_points("exit", points, at, end, names, self._arguments(EXIT_SHOWN, rows))

    def _userspace(
        self, points: Points, whole: npt.NDArray[np.bool_], end: I64, frames: Mapping[str, pl.DataFrame]
    ) -> Slices:
        at = np.flatnonzero(whole & (points.kind == USERSPACE))
        rows = _rows(frames, "kvm_userspace_exit", points.row[at])
        names = np.zeros(0, np.uint64)
        if rows is not None:
            errno = np.maximum(-_column(rows, "errno"), 0)
            names = self._userspace_labels(errno << 32 | _column(rows, "reason") & 0xFFFFFFFF)
        return self._of_points("userspace", points, at, end, names, [])

    def _detail_slices(
        self,
        points: Points,
        whole: npt.NDArray[np.bool_],
        end: I64,
        frames: Mapping[str, pl.DataFrame],
        places: Mapping[str, I64],
    ) -> list[Slices]:
        exits = points.exits()
        taken = ~(whole & (points.kind == EXIT))
        slices = []
        for detail, labels in self._details:
            rows = frames.get(detail.tracepoint)
            if rows is None or not len(rows):
                continue
            at, chosen = _per_exit(points, exits, places[detail.tracepoint], detail.last)
            free = ~taken[at]
            at, chosen = at[free], chosen[free]
            taken[at] = True
            rows = rows[chosen]
            number = np.zeros(len(rows), np.int64)
            for name, bits in detail.key:
                number = number << bits | _column(rows, name) & ((1 << bits) - 1)
            arguments = self._arguments(detail.shown, rows)
            for table, shown in detail.more:
                if (more := frames.get(table)) is not None and len(more):
                    arguments += self._more(shown, points, exits, at, more, places[table])
            base = at << _SUB_BITS
            slices.append(
                Slices(
                    "detail",
                    points.key[at],
                    points.ts[at],
                    end[at],
                    labels(number),
                    base | 1,
                    base | (_SUB_LAST - 1),
                    arguments,
                )
            )
        return slices

    def _more(
        self,
        shown: Sequence[Shown],
        points: Points,
        exits: I64,
        at: I64,
        rows: pl.DataFrame,
        place: I64,
    ) -> list[Argument]:
        found, chosen = _per_exit(points, exits, place, False)
        which = np.full(len(points), -1, np.int64)
        which[found] = chosen
        mine = which[at]
        return self._arguments(shown, rows[np.maximum(mine, 0)], mine >= 0)

    def _halts(
        self,
        points: Points,
        whole: npt.NDArray[np.bool_],
        frames: Mapping[str, pl.DataFrame],
        places: Mapping[str, I64],
        cut: I64,
        final: bool,
    ) -> list[Slices]:
        polls = frames.get(POLLING)
        rows = frames.get(WAKEUP)
        if rows is None or not len(rows):
            self._remember(polls, places.get(POLLING), cut, final)
            return []
        place = places[WAKEUP]
        # A state left open has no end to clip to; its halts are drawn all the same when it is finished.
        place = np.where((place >= 0) & whole[place] & points.next[place], place, -1)
        order = np.lexsort((_column(rows, "seq"), place))
        order = order[place[order] >= 0]
        rows, place = rows[order], place[order]
        polling = self._in_force(points, rows, place, polls)
        self._remember(polls, places.get(POLLING), cut, final)
        waited = _column(rows, "waited") != 0
        ns = rows["ns"].fill_null(0).to_numpy()
        found = halts(points, place, _column(rows, "ts_ns"), ns, waited, polling)
        nth = np.arange(len(found.point)) - np.searchsorted(found.point, found.point, side="left")
        sub = np.minimum(2 + 2 * nth, _SUB_LAST - 4)
        names = np.array([self._names.event(name) for name in HALT_NAMES], np.uint64)
        base = found.point << _SUB_BITS
        shown = Shown("halt_ns", "ns", Kind.UINT)
        return [
            Slices(
                "halt",
                points.key[found.point],
                found.start,
                found.end,
                names[found.kind],
                base | sub,
                base | (sub + 1),
                [self._argument(shown, found.ns, None)],
            )
        ]

    def _in_force(self, points: Points, rows: pl.DataFrame, place: I64, polls: pl.DataFrame | None) -> I64:
        """Polling time in force at each halt, in ns; −1 where it is not known.

        kvm_halt_poll_ns of a halt comes before its kvm_vcpu_wakeup and changes the next halt's polling: what counts
        is the last change before the halt's beginning.
        """
        seq = _column(rows, "seq")
        began = np.zeros(len(rows), np.int64)
        if len(rows):
            began = points.seq[place].copy()
            again = place[1:] == place[:-1]
            began[1:] = np.where(again, seq[:-1], began[1:])
        keys = _keys(rows)
        value = np.full(len(rows), -1, np.int64)
        changes = (_keys(polls), _column(polls, "seq"), _column(polls, "new")) if polls is not None else None
        for key in np.unique(keys).tolist():
            mine = keys == key
            earlier = self._polling.get(key, 0 if self._cap == 0 else -1)
            if changes is None:
                value[mine] = earlier
                continue
            own = changes[0] == key
            known = np.concatenate([[earlier], changes[2][own]])
            value[mine] = known[np.searchsorted(changes[1][own], began[mine], side="left")]
        if self._cap is not None:
            value = np.minimum(value, self._cap)
        return value

    def _remember(self, polls: pl.DataFrame | None, place: I64 | None, cut: I64, final: bool) -> None:
        """Keep the polling times of changes that are not carried over."""
        if polls is None or place is None or final or not len(polls):
            return
        past = polls.filter(pl.Series(~_carried(place, cut)))[::-1]
        keys, latest = np.unique(_keys(past), return_index=True)
        self._polling.update(zip(keys.tolist(), _column(past, "new")[latest].tolist(), strict=True))

    def _left(
        self, points: Points, cut: I64, frames: Mapping[str, pl.DataFrame], places: Mapping[str, I64]
    ) -> dict[str, pl.DataFrame]:
        """Rows of units that are not complete."""
        left = {}
        index = np.arange(len(points))
        for table, rows in frames.items():
            if table in POINTS:
                keep = np.zeros(len(rows), np.bool_)
                mine = (points.kind == POINTS[table][0]) & (index >= cut)
                keep[points.row[mine]] = True
                left[table] = rows.filter(pl.Series(keep))
                continue
            keep = _carried(places[table], cut)
            if table == INJECTED[0]:
                # Shown with the entry after it, which is carried.
                target = points.entry_after(_keys(rows), _column(rows, "seq"))
                keep = _carried(target, cut) | (target < 0)
            left[table] = rows.filter(pl.Series(keep)).tail(CARRIED_ROWS)
        return left

    def _arguments(
        self,
        shown: Sequence[Shown],
        rows: pl.DataFrame | None,
        present: npt.NDArray[np.bool_] | None = None,
    ) -> list[Argument]:
        if rows is None:
            return []
        found = []
        for s in shown:
            there = present
            if rows[s.column].null_count():
                there = rows[s.column].is_not_null().to_numpy() & (True if present is None else present)
            values = rows[s.column].fill_null(0).to_numpy()
            found.append(self._argument(s, values, there))
        return found

    def _argument(
        self, shown: Shown, values: npt.NDArray[Any], present: npt.NDArray[np.bool_] | None
    ) -> Argument:
        if shown.unless_zero:
            present = (values != 0) if present is None else present & (values != 0)
        if shown.label is not None:
            labels = self._strings.setdefault(shown.name, Labels(shown.label, self._names.string))
            values = labels(values.astype(np.uint64) & np.uint64((1 << shown.bits) - 1))
        return Argument(self._names.argument(shown.name), shown.kind, values, present)


def _column(rows: pl.DataFrame, name: str) -> I64:
    """A column as int64, null as 0; 64-bit values keep their bits."""
    values = rows[name].fill_null(False if rows[name].dtype == pl.Boolean else 0).to_numpy()
    return values.view(np.int64) if values.dtype == np.uint64 else values.astype(np.int64)


def _keys(rows: pl.DataFrame) -> I64:
    return vcpu_keys(rows["vm"].fill_null(0xFFFF).to_numpy(), _column(rows, "vcpu"))


def _rows(frames: Mapping[str, pl.DataFrame], table: str, at: I64) -> pl.DataFrame | None:
    return frames[table][at] if table in frames else None


def _per_exit(points: Points, exits: I64, place: I64, last: bool) -> tuple[I64, I64]:
    """Exits that have a row, and the row's number: the first of several, or the last."""
    row = np.flatnonzero(place >= 0)
    at = exits[points.unit[place[row]]]
    row, at = row[at >= 0], at[at >= 0]
    if last:
        row, at = row[::-1], at[::-1]
    found, first = np.unique(at, return_index=True)
    return found, row[first]


def _carried(place: I64, cut: I64) -> npt.NDArray[np.bool_]:
    return (place >= 0) & (place >= cut[place]) if len(cut) else np.zeros(len(place), np.bool_)
