"""HV204 msr-read-back

## What it finds
A read of a stored synthetic MSR that returns something else than what was last written (SINT, SCONTROL,
SIEFP, SIMP, hypercall page, reference TSC page, assist page, crash parameters, reenlightenment).

## Why it matters
The guest and the hypervisor disagree about an address or a vector; the effect shows elsewhere and much
later.

## What the specification says
> These registers are read/write and keep their value, reserved bits included (preserve semantics; TLFS,
> each register).

## When it cannot tell
Until the register was written or read once in the recording; after a loss; after userspace may have reset
the VM; where another vCPU may be writing a VM-wide register at the same time.

## Example
    kvm_msr: msr_write 40000092 = 0x31
    kvm_msr: msr_read 40000092 = 0x30
    expected 0x31, observed 0x30
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Kind, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.kind is Kind.STORED


def check(access: Access) -> Verdict | None:
    """What was stored comes back."""
    row = access.row
    if row is None or access.write or access.late or access.refused or row.kind is not Kind.STORED:
        return None
    if row.group in (Group.STIMER, Group.KVM) or access.origin:
        return None
    if row.group is Group.SYNDBG and "kvm_hv_syndbg_get_msr" in access.vcpu.bench.traced:
        # Judged where the read reaches the debugger.
        return None
    if row.group is Group.SYNIC and "kvm_hv_synic_set_msr" not in access.vcpu.bench.traced:
        # Userspace's writes would not be seen.
        return unknown(Reason.NOT_TRACED)
    if access.before is None:
        return unknown(access.why)
    if access.value == access.before:
        return HOLDS
    if access.raced:
        return unknown(Reason.STATE_UNSEEN)
    return Diverges(
        f"0x{access.before:x}",
        f"0x{access.value:x}",
        f"{access.name} reads 0x{access.value:x} and holds 0x{access.before:x}",
        theme="SynIC" if row.group is Group.SYNIC else "",
    )


RULE = Rule("HV204", "msr-read-back", (Moment.MSR,), ("kvm_msr", RESETS), check, concerns=concerns)
