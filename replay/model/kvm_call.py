"""KVM's own hypercalls: what each must bring about (kvm_emulate_hypercall, kvm_pv_kick_cpu_op, kvm_pv_send_ipi).

A call has no event at its end, and its result is not traced: what follows it until the vCPU enters the guest tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.replay.model.paravirt import offers

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["KICK", "MAP_GPA_RANGE", "Interrupt", "KvmCall", "Uncalled", "is_kernel", "maps"]

KICK_CPU, SEND_IPI, MAP_GPA_RANGE = 5, 10, 12

#: The register that switches to Hyper-V's ABI.
GUEST_OS_ID = 0x4000_0000

#: Delivery mode of a kick (remote read, which has no vector), and of any: bits 10:8 as in ICR.
KICK, MODES = 0x300, 0x700

#: ICR bits SEND_IPI refuses: logical destination, shorthand.
REFUSED = 0xC_0800

#: APIC ids that address every vCPU.
BROADCAST = (0xFF, 0xFFFF_FFFF)

U32 = 0xFFFF_FFFF

#: APIC ids a word of SEND_IPI's bitmap covers in 64-bit mode.
CLUSTER = 64


@dataclass(frozen=True, slots=True)
class Interrupt:
    """kvm_apic_accept_irq: the vCPU, the vector, the delivery mode in bits 10:8."""

    vcpu: int
    vector: int
    mode: int


@dataclass(slots=True)
class KvmCall:
    """kvm_hypercall and what its thread did until the next entry.

    `exits`: KVM_EXIT_HYPERCALL followed. `kernel` says whether the call came from the guest's kernel, as far as the
    next entry's instruction pointer tells (None: not known): KVM refuses calls from user mode after it traced them.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    accepted: list[Interrupt] = field(default_factory=list)
    marks: list[tuple[Event, list[bool]]] = field(default_factory=list)
    exits: bool = False
    kernel: bool | None = None

    @property
    def number(self) -> int:
        """Which call."""
        return int(self.event[5])

    @property
    def is_open(self) -> bool:
        """Whether it may be another call: of a 32-bit caller the lower halves count alone."""
        return self.kernel is not True and bool(self.number & ~U32)

    @property
    def kicks(self) -> list[int]:
        """The vCPUs that were kicked."""
        return [interrupt.vcpu for interrupt in self.accepted if interrupt.mode == KICK]

    @property
    def sent(self) -> list[int]:
        """The vCPUs that took what SEND_IPI's ICR asks for."""
        icr = self.event[9]
        wanted = (icr & 0xFF, icr & MODES)
        return [taken.vcpu for taken in self.accepted if (taken.vector, taken.mode) == wanted]

    @property
    def addressed(self) -> list[int] | None:
        """APIC ids that must get an interrupt, ascending; None: that depends on more than the call.

        They are the vCPUs' numbers as long as no guest writes an APIC's id.
        """
        if self.vcpu.vm.apics.renumbered:
            return None
        if self.number == KICK_CPU:
            target = self.event[7] & 0xFFFF_FFFF
            return None if target in BROADCAST else [target]
        if self.number != SEND_IPI or self.event[9] & REFUSED:
            return []
        lowest = self.event[8] & 0xFFFF_FFFF
        # KVM reckons in 32 bits: above the last id it begins again.
        low, high = _bits(self.event[6], lowest), _bits(self.event[7], (lowest + CLUSTER) & U32)
        return low + high

    @property
    def served(self) -> bool | None:
        """Whether KVM serves the call at all: the caller's mode and, where it is enforced, the feature's bit."""
        feature = {KICK_CPU: 7, SEND_IPI: 11, MAP_GPA_RANGE: 16}.get(self.number)
        offered = None if feature is None else offers(self.vcpu.vm, feature)
        return None if self.kernel is not True or offered is None else offered


@dataclass(slots=True)
class Uncalled:
    """An exit for a hypercall, without a hypercall."""

    vcpu: Vcpu

    @property
    def is_kvm(self) -> bool | None:
        """Whether KVM's own ABI had to take it, which always traces the call; None: another may have."""
        vm, profile = self.vcpu.vm, self.vcpu.bench.profile
        if vm.paravirt.xen or vm.paravirt.features is None:
            return None
        if profile.fact("needs_cpuid") and vm.exposure.hyperv is False:
            return True
        changing = any(
            other is not self.vcpu and other.out and other.kind in ("msr", None)
            for other in vm.vcpus.values()
        )
        if profile.fact("abi_by_page") is not False or changing:
            return None
        return True if vm.registers.get(GUEST_OS_ID) == 0 else None


def _bits(word: int, lowest: int) -> list[int]:
    return [lowest + bit for bit in range(CLUSTER) if word >> bit & 1]


def maps(call: KvmCall) -> bool:
    """Whether a call is a MAP_GPA_RANGE that userspace may serve: aligned, not empty, not wrapping."""
    address, pages = call.event[6], call.event[7]
    if call.kernel is not True and (address >> 12) + pages >= 1 << 64:
        address, pages = address & U32, pages & U32
    whole = call.number == MAP_GPA_RANGE and not address & 0xFFF and pages > 0
    return whole and (address >> 12) + pages < 1 << 64


def is_kernel(rip: int | None) -> bool | None:
    """Whether an instruction pointer is a kernel's: the upper half is, of the lower half one cannot tell."""
    return True if rip is not None and rip >> 63 else None
