"""The engine: runs the tape through the model and lets the rules judge.

Each handler does three things in this order: it lets the model say what must be (predict), asks the rules
(compare)
and lets the state take what was observed (resynchronise), so that one fault is reported once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hvtrace.abi.msr import by_index
from hvtrace.abi.register import Exit, Group, Msr
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.access import Access, Fault, expected_fault
from hvtrace.replay.model.clock import REFERENCE, RUNTIME, ClockMoment, Reading
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.model.hypercall import Call
from hvtrace.replay.model.machine import Bench, UserspaceExit, Vcpu, Vm
from hvtrace.replay.model.registers import STIMER0, known_value, settle
from hvtrace.replay.model.stimer import Timers
from hvtrace.replay.model.synic import (
    EOM,
    EndOfMessage,
    Unsent,
)
from hvtrace.replay.obligation import Due
from hvtrace.replay.rule import Moment
from hvtrace.replay.synic_events import SET_MSR, SynicEvents
from hvtrace.replay.tape import NO_PLACE, TAPE
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["Engine"]

#: A loss: first and last stamp between which events are missing (None: from the start, to the end).
Loss = tuple[int | None, int | None]

#: Where a vCPU starts after creation and after a reset.
RESET_VECTOR = 0xFFF0

#: kvm_exit reasons of an MSR access, by instruction set (1 VMX: RDMSR, WRMSR and their immediate forms; 2
#: SVM).
MSR_EXITS = frozenset({(1, 31), (1, 32), (1, 84), (1, 85), (2, 0x7C)})

#: VMLAUNCH and VMRESUME: KVM loads MSRs from a list of the guest's hypervisor, without kvm_msr.
NESTED_ENTRIES = frozenset({(1, 20), (1, 24)})

#: Userspace exits (struct kvm_run) that the model knows.
SHUTDOWN, SYSTEM_EVENT, HYPERV, RDMSR, WRMSR = 8, 24, 27, 29, 30

#: Accesses kept while it is open whether CPUID is enforced.
MAX_UNDECIDED = 1024

#: Entries after a change of the master clock within which the reference time may move to its new formula.
CLOCK_GRACE = 3

ACKED = "kvm_hv_notify_acked_sint"

#: Events of an unknown VM that change nothing the model relies on.
HARMLESS = frozenset({"kvm_hv_synic_set_irq", "kvm_apic_accept_irq", "kvm_apicv_accept_irq", "kvm_eoi"})
#: Events of an unknown VM after which one timer of each candidate is unknown.
TIMER_EVENTS = frozenset(name for name in TAPE if name.startswith("kvm_hv_stimer_"))

_FAR = 1 << 63


class Engine(SynicEvents):
    """Replays one recording. Feed it the tape with `run`, then call `finish`; the verdicts are the
    judge's.
    """

    def __init__(self, bench: Bench, losses: Sequence[Loss] = ()) -> None:
        self.bench = bench
        self.judge: Judge = bench.judge
        self.vms: dict[int, Vm] = {}
        self.vcpus: dict[int, Vcpu] = {}
        self.timers = Timers()
        self.losing = 0
        #: Threads of which something was seen since the last loss.
        self.known: set[int] = set()
        #: Interrupts that a thread's last calls made an APIC take: vCPU and vector, by thread.
        self.taken: dict[int, deque[tuple[int, int]]] = {}
        self._edges = _edges(losses)
        self._edge = 0
        self._next = self._edges[0][0] if self._edges else _FAR
        self._handlers: dict[str, Callable[[Event, Vcpu, list[bool]], None]] = {
            "kvm_entry": self._entry,
            "kvm_exit": self._exit,
            "kvm_userspace_exit": self._userspace_exit,
            "kvm_msr": self._msr,
            "kvm_cpuid": self._cpuid,
            "kvm_hv_hypercall": self._hypercall,
            "kvm_hv_hypercall_done": self._hypercall_done,
            "kvm_hv_synic_set_msr": self._synic_set_msr,
            "kvm_hv_synic_set_irq": self._synic_set_irq,
            "kvm_hv_synic_send_eoi": self._send_eoi,
            "kvm_hv_notify_acked_sint": self._acked,
            "kvm_hv_stimer_set_config": self._set_config,
            "kvm_hv_stimer_set_count": self._set_count,
            "kvm_hv_stimer_start_periodic": self._start_periodic,
            "kvm_hv_stimer_start_one_shot": self._start_one_shot,
            "kvm_hv_stimer_callback": self._callback,
            "kvm_hv_stimer_expiration": self._expiration,
            "kvm_hv_stimer_cleanup": self._cleanup,
            "kvm_hv_syndbg_set_msr": self._syndbg,
            "kvm_apic_accept_irq": self._accepted,
            "kvm_apicv_accept_irq": self._posted,
            "kvm_eoi": self._eoi,
            "kvm_write_tsc_offset": self._tsc_written,
            "kvm_update_master_clock": self._master_clock,
        }

    def run(self, window: Iterable[Event]) -> None:
        """Replay events in the order of `seq`."""
        handlers, vcpus, repeats = self._handlers, self.vcpus, self.bench.repeats
        for event in window:
            if event[1] >= self._next:
                self._cross(event[1])
            name, place = event[2], event[3]
            if place < 0:
                self._elsewhere(event)
                continue
            vcpu = vcpus.get(place)
            if vcpu is None:
                vcpu = self._vcpu(place)
            handler = handlers.get(name)
            if handler is not None:
                if name == "kvm_entry" or name == "kvm_exit":
                    handler(event, vcpu, _NO_CELL)
                elif repeats and vcpu.history and vcpu.history[-1][1:] == event[1:]:
                    continue
                else:
                    vcpu.history.append(event)
                    handler(event, vcpu, [False])

    def finish(self) -> None:
        """The recording is over: what is still open cannot be judged."""
        for vm in self.vms.values():
            self._decide(vm, last=True)
            for vcpu in vm.vcpus.values():
                vcpu.abandon(Reason.RECORDING_ENDED)

    # Places and losses

    def _vcpu(self, place: int) -> Vcpu:
        number = place >> 16
        vm = self.vms.get(number)
        if vm is None:
            vm = self.vms[number] = Vm(number, self.bench, Exposure(self.bench.offer))
            if self.losing:
                vm.why = Reason.EVENTS_LOST
        vcpu = self.vcpus[place] = vm.vcpu(place & 0xFFFF)
        return vcpu

    def _cross(self, stamp: int) -> None:
        """A loss begins or ends: what is known ends with it."""
        while self._edge < len(self._edges) and self._edges[self._edge][0] <= stamp:
            self.losing += self._edges[self._edge][1]
            self._edge += 1
        self._next = self._edges[self._edge][0] if self._edge < len(self._edges) else _FAR
        self.judge.lossy = True
        self.known.clear()
        self.taken.clear()
        for vm in self.vms.values():
            self._decide(vm, last=True)
            vm.forget(Reason.EVENTS_LOST)
        self.judge.lossy = self.losing > 0

    def _elsewhere(self, event: Event) -> None:
        """An event of no vCPU, or of a vCPU of an unknown VM."""
        name, place = event[2], event[3]
        if name == "kvm_update_master_clock":
            for vm in self.vms.values():
                self._clock_moved(vm)
            return
        if place == NO_PLACE:
            return
        number = -2 - place
        known = [vm.vcpus[number] for vm in self.vms.values() if number in vm.vcpus]
        for vcpu in known:
            if name in TIMER_EVENTS:
                if not 0 <= event[5] < len(vcpu.timers):
                    continue
                if name == "kvm_hv_stimer_callback":
                    self.timers.maybe_fired(vcpu, event[5])
                else:
                    vcpu.forget_timer(event[5])
            elif name == SET_MSR:
                vcpu.registers.pop(event[5], None)
                vcpu.sources_changed()
            elif name not in HARMLESS:
                # It may have been any of them.
                vcpu.forget(Reason.VM_AMBIGUOUS)

    def _clock_moved(self, vm: Vm) -> None:
        for vcpu in vm.vcpus.values():
            vcpu.reading, vcpu.grace = None, CLOCK_GRACE
            for timer in vcpu.timers:
                timer.expired = None

    # Entry and exit

    def _entry(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if vcpu.ending is not None:
            self._ended(vcpu)
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
        vcpu.out = vcpu.raced = vcpu.hyperv = vcpu.visited = vcpu.eom = False
        self.known.add(event[4])
        vcpu.kind = None
        vcpu.new_unit(whole=True)
        if vcpu.grace:
            vcpu.grace -= 1
            vcpu.reading = None

    def _exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if vcpu.ending is not None:
            self._ended(vcpu)
        vcpu.tid, vcpu.out, vcpu.exit_seq, vcpu.whole = event[4], True, event[0], True
        how = (event[6], event[5])
        unclear = event[6] is None or how in NESTED_ENTRIES
        vcpu.kind = "msr" if how in MSR_EXITS else None if unclear else "other"
        vcpu.effects.clear()

    def _userspace_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        reason, errno = event[5], event[6]
        vcpu.visited = True
        if reason is None or (errno is not None and errno < 0):
            return
        if reason in (SHUTDOWN, SYSTEM_EVENT):
            if reason == SYSTEM_EVENT and vcpu.kind in ("msr", "done") and vcpu.whole:
                asked = any(due.due is Due.EXIT and due.key == -reason for due in vcpu.dues)
                self.judge.ask(Moment.EXIT, UserspaceExit(vcpu, reason, asked), event, vcpu, cell)
            self._owed_exit(vcpu, reason)
            vcpu.vm.forget_silent()
        elif reason == HYPERV:
            caused = True if vcpu.hyperv else False if vcpu.whole else None
            self.judge.ask(Moment.EXIT, UserspaceExit(vcpu, reason, caused), event, vcpu, cell)
            self._owed_exit(vcpu, HYPERV)
        elif reason in (RDMSR, WRMSR):
            # Userspace completes the access: there is no kvm_msr.
            for due in vcpu.dues:
                if due.due is Due.MSR:
                    vcpu.drop(due)

    def _owed_exit(self, vcpu: Vcpu, reason: int) -> None:
        for due in vcpu.dues:
            if due.due is Due.EXIT and due.key == -reason:
                vcpu.meet(due)

    # MSRs

    def _cpuid(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.vm.exposure.learn(*event[5:11])

    def _msr(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if vcpu.ending is not None:
            self._ended(vcpu)
        write, index, value, refused = bool(event[5]), event[6], event[7], bool(event[8])
        row = by_index(index)
        fault = expected_fault(vcpu, row, index, write, value)
        before = None if row is None else known_value(vcpu, row)
        effects = vcpu.effects
        access = Access(
            event, cell, vcpu, index, row, write, value, refused, fault, before,
            [effect for effect, _ in effects], vcpu.whole, vcpu.vm.origin.get(index, ""),
            raced=self._raced(vcpu, row, before, value, write=write),
        )  # fmt: skip
        if write:
            self.timers.check_cleanups(vcpu, "kvm_msr")
        if vcpu.vm.undecided:
            self._decide(vcpu.vm, last=False)
        if fault.expected is None and fault.cause == "gate" and not self.judge.lossy:
            access.kept = self._undecided(access)
        diverged = self.judge.ask_access(access)
        for due in vcpu.dues:
            if due.due is Due.MSR:
                vcpu.meet(due)
        if write and row is not None and row.group in (Group.SYNIC, Group.STIMER, Group.SYNDBG):
            self._effects_judged(access, effects)
        self._learn(access)
        settle(access)
        if write and not refused and row is not None and row.group is Group.STIMER and not effects:
            # The write left no trace of its own: what the timer does now is not known.
            vcpu.forget_timer((index - STIMER0) >> 1)
        if not refused and row is not None:
            if row.group is Group.STIMER and not write:
                self.timers.read_back(vcpu, index, value, diverged=diverged)
            elif index in (REFERENCE, RUNTIME) and not write:
                self._clock_read(event, vcpu, cell, index, value)
            if write and row.exits is not Exit.NONE:
                self._must_exit(event, vcpu, cell, row, value)
        vcpu.effects.clear()
        vcpu.kind = "done"

    def _raced(self, vcpu: Vcpu, row: Msr | None, before: int | None, value: int, *, write: bool) -> bool:
        """A VM-wide register is read while another vCPU may be writing it: `kvm_msr` comes after the
        effect.
        """
        if row is None or write or row.scope.value != "VM" or before is None or before == value:
            return False
        if "kvm_exit" not in self.bench.traced:
            return True
        last = vcpu.vm.writes.get(row.index)
        if last is not None and last[2] != vcpu.number and last[0] > vcpu.exit_seq:
            return True
        return any(
            other is not vcpu and other.out and other.kind in ("msr", None)
            for other in vcpu.vm.vcpus.values()
        )

    def _learn(self, access: Access) -> None:
        """What the outcome tells about the VM."""
        vcpu, row, fault = access.vcpu, access.row, access.fault
        exposure = vcpu.vm.exposure
        if access.refused:
            if fault.cause == "absent" and fault.reason is Reason.PARAMETER_UNKNOWN:
                self.bench.ignore_msrs = False
            return
        if row is None or row.group is Group.KVM or row.group is Group.ABSENT:
            return
        if exposure.hyperv is None:
            exposure.hyperv = True
        if row.group in (Group.SYNIC, Group.STIMER) and vcpu.synic is None:
            vcpu.synic = True

    def _effects_judged(self, access: Access, effects: list[tuple[Event, list[bool]]]) -> None:
        """The effects were held against the write; of EOM, the acknowledgements are judged as well."""
        if not access.whole or self.judge.lossy:
            return
        for number, (effect, mark) in enumerate(effects):
            if effect[2] != ACKED:
                self.judge.mark(effect, mark)
                if access.index == EOM and effect[2] == SET_MSR:
                    after = effects[number + 1 :]
                    sources = [later[5] for later, _ in after if later[2] == ACKED]
                    subject = EndOfMessage(access.vcpu, sources, whole=True)
                    self.judge.ask(Moment.EOM, subject, effect, access.vcpu, mark)
            elif access.index == EOM:
                self.judge.mark(effect, mark)

    def _undecided(self, access: Access) -> bool:
        """Keep an access that enforcement decides, and take it as evidence where nothing else decides it."""
        row, exposure = access.row, access.vcpu.vm.exposure
        if row is None or row.gate is None or exposure.has(row.gate) is not False:
            return False
        vcpu = access.vcpu
        held = exposure.enforced
        exposure.enforced = False
        alone = expected_fault(vcpu, row, access.index, access.write, access.value).expected is False
        exposure.enforced = held
        if alone:
            exposure.witness(row.gate, access.refused)
        vm = vcpu.vm
        if not alone or len(vm.undecided) >= MAX_UNDECIDED:
            return False
        vm.undecided.append(access)
        return True

    def _decide(self, vm: Vm, *, last: bool) -> None:
        """Judge the accesses that were kept, once enforcement is known."""
        if not vm.undecided or (vm.exposure.conclude() is None and not last):
            return
        kept, vm.undecided = vm.undecided, []
        enforced = vm.exposure.conclude()
        for access in kept:
            access.kept, access.late = False, True
            # Nothing but the gate decides these.
            if enforced:
                access.fault = replace(access.fault, expected=True)
            elif enforced is False:
                access.fault = Fault(False, "", "CPUID is not enforced")
            self.judge.ask_access(access)

    def _must_exit(self, event: Event, vcpu: Vcpu, cell: list[bool], row: Msr, value: int) -> None:
        """The write asks for an exit to userspace before the next entry."""
        if row.name == "HV_X64_MSR_RESET" and value != 1:
            return
        if row.name == "HV_X64_MSR_CRASH_CTL" and not value >> 63:
            return
        if row.exits is Exit.HYPERV:
            vcpu.hyperv = True
        name = "KVM_EXIT_HYPERV" if row.exits is Exit.HYPERV else "KVM_EXIT_SYSTEM_EVENT"
        # The key tells exits from timers: negative numbers are userspace exits.
        vcpu.open(Due.EXIT, event, cell, 1, f"{name} ({row.exits.value})", -row.exits.value)

    def _clock_read(self, event: Event, vcpu: Vcpu, cell: list[bool], index: int, value: int) -> None:
        if index == REFERENCE:
            self.timers.saw_time(vcpu, value)
            before = None if vcpu.reading is None else vcpu.reading.value
            vcpu.reading = Reading(value, event)
        else:
            before = vcpu.registers.get(RUNTIME)
            vcpu.registers[RUNTIME] = value
        self.judge.ask(Moment.CLOCK, ClockMoment(vcpu, index, value, before), event, vcpu, cell)

    def _master_clock(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The reference time may pass to another formula."""
        self._clock_moved(vcpu.vm)

    def _tsc_written(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Userspace sets the TSC when it creates, resets or restores a vCPU; a guest may write it as well."""
        vcpu.vm.forget_silent()
        self._clock_moved(vcpu.vm)

    # Hypercalls and the debugger: as far as exits to userspace need them

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.hyperv = vcpu.visited = True
        vcpu.call = event[5]

    def _hypercall_done(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if vcpu.call is not None:
            self.judge.ask(Moment.CALL, Call(vcpu, vcpu.call, event[5]), event, vcpu, cell)
        vcpu.call = None

    def _syndbg(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.hyperv = True
        vcpu.effects.append((event, cell))


_NO_CELL: list[bool] = [True]


def _edges(losses: Sequence[Loss]) -> list[tuple[int, int]]:
    """Where losses begin (+1) and end (-1), in order."""
    edges: list[tuple[int, int]] = []
    for begin, end in losses:
        edges.append((-_FAR if begin is None else begin, 1))
        if end is not None:
            edges.append((end, -1))
    return sorted(edges)
