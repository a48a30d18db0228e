"""Sets of virtual processors as hypercalls name them: by VP index (TLFS, Virtual processor sets; kvm_hv_get_vpindex).

A VP index is not the vCPU's number: KVM counts vCPUs in the order of their creation unless userspace says otherwise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.hypercall import Call
    from hvtrace.replay.model.machine import Vcpu, Vm
    from hvtrace.replay.tape import Event

__all__ = ["VP_INDEX", "Flushed", "Input", "Sent", "VpSet", "indices", "vp_set"]

VP_INDEX = 0x4000_0002

#: Virtual processors a bank covers; banks a set may have.
BANK, BANKS = 64, 64

#: Flag of a flush: all processors, whatever the mask says.
ALL_PROCESSORS = 1


@dataclass(frozen=True, slots=True)
class VpSet:
    """All processors, or those of a mask, or those that the banks of a sparse set hold, of which only the banks'
    numbers are known.
    """

    everyone: bool = False
    mask: int = 0
    banks: int = 0

    def has(self, index: int | None) -> bool | None:
        """Whether a VP is in the set; None: not known."""
        if self.everyone:
            return True
        if index is None:
            return False if not self.mask and not self.banks else None
        if self.banks:
            return None if index < BANK * BANKS and self.banks >> index // BANK & 1 else False
        return index < BANK and bool(self.mask >> index & 1)


@dataclass(slots=True)
class Input:
    """The decoded input of a call is traced; `call` is the one under way, if there is one."""

    vcpu: Vcpu
    call: Call | None
    event: Event
    #: It is the first of its kind in this call.
    first: bool = True


@dataclass(slots=True)
class Sent:
    """An IPI hypercall is over: whom it addressed, whether it succeeded (None: not seen), who took its vector.

    `known` are the numbers of the vCPUs that were seen before the call.
    """

    call: Call
    targets: VpSet
    succeeded: bool | None
    known: frozenset[int]
    #: Interrupts with the vector that APICs took, by vCPU, and the vectors of others that they took meanwhile.
    took: Counter[int] = field(default_factory=Counter)
    others: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Flushed:
    """A TLB flush is over, and these vCPUs, which it addressed and which were in the guest, have not left it since."""

    call: Call
    running: list[Vcpu]


def vp_set(event: Event) -> VpSet:
    """The set that the event of a call's decoded input names."""
    name = event[2]
    if name == "kvm_hv_send_ipi":
        return VpSet(mask=event[6])
    if name == "kvm_hv_send_ipi_ex":
        # Only format 1 means all here; for a flush each but 0 does.
        return VpSet(everyone=event[6] == 1, banks=event[7])
    if name == "kvm_hv_flush_tlb":
        # KVM takes an empty mask for all: some guests mean that.
        return VpSet(everyone=not event[5] or bool(event[7] & ALL_PROCESSORS), mask=event[5])
    return VpSet(everyone=event[6] != 0, banks=event[5])


def indices(vm: Vm) -> dict[int, int | None]:
    """The VP index of each vCPU by its number, as far as it is known.

    A guest reads it from HV_X64_MSR_VP_INDEX. Where it did not, the index is the vCPU's number if no vCPU's index is
    another one and all lower numbers exist: userspace numbers vCPUs upwards and creates them in that order.
    """
    read = {number: vcpu.vp_index for number, vcpu in vm.vcpus.items() if vcpu.vp_index is not None}
    odd = any(number != index for number, index in read.items())
    claimed = list(read.values())
    gapless = 0
    while gapless in vm.vcpus:
        gapless += 1
    found: dict[int, int | None] = {}
    for number in vm.vcpus:
        index = read.get(number)
        if index is not None:
            found[number] = index if claimed.count(index) == 1 else None
        else:
            found[number] = None if odd or number >= gapless else number
    return found
