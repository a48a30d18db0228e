"""What QEMU's events tell of VMBus as a whole: which channels there are, which pages each shares, the balloon's.

They are few, and looked up once: windows are drawn with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from hvtrace.export.states import NO_VM, Losses
from hvtrace.schema.qemu import VMBUS
from hvtrace.store import Store

__all__ = ["CHANNEL_BITS", "SHARED", "VmbusFacts", "vm_of"]

#: Tables that name a channel.
_CHANNELS = (
    "vmbus_send_offer",
    "vmbus_open_channel",
    "vmbus_channel_open",
    "vmbus_close_channel",
    "vmbus_channel_notify_guest",
)

#: A channel's number fits in so many bits: event flags have 2048.
CHANNEL_BITS = 12

#: The balloon enters this state while its channel is being opened.
_BALLOON_OPENED = "S_VERSION"

#: Events that come as long as KVM is traced.
_KVM = ("kvm_entry", "kvm_exit", "kvm_userspace_exit", "kvm_hv_hypercall_done")

SHARED = ("vmbus_gpadl_header", "vmbus_gpadl_created", "vmbus_gpadl_teardown", "vmbus_gpadl_torndown")


def vm_of() -> pl.Expr:
    """The VM of each row as a number; NO_VM where it is not known."""
    return pl.col("vm").cast(pl.Int64).fill_null(NO_VM)


@dataclass(frozen=True, slots=True)
class VmbusFacts:
    """`channels`: vm, channel. `opens`: vm, gpadl, channel, seq, in order. `balloons`: vm, channel.

    `losses`: in which VMBus events of QEMU's were lost. `residual_ns`: so far may their stamps be off. `kvm_until`: the
    last stamp of KVM's events; QEMU's may go on. `last_ns`: the recording's end.
    """

    channels: pl.DataFrame
    opens: pl.DataFrame
    balloons: pl.DataFrame
    losses: Losses
    residual_ns: int
    kvm_until: int
    last_ns: int | None

    @classmethod
    def of(cls, store: Store) -> VmbusFacts | None:
        """The facts of a store; None where it has no VMBus events of QEMU's."""
        if not any(store.has(event.name) for event in VMBUS):
            return None
        named = [
            store.scan(table).select(vm=vm_of(), channel=pl.col("chan_id").cast(pl.Int64)).unique()
            for table in _CHANNELS
            if store.has(table)
        ]
        channels = pl.concat(named).unique().collect() if named else _empty("vm", "channel")
        opens = _rows(store, "vmbus_open_channel", channel="chan_id", gpadl="gpadl_id")
        aligned = [source.get("aligned") or {} for source in store.manifest.sources]
        lost = [loss for one in aligned for loss in one.get("lost", ())]
        if store.decoded:
            # QEMU's events are in the host's buffers, and lost with them.
            lost += store.scan("lost").collect().to_dicts() if store.has("lost") else []
        return cls(
            channels.filter(pl.col("channel").is_between(0, (1 << CHANNEL_BITS) - 1)).sort("vm", "channel"),
            opens.sort("seq"),
            _balloons(store, opens),
            Losses(lost),
            max((one.get("residual_ns", 0) for one in aligned), default=0),
            _last_of_kvm(store),
            store.manifest.time.get("last_ns"),
        )

    def channel_of(self, gpadls: pl.DataFrame) -> pl.DataFrame:
        """Add to pages shared (vm, gpadl, seq) the channel that is opened with them; null where none is."""
        return gpadls.sort("seq").join_asof(
            self.opens.select("vm", "gpadl", "seq", "channel"),
            on="seq",
            by=["vm", "gpadl"],
            strategy="nearest",
            check_sortedness=False,
        )


def _last_of_kvm(store: Store) -> int:
    """The last stamp of KVM's events, of which one of these tables has the last or nearly so."""
    tables = [store.scan(table).select(pl.col("ts_ns").max()) for table in _KVM if store.has(table)]
    last = pl.concat(tables).collect()["ts_ns"].max() if tables else None
    return last if isinstance(last, int) else -1


def _empty(*names: str) -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(names, pl.Int64))


def _rows(store: Store, table: str, **columns: str) -> pl.DataFrame:
    if not store.has(table):
        return _empty("vm", "seq", *columns)
    own = {name: pl.col(column).cast(pl.Int64) for name, column in columns.items()}
    return store.scan(table).select(vm=vm_of(), seq=pl.col("seq").cast(pl.Int64), **own).collect()


def _balloons(store: Store, opens: pl.DataFrame) -> pl.DataFrame:
    """Channels with whose opening the balloon's state changes, before the guest is told that it is open."""
    if not store.has("hv_balloon_state_change"):
        return _empty("vm", "channel")
    entered = (
        store.scan("hv_balloon_state_change")
        .filter(pl.col("tostr") == _BALLOON_OPENED)
        .select(vm=vm_of(), entered=pl.col("seq").cast(pl.Int64))
        .collect()
        .sort("entered")
    )
    told = _rows(store, "vmbus_channel_open", channel="chan_id").rename({"seq": "told"}).sort("told")
    found = _after(_after(opens.sort("seq"), entered, "entered", ["vm"]), told, "told", ["vm", "channel"])
    return found.filter(pl.col("entered") < pl.col("told")).select("vm", "channel").unique()


def _after(rows: pl.DataFrame, right: pl.DataFrame, on: str, by: Sequence[str]) -> pl.DataFrame:
    """Join the next of `right` after each row's seq."""
    return rows.join_asof(
        right, left_on="seq", right_on=on, by=list(by), strategy="forward", check_sortedness=False
    )
