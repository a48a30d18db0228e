"""Draws what exits were about, beneath them (the table is hvtrace.export.details)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hvtrace.export.details import DETAILS, Detail, Shown
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.packets import Argument, Kind
from hvtrace.export.states import EXIT
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import SUB_BITS, SUB_LAST, Arguments, Slices, Window, column

__all__ = ["DetailLayer"]

I64 = npt.NDArray[np.int64]


def _tables() -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    for detail in DETAILS:
        columns = [name for name, _ in detail.key] + [s.column for s in detail.shown]
        wanted[detail.tracepoint] = tuple(dict.fromkeys(columns))
        for table, shown in detail.more:
            wanted[table] = tuple(s.column for s in shown)
    return wanted


class DetailLayer:
    """One slice beneath each exit that has a detail, as long as the exit."""

    tables: Mapping[str, tuple[str, ...]] = _tables()

    def __init__(self, names: Interned, tracks: Tracks) -> None:
        self._tracks = tracks
        self._arguments = Arguments(names)
        self._labels = [(detail, Labels(detail.label, names.event)) for detail in DETAILS]

    def keep(self, table: str, window: Window) -> npt.NDArray[np.bool_] | None:
        """Nothing beyond what comes again anyway."""
        return None

    def draw(self, window: Window) -> list[Slices]:
        """Return the details of exits that are whole; of several in one exit, the first in the table's order."""
        points = window.points
        exits = points.exits()
        taken = ~(window.whole & (points.kind == EXIT))
        slices = []
        for detail, labels in self._labels:
            rows = window.rows(detail.tracepoint)
            if rows is None:
                continue
            at, chosen = _per_exit(window, exits, detail.tracepoint, detail.last)
            free = ~taken[at]
            at, chosen = at[free], chosen[free]
            taken[at] = True
            rows = rows[chosen]
            number = np.zeros(len(rows), np.int64)
            for name, bits in detail.key:
                number = number << bits | column(rows, name) & ((1 << bits) - 1)
            arguments = self._arguments.of(detail.shown, rows)
            if detail.decoded is not None:
                arguments += [
                    self._arguments.one(Shown(name, name, Kind.HEX), values, present)
                    for name, values, present in detail.decoded(rows)
                ]
            arguments += self._more(detail, window, exits, at)
            base = at << SUB_BITS
            slices.append(
                Slices(
                    "detail",
                    self._tracks.many("vcpu", points.key[at]),
                    points.ts[at],
                    window.end[at],
                    labels(number),
                    base | 1,
                    base | (SUB_LAST - 1),
                    arguments,
                    window.links.take(at),
                )
            )
        return slices

    def _more(self, detail: Detail, window: Window, exits: I64, at: I64) -> list[Argument]:
        """Arguments that other tracepoints of the same exits add."""
        arguments: list[Argument] = []
        for table, shown in detail.more:
            if (rows := window.rows(table)) is None:
                continue
            found, chosen = _per_exit(window, exits, table, False)
            which = np.full(len(window.points), -1, np.int64)
            which[found] = chosen
            mine = which[at]
            if (mine >= 0).any():
                arguments += self._arguments.of(shown, rows[np.maximum(mine, 0)], mine >= 0)
        return arguments


def _per_exit(window: Window, exits: I64, table: str, last: bool) -> tuple[I64, I64]:
    """Exits that have a row of a table, and the row's number: the first of several, or the last."""
    place = window.places[table]
    row = np.flatnonzero(place >= 0)
    at = exits[window.points.unit[place[row]]]
    row, at = row[at >= 0], at[at >= 0]
    if last:
        row, at = row[::-1], at[::-1]
    found, first = np.unique(at, return_index=True)
    return found, row[first]
