"""HV210 synic-write-altered

## What it finds
A guest's write of a SynIC register that did not reach the SynIC, or reached it with another value, or
reached it although the register's unit refuses it.

## Why it matters
The register the hypervisor acts on is not the one the guest wrote.

## What the specification says
> A write of a SynIC register takes effect with the value written (TLFS, SynIC registers). KVM shows it as
> kvm_hv_synic_set_msr before the write is checked, then as kvm_msr.

## When it cannot tell
Where the beginning of the exit was not seen, or where it is not known why a write was refused.

## Example
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000092 data 0x30 host 0
    kvm_msr: msr_write 40000092 = 0x31
    expected data 0x31, observed data 0x30
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


EVENT = "kvm_hv_synic_set_msr"
#: Causes of a refusal that come after the event: the value, or a write of the read-only SVERSION.
AFTER = ("vector", "reserved", "access", "memory")


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return write and row is not None and row.group is Group.SYNIC


def check(access: Access) -> Verdict | None:
    """Each write reaches the SynIC once, unchanged."""
    row = access.row
    if row is None or not access.write or access.late or row.group is not Group.SYNIC:
        return None
    if not access.whole:
        return unknown(access.why)
    seen = [effect for effect in access.effects if effect[2] == EVENT]
    if access.refused and access.vcpu.synic is not True and not seen:
        # An inactive SynIC refuses everything, and shows nothing.
        return unknown(access.why) if access.vcpu.synic is None else HOLDS
    if not access.refused or (access.fault.expected and access.fault.cause in AFTER):
        return _reached(access, seen)
    if access.fault.expected:
        if not seen:
            return HOLDS
        return Diverges(f"no {EVENT}", EVENT, f"a refused write of {access.name} reached the SynIC")
    return unknown(access.fault.reason)


def _reached(access: Access, seen: list[tuple[object, ...]]) -> Verdict:
    expected = f"one {EVENT} with data 0x{access.value:x}"
    if len(seen) != 1:
        return Diverges(
            expected, f"{len(seen)} of them", f"the write of {access.name} shows no single effect"
        )
    if (seen[0][5], seen[0][6]) == (access.index, access.value):
        return HOLDS
    text = f"the write of {access.name} reached MSR 0x{seen[0][5]:x} with 0x{seen[0][6]:x}"
    return Diverges(expected, f"msr 0x{seen[0][5]:x} data 0x{seen[0][6]:x}", text)


RULE = Rule(
    "HV210",
    "synic-write-altered",
    (Moment.MSR,),
    ("kvm_msr", "kvm_exit", "kvm_hv_synic_set_msr"),
    check,
    concerns=concerns,
)
