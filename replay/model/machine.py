"""The virtual machine and its vCPUs as the model knows them: registers, timers, what is owed, the exit at
hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.msr import MSRS, msr_name
from hvtrace.abi.msr_synic import STIMERS
from hvtrace.abi.register import Group, Kind, Scope
from hvtrace.replay.model.apic import Apic, Apics
from hvtrace.replay.model.clock import EMULATION_CONTROL, PageWrite, ReferenceTime, RunTime, Stamps
from hvtrace.replay.model.debugger import Debugger
from hvtrace.replay.model.exposure import Exposure, Offer
from hvtrace.replay.model.halt_poll import POLL_CONTROL, Halting, Parameters
from hvtrace.replay.model.paravirt import Interface, Paravirt
from hvtrace.replay.model.pvclock import Master
from hvtrace.replay.model.stimer import Stimer
from hvtrace.replay.model.vmbus import Bus, Recorded
from hvtrace.replay.obligation import Due, Obligation
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.judge import Judge
    from hvtrace.replay.model.access import Access
    from hvtrace.replay.model.clock import Reading
    from hvtrace.replay.model.hypercall import Call
    from hvtrace.replay.model.synic import EndOfInterrupt
    from hvtrace.replay.profile import Profile
    from hvtrace.replay.tape import Event

__all__ = ["Bench", "UserspaceExit", "Vcpu", "Vm"]

#: Events of a vCPU kept to show what led to a divergence.
HISTORY = 10

#: Entries after which a timer that fired and was not looked at is given up.
LATE = 4096

#: Registers userspace sets without an event: what is known of them ends where userspace may have been at
#: work.
SILENT_VM = tuple(m.index for m in MSRS if m.scope is Scope.VM and m.kind in (Kind.STORED, Kind.DEVICE))
SILENT_VCPU = tuple(
    m.index
    for m in MSRS
    if m.scope is Scope.VCPU
    and m.group not in (Group.SYNIC, Group.STIMER)
    and m.name != "HV_X64_MSR_VP_INDEX"
)

#: Registers that creation of the VM leaves at their reset value and that userspace seldom sets.
FRESH = tuple(
    (m.index, m.scope, m.reset)
    for m in MSRS
    if m.kind is Kind.STORED and m.reset is not None and m.group not in (Group.SYNIC, Group.STIMER)
    if m.storage is None
)


AS_CREATED = {m.index: m.reset for m in MSRS if m.reset is not None}


@dataclass(slots=True)
class Bench:
    """What everything in one replay shares.

    `traced` holds the tracepoints known to have been recorded. `ignore_msrs` is the module parameter (None:
    not
    known). `repeats` is true where the recorder may hold one event twice.
    """

    judge: Judge
    profile: Profile
    traced: frozenset[str]
    offer: Offer | None = None
    ignore_msrs: bool | None = None
    #: APICv or AVIC may serve VMs, or is switched off for every one (None: not known).
    apicv: bool | None = None
    #: Frequency of the guests' TSC as measured on the host (None: not known, or a guest was given another).
    tsc_khz: int | None = None
    repeats: bool = False
    stamps: Stamps = field(default_factory=Stamps)
    halt_poll: Parameters = field(default_factory=Parameters)
    #: What is known of QEMU's trace of VMBus (None: there is none).
    vmbus: Recorded | None = None


@dataclass(slots=True)
class UserspaceExit:
    """KVM_RUN returned with KVM_EXIT_HYPERV (27), or with KVM_EXIT_SYSTEM_EVENT (24) after an MSR access.

    `caused` is None where the exit's beginning was not seen.
    """

    vcpu: Vcpu
    reason: int
    caused: bool | None


@dataclass(slots=True, eq=False)
class Vm:
    """One virtual machine."""

    number: int
    bench: Bench
    exposure: Exposure
    why: Reason = Reason.STATE_UNSEEN
    registers: dict[int, int] = field(default_factory=dict)
    #: Why a register holds what it holds, where that is not simply a write.
    origin: dict[int, str] = field(default_factory=dict)
    #: Last guest write of a VM-wide register: rank of its event, the value before, the vCPU.
    writes: dict[int, tuple[int, int | None, int]] = field(default_factory=dict)
    vcpus: dict[int, Vcpu] = field(default_factory=dict)
    has_apic: bool | None = None
    entered: bool = False
    debugger: Debugger = field(default_factory=Debugger)
    paravirt: Interface = field(default_factory=Interface)
    master: Master = field(default_factory=Master)
    time: ReferenceTime = field(default_factory=ReferenceTime)
    apics: Apics = field(default_factory=Apics)
    #: Pages of guest memory from which the input of a hypercall was read: that they exist does not change.
    input_pages: set[int] = field(default_factory=set)
    #: Accesses that enforcement decides while it is not known.
    undecided: list[Access] = field(default_factory=list)
    #: VMBus, where QEMU traced it.
    vmbus: Bus | None = None

    def __post_init__(self) -> None:
        if self.bench.vmbus is not None:
            self.vmbus = Bus()

    def vcpu(self, number: int) -> Vcpu:
        """The vCPU of a number, made on first sight."""
        known = self.vcpus.get(number)
        if known is None:
            known = self.vcpus[number] = Vcpu(number, self)
            known.why = self.why
        return known

    @property
    def is_clock_frozen(self) -> bool:
        """The guest asked that its TSC page keep its contents: after a migration it has the rate of another host."""
        return bool(self.registers.get(EMULATION_CONTROL))

    def forget(self, why: Reason) -> None:
        """Events were lost: nothing is known any more but what the guest was offered."""
        self.why = why
        self.registers.clear()
        self.origin.clear()
        self.writes.clear()
        self.debugger = Debugger()
        self.time.lose()
        self.master.lost(self.vcpus)
        self.paravirt.old_clock = None
        if self.vmbus is not None:
            self.vmbus.forget(why)
        for vcpu in self.vcpus.values():
            vcpu.forget(why)

    def forget_silent(self) -> None:
        """Userspace may have written registers that leave no trace."""
        for index in SILENT_VM:
            self.registers.pop(index, None)
        self.master.lost(self.vcpus)
        self.paravirt.old_clock = None
        self.origin.clear()
        self.writes.clear()
        if self.vmbus is not None:
            # A reset of the machine resets VMBus without an event.
            self.vmbus.forget(Reason.STATE_UNSEEN)
        for vcpu in self.vcpus.values():
            vcpu.forget_silent()

    def create(self) -> None:
        """The VM is seen from its first instruction: registers nobody wrote hold their reset values."""
        for vcpu in self.vcpus.values():
            vcpu.apic.unseen, vcpu.apic.clear = 0, True
        for index, scope, reset in FRESH:
            if scope is Scope.VM:
                self.registers.setdefault(index, reset)
            else:
                for vcpu in self.vcpus.values():
                    vcpu.registers.setdefault(index, reset)
        self.paravirt.old_clock = False
        if self.vmbus is not None:
            self.vmbus.create()
        for vcpu in self.vcpus.values():
            vcpu.paravirt.whole = True


@dataclass(slots=True, eq=False)
class Vcpu:
    """One virtual processor."""

    number: int
    vm: Vm
    why: Reason = Reason.STATE_UNSEEN
    tid: int | None = None
    registers: dict[int, int] = field(default_factory=dict)
    timers: tuple[Stimer, ...] = field(default_factory=lambda: tuple(Stimer(n) for n in range(STIMERS)))
    synic: bool | None = None
    dues: list[Obligation] = field(default_factory=list)
    history: deque[Event] = field(default_factory=lambda: deque(maxlen=HISTORY))
    #: The exit at hand: seen from its start; its kind ("msr", "call", "other"); rank of kvm_exit; out of the guest.
    whole: bool = False
    kind: str | None = None
    exit_seq: int = -1
    #: The last kvm_exit, and whether an MSR other than a synthetic one was accessed before it (kvm_exit comes late).
    left: Event | None = None
    fastpath: bool = False
    #: Rank of the last interrupt or exception that was put into the guest: the exit was handled before it.
    injected: int = -1
    out: bool = False
    #: Guest-made effects since the exit that wait for their kvm_msr, with their marks.
    effects: list[tuple[Event, list[bool]]] = field(default_factory=list)
    #: Something in this exit asks for KVM_EXIT_HYPERV.
    hyperv: bool = False
    #: Interrupts raised by the vCPU's own thread since its last expiration: (sint, mark), and vectors
    #: accepted.
    raised: list[tuple[int, list[bool], Event]] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    #: In this exit the thread was in userspace, made a hypercall or acknowledged a source; userspace wrote EOM.
    visited: bool = False
    eom: bool = False
    apic: Apic = field(default_factory=Apic)
    #: Times each vector was taken by the APIC since it was last put into the guest; those of which KVM says that the
    #: APIC refused them.
    waiting: dict[int, int] = field(default_factory=dict)
    refused: dict[int, tuple[Event, list[bool]]] = field(default_factory=dict)
    #: A callback may still follow a cancelled timer.
    raced: bool = False
    #: SynIC registers before their last write (None: not known).
    former: dict[int, int | None] = field(default_factory=dict)
    #: The hypercall under way; the VP index that the guest read, which never changes.
    call: Call | None = None
    vp_index: int | None = None
    #: What the SynIC itself showed since the last write of a source: the vector a source raised, the sources an end of
    #: interrupt acknowledged.
    vectors: dict[int, int] = field(default_factory=dict)
    endings: dict[int, list[int]] = field(default_factory=dict)
    #: An interrupt's end whose acknowledgements are being collected.
    ending: EndOfInterrupt | None = None
    #: What is to be done when the exit is over: called once, at the next entry or exit at the latest.
    closing: list[Callable[[Vcpu], None]] = field(default_factory=list)
    reading: Reading | None = None
    grace: int = 0
    #: The thread's last event (ns) that is known to come before what it does next; -1: none.
    stamp: int = -1
    run_time: RunTime = field(default_factory=RunTime)
    #: REFERENCE_TSC was written in this exit.
    page: PageWrite | None = None
    #: The last entry was at the reset vector.
    resetting: bool = False
    halting: Halting = field(default_factory=Halting)
    paravirt: Paravirt = field(default_factory=Paravirt)
    #: Where the guest goes on, for what waits for the end of the exit (None: another event ended it).
    rip: int | None = None
    #: A guest hypervisor runs itself; false: it was seen to enter its guest (None: open).
    outermost: bool | None = None
    #: What the replay shares: the VM's.
    bench: Bench = field(init=False)

    def __post_init__(self) -> None:
        self.bench = self.vm.bench
        offer = self.bench.offer
        if offer is not None:
            self.synic = offer.synic

    def close(self) -> None:
        """Finish what waits for the end of the exit."""
        while self.closing:
            self.closing.pop(0)(self)

    def just_before(self) -> Event | None:
        """What the vCPU's own thread showed before the event at hand, interrupts of the host's timers left out."""
        past = iter(reversed(self.history))
        next(past, None)
        return next((e for e in past if e[4] == self.tid and e[2] != "kvm_hv_stimer_callback"), None)

    def accessed(self) -> None:
        """An MSR was accessed."""
        if self.kind == "msr":
            self.kind = "done"
        else:
            self.fastpath = True

    def effect(self, event: Event, cell: list[bool]) -> None:
        """A guest's MSR write shows an effect: its kvm_msr must follow."""
        self.effects.append((event, cell))
        if self.kind in ("msr", "call", "other") and self.whole:
            self.open(Due.MSR, event, cell, 1, "kvm_msr of the write")

    def forget(self, why: Reason) -> None:
        """Events were lost."""
        self.closing.clear()
        self.why = why
        self.abandon(why)
        self.registers.clear()
        self.former.clear()
        self.sources_changed()
        self.timers = tuple(Stimer(n) for n in range(STIMERS))
        self.apic = Apic()
        self.new_unit(whole=False)
        self.hyperv = False
        self.kind = None
        self.raced = True
        self.reading = self.ending = None
        self.history.clear()
        self.call = self.outermost = None
        self.visited = self.eom = False
        self.waiting.clear()
        self.refused.clear()
        self.halting.forget()
        self.paravirt = Paravirt()

    def forget_silent(self) -> None:
        """Userspace may have written registers that leave no trace."""
        for index in SILENT_VCPU:
            self.registers.pop(index, None)
        self.paravirt = Paravirt()
        self.apic.forget_silent()
        self.reading = None
        self.waiting.clear()

    def sources_changed(self) -> None:
        """A source's register was written, or may have been."""
        self.vectors.clear()
        self.endings.clear()
        self.apic.automatic.clear()

    def abandon(self, why: Reason) -> None:
        """No open obligation can be judged any more."""
        for due in self.dues:
            if due.met is None:
                due.met, due.excuse = False, why
                self.settle(due)
        self.dues.clear()
        for timer in self.timers:
            timer.drop_all()

    def forget_timer(self, number: int) -> None:
        """Nothing is known of one timer any more."""
        self.timers = tuple(Stimer(n) if n == number else timer for n, timer in enumerate(self.timers))
        for due in self.dues:
            if due.key == number and due.met is None:
                due.met, due.excuse = False, Reason.VM_AMBIGUOUS
                self.settle(due)

    def new_unit(self, *, whole: bool) -> None:
        """A new exit begins."""
        self.whole = whole
        if self.effects:
            self.effects.clear()
        if self.raised:
            self.raised.clear()
        if self.accepted:
            self.accepted.clear()

    def open(
        self, due: Due, event: Event, cell: list[bool], entries: int, detail: str, key: int = -1
    ) -> Obligation:
        """Owe something before the `entries`-th next entry of this vCPU."""
        obligation = Obligation(due, self, event, cell, entries, detail, key)
        self.dues.append(obligation)
        return obligation

    def meet(self, obligation: Obligation | None) -> None:
        """What was owed is there."""
        if obligation is not None and obligation.met is None:
            obligation.met = True
            self.settle(obligation)

    def drop(self, obligation: Obligation | None) -> None:
        """What was owed is overtaken by events: neither kept nor broken."""
        if obligation is not None and obligation.met is None:
            obligation.met = True

    def break_(self, obligation: Obligation, observed: str = "nothing", excuse: Reason | None = None) -> None:
        """The bound is passed, or something came that excludes it."""
        if obligation.met is None:
            obligation.met, obligation.observed, obligation.excuse = False, observed, excuse
            self.settle(obligation)

    def settle(self, obligation: Obligation) -> None:
        """Ask the rules about an obligation that is closed."""
        self.bench.judge.ask_due(obligation)

    def entered(self) -> None:
        """The vCPU enters the guest: count every obligation down and break those whose bound is passed."""
        still: list[Obligation] = []
        for due in self.dues:
            if due.met is not None:
                continue
            due.entries -= 1
            if due.entries > 0:
                still.append(due)
            elif due.due is Due.CALLBACK and not due.late:
                # The interrupt traces itself before it sets the request, and a host that is itself a guest may be
                # stopped between the two: an answer that comes late is one, and only its absence is held against KVM.
                due.late, due.entries = True, LATE
                still.append(due)
            else:
                self.break_(due, "the vCPU enters the guest without it")
                if 0 <= due.key < STIMERS:
                    self.timers[due.key].broken(due)
        self.dues = still

    def passed(self, entries: int) -> None:
        """The vCPU entered the guest that many times, and nothing else happened."""
        for _ in range(entries):
            if not self.dues:
                break
            self.entered()
        if self.grace:
            self.grace = max(self.grace - entries, 0)
            self.reading = None

    def describe(self) -> dict[str, str]:
        """The modelled state in words, registers at their reset values left out."""
        known = {**self.vm.registers, **self.registers}
        state = {
            msr_name(index) or f"0x{index:x}": f"0x{value:x}"
            for index, value in sorted(known.items())
            if index not in AS_CREATED or AS_CREATED[index] != value
        }
        for timer in self.timers:
            if (text := timer.describe()) is not None and (timer.config or timer.count):
                state[f"stimer{timer.number}"] = text
        if self.halting.poll:
            state["halt_poll_ns"] = str(self.halting.poll)
        if not self.registers.get(POLL_CONTROL, 1) & 1:
            state["halt polling"] = "by the guest itself"
        if self.vm.exposure.enforced is not None:
            state["CPUID enforced"] = str(self.vm.exposure.enforced).lower()
        return state
