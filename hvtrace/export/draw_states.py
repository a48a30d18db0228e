"""Draws the states themselves: guest time, exits by reason, returns to userspace by reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.details import EXIT_SHOWN, INJECTED, exit_label, userspace_label
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.packets import Argument, Kind
from hvtrace.export.states import ENTRY, EXIT, USERSPACE
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import SUB_BITS, SUB_LAST, Arguments, Slices, Window, column, keys_of

__all__ = ["ADJACENT", "POINTS", "StateLayer"]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

#: Table → the kind of point its rows are.
POINTS: dict[str, int] = {"kvm_entry": ENTRY, "kvm_exit": EXIT, "kvm_userspace_exit": USERSPACE}

#: Argument of the state in which the recording ends.
UNFINISHED = "unfinished"

_INJECTED_TABLE, _VECTOR = INJECTED

#: Tables whose rows mean something only with all events around them.
ADJACENT = (_INJECTED_TABLE,)


class StateLayer:
    """The outermost slices."""

    tables: Mapping[str, tuple[str, ...]] = {
        "kvm_entry": (),
        "kvm_exit": ("isa", "exit_reason", *(s.column for s in EXIT_SHOWN)),
        "kvm_userspace_exit": ("reason", "errno"),
        _INJECTED_TABLE: (_VECTOR.column,),
    }

    def __init__(self, names: Interned, tracks: Tracks) -> None:
        self._names = names
        self._tracks = tracks
        self._arguments = Arguments(names)
        self._exit_labels = Labels(exit_label, names.event)
        self._userspace_labels = Labels(userspace_label, names.event)

    def exit_names(self, exits: pl.DataFrame) -> U64:
        """Return the iid of each exit's name, for rows of kvm_exit."""
        return self._exit_labels(column(exits, "isa") << 32 | column(exits, "exit_reason") & 0xFFFFFFFF)

    def draw(self, window: Window) -> list[Slices]:
        """Return the states that are whole."""
        return [self._guest(window), self._exits(window), self._userspace(window)]

    def keep(self, table: str, window: Window) -> npt.NDArray[np.bool_] | None:
        """Keep injected interrupts until the entry after them is drawn."""
        rows = window.rows(table)
        if table != _INJECTED_TABLE or rows is None:
            return None
        target = window.points.entry_after(keys_of(rows), column(rows, "seq"))
        return window.comes_again(target) | (target < 0)

    def _guest(self, window: Window) -> Slices:
        at = window.at(ENTRY)
        names = np.full(len(at), self._names.event("guest"), np.uint64)
        arguments = []
        if (rows := window.rows(_INJECTED_TABLE)) is not None:
            target = window.points.entry_after(keys_of(rows), column(rows, "seq"))
            # The last one before the entry is the one injected; target −1 is the spare last place.
            vector = np.full(len(window.points) + 1, -1, np.int64)
            vector[target] = column(rows, _VECTOR.column)
            vector[-1] = -1
            injected = vector[at]
            arguments = [self._arguments.one(_VECTOR, np.maximum(injected, 0), injected >= 0)]
        return self._slices("guest", window, at, names, arguments)

    def _exits(self, window: Window) -> Slices:
        at = window.at(EXIT)
        rows = window.frames["kvm_exit"][window.points.row[at]] if len(at) else None
        names = self.exit_names(rows) if rows is not None else np.zeros(0, np.uint64)
        return self._slices("exit", window, at, names, self._arguments.of(EXIT_SHOWN, rows))

    def _userspace(self, window: Window) -> Slices:
        at = window.at(USERSPACE)
        names = np.zeros(0, np.uint64)
        if len(at):
            rows = window.frames["kvm_userspace_exit"][window.points.row[at]]
            errno = np.maximum(-column(rows, "errno"), 0)
            names = self._userspace_labels(errno << 32 | column(rows, "reason") & 0xFFFFFFFF)
        return self._slices("userspace", window, at, names, [])

    def _slices(
        self, category: str, window: Window, at: I64, names: U64, arguments: list[Argument]
    ) -> Slices:
        points = window.points
        unfinished = ~points.next[at]
        if unfinished.any():
            iid = self._names.argument(UNFINISHED)
            arguments = [*arguments, Argument(iid, Kind.BOOL, unfinished, unfinished)]
        base = at << SUB_BITS
        return Slices(
            category,
            self._tracks.many("vcpu", points.key[at]),
            points.ts[at],
            window.end[at],
            names,
            base,
            base | SUB_LAST,
            arguments,
            window.links.take(at),
        )
