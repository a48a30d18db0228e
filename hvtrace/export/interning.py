"""Names given numbers (iids) once, as track events refer to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket

from hvtrace.export.packets import SEQUENCE, framed

__all__ = ["Interned", "Labels", "sequence_start"]

_CLEARED, _NEEDED = 1, 2

#: Names one label function may make; a guest can touch any MSR or port, and names must not grow without bound.
MOST = 20_000


class Interned:
    """The names used on the sequence, of four kinds, and those not yet written."""

    KINDS = ("event_categories", "event_names", "debug_annotation_names", "debug_annotation_string_values")

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {kind: {} for kind in self.KINDS}
        self._events: list[str] = []
        self._new: list[tuple[str, int, str]] = []

    def _iid(self, kind: str, name: str) -> int:
        known = self._known[kind]
        if name not in known:
            known[name] = len(known) + 1
            self._new.append((kind, known[name], name))
        return known[name]

    def category(self, name: str) -> int:
        """Return the iid of a category."""
        return self._iid("event_categories", name)

    def event(self, name: str) -> int:
        """Return the iid of an event's name."""
        iid = self._iid("event_names", name)
        if iid > len(self._events):
            self._events.append(name)
        return iid

    def event_name(self, iid: int) -> str:
        """Return the name of an event by its iid."""
        return self._events[iid - 1]

    def argument(self, name: str) -> int:
        """Return the iid of an argument's name."""
        return self._iid("debug_annotation_names", name)

    def string(self, value: str) -> int:
        """Return the iid of an argument's value."""
        return self._iid("debug_annotation_string_values", value)

    def packet(self) -> bytes:
        """Framed packet with the names new since the last call; empty where there are none."""
        if not self._new:
            return b""
        packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, sequence_flags=_NEEDED)
        for kind, iid, name in self._new:
            entry = getattr(packet.interned_data, kind).add()
            entry.iid = iid
            value = name.encode("utf-8", "replace")
            if kind == "debug_annotation_string_values":
                entry.str = value
            else:
                entry.name = value.decode()
        self._new.clear()
        return framed(packet.SerializeToString())


def sequence_start(clock: int | None = None) -> bytes:
    """Framed packet that begins the sequence: nothing is interned yet; stamps are of `clock` (None: BOOTTIME)."""
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, sequence_flags=_CLEARED)
    packet.first_packet_on_sequence = True
    if clock is not None:
        packet.trace_packet_defaults.timestamp_clock_id = clock
    return framed(packet.SerializeToString())


class Labels:
    """iids of names that a function makes of whole numbers, remembered number by number."""

    def __init__(self, label: Callable[[int], str], iid: Callable[[str], int]) -> None:
        self._label = label
        self._iid = iid
        self._known: dict[int, int] = {}

    def __call__(self, numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
        """Return the iid for each number. Past MOST different ones, further ones share the name "other"."""
        encoded = pa.array(numbers).dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        iids = np.empty(len(distinct), np.uint64)
        for at, value in enumerate(distinct[:MOST]):
            found = self._known.get(value)
            if found is None:
                if len(self._known) < MOST:
                    found = self._known[value] = self._iid(self._label(value))
                else:
                    found = self._iid("other")
            iids[at] = found
        if len(distinct) > MOST:
            iids[MOST:] = self._iid("other")
        which: npt.NDArray[np.int32] = encoded.indices.to_numpy()
        return iids[which]
