"""Brings QEMU's trace output onto the clock of a recording of KVM's events, by what both saw.

A POST_MESSAGE that KVM traces from call to result contains the moment at which QEMU received the message, in the same
thread. So each pair bounds the offset between the clocks from both sides; where no constant offset lies within all
bounds, one that drifts is looked for. What remains between the bounds is the residual error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.errors import InputError
from hvtrace.parsers.recording import (
    Clock,
    Damage,
    Lost,
    NotUnderstood,
    Progress,
    Recording,
    Source,
    Threads,
    Window,
)
from hvtrace.schema.common import RAW_STAMP

__all__ = ["Aligned", "Alignment", "align", "is_qemu"]

CALL, DONE, RECEIVED = "kvm_hv_hypercall", "kvm_hv_hypercall_done", "vmbus_recv_message"

#: The hypercall that posts a message (HvCallPostMessage).
POST_MESSAGE = 0x5C
#: Results with which QEMU has received the message: queued; queue full; of a type that VMBus does not have.
ACCEPTED = (0x0, 0x13, 0x3)

#: Fewer pairs than that may fit by chance.
LEAST_PAIRS = 3
#: A larger residual error is of no use: it is longer than a message takes to be answered.
MOST_RESIDUAL_NS = 10_000_000
#: A clock that is slewed by NTP drifts by at most that (adjtimex).
MOST_DRIFT = 500e-6
#: Steps of the search for a drift; each leaves two thirds.
SEARCH = 80
#: Shifts tried where one side has more messages than the other.
MOST_SHIFTS = 10_000

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """QEMU's stamp − `offset_ns` − `drift` · (QEMU's stamp − `since_ns`) = the recording's stamp.

    `residual_ns`: so far may all stamps be off, either way. `pairs`: messages that both saw. `how`: "pairs", or "clock"
    where both have the same one.
    """

    offset_ns: int
    drift: float
    since_ns: int
    residual_ns: int
    pairs: int
    how: str

    def apply(self, ts: I64) -> I64:
        """Stamps of QEMU on the recording's clock, in ns."""
        since = ts - self.since_ns
        return ts - self.offset_ns - np.round(self.drift * since).astype(np.int64)


def is_qemu(recording: Recording) -> bool:
    """Whether a recording is QEMU's own trace output."""
    return recording.source.format.startswith("QEMU ")


def align(kvm: Sequence[Recording], qemu: Recording, progress: Progress | None = None) -> Alignment:
    """Find the alignment of a recording of QEMU's with those of the host. Both are read once.

    Raises InputError where it cannot be told with confidence, saying why.
    """
    clock = kvm[0].clock
    if clock.unit != "ns" or qemu.clock.unit != "ns":
        which = kvm[0] if clock.unit != "ns" else qemu
        raise _refused(qemu, f"stamps of {which.source.path} are no times")
    if clock.name == qemu.clock.name:
        return Alignment(0, 0.0, 0, 0, 0, "clock")
    received = _received(qemu)
    calls = _calls(kvm, progress)
    if len(received) < LEAST_PAIRS or len(calls) < LEAST_PAIRS:
        raise _refused(
            qemu,
            f"it takes {LEAST_PAIRS} messages that both saw; QEMU received {len(received)}, and {len(calls)} "
            f"POST_MESSAGE hypercalls were traced",
        )
    found = list(_fits(calls, received))
    if not found:
        raise _refused(qemu, "no offset brings the messages received into the hypercalls that sent them")
    if len(found) > 1:
        raise _refused(qemu, f"{len(found)} ways of pairing messages with hypercalls fit")
    (alignment,) = found
    if alignment.residual_ns > MOST_RESIDUAL_NS:
        raise _refused(qemu, f"the offset is known to ±{alignment.residual_ns / 1e6:.1f} ms only")
    return alignment


def _refused(qemu: Recording, why: str) -> InputError:
    return InputError(qemu.source.path, f"cannot be aligned: {why}; ingest it alone")


#: Columns of calls: thread, start, end; of what was received: thread (−1: not told), stamp.
_THREAD, _START, _END = 0, 1, 2
_UNTOLD = -1


def _calls(kvm: Sequence[Recording], progress: Progress | None) -> I64:
    """POST_MESSAGE hypercalls that QEMU has received, by time: thread, stamp of the call, of its result."""
    rows: list[I64] = []
    for number, recording in enumerate(kvm):
        base = 0
        for window in recording.windows(progress):
            for name in (CALL, DONE):
                if (batch := window.tables.get(name)) is not None:
                    said = _numbers(batch, "code" if name == CALL else "result")
                    columns = [
                        _numbers(batch, "tid"),
                        _numbers(batch, "seq") + base,
                        _numbers(batch, "ts_ns"),
                    ]
                    extra = [np.full(len(said), name == DONE), said, np.full(len(said), number)]
                    rows.append(np.stack([*columns, *extra], axis=1).astype(np.int64))
            base += window.events
    if not rows:
        return np.empty((0, 3), np.int64)
    events = np.concatenate(rows)
    events = events[np.lexsort((events[:, 1], events[:, 0], events[:, 5]))]
    first, then = events[:-1], events[1:]
    whole = (first[:, 0] == then[:, 0]) & (first[:, 5] == then[:, 5]) & (first[:, 3] == 0) & (then[:, 3] == 1)
    whole &= (first[:, 4] == POST_MESSAGE) & np.isin(then[:, 4] & 0xFFFF, ACCEPTED)
    calls = np.stack([first[whole, 0], first[whole, 2], then[whole, 2]], axis=1)
    # The same call stands in each of several buffers that recorded it.
    calls = np.unique(calls, axis=0)
    return calls[np.argsort(calls[:, _START], kind="stable")]


def _received(qemu: Recording) -> I64:
    """Messages received, by time: thread and stamp."""
    rows = [
        np.stack([_numbers(batch, "tid"), _numbers(batch, "ts_ns")], axis=1)
        for window in qemu.windows()
        if (batch := window.tables.get(RECEIVED)) is not None
    ]
    return np.concatenate(rows) if rows else np.empty((0, 2), np.int64)


def _numbers(batch: pa.RecordBatch, name: str) -> I64:
    """A column as 64 bits; −1 where a signed one is null."""
    column = batch.column(name)
    signed = pa.types.is_signed_integer(column.type)
    values = np.asarray(column.fill_null(-1 if signed else 0))
    return values.astype(np.int64 if signed else np.uint64).view(np.int64)


def _fits(calls: I64, received: I64) -> Iterator[Alignment]:
    """Alignments by each way of pairing that is possible."""
    threads = np.unique(received[:, _THREAD])
    same = {int(t): int((calls[:, _THREAD] == t).sum()) for t in threads}
    if all(number == int((received[:, _THREAD] == t).sum()) for t, number in same.items()):
        # Thread by thread, the n-th with the n-th.
        own = calls[np.isin(calls[:, _THREAD], threads)]
        order = np.lexsort((own[:, _START], own[:, _THREAD]))
        other = np.lexsort((received[:, 1], received[:, _THREAD]))
        if (fit := _fit(own[order], received[other])) is not None:
            yield fit
        return
    told = bool((received[:, _THREAD] != _UNTOLD).all())
    number, wanted = len(calls), len(received)
    shifts = range(LEAST_PAIRS - wanted, number - LEAST_PAIRS + 1)
    for shift in shifts[:MOST_SHIFTS]:
        first, last = max(shift, 0), min(number, wanted + shift)
        own, other = calls[first:last], received[first - shift : last - shift]
        if len(own) < LEAST_PAIRS or (told and not np.array_equal(own[:, _THREAD], other[:, _THREAD])):
            continue
        if (fit := _fit(own, other)) is not None:
            yield fit


def _fit(calls: I64, received: I64) -> Alignment | None:
    """The alignment that lies within all bounds; None where there is none."""
    stamps = received[:, 1]
    least, most = stamps - calls[:, _END], stamps - calls[:, _START]
    since = int(stamps.min())
    t = (stamps - since).astype(np.float64)

    def room(drift: float) -> tuple[float, float]:
        """The offsets that lie within all bounds, if the clocks drift so: from, to."""
        return float((least - base - drift * t).max()), float((most - base - drift * t).min())

    # Numbers of this size are exact in floating point only as differences.
    base = int(most.min())
    drift = 0.0
    if np.subtract(*room(drift)) > 0:
        # Between the drifts that are possible the room first widens, then narrows.
        low, high = -MOST_DRIFT, MOST_DRIFT
        for _ in range(SEARCH):
            one, other = low + (high - low) / 3, high - (high - low) / 3
            low, high = (one, high) if np.subtract(*room(one)) > np.subtract(*room(other)) else (low, other)
        drift = (low + high) / 2
    first, last = room(drift)
    if first > last:
        return None
    offset = base + int((first + last) // 2)
    return Alignment(offset, drift, since, round((last - first) / 2), len(stamps), "pairs")


class Aligned:
    """A recording of QEMU's on another's clock; stamps as recorded are kept in `ts_raw`. Implements `Recording`.

    What QEMU lost is in `lost`, not in the windows: of the host's events nothing is missing there.
    """

    def __init__(self, qemu: Recording, alignment: Alignment, clock: Clock) -> None:
        self._qemu = qemu
        self.alignment = alignment
        self.clock = clock
        self.kernel: str | None = None
        self.source: Source = qemu.source
        self.facts: dict[str, str] = qemu.facts
        self.threads: Threads = qemu.threads
        self.damage: list[Damage] = qemu.damage
        self.not_understood: NotUnderstood = qemu.not_understood
        self.lost: list[Lost] = []

    def as_dict(self) -> dict[str, Any]:
        """The alignment as the manifest has it, with the clock that stamps were recorded by."""
        lost = [asdict(x) for x in self.lost]
        return asdict(self.alignment) | {"clock": self._qemu.clock.name, "lost": lost}

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield the windows of QEMU's recording."""
        self.lost = []
        for window in self._qemu.windows(progress):
            # Made anew with each iteration.
            self.damage, self.not_understood = self._qemu.damage, self._qemu.not_understood
            tables = {name: self._moved(batch) for name, batch in window.tables.items()}
            self.lost += [Lost(x.cpu, self._at(x.from_ns), self._at(x.to_ns), x.count) for x in window.lost]
            yield Window(tables, window.events)
        self.damage, self.not_understood = self._qemu.damage, self._qemu.not_understood

    def _at(self, ts: int | None) -> int | None:
        return None if ts is None else int(self.alignment.apply(np.array([ts]))[0])

    def _moved(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raw = batch.column("ts_ns").to_numpy()
        at = batch.schema.get_field_index("ts_ns")
        moved = batch.set_column(at, "ts_ns", pa.array(self.alignment.apply(raw)))
        return moved.add_column(at + 1, RAW_STAMP.name, pa.array(raw.view(np.uint64)))

    def close(self) -> None:
        """Release the file."""
        self._qemu.close()
