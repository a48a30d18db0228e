"""What a store has of QEMU's trace of VMBus, for the replay: which events, how exact, where some are missing, whose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hvtrace.replay.model.vmbus import Recorded
from hvtrace.replay.model.vmbus_protocol import ANNOUNCED_BY, HANDLERS
from hvtrace.replay.tape import QEMU_TAPE

if TYPE_CHECKING:
    from hvtrace.store import Manifest, Store

__all__ = ["housed", "recorded", "traced"]

#: Where all of these have rows, and one at least of what messages say and of what answers say, all of QEMU's VMBus
#: events were traced: it is one pattern, `vmbus_*`.
MESSAGES = frozenset(
    {"vmbus_recv_message", "vmbus_process_incoming_message", "vmbus_post_msg", "vmbus_msg_cb"}
)
ASKED, ANSWERED = frozenset(HANDLERS), frozenset(ANNOUNCED_BY.values())

#: Stamps of two threads are in the order of their events if they are further apart than this.
SKEW_NS = 100_000


def traced(store: Store) -> frozenset[str]:
    """QEMU's events that were traced, fired or not, as far as the store shows it."""
    fired = frozenset(name for name in QEMU_TAPE if store.has(name))
    return frozenset(QEMU_TAPE) if fired >= MESSAGES and fired & ASKED and fired & ANSWERED else fired


def recorded(store: Store) -> Recorded | None:
    """How exact QEMU's stamps are, and its losses; None where the store has none of its events."""
    if not traced(store):
        return None
    slack, losses = 0, []
    for source in store.manifest.sources:
        aligned = source.get("aligned")
        if isinstance(aligned, dict):
            slack = max(slack, _whole(aligned.get("residual_ns")))
            losses += [(lost.get("from_ns"), lost.get("to_ns")) for lost in aligned.get("lost") or ()]
        if (isinstance(aligned, dict) or _is_qemus(source)) and _is_damaged(source):
            # Nobody knows what the lines said that could not be read.
            losses.append((None, None))
    return Recorded(slack + SKEW_NS, losses)


def housed(batch: pa.RecordBatch, manifest: Manifest) -> pa.RecordBatch:
    """Rows of an event of QEMU's with their VM: where there is but one, it is that one's."""
    if len(manifest.vms) > 1:
        return batch
    at = batch.schema.get_field_index("vm")
    only = manifest.vms[0]["vm"] if manifest.vms else 0
    column = batch.column(at)
    filled = pa.array([only] * len(column), pa.uint16()) if column.null_count else column
    return batch.set_column(at, "vm", filled)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _is_qemus(source: dict[str, Any]) -> bool:
    return str(source.get("format", "")).startswith("QEMU ")


def _is_damaged(source: dict[str, Any]) -> bool:
    unread = source.get("not_understood")
    count = unread.get("count") if isinstance(unread, dict) else 0
    # What is cut off at the end is no hole.
    return bool(source.get("corrupt") or count)
