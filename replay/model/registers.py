"""What is known of the stored registers, and how accesses change it (synic_set_msr, kvm_hv_set_msr_pw, …)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.msr import by_index
from hvtrace.abi.register import Group, Kind, Msr, Scope
from hvtrace.replay.model.access import (
    ASSIST_PAGE,
    GUEST_OS_ID,
    HYPERCALL,
    PV_EOI_EN,
    Access,
    legalise,
)

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu

__all__ = ["STIMER0", "holds", "host_wrote", "known_value", "settle"]

STIMER0 = 0x4000_00B0


def holds(row: Msr) -> bool:
    """Whether a read returns what was stored, and nothing but accesses and userspace changes that."""
    return row.kind in (Kind.STORED, Kind.CONSTANT)


def known_value(vcpu: Vcpu, row: Msr) -> int | None:
    """What a read must return now; None: not known."""
    if row.reads is not None:
        return row.reads
    if not holds(row):
        return None
    if row.group is Group.STIMER:
        timer = vcpu.timers[(row.index - STIMER0) >> 1]
        return timer.count if row.index & 1 else timer.value
    return (vcpu.vm if row.scope is Scope.VM else vcpu).registers.get(row.home)


def settle(access: Access) -> None:
    """Resynchronise: the state takes what the access did, as observed. Timers' registers follow their own
    events.
    """
    row, vcpu = access.row, access.vcpu
    if row is None or access.refused:
        return
    if row.group is Group.STIMER:
        return
    vm, home = vcpu.vm, row.home
    if not access.write:
        if access.raced:
            # Old or new: it cannot be told which of two values the register holds now.
            vm.registers.pop(home, None)
            vm.origin.pop(home, None)
        elif holds(row) and row.reads is None:
            if row.group is Group.SYNIC and vcpu.registers.get(home, access.value) != access.value:
                vcpu.sources_changed()
            (vm if row.scope is Scope.VM else vcpu).registers[home] = access.value
            vm.origin.pop(home, None)
        return
    if not holds(row) or not row.access.writes:
        return
    if access.value & row.fault_mask:
        # It should have been refused: which of the bits were taken shows the next read.
        (vm if row.scope is Scope.VM else vcpu).registers.pop(home, None)
        return
    value = legalise(row, access.value)
    if row.scope is Scope.VM:
        last = vm.writes.get(home)
        if last is not None and last[2] != vcpu.number and last[0] > vcpu.exit_seq:
            # Two vCPUs wrote it at the same time: their events need not be in the order of their effects.
            for index in (home, HYPERCALL) if row.index == GUEST_OS_ID else (home,):
                vm.registers.pop(index, None)
                vm.origin.pop(index, None)
            vm.writes[home] = (access.event[0], None, vcpu.number)
            return
        vm.writes[home] = (access.event[0], vm.registers.get(home), vcpu.number)
    if row.index == GUEST_OS_ID:
        _identify(vcpu, access)
    elif row.index == HYPERCALL:
        _hypercall(vcpu, value)
        return
    elif row.index == ASSIST_PAGE:
        # Both share the PV EOI word: the last writer wins (kvm_lapic_set_pv_eoi).
        vcpu.registers[PV_EOI_EN] = value & ~0xFFF | 1 if value & 1 else 0
    if row.group is Group.SYNIC:
        vcpu.former[row.index] = vcpu.registers.get(row.index)
        vcpu.sources_changed()
    (vm if row.scope is Scope.VM else vcpu).registers[home] = value
    vm.origin.pop(home, None)


def _identify(vcpu: Vcpu, access: Access) -> None:
    """GUEST_OS_ID: writing 0 disables the hypercall page and keeps its address."""
    vm = vcpu.vm
    page = vm.registers.get(HYPERCALL)
    if access.value == 0 and page is not None:
        vm.writes[HYPERCALL] = (access.event[0], page, vcpu.number)
        vm.registers[HYPERCALL] = page & ~1
        if page & 1:
            vm.origin[HYPERCALL] = "GUEST_OS_ID was set to 0"


def _hypercall(vcpu: Vcpu, value: int) -> None:
    """HYPERCALL: a write while GUEST_OS_ID is 0 is dropped."""
    vm = vcpu.vm
    identity = vm.registers.get(GUEST_OS_ID)
    if identity is None:
        vm.registers.pop(HYPERCALL, None)
        vm.origin.pop(HYPERCALL, None)
    elif identity == 0:
        vm.origin[HYPERCALL] = "a write while GUEST_OS_ID is 0 is dropped"
    else:
        vm.registers[HYPERCALL] = value
        vm.origin.pop(HYPERCALL, None)


def host_wrote(vcpu: Vcpu, index: int, value: int) -> None:
    """Userspace wrote a SynIC register: neither the vector rule nor read-only binds it."""
    row = by_index(index)
    if row is None or row.group is not Group.SYNIC:
        return
    if value:
        # A non-zero write to an inactive SynIC is refused before it is traced.
        vcpu.synic = True
    if row.reads is None:
        vcpu.former[index] = vcpu.registers.get(index)
        vcpu.registers[index] = value
        vcpu.sources_changed()
