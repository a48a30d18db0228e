"""Windows of rows become slices; what a window leaves unfinished is carried over to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.cut import BY_VCPU, Keys
from hvtrace.export.draw_states import ADJACENT, POINTS
from hvtrace.export.links import Links
from hvtrace.export.states import Losses, Points
from hvtrace.export.streams import Rows
from hvtrace.export.window import EventLayer, Slices, UnitLayer, Window, column, keys_of

__all__ = ["Timeline"]

I64 = npt.NDArray[np.int64]

#: Without one of these tables, the end of a state may not have been traced.
ENDS = ("kvm_entry", "kvm_exit")

#: Points kept for a vCPU that does not enter its guest; and rows kept of any other table.
CARRIED_POINTS, CARRIED_ROWS = 1 << 16, 1 << 18


class Timeline:
    """Gives each window to the layers, with the rows that earlier windows left.

    `tables` are all tables needed, with their columns, and `by` what tells machines apart in them. `events` draw what
    lies between events; `units` draw into the states of vCPUs, and their rows are carried over. The former are asked
    first: they know the flows of the latter.
    """

    def __init__(
        self, events: Sequence[EventLayer], units: Sequence[UnitLayer], losses: Losses, links: Links
    ) -> None:
        self._events = events
        self._units = units
        self._losses = losses
        self._links = links
        self._carry: dict[str, pl.DataFrame] = {}
        self._carried = {table for layer in units for table in layer.tables}
        self.tables: dict[str, tuple[str, ...]] = {}
        self.by: dict[str, Keys] = {}
        for event_layer in events:
            for table, keys in event_layer.by.items():
                self.by[table] = tuple(dict.fromkeys((*self.by.get(table, BY_VCPU), *keys)))
        for layer in (*events, *units):
            for table, columns in layer.tables.items():
                self.tables[table] = tuple(dict.fromkeys((*self.tables.get(table, ()), *columns)))

    def add(self, rows: Rows, open_until: Mapping[int, int]) -> list[Slices]:
        """Return slices that are complete after these rows.

        After the final ones, the unfinished state of vCPUs in `open_until` (key → time stamp) is drawn as well.
        """
        window = self._window(rows, open_until)
        slices = [s for layer in self._events for s in layer.draw(window) if len(s.start)]
        self._links.resolve(window.points, window.whole, window.cut, rows.end)
        slices += [s for layer in self._units for s in layer.draw(window) if len(s.start)]
        self._carry = {} if rows.final else self._left(window)
        return slices

    def _window(self, rows: Rows, open_until: Mapping[int, int]) -> Window:
        final = rows.final
        frames = {}
        for table, new in rows.tables.items():
            if table not in self._carried:
                continue
            # Those who draw between events take each row for itself; in states it would be the wrong one.
            own = new.clear() if rows.edge and table in ADJACENT else new
            frames[table] = pl.concat([self._carry[table], own]) if table in self._carry else own
        points = self._points(frames)
        cut = points.cuts(CARRIED_POINTS)
        index = np.arange(len(points))
        whole = points.whole if final else points.whole & (index < cut)
        end = np.append(points.ts[1:], 0) if len(points) else points.ts
        if final and all(table in frames for table in ENDS):
            whole = whole.copy()
            self._leave_open(points, whole, end, open_until)
        places = {
            table: points.before(keys_of(own), column(own, "seq"))
            for table, own in frames.items()
            if table not in POINTS
        }
        return Window(
            frames, rows.tables, points, whole, end, cut, places, self._links, rows.edge, final, open_until
        )

    def _leave_open(
        self,
        points: Points,
        whole: npt.NDArray[np.bool_],
        end: I64,
        open_until: Mapping[int, int],
    ) -> None:
        """Let each vCPU's last state last to the recording's end, where no event that ends it can have been lost."""
        last = np.flatnonzero(~points.next)
        until = np.array([open_until.get(key, -1) for key in points.key[last].tolist()], np.int64)
        ts, cpu = points.ts[last], points.cpu[last]
        known = (until > ts) & ~self._losses.hit(ts, until, cpu, cpu)
        whole[last[known]] = True
        end[last[known]] = until[known]

    def _points(self, frames: Mapping[str, pl.DataFrame]) -> Points:
        found = [(kind, frames[table]) for table, kind in POINTS.items() if table in frames]

        def joined(parts: list[I64]) -> I64:
            return np.concatenate(parts) if parts else np.zeros(0, np.int64)

        kinds = [np.full(len(rows), kind, np.int64) for kind, rows in found]
        return Points.of(
            key=joined([keys_of(rows) for _, rows in found]),
            seq=joined([column(rows, "seq") for _, rows in found]),
            ts=joined([column(rows, "ts_ns") for _, rows in found]),
            cpu=joined([column(rows, "cpu") for _, rows in found]),
            kind=joined(kinds).astype(np.int8),
            row=joined([np.arange(len(rows)) for _, rows in found]),
            losses=self._losses,
        )

    def _left(self, window: Window) -> dict[str, pl.DataFrame]:
        """Rows that the next window needs. They are copied: a part would keep all it is a part of in memory."""
        left = {}
        carried = np.arange(len(window.points)) >= window.cut
        for table, rows in window.frames.items():
            if table in POINTS:
                keep = np.zeros(len(rows), np.bool_)
                keep[window.points.row[carried & (window.points.kind == POINTS[table])]] = True
                left[table] = rows[np.flatnonzero(keep)]
                continue
            keep = window.comes_again(window.places[table])
            for layer in self._units:
                if (own := layer.keep(table, window)) is not None:
                    keep |= own
            left[table] = rows[np.flatnonzero(keep)].tail(CARRIED_ROWS)
        return left
