"""The halts of a store, each with the change of the polling time it brought about, and the polling time in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.analysis.halt_poll.rules import HostSetting
from hvtrace.analysis.losses import lost_between

__all__ = ["CHANGE", "UNKNOWN", "WAKEUP", "Recorded", "read"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

WAKEUP, CHANGE = "kvm_vcpu_wakeup", "kvm_halt_poll_ns"

#: Bit 0 of this register lets the host poll.
POLL_CONTROL = 0x4B56_4D05

#: A polling time that is not known, or no change.
UNKNOWN = -1

_VCPU_BITS = 16

#: Fields of Recorded that have a value for each halt.
_ARRAYS = (
    "owner", "seq", "ts", "tid", "ns", "waited", "grew", "new", "old", "change_seq", "broken", "born", "allowed",
)  # fmt: skip


class Kind(IntEnum):
    """What a row tells of its vCPU."""

    WAKEUP = 0
    CHANGE = 1
    #: The guest writes POLL_CONTROL.
    CONTROL = 2
    #: The vCPU is created, and may poll.
    BORN = 3
    #: Userspace resets or restores the vCPU, perhaps POLL_CONTROL as well.
    RESET = 4


@dataclass(slots=True)
class Recorded:
    """Halts by vCPU and seq; arrays of the same length, times in ns.

    `owner` is vm << 16 | vcpu; `ns` how long it took; `waited`: the thread slept. `new` and `old` (UNKNOWN: no change)
    and `grew` are those of its kvm_halt_poll_ns. `broken`: events may be missing between the halt before and this one,
    as before a vCPU's first; `born`: the vCPU was created since. `allowed`: the guest lets the host poll (1), does not
    (0), or that is not known (UNKNOWN). `orphans`: changes that no wakeup of their vCPU follows. `unattributed`:
    wakeups of an unknown vCPU. `traced`: changes were recorded, so that there was none where none is seen.
    """

    owner: I64
    seq: I64
    ts: I64
    tid: I64
    ns: I64
    waited: Flags
    grew: Flags
    new: I64
    old: I64
    change_seq: I64
    broken: Flags
    born: Flags
    allowed: I64
    orphans: pl.DataFrame
    unattributed: int
    traced: bool = True

    def __len__(self) -> int:
        return len(self.ns)

    @property
    def first(self) -> Flags:
        """The first halt of each vCPU."""
        first: Flags = np.diff(self.owner, prepend=UNKNOWN) != 0
        return first

    @property
    def changed(self) -> Flags:
        """Halts that changed the polling time."""
        changed: Flags = self.new != UNKNOWN
        return changed

    def at(self, mask: Flags) -> Recorded:
        """Some of the halts."""
        arrays = {name: getattr(self, name)[mask] for name in _ARRAYS}
        return replace(self, **arrays)

    def stored(self, own: HostSetting | None) -> I64:
        """The vCPU's polling time before each halt, as the events tell; UNKNOWN where they do not.

        It is 0 when a vCPU is created, and what the last change made of it. A halt longer than the cap that brings no
        change about shows that it is 0: else it would have shrunk; and a cap of 0 makes it 0. (Or the guest does not
        let the host poll, and said so before this recording: then nothing polls either.)
        """
        slots = np.full((len(self), 2), UNKNOWN - 1, np.int64)
        slots[:, 0] = np.where(self.broken, UNKNOWN, slots[:, 0])
        slots[:, 0] = np.where(self.born, 0, slots[:, 0])
        if own is not None:
            dropped = (self.allowed != 0) & ((self.ns > own.limit) | (own.limit == 0))
            slots[:, 1] = np.where(dropped, 0, slots[:, 1])
        slots[:, 1] = np.where(self.changed, self.new, slots[:, 1])
        flat = slots.reshape(-1)
        last = np.maximum.accumulate(np.where(flat >= UNKNOWN, np.arange(len(flat)), 0))
        return flat[last].reshape(-1, 2)[:, 0] if len(flat) else flat

    def in_force(self, own: HostSetting | None) -> I64:
        """For how long each halt polls at most, whether or not the guest lets it; UNKNOWN where that is not known."""
        stored = self.stored(own)
        if own is not None:
            stored = np.where(stored == UNKNOWN, UNKNOWN, own.held(stored))
            if own.limit == 0:
                stored = np.zeros_like(stored)
        return np.where(self.changed, self.old, stored)


def read(tables: Mapping[str, pl.LazyFrame], lost: pl.DataFrame | None) -> Recorded:
    """Read the halts. `tables` are a store's, by name; `lost` has the columns of lost.parquet."""
    kind, owner, tid = pl.col("kind"), pl.col("owner"), pl.col("tid")
    tells = kind > Kind.CHANGE
    told = pl.when(kind == Kind.RESET).then(UNKNOWN).when(tells).then("allowed").forward_fill().over("owner")
    # Where that is not known, a change shows it.
    shown = (kind == Kind.CHANGE).cast(pl.Int64).cum_max().over("owner", tells.cum_sum())

    def beside(way: int, other: Kind) -> pl.Expr:
        """Whether the row before (1) or after (−1) is of that kind, of the same vCPU and thread."""
        found = (kind.shift(way) == other) & (owner.shift(way) == owner) & (tid.shift(way) == tid)
        return found.fill_null(value=False)

    own = ("grew", "new", "old")
    rows = _rows(tables).with_columns(
        allowed=pl.when(told.fill_null(UNKNOWN) != UNKNOWN).then(told).otherwise(2 * shown - 1),
        births=(kind == Kind.BORN).cast(pl.Int64).cum_sum().over("owner"),
        orphan=(kind == Kind.CHANGE) & ~beside(-1, Kind.WAKEUP),
        follows=beside(1, Kind.CHANGE),
        change_seq=pl.col("seq").shift(1),
        **{name: pl.col(name).shift(1) for name in own},
        **{f"own_{name}": pl.col(name) for name in own},
    )
    collected = rows.collect()
    same = (owner.shift(1) == owner).fill_null(value=False)
    gap = pl.lit(value=False)
    if lost is not None and not lost.is_empty():
        # The thread may have run on any CPU meanwhile.
        everywhere = lost.with_columns(cpu=pl.lit(None, pl.UInt16))
        gap = lost_between(everywhere, pl.col("ts_ns").shift(1), pl.col("ts_ns"), ())
    births = pl.when(same).then(pl.col("births").shift(1)).otherwise(0)
    changed = pl.col("follows")
    halts = collected.filter(kind == Kind.WAKEUP).select(
        pl.col("seq").cast(pl.Int64),
        pl.col("tid", "allowed").cast(pl.Int64),
        "owner",
        "ns",
        "waited",
        ts="ts_ns",
        grew=(pl.col("grew") & changed).fill_null(value=False),
        **{name: pl.when(changed).then(pl.col(name)).fill_null(UNKNOWN) for name in ("new", "old")},
        change_seq=pl.when(changed).then(pl.col("change_seq").cast(pl.Int64)).fill_null(UNKNOWN),
        broken=~same | gap,
        born=pl.col("births") > births,
    )
    orphans = collected.filter("orphan").select(
        "seq", "ts_ns", "owner", grew="own_grew", new="own_new", old="own_old"
    )
    counted = tables[WAKEUP].filter(_nobody()).select(pl.len()).collect().item()
    arrays: dict[str, Any] = {name: halts[name].to_numpy() for name in _ARRAYS}
    return Recorded(**arrays, orphans=orphans, unattributed=int(counted))


def _nobody() -> pl.Expr:
    return pl.col("vm").is_null() | pl.col("vcpu").is_null()


def _rows(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """What tells of halt polling, by vCPU and seq."""
    yes = pl.lit(1, pl.Int64)
    previous = pl.col("previous_tsc_offset")
    sources: tuple[tuple[str, Kind, pl.Expr, dict[str, pl.Expr]], ...] = (
        (
            WAKEUP,
            Kind.WAKEUP,
            pl.lit(value=True),
            {"ns": pl.col("ns").cast(pl.Int64), "waited": pl.col("waited")},
        ),
        (
            CHANGE,
            Kind.CHANGE,
            pl.lit(value=True),
            {
                "grew": pl.col("grow"),
                "new": pl.col("new").cast(pl.Int64),
                "old": pl.col("old").cast(pl.Int64),
            },
        ),
        (
            "kvm_msr",
            Kind.CONTROL,
            (pl.col("ecx") == POLL_CONTROL) & (pl.col("write") != 0) & (pl.col("exception") == 0),
            {"allowed": (pl.col("data") & 1).cast(pl.Int64)},
        ),
        # An offset that was 0 is that of a vCPU just created (kvm_arch_vcpu_postcreate).
        ("kvm_write_tsc_offset", Kind.BORN, previous == 0, {"allowed": yes}),
        ("kvm_write_tsc_offset", Kind.RESET, previous != 0, {}),
    )
    absent: dict[str, pl.DataType | type[pl.DataType]] = {
        "ns": pl.Int64, "waited": pl.Boolean, "grew": pl.Boolean, "new": pl.Int64, "old": pl.Int64, "allowed": pl.Int64,
    }  # fmt: skip
    owner = pl.col("vm").cast(pl.Int64) * (1 << _VCPU_BITS) + pl.col("vcpu")
    chosen = [
        tables[table]
        .filter(where, ~_nobody())
        .select(
            "seq",
            "ts_ns",
            "tid",
            owner=owner,
            kind=pl.lit(int(kind), pl.UInt8),
            **{name: own.get(name, pl.lit(None, dtype)) for name, dtype in absent.items()},
        )
        for table, kind, where, own in sources
        if table in tables
    ]
    return pl.concat(chosen).sort("owner", "seq")
