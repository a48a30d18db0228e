"""Clocks of a timeline: what the host's trace clock is to Perfetto, time of day, reference time of the guests.

Time stamps are written as the trace clock gave them. Perfetto calls that clock by one of its own names where it has one
for it (`TRACE_CLOCKS`): no two clocks are said to be equal that merely run alike, as CLOCK_MONOTONIC and
CLOCK_BOOTTIME do until the host is suspended. For the other clocks, such as `local`, which is the scheduler's, Perfetto
has no name; there its default, BOOTTIME, is the name of trace time and nothing more. Ticks are no time: of such a
recording nothing is said.

Sources: perfetto.dev/docs/concepts/clock-sync, protos/perfetto/trace/clock_snapshot.proto; what the trace clocks are:
Documentation/trace/ftrace.rst, "trace_clock".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import BuiltinClock, ClockSnapshot, TracePacket

from hvtrace.abi import msr
from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.export.streams import Which
from hvtrace.store import Manifest, Store

__all__ = ["GUEST_CLOCK", "TRACE_CLOCKS", "host_clocks", "reference_times", "trace_clock"]

_REALTIME = int(BuiltinClock.BUILTIN_CLOCK_REALTIME)

#: Trace clock → the clock of Perfetto's that it is. `perf` is also what `perf record` uses unless told otherwise.
TRACE_CLOCKS: dict[str, int] = {
    "realtime": _REALTIME,
    "mono": BuiltinClock.BUILTIN_CLOCK_MONOTONIC,
    "mono_raw": BuiltinClock.BUILTIN_CLOCK_MONOTONIC_RAW,
    "boot": BuiltinClock.BUILTIN_CLOCK_BOOTTIME,
    "perf": BuiltinClock.BUILTIN_CLOCK_PERF,
}

#: Clock id of the reference time of VM 0; a VM's is so much higher as its number. When reference time begins anew, so
#: does a clock: its id is higher by 65536 each time. (Ids of 128 and more are nobody else's.)
GUEST_CLOCK = 128
_ANEW = 16

#: Reference time counts units of so many ns.
UNIT_NS = 100

#: Snapshots of all guests' clocks together, and the least time between two of one guest.
MOST = 5000
CLOSEST_NS = 100_000_000

_BATCH = 1 << 16
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class _Carrier:
    """A tracepoint that carries reference time: in which field, and in which of its rows."""

    table: str
    field: str
    columns: tuple[str, ...] = ()
    rows: pl.Expr | None = None


_REFERENCE_COUNT = msr.by_name("HV_X64_MSR_TIME_REF_COUNT")
assert _REFERENCE_COUNT is not None

_CARRIERS = (
    _Carrier("kvm_hv_stimer_start_one_shot", "time_now"),
    _Carrier("kvm_hv_stimer_start_periodic", "time_now"),
    _Carrier(
        "kvm_msr",
        "data",
        ("ecx", "write", "exception"),
        (pl.col("ecx") == _REFERENCE_COUNT.index)
        & (pl.col("write") == 0)
        & (pl.col("exception").fill_null(0) == 0),
    ),
)


def trace_clock(manifest: Manifest) -> int:
    """The clock of Perfetto's that trace time is."""
    if _fact(manifest, "date offset ns"):
        # `trace-cmd record --date`: stamps have been made time of day.
        return _REALTIME
    return TRACE_CLOCKS.get(str(manifest.clock.get("name")), int(BuiltinClock.BUILTIN_CLOCK_BOOTTIME))


def host_clocks(manifest: Manifest) -> bytes:
    """Framed snapshot that names trace time and, where the recording tells it, relates it to time of day.

    One packet: of time of day the UI (v52) looks for nothing but the trace's first snapshot.
    """
    first = manifest.time.get("first_ns")
    if manifest.clock.get("unit") == "ticks" or first is None:
        return b""
    clock = trace_clock(manifest)
    own, wall = _number(manifest, "clock ns"), _number(manifest, "time of day ns")
    same = _fact(manifest, "clock") == manifest.clock.get("name")
    if own is not None and wall is not None and same and clock != _REALTIME:
        return _snapshot([(clock, own), (_REALTIME, wall)], primary=clock)
    return _snapshot([(clock, first)], primary=clock) if first >= 0 else b""


def reference_times(store: Store, which: Which) -> Iterator[bytes]:
    """Yield framed snapshots of the guests' reference time, each a value that an event of the trace carries.

    The stamp of such an event lags the value, mostly by a few µs, sometimes by many ms. In each stretch of time the
    sample is taken that lags least. Times between snapshots are found by adding what trace time has gone on since.

    A clock of Perfetto's must not go back, but a guest's may: it begins anew in a reset, or its hypervisor is wrong. A
    single sample that is behind the one before is left out; where the next one is behind as well, a new clock begins
    (see GUEST_CLOCK).
    """
    manifest = store.manifest
    first, last = manifest.time.get("first_ns"), manifest.time.get("last_ns")
    if manifest.clock.get("unit") == "ticks" or first is None or last is None:
        return
    clock = trace_clock(manifest)
    vms = 1 if which.vm is not None else max(len(manifest.vms), 1)
    width = max(CLOSEST_NS, -(-(last - first + 1) * vms // MOST))
    samples = _samples(store, which, first, width)
    for (vm,), rows in samples.group_by("vm", maintain_order=True):
        for anew, ts, value in _ascending(rows.select("ts_ns", "value").iter_rows()):
            # The guest's first: it is what the UI shows when the snapshot is selected.
            yield _snapshot([(GUEST_CLOCK + vm + (anew << _ANEW), value, UNIT_NS), (clock, ts)])


def _samples(store: Store, which: Which, first: int, width: int) -> pl.DataFrame:
    """For each VM and stretch of time the sample that lags least: vm, step, ts_ns, value, lag; in order of time."""
    best = pl.DataFrame(
        schema={"vm": pl.UInt16, "ts_ns": pl.Int64, "value": pl.Int64, "step": pl.Int64, "lag": pl.Int64}
    )
    wanted = pl.col("vm").is_not_null() & (pl.col("ts_ns") >= 0)
    # What is more in ns than a time stamp can be is nobody's time.
    wanted &= pl.col("value") <= _LARGEST // UNIT_NS
    if which.vm is not None:
        wanted &= pl.col("vm") == which.vm
    if which.first_ns is not None:
        wanted &= pl.col("ts_ns") >= which.first_ns
    if which.last_ns is not None:
        wanted &= pl.col("ts_ns") <= which.last_ns
    for carrier in _CARRIERS:
        if not store.has(carrier.table):
            continue
        columns = ["vm", "ts_ns", carrier.field, *carrier.columns]
        file = store.parquet(carrier.table)
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
            rows = pl.DataFrame(pl.from_arrow(batch))
            if carrier.rows is not None:
                rows = rows.filter(carrier.rows)
            rows = rows.rename({carrier.field: "value"}).filter(wanted)
            if len(rows):
                best = _least(pl.concat([best, _measured(rows, first, width)]))
    return best.sort("vm", "step")


def _measured(rows: pl.DataFrame, first: int, width: int) -> pl.DataFrame:
    value = pl.col("value").cast(pl.Int64)
    return rows.select(
        "vm",
        "ts_ns",
        value,
        step=(pl.col("ts_ns") - first) // width,
        lag=pl.col("ts_ns") - value * UNIT_NS,
    )


def _least(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("lag", "ts_ns").unique(["vm", "step"], keep="first", maintain_order=True)


def _ascending(samples: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield samples that go on from each other, and how often they began anew before."""
    anew, latest = 0, -1
    behind: tuple[int, int] | None = None
    for ts, value in samples:
        if value >= latest:
            behind = None
        elif behind is None or value < behind[1]:
            behind = (ts, value)
            continue
        else:
            anew += 1
            yield (anew, *behind)
            behind = None
        latest = value
        yield anew, ts, value


def _snapshot(clocks: Iterable[tuple[int, ...]], primary: int | None = None) -> bytes:
    """Framed packet: clocks read at one time; of each the id, its value, and its unit in ns where it is not 1."""
    snapshot = ClockSnapshot()
    if primary is not None:
        snapshot.primary_trace_clock = primary
    for clock_id, value, *unit in clocks:
        clock = snapshot.clocks.add(clock_id=clock_id, timestamp=value)
        if unit:
            clock.unit_multiplier_ns = unit[0]
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, clock_snapshot=snapshot)
    return framed(packet.SerializeToString())


def _fact(manifest: Manifest, name: str) -> str | None:
    """What the first recording of a store that says something of the kind says."""
    for source in manifest.sources:
        facts = source.get("facts")
        if isinstance(facts, dict) and isinstance(value := facts.get(name), str):
            return value
    return None


def _number(manifest: Manifest, name: str) -> int | None:
    text = _fact(manifest, name)
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > 19:
        return None
    return value if (value := int(text)) <= _LARGEST else None
