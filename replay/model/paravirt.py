"""KVM's own paravirt interface: what a VM is offered, and what its vCPUs have in use (arch/x86/kvm/x86.c, cpuid.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.replay.model.pvclock import SYSTEM_TIME, Clock

if TYPE_CHECKING:
    from hvtrace.replay.model.access import Access
    from hvtrace.replay.model.machine import Vcpu, Vm
    from hvtrace.replay.tape import Event

__all__ = [
    "ALL_WOKEN",
    "ASYNC_PF_EN",
    "ASYNC_PF_INT",
    "STEAL_TIME",
    "SYSTEM_TIME",
    "AsyncFault",
    "Interface",
    "Paravirt",
    "Request",
    "TlbFlush",
    "delivers",
    "interrupts",
    "is_firmware",
    "offers",
    "reset_by_init",
]

ASYNC_PF_EN, STEAL_TIME = 0x4B56_4D02, 0x4B56_4D03
PV_EOI_EN, ASYNC_PF_INT = 0x4B56_4D04, 0x4B56_4D06

#: Registers that INIT clears, as a reset does (kvm_vcpu_reset); POLL_CONTROL stays.
INIT_CLEARS = (SYSTEM_TIME, ASYNC_PF_EN, STEAL_TIME, PV_EOI_EN, ASYNC_PF_INT)

#: KVM's and Xen's signatures in EBX, ECX, EDX of the first leaf of a range.
KVM_SIGNATURE = (0x4B4D_564B, 0x564B_4D56, 0x4D)
XEN_SIGNATURE = (0x566E_6558, 0x6558_4D4D, 0x4D4D_566E)

#: The token that wakes every waiting task.
ALL_WOKEN = 0xFFFF_FFFF

#: Memory without holes on PC machines, apart from the one below 1 MiB: up to where devices begin at the earliest.
HOLE, MEGABYTE, DEVICES = 0xA_0000, 0x10_0000, 0x8000_0000


@dataclass(slots=True)
class Interface:
    """What is known of one VM's interface. None: not known.

    `features` is EAX of KVM's feature leaf, `xen` whether Xen's signature was offered, `reached` the highest guest
    physical address at which KVM reached memory, `accounted` whether the host accounts scheduling delays,
    `map_exits` whether userspace asked for MAP_GPA_RANGE, `old_clock` whether the boot vCPU uses the old clock MSR.
    `refused` are writes that may have failed for want of memory.
    """

    base: int | None = None
    features: int | None = None
    xen: bool = False
    reached: int = 0
    accounted: bool | None = None
    map_exits: bool | None = None
    old_clock: bool | None = None
    refused: list[Access] = field(default_factory=list)

    def learn(self, leaf: int, rax: int, signature: tuple[int, int, int], found: bool | None) -> None:
        """A CPUID answer the guest got."""
        if leaf & 0xFF == 0 and signature == KVM_SIGNATURE:
            self.base = leaf
        elif leaf & 0xFF == 0 and signature == XEN_SIGNATURE:
            self.xen = True
        elif self.base is not None and leaf == self.base + 1 and found is not False:
            self.features = rax & 0xFFFF_FFFF

    def saw_memory(self, address: int) -> None:
        """KVM reached guest memory at this address."""
        if address < DEVICES:
            self.reached = max(self.reached, address | 0xFFF)

    def is_memory(self, address: int) -> bool:
        """Whether an address is certainly guest memory (false: it may be)."""
        return address < HOLE or HOLE + 0x2_0000 <= address < MEGABYTE or MEGABYTE <= address <= self.reached


@dataclass(slots=True)
class Paravirt:
    """One vCPU's state beside its registers.

    `flushing`: kvm_pv_tlb_flush was seen since STEAL_TIME was enabled. `waiting` holds the pages that are being
    fetched: (address, frame) by token; `whole` is true where all of them are known. `tried` is the last
    kvm_try_async_get_page of this exit. `wakes` counts what may wake every task; `last` is the last token's counter.
    """

    clock: Clock = field(default_factory=Clock)
    flushing: bool = False
    waiting: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    whole: bool = False
    tried: Event | None = None
    wakes: int = 0
    last: int | None = None
    #: The first exit for one of KVM's registers since INIT: in the next one INIT has taken.
    first: int | None = None

    def describe(self) -> dict[str, str]:
        """What is known, in words."""
        clock, point = self.clock, self.clock.point
        version = "not published" if clock.version is None else f"version {clock.version}"
        time = "" if point is None else f", {point.time} ns at TSC 0x{point.tsc:x}"
        pages = ", ".join(f"token 0x{token:x}" for token in sorted(self.waiting)) or "none"
        return {
            "kvmclock": version + time,
            "steal time": "kept" if self.flushing else "not kept",
            "pages under way": pages if self.whole else f"{pages} seen",
        }


@dataclass(slots=True)
class TlbFlush:
    """kvm_pv_tlb_flush: whether steal time is on, and whether the guest may have the feature (None: open)."""

    vcpu: Vcpu
    enabled: bool | None
    offered: bool | None


@dataclass(slots=True)
class AsyncFault:
    """A page that is not present: its token, the address and frame that were tried in this exit.

    `tried` is None where no try was seen in a whole exit, `known` whether the exit and all waiting pages were seen;
    `again` is true for a repeated fault, which has no token.
    """

    vcpu: Vcpu
    address: int
    known: bool
    tried: Event | None
    waiting: bool
    token: int | None = None
    frame: int | None = None
    last: int | None = None

    @property
    def again(self) -> bool:
        """The page is on its way already."""
        return self.token is None


@dataclass(slots=True)
class Request:
    """kvm_async_pf_ready: `asked` says whether what it completes was seen to begin (None: it may have)."""

    vcpu: Vcpu
    token: int
    address: int
    asked: bool | None
    expected: int | None = None


def is_firmware(address: int) -> bool:
    """Whether an address is in the firmware's shadow, which becomes read-only: a page there is not written any more."""
    return HOLE <= address < MEGABYTE


def offers(vm: Vm, *features: int) -> bool | None:
    """Whether KVM serves what belongs to any of these feature bits; None: not known.

    Without KVM_CAP_ENFORCE_PV_FEATURE_CPUID it serves everything.
    """
    offer, seen = vm.bench.offer, vm.paravirt.features
    if vm.bench.profile.fact("pv_enforces") is False or (offer is not None and not offer.pv_enforced):
        return True
    if seen is None:
        return None
    bits = {bool(seen >> feature & 1) for feature in features}
    if bits == {True}:
        return True
    # Refused only where it is enforced; where the trees look at different bits, either goes.
    return False if bits == {False} and offer is not None else None


def interrupts(vm: Vm) -> bool | None:
    """Whether KVM tells by an interrupt that a page became ready, and has the registers for it; None: not known."""
    fact, seen = vm.bench.profile.fact("async_pf_int"), vm.paravirt.features
    return True if fact is None and seen is not None and seen >> 14 & 1 else fact


def delivers(vcpu: Vcpu, value: int | None = None) -> bool | None:
    """Whether asynchronous page faults are told to the guest: ASYNC_PF_EN, or what it will hold; None: not known."""
    held = vcpu.registers.get(ASYNC_PF_EN) if value is None else value
    if held is None or not held & 1:
        return None if held is None else False
    told = interrupts(vcpu.vm)
    return bool(held & 8) or (None if told is None else not told)


def reset_by_init(vcpu: Vcpu) -> None:
    """INIT is on its way to the vCPU: when it takes it is not traced, and what it clears is not known any more."""
    for index in INIT_CLEARS:
        vcpu.registers.pop(index, None)
    vcpu.paravirt = Paravirt(first=-1)
