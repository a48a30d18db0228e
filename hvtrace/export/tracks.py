"""The tree of tracks: a group a VM, in it a track a vCPU, what hangs beneath, and the order of all of them.

VMs are groups of their own with explicit order: the UI (v52) sorts the groups of processes by how much is in them and
what is in a process by name, vCPU 10 before vCPU 2. So that SQL finds VMs and vCPUs in the tables `process` and
`thread` too, they are described there, apart from the tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackDescriptor

from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.export.states import NO_VM
from hvtrace.export.texts import plain
from hvtrace.pipeline.metadata import cpu_option
from hvtrace.store import Manifest

__all__ = ["PARTS", "TRACKS", "Tracks", "vm_name"]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of track: its parent's kind (None: outermost), its name made of its index, its rank among its siblings.

    An index that is a number is added to the rank. `part` is the word for it in `hvtrace export --tracks`.
    """

    parent: str | None
    name: Callable[[Any], str]
    rank: int
    part: str | None
    about: str


def _is(name: str) -> Callable[[Any], str]:
    return lambda _: name


_FINDINGS = (
    "Events at which the trace contradicts the reference model; arguments say how, arrows what led there."
)
_SHARE = (
    "of the time in which the vCPU's state is known; gaps are left out. Begins with the first known state; 0 in steps "
    "of which nothing is known."
)
_VM_SHARE = (
    "of the time of all its vCPUs. Gaps are left out, but before its first and after its last known state a vCPU "
    "counts as idle."
)
_POLLING = "halt polling, successful or (as far as kvm_halt_poll_ns tells how long) not,"

#: By name. Ranks leave room for the indices that are added.
TRACKS: dict[str, Kind] = {
    "recording": Kind(None, _is("Recording"), 0, None, "The recording as a whole."),
    "source": Kind(
        "recording", _is("Source"), 0, None, "What was recorded, where, and what made this timeline."
    ),
    "unassigned": Kind("recording", _is("Divergences"), 1, "divergences", _FINDINGS),
    "lost": Kind(
        "recording",
        lambda cpu: "Lost events" if cpu < 0 else f"Lost events, host CPU {cpu}",
        11,
        None,
        "Intervals in which the tracer lost events of this host CPU.",
    ),
    "vms": Kind(None, _is("VMs"), 100, None, "Virtual machines by number."),
    "vm": Kind(None, lambda vm: f"VM {vm}", 100, None, ""),
    "vm divergences": Kind("vm", _is("Divergences"), 0, "divergences", _FINDINGS),
    "vm exits": Kind("vm", _is("Exits"), 10, "counters", "Exits of all its vCPUs, as far as recorded."),
    "vm guest share": Kind(
        "vm", _is("Guest share"), 11, "counters", f"Time in guest mode, in percent {_VM_SHARE}"
    ),
    "vm polling share": Kind(
        "vm", _is("Polling share"), 12, "counters", f"Time in {_POLLING} in percent {_VM_SHARE}"
    ),
    "vcpu": Kind(
        "vm",
        lambda vcpu: f"vCPU {vcpu}",
        100,
        "states",
        "State of the vCPU: guest, the exit being handled in the kernel (by reason, its detail beneath), userspace "
        "(by reason), halt polling and blocked within a halt. Empty: not known, because events are missing or were "
        "lost.",
    ),
    "divergences": Kind("vcpu", _is("Divergences"), 0, "divergences", _FINDINGS),
    "host thread": Kind(
        "vcpu",
        _is("Host thread"),
        10,
        "sched",
        "The vCPU's thread as the host's scheduler sees it: running, preempted, sleeping, woken and waiting.",
    ),
    "timers": Kind("vcpu", _is("Synthetic timers"), 20, None, "Hyper-V synthetic timers of this vCPU."),
    "timer": Kind(
        "timers",
        lambda index: f"STIMER{index}",
        0,
        "timers",
        "Armed until its callback, then until the expiration is processed; arrows lead from the write that armed it "
        "to the interrupt it raised.",
    ),
    "synic": Kind("vcpu", _is("SynIC"), 30, None, "Synthetic interrupt controller of this vCPU."),
    "sint": Kind(
        "synic",
        lambda sint: f"SINT{sint}",
        0,
        "synic",
        "From delivery to acknowledgement by EOI or EOM; a delivery that is never acknowledged is an instant.",
    ),
    "message": Kind(
        "synic",
        # SINT and, in the two low bits, timer.
        lambda slot: f"SINT{slot >> 2} pending (STIMER{slot & 3})",
        16,
        "synic",
        "The message slot was busy: the timer's message waits until the guest has read the one before.",
    ),
    "interrupts": Kind("vcpu", _is("Interrupts"), 40, None, "Interrupts of this vCPU by vector."),
    "vector": Kind(
        "interrupts",
        lambda vector: f"vector {vector:#04x}",
        0,
        "interrupts",
        "From injection to EOI; an interrupt whose EOI was not traced is an instant.",
    ),
    "exits": Kind("vcpu", _is("Exits"), 50, "counters", "Exits of this vCPU, as far as recorded."),
    "guest share": Kind(
        "vcpu", _is("Guest share"), 51, "counters", f"Time in guest mode, in percent {_SHARE}"
    ),
    "polling share": Kind(
        "vcpu", _is("Polling share"), 52, "counters", f"Time in {_POLLING} in percent {_SHARE}"
    ),
    "halt_poll_ns": Kind(
        "vcpu",
        _is("halt_poll_ns"),
        53,
        "counters",
        "How long this vCPU polls before it sleeps: the new value of each kvm_halt_poll_ns, and before the first one "
        "its old value. Linux 6.1 tells of values before it limits them to the module's parameter.",
    ),
    "reasons": Kind("vcpu", _is("Exits by reason"), 60, None, "Exits by reason, the commonest first."),
    "reason": Kind("reasons", str, 0, "counters", "Exits of this vCPU for this reason."),
    "vmbus": Kind("vm", _is("VMBus"), 50, None, "VMBus of this VM, as QEMU's trace events tell of it."),
    "vmbus connection": Kind(
        "vmbus",
        _is("Connection"),
        0,
        "vmbus",
        "Versions that the guest tries, and the one it goes on with; no event tells the host's answer to a contact.",
    ),
    "vmbus messages": Kind(
        "vmbus",
        _is("Messages"),
        1,
        "vmbus",
        "Messages of the guest, by type: from being received until the answer was delivered, or (where there is none) "
        "until QEMU took it up. One that came while another was being handled begins where that one ends; waited_ns "
        "says how long it waited. Beneath lie messages to the guest, from the post to its outcome.",
    ),
    "vmbus balloon": Kind("vmbus", _is("Balloon"), 40, "vmbus", "State of QEMU's Hyper-V balloon."),
    "vmbus packets": Kind(
        "vmbus", _is("Balloon packets"), 41, "vmbus", "What the balloon asks of the guest, and what it reads."
    ),
    "vmbus channel": Kind(
        "vmbus",
        lambda channel: f"Channel {channel}",
        100,
        "vmbus",
        "The channel's life: offered, pages shared, open, closed. Events print no GUID, so devices have no names.",
    ),
    "vmbus signals": Kind(
        "vmbus",
        lambda channel: f"Channel {channel} signals",
        5000,
        "vmbus",
        "Signals of the channel: SIGNAL_EVENT to the host (by QEMU's connection id, 16 + channel), notify to the "
        "guest. An arrow to an interrupt is found by the order in time.",
    ),
}

#: What `--tracks` takes, in this order.
PARTS: tuple[str, ...] = tuple(dict.fromkeys(kind.part for kind in TRACKS.values() if kind.part))

#: VMs whose names are in order also when sorted as text: 0 to 9.
_SORTED = 10

#: The largest process id of Linux on 64-bit machines (PID_MAX_LIMIT); what is above is nobody's.
_PID_MAX = 4 << 20

#: Sequence on which processes and threads are described: the events of a sequence that describes a thread would be
#: taken for that thread's.
_APART = SEQUENCE + 1


def vm_name(facts: Mapping[str, Any], vm: int) -> str:
    """What people call a VM: its name, else its number."""
    return "VM not known" if vm == NO_VM else plain(facts.get("name") or f"VM {vm}", 80)


class Tracks:
    """Makes tracks as they are needed; `packets` gives the descriptors not yet written.

    A track is named by its kind, its owner (the VM's number or the vCPU's key, as hvtrace.export.states.vcpu_keys
    makes it; 0 where it belongs to neither) and its index.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._uuids: dict[tuple[str, int, Any], int] = {}
        self._vcpus: dict[int, int] = {}
        self._new: list[bytes] = []
        self._vms = {vm["vm"]: vm for vm in manifest.vms}
        # Outermost groups are sorted by name, VM 10 before VM 2, whatever their rank: many VMs are no outermost ones.
        self._many = len(self._vms) > _SORTED

    def packets(self) -> bytes:
        """Framed descriptors new since the last call."""
        out = b"".join(self._new)
        self._new.clear()
        return out

    def get(
        self, kind: str, owner: int = 0, index: Any = None, *, order: int = 0, about: str = "", **counter: str
    ) -> int:
        """Return a track's uuid. `order` is added to its rank, `about` to its description.

        `counter`: fields of a counter's descriptor.
        """
        if found := self._uuids.get((kind, owner, index)):
            return found
        row = TRACKS[kind]
        track = TrackDescriptor(
            name=self._name(kind, owner, index), description=self._about(kind, owner) + about
        )
        if (parent := self._parent(kind, owner)) is not None:
            track.parent_uuid = parent
        track.uuid = self._uuids[kind, owner, index] = len(self._uuids) + 1
        track.child_ordering = TrackDescriptor.ChildTracksOrdering.EXPLICIT
        track.sibling_order_rank = row.rank + order + (index if isinstance(index, int) else 0)
        track.sibling_merge_behavior = TrackDescriptor.SiblingMergeBehavior.SIBLING_MERGE_BEHAVIOR_NONE
        for field, value in counter.items():
            setattr(track.counter, field, value)
        self._write(track)
        return int(track.uuid)

    def many(self, kind: str, machines: I64, bits: int = 0) -> U64:
        """Return the uuid of each of `machines`: the vCPU's key and, in this many low bits, the index."""
        if not len(machines):
            return np.zeros(0, np.uint64)
        distinct, inverse = np.unique(machines, return_inverse=True)
        uuids = [
            self.vcpu(machine)
            if kind == "vcpu"
            else self.get(kind, machine >> bits, machine & ((1 << bits) - 1))
            for machine in distinct.tolist()
        ]
        return np.array(uuids, np.uint64)[inverse]

    def vcpu(self, key: int) -> int:
        """Return the uuid of a vCPU's track of states."""
        uuid = self.get("vcpu", key, key & 0xFFFF)
        self._vcpus[uuid] = key
        return uuid

    def vcpu_of(self, uuid: int) -> int:
        """Return the key of the vCPU whose track of states this is."""
        return self._vcpus[uuid]

    def _parent(self, kind: str, owner: int) -> int | None:
        parent = "vms" if kind == "vm" and self._many else TRACKS[kind].parent
        if parent is None:
            return None
        if parent == "vm":
            vm = owner >> 16 if kind == "vcpu" else owner
            return self.get("vm", vm, vm)
        if parent == "vcpu":
            return self.vcpu(owner)
        return self.get(parent, 0 if parent in ("vms", "recording") else owner)

    def _name(self, kind: str, owner: int, index: Any) -> str:
        return vm_name(self._vms.get(owner, {}), owner) if kind == "vm" else TRACKS[kind].name(index)

    def _about(self, kind: str, owner: int) -> str:
        match kind:
            case "vm":
                return _about_vm(self._manifest, self._vms.get(owner, {}))
            case "vcpu":
                tids = _tids(self._vms.get(owner >> 16, {}), owner & 0xFFFF)
                threads = ", ".join(map(str, tids))
                return TRACKS[kind].about + (f" Host thread {threads}." if tids else "")
        return TRACKS[kind].about

    def _write(self, track: TrackDescriptor, sequence: int = SEQUENCE) -> None:
        packet = TracePacket(trusted_packet_sequence_id=sequence, track_descriptor=track)
        self._new.append(framed(packet.SerializeToString()))

    def describe_processes(self) -> None:
        """Describe the VMs as processes and their vCPUs as threads, for the tables of these names.

        A VM whose process is not known, or is another VM's too, gets a number no process can have. Of a thread that
        was vCPUs of several VMs in turn, the first is described. The command line is what is known of the guest's
        flags, no more: the whole of it may hold what is no one else's business.
        """
        option = cpu_option(self._manifest.host, len(self._vms))
        taken: set[int] = set()
        for vm, facts in self._vms.items():
            pid = facts.get("tgid") or 0
            if pid <= 0 or pid in taken:
                pid = _PID_MAX + 1 + vm
            if option is not None:
                # Only here Perfetto looks for a command line; its first word is the name.
                packet = TracePacket(trusted_packet_sequence_id=_APART)
                words = [vm_name(facts, vm), "-cpu", plain(option)]
                packet.process_tree.processes.add(pid=pid, cmdline=words)
                self._new.append(framed(packet.SerializeToString()))
            process = self._apart(("process", vm, None))
            process.process.pid = pid
            process.process.process_name = vm_name(facts, vm)
            self._write(process, _APART)
            for vcpu in facts["vcpus"]:
                for tid in (tid for tid in vcpu["tids"] if tid > 0 and tid not in taken):
                    taken.add(tid)
                    thread = self._apart(("thread", vm, tid))
                    thread.thread.pid, thread.thread.tid = pid, tid
                    thread.thread.thread_name = f"vCPU {vcpu['vcpu']}"
                    self._write(thread, _APART)
            # Not before its threads: the one that a process began with bears its number.
            taken.add(pid)

    def _apart(self, key: tuple[str, int, Any]) -> TrackDescriptor:
        uuid = self._uuids[key] = len(self._uuids) + 1
        return TrackDescriptor(uuid=uuid)


def _tids(vm: Mapping[str, Any], vcpu: int) -> list[int]:
    return [tid for own in vm.get("vcpus", []) if own["vcpu"] == vcpu for tid in own["tids"]]


def _about_vm(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    clock = manifest.clock
    kernel, name = (plain(text or "not known", 80) for text in (manifest.kernel, clock.get("name")))
    about = [f"Host kernel {kernel}; trace clock {name}."]
    if clock.get("unit") == "ticks":
        about.append("The clock counts ticks: what is shown as 1 ns is one tick.")
    if (tgid := facts.get("tgid")) is not None:
        about.append(f"Host process {tgid}.")
    if (option := cpu_option(manifest.host, len(manifest.vms))) is not None:
        about.append(f"Guest flags: -cpu {plain(option)}.")
    return " ".join(about)
