"""MSR accesses of the guest (kvm_set_msr_common, kvm_hv_set_msr_common)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hvtrace.abi.msr import by_index
from hvtrace.abi.register import Exit, Group, Msr
from hvtrace.replay.model.access import Access, Accesses, Fault, expected_fault
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.registers import known_value, settle
from hvtrace.replay.model.synic import EOM, EndOfMessage
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger
from hvtrace.replay.rule import Moment
from hvtrace.replay.tape import OTHER_MSR
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["MsrEvents"]

#: Units whose registers show an event for each write that reaches them; the debugger's show reads as well.
EFFECTIVE = (Group.SYNIC, Group.STIMER)

#: Accesses kept while it is open whether CPUID is enforced.
MAX_UNDECIDED = 1024

#: Userspace exits after a kernel's own access: those that the synthetic MSRs ask for.
COMPLETED_BY_KERNEL = (24, 27)

SET_MSR, ACKED = "kvm_hv_synic_set_msr", "kvm_hv_notify_acked_sint"


class MsrEvents(Part):
    """kvm_msr. The other parts are told of each access before it is judged and after."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.accessing_: tuple[Callable[[Access], None], ...] = ()
        self.accessed_: tuple[Callable[..., None], ...] = ()

    def tell(self, parts: list[Part]) -> None:
        """The parts that want to know of accesses."""
        self.accessing_ = tuple(p.accessing for p in parts if type(p).accessing is not Part.accessing)
        self.accessed_ = tuple(p.accessed for p in parts if type(p).accessed is not Part.accessed)

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_msr": self._msr,
            "kvm_userspace_exit": self._left,
            "kvm_nested_vmexit": self._unclear,
            "kvm_nested_vmexit_inject": self._unclear,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {OTHER_MSR: self._perhaps_accessed}

    def _perhaps_accessed(self, event: Event, vcpu: Vcpu | None) -> None:
        """It may be this vCPU's access."""
        if vcpu is not None:
            vcpu.kind = None

    def _left(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Userspace completes an access that was filtered or is not KVM's: there is no kvm_msr."""
        if vcpu.kind == "msr" and event[5] not in COMPLETED_BY_KERNEL:
            vcpu.kind = None

    def _unclear(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """An exit of a nested guest goes to the guest's hypervisor."""
        if vcpu.kind == "msr":
            vcpu.kind = None

    def _count(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """One exit accesses one MSR."""
        if not vcpu.whole:
            return
        if not vcpu.out:
            seen = "outside"
        elif vcpu.injected > vcpu.exit_seq:
            seen = "late"
        else:
            seen = "second" if vcpu.kind == "done" else "one"
        self.judge.ask(Moment.ACCESSES, Accesses(vcpu, seen), event, vcpu, cell)

    def losing(self, vm: Vm) -> None:
        self._decide(vm, last=True)

    def finished(self, vm: Vm) -> None:
        self._decide(vm, last=True)

    def _msr(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.close()
        self._count(event, vcpu, cell)
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
        for tell in self.accessing_:
            tell(access)
        if vcpu.vm.undecided:
            self._decide(vcpu.vm, last=False)
        if fault.expected is None and fault.cause == "gate" and not self.judge.lossy:
            access.kept = self._undecided(access)
        diverged = self.judge.ask_access(access)
        traced = row is not None and ((write and row.group in EFFECTIVE) or row.group is Group.SYNDBG)
        for due in vcpu.dues:
            if due.due is Due.MSR and traced:
                vcpu.meet(due)
            elif due.due is Due.MSR:
                vcpu.break_(due, "the kvm_msr of another access")
        if traced:
            self._effects_judged(access, effects)
        self._learn(access)
        settle(access)
        for tell_after in self.accessed_:
            tell_after(access, diverged=diverged)
        if write and not refused and row is not None and row.exits is not Exit.NONE:
            self._must_exit(event, vcpu, cell, row, value)
        vcpu.effects.clear()
        vcpu.accessed()

    def _raced(self, vcpu: Vcpu, row: Msr | None, before: int | None, value: int, *, write: bool) -> bool:
        """A VM-wide register is read while another vCPU may be writing it: `kvm_msr` comes after the
        effect.
        """
        if row is None or write or row.scope.value != "VM" or before is None or before == value:
            return False
        if "kvm_exit" not in self.bench.traced:
            return True
        last = vcpu.vm.writes.get(row.home)
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
        proof = row.group is Group.SYNIC or (row.group is Group.STIMER and access.write)
        if proof and vcpu.synic is None:
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
