"""The engine: runs the tape through the model and lets the rules judge.

The engine itself knows the run of a vCPU: entries, exits, losses, and which VM an event belongs to. What the other
tracepoints do is in its parts, one file an area (`hvtrace.replay.parts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hvtrace.replay.fold import DULL_RETURNS, MSR_EXITS
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.access import Accesses
from hvtrace.replay.model.clock import RUNTIME
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.model.kvm_call import Uncalled
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.synic import Unsent
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Resident, Stranger
from hvtrace.replay.parts.apic import ApicEvents
from hvtrace.replay.parts.clock import ClockEvents
from hvtrace.replay.parts.cpuid import CpuidEvents
from hvtrace.replay.parts.debugger import DebuggerEvents
from hvtrace.replay.parts.halt_poll import HaltPollEvents
from hvtrace.replay.parts.hypercall import HypercallEvents
from hvtrace.replay.parts.ipi import IpiEvents
from hvtrace.replay.parts.kvm_hypercall import KvmHypercallEvents
from hvtrace.replay.parts.msr import MsrEvents
from hvtrace.replay.parts.paravirt import ParavirtEvents
from hvtrace.replay.parts.pvclock import PvClockEvents
from hvtrace.replay.parts.stimer import StimerEvents
from hvtrace.replay.parts.synic import SynicEvents
from hvtrace.replay.parts.userspace import UserspaceEvents
from hvtrace.replay.parts.vmbus import VmbusEvents
from hvtrace.replay.parts.writes import WriteEvents
from hvtrace.replay.rule import Moment
from hvtrace.replay.tape import FOLDED, HOME, NO_PLACE, OTHER_MSR, RESET_VECTOR
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["Engine", "Loss"]

#: A loss: first and last stamp between which events are missing (None: from the start, to the end).
Loss = tuple[int | None, int | None]

#: The parts, in the order in which they take an event that several of them know.
PARTS: tuple[type[Part], ...] = (
    UserspaceEvents,
    CpuidEvents,
    MsrEvents,
    HypercallEvents,
    IpiEvents,
    SynicEvents,
    ClockEvents,
    StimerEvents,
    ApicEvents,
    WriteEvents,
    DebuggerEvents,
    HaltPollEvents,
    ParavirtEvents,
    PvClockEvents,
    KvmHypercallEvents,
    VmbusEvents,
)

RETURN = "kvm_userspace_exit"

#: kvm_exit reasons of a hypercall: VMCALL, VMMCALL.
CALL_EXITS = frozenset({(1, 18), (2, 0x81)})

#: Exits of which the reason does not tell what follows. VMLAUNCH and VMRESUME: KVM loads MSRs from a list of the
#: guest's hypervisor, without kvm_msr. TDCALL and VMGEXIT: an encrypted guest asks for whatever it likes.
UNCLEAR = frozenset({(1, 20), (1, 24), (1, 77), (2, 0x403)})

#: What these exits are for (None: not clear); all others are "other".
KINDS: dict[tuple[int, int], str | None] = {
    **dict.fromkeys(MSR_EXITS, "msr"),
    **dict.fromkeys(CALL_EXITS, "call"),
    **dict.fromkeys(UNCLEAR, None),
}

_FAR = 1 << 63


class Engine:
    """Replays one recording. Feed it the tape with `run`, then call `finish`; the verdicts are the
    judge's.
    """

    def __init__(self, bench: Bench, losses: Sequence[Loss] = ()) -> None:
        self.bench = bench
        self.judge: Judge = bench.judge
        self.vms: dict[int, Vm] = {}
        self.vcpus: dict[int, Vcpu] = {}
        #: Accesses to other than synthetic MSRs were recorded: nobody filtered them out.
        self.unfiltered = False
        self.losing = 0
        self._edges = _edges(losses)
        self._edge = 0
        self._next = self._edges[0][0] if self._edges else _FAR
        self.parts = [part(bench, self.vms) for part in PARTS]
        self.handlers: dict[str, tuple[Handler, ...]] = {}
        self.strangers: dict[str, tuple[Stranger, ...]] = {}
        self.residents: dict[str, tuple[Resident, ...]] = {}
        for part in self.parts:
            for name, handler in part.handlers().items():
                self.handlers[name] = (*self.handlers.get(name, ()), handler)
            for name, stranger in part.strangers().items():
                self.strangers[name] = (*self.strangers.get(name, ()), stranger)
            for name, resident in part.residents().items():
                self.residents[name] = (*self.residents.get(name, ()), resident)
            if isinstance(part, MsrEvents):
                part.tell(self.parts)

    def run(self, window: Iterable[Event]) -> None:
        """Replay events in the order of `seq`."""
        handlers, vcpus, repeats = self.handlers, self.vcpus, self.bench.repeats
        entered, left, edge = self._entry, self._exit, self._next
        for event in window:
            if event[1] >= edge:
                self._cross(event[1])
                edge = self._next
            name = event[2]
            vcpu = vcpus.get(event[3])
            if vcpu is None:
                if event[3] < 0:
                    self._elsewhere(event)
                    continue
                vcpu = self._vcpu(event[3])
            if name == "kvm_entry":
                entered(event, vcpu)
            elif name == "kvm_exit":
                left(event, vcpu)
            elif name == FOLDED:
                if vcpu.closing:
                    vcpu.close()
                if vcpu.dues or vcpu.grace:
                    vcpu.passed(event[5])
            elif name == OTHER_MSR:
                if vcpu.closing:
                    vcpu.close()
                vcpu.accessed()
                self.unfiltered = True
            elif repeats and vcpu.history and vcpu.history[-1][1:] == event[1:]:
                continue
            else:
                # What folding may leave out is no history: verdicts do not depend on where a window ends.
                if name != RETURN or not (event[5] in DULL_RETURNS or (event[6] or 0) < 0):
                    vcpu.history.append(event)
                cell = [False]
                for handler in handlers.get(name, ()):
                    handler(event, vcpu, cell)

    def reach(self, stamp: int) -> None:
        """Time passes up to a stamp without events: losses begin and end."""
        if stamp >= self._next:
            self._cross(stamp)

    def finish(self) -> None:
        """The recording is over: what is still open cannot be judged."""
        for vm in self.vms.values():
            for part in self.parts:
                part.finished(vm)
            for vcpu in vm.vcpus.values():
                vcpu.abandon(Reason.RECORDING_ENDED)

    # Places and losses

    def _vcpu(self, place: int) -> Vcpu:
        vcpu = self.vcpus[place] = self._vm(place >> 16).vcpu(place & 0xFFFF)
        return vcpu

    def _vm(self, number: int) -> Vm:
        vm = self.vms.get(number)
        if vm is None:
            vm = self.vms[number] = Vm(number, self.bench, Exposure(self.bench.offer))
            if self.losing:
                vm.why = Reason.EVENTS_LOST
        return vm

    def _cross(self, stamp: int) -> None:
        """A loss begins or ends: what is known ends with it."""
        while self._edge < len(self._edges) and self._edges[self._edge][0] <= stamp:
            self.losing += self._edges[self._edge][1]
            self._edge += 1
        self._next = self._edges[self._edge][0] if self._edge < len(self._edges) else _FAR
        self.judge.lossy = True
        for part in self.parts:
            part.lost()
        for vm in self.vms.values():
            for part in self.parts:
                part.losing(vm)
            vm.forget(Reason.EVENTS_LOST)
        self.judge.lossy = self.losing > 0

    def _elsewhere(self, event: Event) -> None:
        """An event of no vCPU, or of a vCPU of an unknown VM."""
        name, place = event[2], event[3]
        if place <= HOME:
            vm, cell = self._vm(HOME - place), [False]
            for resident in self.residents.get(name, ()):
                resident(event, vm, cell)
            return
        strangers = self.strangers.get(name)
        if place == NO_PLACE:
            for stranger in strangers or ():
                stranger(event, None)
            return
        number = -2 - place
        for vcpu in [vm.vcpus[number] for vm in self.vms.values() if number in vm.vcpus]:
            if strangers is not None:
                for stranger in strangers:
                    stranger(event, vcpu)
            else:
                # It may have been any of them.
                vcpu.forget(Reason.VM_AMBIGUOUS)

    # Entry and exit

    def _entry(self, event: Event, vcpu: Vcpu) -> None:
        if vcpu.closing:
            vcpu.rip = event[5]
            vcpu.close()
        if vcpu.kind == "msr":
            self._unaccessed(vcpu)
        elif vcpu.kind == "call" and vcpu.whole and vcpu.left is not None:
            self.judge.ask(Moment.UNCALLED, Uncalled(vcpu), vcpu.left, vcpu, [False])
        if vcpu.dues:
            vcpu.entered()
        if vcpu.raised and vcpu.whole and not vcpu.visited:
            for sint, mark, raised in vcpu.raised:
                self.judge.ask(Moment.UNSENT, Unsent(vcpu, sint), raised, vcpu, mark)
        vm = vcpu.vm
        if event[5] == RESET_VECTOR:
            # Until the first instruction gets through, the vCPU enters there again and again.
            if not vm.entered and not self.losing:
                vm.create()
            elif not vcpu.resetting:
                vm.forget_silent()
            vcpu.resetting = True
        else:
            vcpu.resetting = False
        vm.entered = True
        if vcpu.tid != event[4]:
            # Another thread has another run time.
            vcpu.registers.pop(RUNTIME, None)
        vcpu.tid = event[4]
        vcpu.out = vcpu.raced = vcpu.hyperv = vcpu.visited = vcpu.eom = vcpu.fastpath = False
        vcpu.kind = None
        vcpu.new_unit(whole=True)
        if vcpu.grace:
            vcpu.grace -= 1
            vcpu.reading = None

    def _unaccessed(self, vcpu: Vcpu) -> None:
        """An exit for an MSR access is over, and no access was seen."""
        owed = any(due.due is Due.MSR and due.met is None for due in vcpu.dues)
        if self.unfiltered and vcpu.whole and not vcpu.fastpath and not owed and vcpu.left is not None:
            self.judge.ask(Moment.ACCESSES, Accesses(vcpu, "none"), vcpu.left, vcpu, [False])

    def _exit(self, event: Event, vcpu: Vcpu) -> None:
        if vcpu.closing:
            vcpu.close()
        vcpu.tid, vcpu.out, vcpu.exit_seq, vcpu.whole, vcpu.left = event[4], True, event[0], True, event
        vcpu.kind = None if event[6] is None else KINDS.get((event[6], event[5]), "other")
        if vcpu.effects:
            vcpu.effects.clear()


def _edges(losses: Sequence[Loss]) -> list[tuple[int, int]]:
    """Where losses begin (+1) and end (-1), in order."""
    edges: list[tuple[int, int]] = []
    for begin, end in losses:
        edges.append((-_FAR if begin is None else begin, 1))
        if end is not None:
            edges.append((end, -1))
    return sorted(edges)
