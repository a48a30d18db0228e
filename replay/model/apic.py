"""The local APIC as the trace shows it: what it took, what is in service, how interrupts end (arch/x86/kvm/lapic.c).

TLFS, Virtual interrupt controller; Intel SDM 3, "Local APIC". Nothing here looks at registers that the guest can change
without an exit (CR8, and all of them where APICv or AVIC serves the guest).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.msr_synic import SINTS
from hvtrace.replay.model.synic import SINT0, SOURCES, masked
from hvtrace.replay.model.synic import vector as vector_of

if TYPE_CHECKING:
    from hvtrace.replay.model.access import Access
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.obligation import Obligation
    from hvtrace.replay.tape import Event

__all__ = [
    "BUSY", "CLASSES", "ENABLED", "EOI_REGISTER", "ICR_HIGH", "ICR_LOW", "ID_REGISTER", "LEVEL", "MODE_FIXED",
    "MODE_INIT", "MODE_LOWEST", "MODE_MASK", "SPURIOUS", "TPR_REGISTER", "UNASKED_UNSURE", "Apic", "Apics", "Armed",
    "Delivery", "EndOfService", "Inhibition", "Ipi", "LazyEnd", "Pending", "Skipped", "Through", "automatic",
    "destinations", "moves_automatic", "served", "settled", "uses_automatic",
]  # fmt: skip

#: Registers of the APIC page.
ID_REGISTER, TPR_REGISTER, EOI_REGISTER, SPURIOUS = 0x20, 0x80, 0xB0, 0xF0
ICR_LOW, ICR_HIGH = 0x300, 0x310

#: Spurious-interrupt vector register, bit 8: the APIC is enabled.
ENABLED = 1 << 8

#: Bits of the interrupt command register.
MODE_MASK, LOGICAL, BUSY, ASSERT, LEVEL, SHORTHAND = 0x700, 0x800, 0x1000, 0x4000, 0x8000, 0xC0000
MODE_FIXED, MODE_LOWEST, MODE_NMI, MODE_INIT, MODE_STARTUP = 0x000, 0x100, 0x400, 0x500, 0x600

#: Delivery modes that reach every destination.
TO_ALL = frozenset({MODE_FIXED, MODE_NMI, MODE_INIT, MODE_STARTUP})

#: Priority classes a vector may have (its upper four bits).
CLASSES = 16

#: SINT bit 17: taking the interrupt ends it.
AUTO_EOI = 1 << 17

#: A source that does nothing: SINT bit 16.
MASKED = 1 << 16

#: The lowest vector of a source that the SynIC looks at.
LOWEST_VECTOR = 16

#: What a hard interrupt may show in whatever thread it comes upon.
SUDDEN = frozenset(
    {"kvm_apic_accept_irq", "kvm_apicv_accept_irq", "kvm_hv_synic_set_irq", "kvm_hv_stimer_callback"}
)

#: Key of an obligation that cannot be held against KVM: an end without a write may be the hardware's.
UNASKED_UNSURE = -3


@dataclass(slots=True)
class Pending:
    """An interrupt the APIC took and did not deliver yet: rank of its event; by the vCPU's own thread; level triggered;
    as an inter-processor interrupt; `sure` where the APIC is known to have been enabled; taken `again` meanwhile: that
    is traced before it is pending, which may be after the delivery of the first.
    """

    seq: int
    own: bool
    level: bool
    ipi: bool
    sure: bool
    again: bool = False


@dataclass(slots=True)
class Apic:
    """One vCPU's APIC.

    `service` are the vectors known to be in service, `perhaps` those that may be. Interrupts that were delivered before
    anything was seen have priority classes below `unseen`.
    """

    pending: dict[int, Pending] = field(default_factory=dict)
    service: set[int] = field(default_factory=set)
    perhaps: set[int] = field(default_factory=set)
    unseen: int = CLASSES
    #: Nothing was pending before what `pending` has. The APIC is enabled (SVR bit 8).
    clear: bool = False
    enabled: bool = False
    #: Rank of the delivery of each vector in service.
    delivered: dict[int, int] = field(default_factory=dict)
    #: The same of the vector that ended last (-1: not known).
    delivered_seq: int = -1
    #: The flag of the paravirtual EOI is registered.
    lazy: bool | None = None
    #: The MSR that registered it last.
    lazy_by: int = 0
    #: Vectors whose handlers looked at the flag since it was registered.
    lazy_vectors: set[int] = field(default_factory=set)
    #: Vector that was ended by the flag; nothing was delivered since (-1: none).
    ended_lazily: int = -1
    #: Interrupts were injected in software, which APICv does not do.
    software: bool = False
    #: The command register, where it was last written through the synthetic MSR.
    command: int | None = None
    #: Accesses to APIC registers and interrupts sent in the exit whose kvm_exit has rank `unit`, with their marks.
    acts: list[tuple[Event, list[bool]]] = field(default_factory=list)
    unit: int = -1
    #: The interrupt the vCPU is sending.
    sent: Ipi | None = None
    #: Vectors known to be of sources with auto-EOI, or not, as the sources are.
    automatic: dict[int, bool] = field(default_factory=dict)
    #: An interrupt was sent, and a write of the command register that asks for it may follow; or the other way round.
    unclaimed: Event | None = None
    commanded: Obligation | None = None
    #: A write of the EOI register waits for its kvm_eoi; an end without such a write for its kvm_pv_eoi; a delivery
    #: that armed the flag for its end; the priority last written through the synthetic MSR.
    asked: Obligation | None = None
    unasked: Obligation | None = None
    chance: Obligation | None = None
    priority: Obligation | None = None
    #: An end by a write that the flag could have spared, until it is seen which register was written.
    skipped: tuple[Event, list[bool]] | None = None
    #: Ends by the flag that an older interrupt should have forbidden, by the vector of that interrupt.
    suspects: dict[int, tuple[Event, list[bool]]] = field(default_factory=dict)
    #: Something of this vCPU's interrupts was seen since the last loss.
    seen: bool = False

    def forget_silent(self) -> None:
        """Userspace may have written the APIC's registers."""
        self.pending.clear()
        self.unknown()
        self.unseen = CLASSES
        self.perhaps.clear()
        self.lazy = self.command = None
        self.lazy_vectors.clear()
        self.suspects.clear()
        self.software = self.clear = self.enabled = False
        self.asked = self.unasked = None

    def unknown(self) -> None:
        """What was in service may be over."""
        self.perhaps |= self.service
        self.service.clear()
        self.delivered.clear()
        self.ended_lazily = -1
        self.chance = self.priority = None

    def take(self, vector: int, pending: Pending) -> None:
        """An interrupt was accepted."""
        known = self.pending.setdefault(vector, pending)
        known.again |= known is not pending and not pending.own

    def deliver(self, vector: int, seq: int, *, certain: bool) -> None:
        """An interrupt of this APIC was delivered to the guest, and is in service until its end."""
        if not certain:
            self.perhaps.add(vector)
            return
        self.service.add(vector)
        self.delivered[vector] = seq
        # It would not have been delivered beside one of its class or of a higher one.
        self.unseen = min(self.unseen, vector >> 4)

    def describe(self) -> dict[str, str | bool | None]:
        """The state in words; below priority class `unseen` there may be more in service."""
        known = "known" if not self.unseen else f"known from priority class {self.unseen}"
        return {
            f"in service ({known})" if self.unseen < CLASSES else "in service": _vectors(self.service),
            "perhaps in service": _vectors(self.perhaps),
            "pending": _vectors(self.pending),
            "PV EOI registered": self.lazy,
            "ended by PV EOI last": str(self.ended_lazily) if self.ended_lazily >= 0 else "none",
            "ICR": None if self.command is None else f"0x{self.command:x}",
        }

    def end(self, vector: int) -> None:
        """The interrupt of highest priority is over."""
        self.service.discard(vector)
        self.delivered.pop(vector, None)
        if self.perhaps:
            self.perhaps = {other for other in self.perhaps if other < vector}
        self.unseen = min(self.unseen, (vector >> 4) + 1 if vector >= 0 else 0)


@dataclass(slots=True)
class Apics:
    """What the APICs of a VM have in common."""

    #: APICv or AVIC serves the guest (None: not known).
    accelerated: bool | None = None
    #: APIC ids are the vCPUs' numbers: no guest wrote one.
    renumbered: bool = False
    #: L1 is a hypervisor: interrupts reach it by nested exits as well.
    nested: bool = False
    #: Blocks of eight vectors that a 8259 may have.
    legacy: set[int] = field(default_factory=set)
    #: The flag was used, by any vCPU at any time.
    used: bool = False
    #: How many deliveries armed the flag in vain since it was last registered; the first of these.
    skipped: int = 0
    first_skipped: tuple[Vcpu, Event, list[bool]] | None = None

    def describe(self) -> dict[str, bool | None]:
        """What matters to the rules, in words."""
        return {"accelerated": self.accelerated, "nested guests": self.nested, "PV EOI used": self.used}


@dataclass(slots=True)
class EndOfService:
    """An interrupt ends (kvm_eoi): `highest` is the highest vector known to be in service (-1: none), `perhaps` whether
    the one that ended may have been in service, `complete` whether all of its class or higher are known.

    `judgeable` is false where the APIC may be served in hardware; `lazily` is the vector that the flag ended just
    before this end by a write (-1: none).
    """

    vcpu: Vcpu
    vector: int
    highest: int
    perhaps: bool
    complete: bool
    judgeable: bool
    lazily: int


@dataclass(slots=True)
class LazyEnd:
    """kvm_pv_eoi: the vector of the kvm_eoi before it (None: there was none in this exit), whether that is known,
    whether the flag is registered (None: not known), and whether an MSR access was complete in this exit.
    """

    vcpu: Vcpu
    vector: int
    before: int | None
    known: bool
    lazy: bool | None
    late: bool


@dataclass(slots=True)
class Skipped:
    """An interrupt, delivered with nothing else pending, was ended in the next exit: by the flag (`used`) or by a write
    of EOI. How many such writes there were in the VM, and whether this vector's handler, or any, is known to look at
    the flag.
    """

    used: bool
    vector: int
    number: int
    known: bool
    ever: bool


@dataclass(slots=True)
class Armed:
    """The flag ended `ended` although `waiting` had been pending since before its delivery."""

    vcpu: Vcpu
    waiting: int
    ended: int


@dataclass(slots=True)
class Delivery:
    """An interrupt is delivered while others of higher vectors, which the APIC is sure to have taken, wait; `sure`
    where it is sure to have taken this one.
    """

    vector: int
    sure: bool
    waiting: list[int]


@dataclass(slots=True)
class Inhibition:
    """A source was written, which makes the vCPU's first vector with auto-EOI or takes its last one away; or it gives
    the only one another vector (`moved`), which does both, in the order of taking and making.

    `offered` tells whether APICv may be used in VMs at all (None: not known), `used` whether some vCPU of the VM has
    such a vector then (None: not known); `shown` are the changes of APICv's inhibition by Hyper-V in this exit.
    """

    access: Access
    changed: bool | None
    moved: bool
    offered: bool | None
    used: bool | None
    shown: list[Event]


@dataclass(slots=True)
class Through:
    """An access to an APIC register through a synthetic MSR, and the events of the APIC it led to.

    `command` is what the command register must hold, `priority` what was written to TPR just before (None: not known).
    """

    access: Access
    register: int
    acts: list[Event]
    command: int | None
    priority: int | None


@dataclass(slots=True)
class Ipi:
    """An interrupt was sent through the command register: who must have taken it (None: not known; `exact`: and nobody
    else), and the events of those who took one with its mode and vector, with the vCPU's number.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    expected: set[int] | None
    exact: bool
    taken: list[tuple[Event, list[bool], int]] = field(default_factory=list)

    @property
    def command(self) -> int:
        """Low half of the command register."""
        return int(self.event[5])


def destinations(vcpu: Vcpu, command: int, target: int) -> tuple[set[int] | None, bool]:
    """The vCPUs that must take an interrupt sent by `vcpu`, and whether there can be no others (kvm_apic_match_dest).

    Only vCPUs that were seen are named, by their numbers, which are their APIC ids as long as no guest writes these.
    """
    vm = vcpu.vm
    if command & MODE_MASK not in TO_ALL or vm.apics.renumbered or vm.apics.nested:
        return None, False
    if command & MODE_MASK == MODE_INIT and not command & ASSERT:
        return None, False
    shorthand = (command & SHORTHAND) >> 18
    if shorthand == 1:
        return {vcpu.number}, True
    if shorthand == 2:
        return set(vm.vcpus), False
    if shorthand == 3:
        return set(vm.vcpus) - {vcpu.number}, False
    if command & LOGICAL:
        return None, False
    if target in (0xFF, 0xFFFF_FFFF) or target not in vm.vcpus:
        return None, False
    return {target}, True


def _vectors(vectors: Iterable[int]) -> str:
    return " ".join(map(str, sorted(vectors))) or "none"


def automatic(vcpu: Vcpu, vector: int) -> bool | None:
    """Whether an interrupt ends as it is taken: some unmasked source of its vector says so (kvm_get_apic_interrupt)."""
    if vcpu.synic is False or vcpu.vm.exposure.hyperv is False:
        return False
    found = vcpu.apic.automatic.get(vector)
    if found is None:
        found = _automatic(vcpu, vector)
        if found is not None:
            vcpu.apic.automatic[vector] = found
    return found


def _automatic(vcpu: Vcpu, vector: int) -> bool | None:
    known = list(map(vcpu.registers.get, SOURCES))
    if any(s and s & AUTO_EOI and vector_of(s) == vector and not masked(s) for s in known):
        return True
    return None if None in known else False


def uses_automatic(vcpu: Vcpu, former: tuple[int, int | None] | None = None) -> bool | None:
    """Whether the vCPU has a vector with auto-EOI (None: not known); `former`: as if a register held what it held."""
    known = {SINT0 + n: vcpu.registers.get(SINT0 + n) for n in range(SINTS)}
    if former is not None:
        known[former[0]] = former[1]
    values = known.values()
    if any(
        s is not None and not masked(s) and s & AUTO_EOI and vector_of(s) >= LOWEST_VECTOR for s in values
    ):
        return True
    return None if None in values else False


def moves_automatic(vcpu: Vcpu, index: int, former: int | None) -> bool:
    """Whether a source that was rewritten may have taken the vCPU's only vector with auto-EOI from one to another."""
    now = vcpu.registers.get(index)
    if uses_automatic(vcpu, (index, MASKED)):
        return False
    return former is None or now is None or vector_of(former) != vector_of(now)


def settled(vcpu: Vcpu) -> int:
    """Rank up to which interrupts that the vCPU's own thread raised were pending as it chose one to deliver: later ones
    may have been raised by a hard interrupt (a device that was passed through) between the choice and its event.
    """
    past = (event for event in reversed(vcpu.history) if event[4] == vcpu.tid and event[2] not in SUDDEN)
    next(past, None)
    return max(vcpu.exit_seq, int(next(past, (-1,))[0]))


def served(vcpu: Vcpu) -> bool:
    """Whether a synthetic register was accessed in this exit. Other registers may be served before the flag is looked
    at (handle_fastpath_set_msr_irqoff); an entry that was prepared and then given up looks at it once more.
    """
    if vcpu.kind != "done" or vcpu.injected > vcpu.exit_seq:
        return False
    return any(past[2] == "kvm_msr" and past[0] > vcpu.exit_seq for past in vcpu.history)
