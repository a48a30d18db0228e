"""KVM's own hypercalls and what follows them (kvm_hypercall; kvm_emulate_hypercall in arch/x86/kvm/x86.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.kvm_call import Interrupt, KvmCall, is_kernel, maps
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.part import Handler, Part
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["KvmHypercallEvents"]

#: KVM_EXIT_HYPERCALL.
EXIT_HYPERCALL = 3

#: Calls of a thread that are not over yet.
MAX_THREADS = 4096


class KvmHypercallEvents(Part):
    """kvm_hypercall, and the interrupts and the userspace exit it brings about in the caller's own thread."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.calls: dict[int, KvmCall] = {}

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_hypercall": self._hypercall,
            "kvm_hv_hypercall": self._other_abi,
            "kvm_nested_vmexit": self._unclear,
            "kvm_nested_vmexit_inject": self._unclear,
            "kvm_apic_accept_irq": self._accepted,
            "kvm_userspace_exit": self._userspace_exit,
        }

    def lost(self) -> None:
        self.calls.clear()

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        call = KvmCall(vcpu, event, cell)
        self.judge.ask(Moment.KVM_CALL, call, event, vcpu, cell)
        vcpu.kind = "called" if vcpu.kind == "call" else vcpu.kind
        if not vcpu.whole or event[4] != vcpu.tid or len(self.calls) >= MAX_THREADS:
            return
        vcpu.rip = None
        self.calls[event[4]] = call
        vcpu.closing.append(self._ended)

    def _other_abi(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.kind = "called" if vcpu.kind == "call" else vcpu.kind

    def _unclear(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The exit is a nested guest's, or userspace takes it."""
        vcpu.kind = None if vcpu.kind == "call" else vcpu.kind

    def _accepted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if self.calls and (call := self.calls.get(event[4])) is not None and call.vcpu.vm is vcpu.vm:
            call.accepted.append(Interrupt(vcpu.number, event[5], event[6]))
            call.marks.append((event, cell))

    def _userspace_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self._unclear(event, vcpu, cell)
        if event[5] != EXIT_HYPERCALL or (event[6] is not None and event[6] < 0):
            return
        call = self.calls.get(event[4])
        if call is not None:
            call.exits = True

    def _ended(self, vcpu: Vcpu) -> None:
        """The vCPU enters the guest: all that the call brought about was seen."""
        call = self.calls.pop(vcpu.tid, None) if vcpu.tid is not None else None
        if call is None or call.vcpu is not vcpu:
            return
        call.kernel = is_kernel(vcpu.rip)
        self.judge.ask(Moment.KVM_CALLED, call, call.event, vcpu, call.cell)
        for event, cell in call.marks if not self.judge.lossy else ():
            if event[6] in (0x300, call.event[9] & 0x700):
                self.judge.mark(event, cell)
        if call.exits and maps(call):
            vcpu.vm.paravirt.map_exits = True
