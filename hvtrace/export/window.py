"""A window of events as those who draw see it, and the slices they give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import Links
from hvtrace.export.packets import Argument, Flows
from hvtrace.export.states import NO_VM, Points, vcpu_keys

__all__ = [
    "SUB_BITS",
    "SUB_LAST",
    "Arguments",
    "EventLayer",
    "Layer",
    "Slices",
    "UnitLayer",
    "Window",
    "column",
    "keys_of",
]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

#: Packets are ordered by the point whose state they lie in, and within it by a number of this many bits.
SUB_BITS = 24
SUB_LAST = (1 << SUB_BITS) - 1


@dataclass(slots=True)
class Slices:
    """Slices of one kind. One entry a slice; `key_begin` and `key_end` order the packets of one track.

    `track`: uuid; `name`: iid; `start`, `end`: time stamps. An `instant` has no length: `end` is its `start`.
    """

    category: str
    track: U64
    start: I64
    end: I64
    name: U64
    key_begin: I64
    key_end: I64
    arguments: list[Argument] = field(default_factory=list)
    flows: Flows | None = None
    instant: bool = False

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
            self.track[keep],
            self.start[keep],
            self.end[keep],
            self.name[keep],
            self.key_begin[keep],
            self.key_end[keep],
            arguments,
            None if self.flows is None else self.flows.where(keep),
            self.instant,
        )


@dataclass(slots=True)
class Window:
    """Rows of a window and what earlier windows left, and the states they make.

    `new` are the rows of this window alone. `whole` is true for points whose state is to be drawn now, `end` is where
    it ends (meaningful where whole). `places` gives for each row of the other tables the point before it (−1: none);
    rows at or after their vCPU's `cut` come again with the next window. `links` are the flows of states; `edge`
    is true where of each machine only the event next to the part wanted is there, `final` for the last window;
    `open_until` then gives the recording's end for vCPUs that are there until then.
    """

    frames: Mapping[str, pl.DataFrame]
    new: Mapping[str, pl.DataFrame]
    points: Points
    whole: Bool
    end: I64
    cut: I64
    places: Mapping[str, I64]
    links: Links
    edge: bool
    final: bool
    open_until: Mapping[int, int]

    def rows(self, table: str) -> pl.DataFrame | None:
        """Return a table's rows; None where there are none."""
        rows = self.frames.get(table)
        return rows if rows is not None and len(rows) else None

    def at(self, kind: int) -> I64:
        """Points of a kind whose states are to be drawn."""
        return np.flatnonzero(self.whole & (self.points.kind == kind))

    def comes_again(self, place: I64) -> Bool:
        """Whether rows with these places come again with the next window."""
        if not len(self.cut):
            return np.zeros(len(place), np.bool_)
        return (place >= 0) & (place >= self.cut[place])


class Layer(Protocol):
    """One kind of thing to draw. A further kind of slice is a further layer."""

    @property
    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """Tables needed and their columns."""
        ...

    def draw(self, window: Window) -> list[Slices]:
        """Return slices that are complete after this window; called once for each, in order."""
        ...


class EventLayer(Layer, Protocol):
    """A layer that draws what lies between events of small machines; it keeps what it needs of earlier windows."""

    @property
    def by(self) -> Mapping[str, Keys]:
        """Tables in which more than the vCPU tells machines apart: the columns that do."""
        ...


class UnitLayer(Layer, Protocol):
    """A layer that draws into states: rows of its tables come again as long as their vCPU's unit is not complete."""

    def keep(self, table: str, window: Window) -> Bool | None:
        """Return which rows of a table the next window needs; None: those that come again anyway."""
        ...


class Arguments:
    """Makes arguments of slices from columns."""

    def __init__(self, names: Interned) -> None:
        self._names = names
        self._labels: dict[str, Labels] = {}

    def of(
        self, shown: Sequence[Shown], rows: pl.DataFrame | None, present: Bool | None = None
    ) -> list[Argument]:
        """Arguments from a table's columns; absent where null, and where not `present`."""
        if rows is None or not len(rows):
            return []
        found = []
        for s in shown:
            there = present
            if rows[s.column].null_count():
                there = rows[s.column].is_not_null().to_numpy() & (True if present is None else present)
            found.append(self.one(s, filled(rows, s.column), there))
        return found

    def one(self, shown: Shown, values: npt.NDArray[Any], present: Bool | None = None) -> Argument:
        """One argument from values."""
        if shown.unless_zero:
            present = (values != 0) if present is None else present & (values != 0)
        if shown.label is not None:
            labels = self._labels.setdefault(shown.name, Labels(shown.label, self._names.string))
            values = labels(values.astype(np.uint64) & np.uint64((1 << shown.bits) - 1))
        return Argument(self._names.argument(shown.name), shown.kind, values, present)


def filled(rows: pl.DataFrame, name: str) -> npt.NDArray[Any]:
    """Return a column with its own type, null as 0."""
    values = rows[name]
    # Filling costs as much as a thousand rows, also where there is nothing to fill.
    if values.null_count():
        values = values.fill_null(False if values.dtype == pl.Boolean else 0)
    return values.to_numpy()


def column(rows: pl.DataFrame, name: str) -> I64:
    """Return a column as int64, null as 0; 64-bit values keep their bits."""
    values = filled(rows, name)
    return values.view(np.int64) if values.dtype == np.uint64 else values.astype(np.int64)


def keys_of(rows: pl.DataFrame) -> I64:
    """Return the key of each row's vCPU."""
    vm = rows["vm"]
    return vcpu_keys((vm.fill_null(NO_VM) if vm.null_count() else vm).to_numpy(), column(rows, "vcpu"))
