"""Draws halts beneath the exit or the userspace time they lie in: polling that succeeded or failed, and sleeping."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.details import HALT_NS
from hvtrace.export.interning import Interned
from hvtrace.export.states import NO_VM, Points, halts
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import SUB_BITS, SUB_LAST, Arguments, Slices, Window, column, keys_of
from hvtrace.store import Store

__all__ = ["HaltLayer"]

I64 = npt.NDArray[np.int64]

WAKEUP, POLLING = "kvm_vcpu_wakeup", "kvm_halt_poll_ns"

#: Names of the parts of halts, by kind (hvtrace.export.states).
HALT_NAMES = ("halt poll (success)", "halt poll (failure)", "blocked")


class HaltLayer:
    """Halts, and the polling time in force for each vCPU as windows go by."""

    tables: Mapping[str, tuple[str, ...]] = {WAKEUP: ("ns", "waited", "valid"), POLLING: ("new", "old")}

    def __init__(self, names: Interned, tracks: Tracks, store: Store) -> None:
        self._names = names
        self._tracks = tracks
        self._arguments = Arguments(names)
        self._cap = _cap(store)
        self._polling = _before_first_change(store)

    def keep(self, table: str, window: Window) -> npt.NDArray[np.bool_] | None:
        """Nothing beyond what comes again anyway."""
        return None

    def draw(self, window: Window) -> list[Slices]:
        """Return the halts within states that are whole."""
        rows = window.rows(WAKEUP)
        slices = [] if rows is None or not len(window.points) else [self._halts(window, rows)]
        self._remember(window)
        return slices

    def _halts(self, window: Window, rows: pl.DataFrame) -> Slices:
        points, place = window.points, window.places[WAKEUP]
        inside = np.flatnonzero((place >= 0) & window.whole[place])
        inside = inside[np.argsort(place[inside], kind="stable")]
        rows, place = rows[inside], place[inside]
        found = halts(
            points,
            window.end,
            place,
            column(rows, "ts_ns"),
            rows["ns"].fill_null(0).to_numpy(),
            column(rows, "waited") != 0,
            self._in_force(points, rows, place, window.rows(POLLING)),
        )
        nth = np.arange(len(found.point)) - np.searchsorted(found.point, found.point, side="left")
        sub = np.minimum(2 + 2 * nth, SUB_LAST - 4)
        names = np.array([self._names.event(name) for name in HALT_NAMES], np.uint64)
        base = found.point << SUB_BITS
        return Slices(
            "halt",
            self._tracks.many("vcpu", points.key[found.point]),
            found.start,
            found.end,
            names[found.kind],
            base | sub,
            base | (sub + 1),
            [self._arguments.one(HALT_NS, found.ns)],
        )

    def _in_force(self, points: Points, rows: pl.DataFrame, place: I64, polls: pl.DataFrame | None) -> I64:
        """Polling time in force at each halt, in ns; −1 where it is not known.

        kvm_halt_poll_ns of a halt comes before its kvm_vcpu_wakeup and changes the next halt's polling: what counts
        is the last change before the halt's beginning.
        """
        seq = column(rows, "seq")
        began = points.seq[place]
        again = place[1:] == place[:-1]
        began[1:] = np.where(again, seq[:-1], began[1:])
        keys = keys_of(rows)
        value = np.full(len(rows), -1, np.int64)
        changes = (keys_of(polls), column(polls, "seq"), column(polls, "new")) if polls is not None else None
        for key in np.unique(keys).tolist():
            mine = keys == key
            earlier = self._polling.get(key, 0 if self._cap == 0 else -1)
            if changes is None:
                value[mine] = earlier
                continue
            own = changes[0] == key
            known = np.concatenate([[earlier], changes[2][own]])
            value[mine] = known[np.searchsorted(changes[1][own], began[mine], side="left")]
        return value if self._cap is None else np.minimum(value, self._cap)

    def _remember(self, window: Window) -> None:
        """Keep the polling times of changes that do not come again."""
        if (rows := window.rows(POLLING)) is None:
            return
        past = rows.filter(pl.Series(~window.comes_again(window.places[POLLING])))[::-1]
        keys, latest = np.unique(keys_of(past), return_index=True)
        self._polling.update(zip(keys.tolist(), column(past, "new")[latest].tolist(), strict=True))


def _cap(store: Store) -> int | None:
    """Host's halt_poll_ns, where the recording's metadata tells it."""
    parameters = store.manifest.host.get("module_parameters")
    kvm = parameters.get("kvm") if isinstance(parameters, dict) else None
    value = kvm.get("halt_poll_ns") if isinstance(kvm, dict) else None
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 12 else None


def _before_first_change(store: Store) -> dict[int, int]:
    """By vCPU: the polling time before the first change in the recording."""
    if not store.has(POLLING):
        return {}
    rows = (
        store.scan(POLLING)
        .filter(pl.col("vcpu").is_not_null())
        .group_by(pl.col("vm").fill_null(NO_VM), "vcpu")
        .agg(pl.col("old").sort_by("seq").first())
        .collect()
    )
    return {vm << 16 | vcpu: old for vm, vcpu, old in rows.iter_rows() if old is not None}
