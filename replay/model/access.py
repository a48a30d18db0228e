"""One access to a synthetic MSR: must it raise #GP, and what must a read return?

kvm_hv_set_msr_common, kvm_hv_get_msr_common and their helpers in arch/x86/kvm/hyperv.c; the register rows
are in
`hvtrace.abi`. Each condition below answers True (the access must fault), False, or None (not known).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.abi.cpuid import FEATURES, SYNDBG
from hvtrace.abi.msr import DISPATCHED
from hvtrace.abi.register import Gate, Group, Msr
from hvtrace.replay.model.paravirt import interrupts, offers
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["Access", "Accesses", "Fault", "expected_fault", "legalise"]

GUEST_OS_ID = 0x4000_0000
HYPERCALL = 0x4000_0001
EOI, ICR, TPR, ASSIST_PAGE = 0x4000_0070, 0x4000_0071, 0x4000_0072, 0x4000_0073
SIEFP, SIMP, EOM = 0x4000_0082, 0x4000_0083, 0x4000_0084
SINT0, SINT15 = 0x4000_0090, 0x4000_009F
TSC_EMULATION_STATUS, TSC_INVARIANT_CONTROL = 0x4000_0108, 0x4000_0118
ASYNC_PF_EN, STEAL_TIME, PV_EOI_EN = 0x4B56_4D02, 0x4B56_4D03, 0x4B56_4D04
ASYNC_PF_INT, ASYNC_PF_ACK, MIGRATION_CONTROL = 0x4B56_4D06, 0x4B56_4D07, 0x4B56_4D08

STIMER_DIRECT = Gate(FEATURES, "edx", 19)
DEBUG_ALLOWED = Gate(SYNDBG, "eax", 1)
SINT_MASKED, DIRECT = 1 << 16, 1 << 12


@dataclass(frozen=True, slots=True)
class Fault:
    """Whether an access must raise #GP. `cause` is a word for the condition, `why` a clause for people."""

    expected: bool | None
    cause: str
    why: str
    reason: Reason = Reason.STATE_UNSEEN
    #: A known bug that forgets it (`hvtrace.replay.bugs`).
    bug: str = ""


#: Nothing forbids it.
FREE_TO_WRITE = Fault(False, "", "nothing forbids writing it")
FREE_TO_READ = Fault(False, "", "nothing forbids reading it")


@dataclass(slots=True)
class Access:
    """A guest's access as the trace shows it, and what the model says of it.

    `value` is what was written or read; `refused` whether it raised #GP. `before` is what a read must
    return, or
    what the register held before a write (None: not known); `origin` why, where that is not simply a write.
    `effects` are the events of the vCPU's thread that belong to the access; `whole` is true where they were
    all seen.
    """

    event: Event
    cell: list[bool]
    vcpu: Vcpu
    index: int
    row: Msr | None
    write: bool
    value: int
    refused: bool
    fault: Fault
    before: int | None
    effects: list[Event]
    whole: bool
    origin: str = ""
    raced: bool = False
    #: Enforcement decides it and is not known yet: it is judged later, for its fault alone.
    kept: bool = False
    late: bool = False

    @property
    def is_kvm(self) -> bool:
        """One of KVM's own registers."""
        return self.row is not None and self.row.group is Group.KVM

    @property
    def verb(self) -> str:
        """The access as a noun."""
        return "the write" if self.write else "the read"

    @property
    def why(self) -> Reason:
        """Why the register's value is not known, where it is not."""
        return self.vcpu.why

    @property
    def name(self) -> str:
        """The register's name."""
        return f"MSR 0x{self.index:x}" if self.row is None else self.row.name


@dataclass(slots=True)
class Accesses:
    """How many MSRs an exit accesses: "one", "none" before the next entry, a "second", one that is "late", when an
    interrupt was put into the guest already, or one "outside" any exit.
    """

    vcpu: Vcpu
    seen: str


def legalise(row: Msr, value: int) -> int:
    """What a read returns after `value` was accepted by a write: the bits the register keeps."""
    return value & row.kept_mask


def expected_fault(vcpu: Vcpu, row: Msr | None, index: int, write: bool, value: int) -> Fault:
    """Decide whether an access by the guest must raise #GP."""
    exists = None if row is None else _exists(vcpu, row)
    if row is None or exists is False:
        return _absent(vcpu, row, index)
    conditions = _kvm(vcpu, row, write, value) if row.group is Group.KVM else _hyperv(vcpu, row, write, value)
    open_ = None
    if exists is None:
        open_ = Fault(None, "absent", "this kernel may not have the register", Reason.PARAMETER_UNKNOWN)
    for fault in conditions:
        if fault.expected:
            return fault
        if fault.expected is None and open_ is None:
            open_ = fault
    return open_ or (FREE_TO_WRITE if write else FREE_TO_READ)


def _exists(vcpu: Vcpu, row: Msr) -> bool | None:
    """Whether the kernel has the register at all; None: it may."""
    if row.index == TSC_INVARIANT_CONTROL:
        return vcpu.bench.profile.fact("invariant_control")
    if row.group is Group.SYNDBG:
        return vcpu.bench.profile.fact("syndbg")
    if row.index in (ASYNC_PF_INT, ASYNC_PF_ACK):
        return interrupts(vcpu.vm)
    # MIGRATION_CONTROL is userspace's alone, through an MSR filter, and then there is no kvm_msr.
    return row.group is not Group.ABSENT and row.index != MIGRATION_CONTROL


def _absent(vcpu: Vcpu, row: Msr | None, index: int) -> Fault:
    """A register KVM has not: refused, unless ignore_msrs makes unknown ones read 0."""
    if any(low <= index <= high for low, high in DISPATCHED) and (row is None or row.dispatched):
        return Fault(True, "absent", "KVM has no such register")
    if vcpu.bench.ignore_msrs is None:
        return Fault(None, "absent", "ignore_msrs is not known", Reason.PARAMETER_UNKNOWN)
    if vcpu.bench.ignore_msrs:
        return Fault(None, "absent", "ignore_msrs is set", Reason.PARAMETER_UNKNOWN)
    return Fault(True, "absent", "KVM has no such register")


def _kvm(vcpu: Vcpu, row: Msr, write: bool, value: int) -> list[Fault]:
    """KVM's own registers: kvm_set_msr_common, kvm_get_msr_common."""
    found: list[Fault] = []
    if row.gate is not None:
        # Some trees let ASYNC_PF's bit stand for the acknowledgement's own.
        features = (row.gate.bit, 4) if row.index == ASYNC_PF_ACK else (row.gate.bit,)
        found += _pv_gate(vcpu, *features)
    return [*found, *_kvm_value(vcpu, row, value)] if write else found


def _pv_gate(vcpu: Vcpu, *features: int) -> list[Fault]:
    """The feature bits, where PV CPUID is enforced: guest_pv_has."""
    offered = offers(vcpu.vm, *features)
    if offered:
        return []
    why = f"KVM feature {features[0]} is clear and PV CPUID is enforced"
    return [Fault(None if offered is None else True, "gate", why, Reason.PARAMETER_UNKNOWN)]


def _kvm_value(vcpu: Vcpu, row: Msr, value: int) -> list[Fault]:
    """What the value itself decides for KVM's own registers."""
    found: list[Fault] = []
    reserved = value & row.fault_mask
    if reserved:
        return [Fault(True, "reserved", f"bits 0x{reserved:x} are reserved")]
    told = interrupts(vcpu.vm)
    if row.index == ASYNC_PF_EN:
        if value & 8 and told is not True:
            known = None if told is None else True
            found.append(Fault(known, "reserved", "bit 3 is reserved", Reason.PARAMETER_UNKNOWN))
        found += _pv_gate(vcpu, 10) if value & 4 else []
        found += _pv_gate(vcpu, 14) if value & 8 else []
    apic = row.index == ASYNC_PF_INT or (row.index == ASYNC_PF_EN and value and told is not False)
    if apic and vcpu.vm.has_apic is not True:
        found.append(Fault(None, "apic", "the APIC may be in userspace", vcpu.why))
    accounted = vcpu.vm.paravirt.accounted or vcpu.bench.profile.fact("sched_info")
    if row.index == STEAL_TIME and not accounted:
        why = "the host may keep no scheduler statistics"
        found.append(Fault(None, "statistics", why, Reason.PARAMETER_UNKNOWN))
    if row.index in (ASYNC_PF_EN, PV_EOI_EN) and value & 1 and not vcpu.vm.paravirt.is_memory(value & ~0x3F):
        found.append(Fault(None, "memory", "the area may be outside the guest's memory", vcpu.why))
    return found


def _hyperv(vcpu: Vcpu, row: Msr, write: bool, value: int) -> list[Fault]:
    """Hyper-V's registers: Hyper-V offered, gate, access right, unit switched on, value."""
    found: list[Fault] = []
    exposure, profile = vcpu.vm.exposure, vcpu.bench.profile
    needed = profile.fact("needs_cpuid")
    if needed is not False and exposure.hyperv is not True:
        sure = needed is True and exposure.hyperv is False
        found.append(
            Fault(True if sure else None, "disabled", "CPUID does not offer Hyper-V", Reason.CPUID_UNKNOWN)
        )
    if row.gate is not None:
        found += _gate(vcpu, row.gate)
    # A timer's registers can be read all the same.
    guarded = row.group is Group.SYNIC or (row.group is Group.STIMER and write)
    if guarded and vcpu.synic is not True:
        found.append(Fault(None if vcpu.synic is None else True, "inactive", "SynIC is not active", vcpu.why))
    if not (row.access.writes if write else row.access.reads):
        found.append(Fault(True, "access", f"the register is {_rights(row)}"))
        return found
    if row.group is Group.SYNDBG and (allowed := exposure.has(DEBUG_ALLOWED)) is not True:
        known = allowed is False and profile.fact("syndbg") is True
        found.append(
            Fault(True if known else None, "syndbg", "the debugger is not allowed", Reason.CPUID_UNKNOWN)
        )
    if row.group is Group.APIC and vcpu.vm.has_apic is not True:
        found.append(Fault(None, "apic", "the APIC may be in userspace", vcpu.why))
    if write:
        found += _value(vcpu, row, value)
    return found


def _rights(row: Msr) -> str:
    return {"R": "read-only", "W": "write-only", "-": "absent"}.get(row.access.value, row.access.value)


def _gate(vcpu: Vcpu, gate: Gate) -> list[Fault]:
    """The CPUID bit, where CPUID is enforced: hv_check_msr_access."""
    if vcpu.bench.profile.fact("enforces") is False:
        return []
    exposure = vcpu.vm.exposure
    enforced, offered = exposure.conclude(), exposure.has(gate)
    if enforced is False or offered is True:
        return []
    known = enforced is True and offered is False
    why = f"CPUID {gate} is clear and CPUID is enforced"
    return [Fault(True if known else None, "gate", why, Reason.CPUID_UNKNOWN)]


def _value(vcpu: Vcpu, row: Msr, value: int) -> list[Fault]:
    """What the value itself decides."""
    index, profile = row.index, vcpu.bench.profile
    reserved = value & row.fault_mask
    if reserved:
        fact = {EOI: "high_half_faults", TPR: "high_half_faults", ICR: "icr_reserved_faults"}.get(index)
        faults = True if fact is None else profile.fact(fact)
        return [Fault(faults, "reserved", f"bits 0x{reserved:x} are reserved", Reason.PARAMETER_UNKNOWN)]
    if SINT0 <= index <= SINT15 and not value & SINT_MASKED and value & 0xFF < 16:
        return [Fault(True, "vector", f"an unmasked source must not have vector {value & 0xFF}")]
    if index == TSC_EMULATION_STATUS and value:
        return [Fault(True, "reserved", "a guest may write 0 alone", bug="emulation-status")]
    if index == TSC_INVARIANT_CONTROL and not value:
        before = vcpu.vm.registers.get(index)
        known = None if before is None else bool(before)
        return [Fault(known, "reserved", "it cannot be cleared by the guest", vcpu.vm.why)]
    if index in (HYPERCALL, ASSIST_PAGE, SIMP, SIEFP) and value & 1:
        if index == HYPERCALL and vcpu.vm.registers.get(GUEST_OS_ID) == 0:
            return []
        return [Fault(None, "memory", "the page may be outside the guest's memory", vcpu.why)]
    if row.group is Group.STIMER and not index & 1 and value & DIRECT:
        return _gate(vcpu, STIMER_DIRECT)
    return []
