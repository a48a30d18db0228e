"""Hyper-V hypercalls (kvm_hv_hypercall, kvm_hv_hypercall_complete, kvm_emulate_hypercall)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.cpuid import RECOMMENDATIONS
from hvtrace.abi.hypercall import by_code
from hvtrace.abi.register import Gate
from hvtrace.replay.model.access import GUEST_OS_ID, HYPERCALL
from hvtrace.replay.model.ending import ACCESS_DENIED, compare, denied, endings
from hvtrace.replay.model.hypercall import AbiUse, Call, Finish, current
from hvtrace.replay.model.machine import Vcpu
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["HypercallEvents"]

DONE = "kvm_hv_hypercall_done"

#: PostMessage and SignalEvent.
SYNIC_CALLS = frozenset({0x5C, 0x5D})

#: What stands for the spin count among the gates.
SPIN_COUNT = Gate(RECOMMENDATIONS, "ebx", 0)

#: Exception vector #UD; userspace exit of a hypercall.
INVALID_OPCODE, EXIT_HYPERV = 6, 27


class HypercallEvents(Part):
    """kvm_hv_hypercall, kvm_hv_hypercall_done and what tells how a call ends; kvm_hypercall, the other ABI."""

    #: A result was traced: this kernel has the tracepoint.
    finishing = False

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_hv_hypercall": self._hypercall,
            DONE: self._done,
            "kvm_hypercall": self._kvm_hypercall,
            "kvm_userspace_exit": self._userspace_exit,
            "kvm_inj_exception": self._exception,
        }

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.hyperv = vcpu.visited = True
        self._abi(event, vcpu, cell, hyperv=True)
        call = vcpu.call = Call(vcpu, event, cell, event[5], bool(event[6]), *event[7:12])
        if self._finishes(call):
            call.owed = vcpu.open(Due.HYPERCALL, event, cell, 1, DONE)

    def _finishes(self, call: Call) -> bool:
        """Whether a result must be traced."""
        if not self.finishing and not self.bench.profile.fact("hypercall_done"):
            return False
        # Where #UD may answer it has to be visible: a nested guest's goes to its hypervisor.
        faults = call.by_xmm and any(ending.fault for ending in endings(call))
        return not faults or (call.is_traced("kvm_inj_exception") and call.vcpu.outermost is not False)

    def _done(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self.finishing = True
        call = current(vcpu)
        vcpu.call = None
        self.judge.ask(Moment.FINISH, Finish(vcpu, call), event, vcpu, cell)
        if call is None:
            return
        call.result = event[5]
        vcpu.meet(call.owed)
        if call.diverged:
            return
        call.diverged = self.judge.ask(Moment.CALL, compare(call), event, vcpu, cell)
        if not call.diverged:
            self._learn(call)

    def _learn(self, call: Call) -> None:
        """A call whose CPUID bit is clear tells of enforcement, one that goes to userspace of the SynIC."""
        row, exposure = by_code(call.code), call.vcpu.vm.exposure
        if call.userspace and call.code in SYNIC_CALLS and call.vcpu.synic is None:
            call.vcpu.synic = True
        if exposure.enforced is None and denied(call):
            gates = row.gates if row is not None else ()
            clear = [gate for gate in gates if exposure.has(gate) is False]
            exposure.witness(clear[0] if clear else SPIN_COUNT, call.status == ACCESS_DENIED)

    def _userspace_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        call = current(vcpu)
        if call is not None and event[5] == EXIT_HYPERV and (event[6] is None or event[6] >= 0):
            call.userspace = True

    def _exception(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        call = current(vcpu)
        if call is None or event[5] != INVALID_OPCODE:
            return
        if any(ending.fault for ending in endings(call)):
            vcpu.call = None
            vcpu.meet(call.owed)

    def _kvm_hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self._abi(event, vcpu, cell, hyperv=False)

    def _abi(self, event: Event, vcpu: Vcpu, cell: list[bool], *, hyperv: bool) -> None:
        self.judge.ask(Moment.ABI, AbiUse(vcpu, hyperv, self._enabled(vcpu)), event, vcpu, cell)

    def _enabled(self, vcpu: Vcpu) -> bool | None:
        """Whether the guest enabled the Hyper-V ABI; None: not known, or another vCPU may be changing it."""
        vm, profile = vcpu.vm, self.bench.profile
        by_page = profile.fact("abi_by_page")
        if by_page is None:
            return None
        value = vm.registers.get(HYPERCALL if by_page else GUEST_OS_ID)
        if value is None or self._changing(vcpu):
            return None
        enabled = bool(value & 1 if by_page else value)
        needed = profile.fact("needs_cpuid")
        if enabled and needed is not False and vm.exposure.hyperv is not True:
            return False if needed and vm.exposure.hyperv is False else None
        return enabled

    def _changing(self, vcpu: Vcpu) -> bool:
        """Another vCPU wrote the registers since this exit, or may be writing them: kvm_msr follows the effect."""
        vm = vcpu.vm
        for index in (HYPERCALL, GUEST_OS_ID):
            last = vm.writes.get(index)
            if last is not None and last[2] != vcpu.number and last[0] > vcpu.exit_seq:
                return True
        return any(
            other is not vcpu and other.out and other.kind in ("msr", None) for other in vm.vcpus.values()
        )
