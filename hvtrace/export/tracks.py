"""The tree of tracks: a process group a VM, a track a vCPU, what hangs beneath, and the order of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackDescriptor

from hvtrace import __version__
from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.export.states import NO_VM
from hvtrace.store import Manifest

__all__ = ["COUNTER_BY_REASON", "Tracks", "metadata_packet"]

#: Order of a vCPU's sub-tracks; gaps leave room between them.
DIVERGENCES, RATE, COUNTER_BY_REASON = 10, 20, 30

_STATE_DESCRIPTION = (
    "State of the vCPU: guest, the exit being handled in the kernel (by reason, its detail beneath), userspace (by "
    "reason), halt polling and blocked within a halt. Empty: not known, because events are missing or were lost."
)


class Tracks:
    """Makes tracks as they are needed; `packets` gives the descriptors not yet written."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._uuids: dict[tuple[Any, ...], int] = {}
        self._new: list[bytes] = []
        self._ticks = manifest.clock.get("unit") == "ticks"
        self._vms = {vm["vm"]: vm for vm in manifest.vms}

    def packets(self) -> bytes:
        """Framed descriptors new since the last call."""
        out = b"".join(self._new)
        self._new.clear()
        return out

    def _make(self, key: tuple[Any, ...], parent: int | None, name: str, rank: int) -> TrackDescriptor:
        uuid = self._uuids[key] = len(self._uuids) + 1
        track = TrackDescriptor(uuid=uuid, name=name)
        if parent is not None:
            track.parent_uuid = parent
        track.child_ordering = TrackDescriptor.ChildTracksOrdering.EXPLICIT
        track.sibling_order_rank = rank
        track.sibling_merge_behavior = TrackDescriptor.SiblingMergeBehavior.SIBLING_MERGE_BEHAVIOR_NONE
        return track

    def _write(self, track: TrackDescriptor) -> int:
        packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, track_descriptor=track)
        self._new.append(framed(packet.SerializeToString()))
        return int(track.uuid)

    def vm(self, vm: int) -> int:
        """Return the uuid of a VM's group."""
        if found := self._uuids.get(("vm", vm)):
            return found
        facts = self._vms.get(vm, {})
        name = "VM not known" if vm == NO_VM else facts.get("name") or f"VM {vm}"
        track = self._make(("vm", vm), None, name, 100 + vm)
        track.description = self._about(facts)
        return self._write(track)

    def _about(self, facts: Mapping[str, Any]) -> str:
        clock = self._manifest.clock
        about = [
            f"Host kernel {self._manifest.kernel or 'not known'}; trace clock {clock.get('name') or 'not known'}."
        ]
        if self._ticks:
            about.append("The clock counts ticks: what is shown as 1 ns is one tick.")
        if (tgid := facts.get("tgid")) is not None:
            about.append(f"Host process {tgid}.")
        return " ".join(about)

    def vcpu(self, key: int) -> int:
        """Return the uuid of a vCPU's track of states. `key` as hvtrace.export.states.vcpu_keys makes it."""
        if found := self._uuids.get(("vcpu", key)):
            return found
        vm, vcpu = key >> 16, key & 0xFFFF
        track = self._make(("vcpu", key), self.vm(vm), f"vCPU {vcpu}", vcpu)
        tids = [
            str(tid)
            for own in self._vms.get(vm, {}).get("vcpus", [])
            if own["vcpu"] == vcpu
            for tid in own["tids"]
        ]
        track.description = _STATE_DESCRIPTION + (f" Host thread {', '.join(tids)}." if tids else "")
        return self._write(track)

    def divergences(self, key: int | None) -> int:
        """Return the uuid of the track of a vCPU's divergences; None: those that belong to none."""
        if found := self._uuids.get(("divergences", key)):
            return found
        parent = self.recording() if key is None else self.vcpu(key)
        track = self._make(("divergences", key), parent, "Divergences", DIVERGENCES)
        track.description = "Events at which the trace contradicts the reference model; arguments say how."
        return self._write(track)

    def rate(self, key: int, reason: str | None, unit: str, about: str) -> int:
        """Return the uuid of the counter of a vCPU's exits per second, in all or for one reason."""
        if found := self._uuids.get(("rate", key, reason)):
            return found
        if reason is None:
            track = self._make(("rate", key, None), self.vcpu(key), "Exits", RATE)
        else:
            track = self._make(("rate", key, reason), self._reasons(key), reason, 0)
        track.counter.unit_name = unit
        track.description = about
        return self._write(track)

    def _reasons(self, key: int) -> int:
        if found := self._uuids.get(("reasons", key)):
            return found
        return self._write(self._make(("reasons", key), self.vcpu(key), "Exits by reason", COUNTER_BY_REASON))

    def recording(self) -> int:
        """Return the uuid of the group of what belongs to no VM."""
        if found := self._uuids.get(("recording",)):
            return found
        return self._write(self._make(("recording",), None, "Recording", 0))

    def lost(self, cpu: int | None) -> int:
        """Return the uuid of the track that shows when a host CPU lost events."""
        if found := self._uuids.get(("lost", cpu)):
            return found
        name = "Lost events" if cpu is None else f"Lost events, host CPU {cpu}"
        track = self._make(("lost", cpu), self.recording(), name, 10 if cpu is None else 11 + cpu)
        track.description = "Intervals in which the tracer lost events of this host CPU."
        return self._write(track)


def metadata_packet(manifest: Manifest) -> bytes:
    """Framed packet with the facts Perfetto shows about a trace: host kernel, and what made the file."""
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE)
    info = packet.system_info
    info.tracing_service_version = f"hvtrace {__version__}"
    info.utsname.sysname = "Linux"
    if manifest.kernel:
        info.utsname.release = manifest.kernel
    if isinstance(version := manifest.host.get("kernel"), str):
        info.utsname.version = version
    return framed(packet.SerializeToString())
