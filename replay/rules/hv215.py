"""HV215 syndbg-access-altered

## What it finds
A guest's write of a synthetic debugger register that did not reach the debugger, or reached it with
another value.

## Why it matters
The debugger's connection breaks off.

## What the specification says
> A write takes effect with the value written; KVM shows kvm_hv_syndbg_set_msr, then kvm_msr.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_hv_syndbg_set_msr: vcpu_id 0 vp_index 0 msr 0x400000f3 data 0x1000
    kvm_msr: msr_write 400000f3 = 0x2000
    expected data 0x2000, observed data 0x1000
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return write and row is not None and row.group is Group.SYNDBG


def check(access: Access) -> Verdict | None:
    """Each write reaches the debugger once, unchanged."""
    row = access.row
    if row is None or not access.write or access.late or row.group is not Group.SYNDBG:
        return None
    if not access.whole:
        return unknown(access.why)
    seen = [(effect[5], effect[6]) for effect in access.effects if effect[2] == "kvm_hv_syndbg_set_msr"]
    wanted = [] if access.refused else [(access.index, access.value)]
    if seen == wanted:
        return HOLDS
    shown = ", ".join(f"msr 0x{index:x} data 0x{value:x}" for index, value in seen) or "none"
    expected = f"data 0x{access.value:x}" if wanted else "no effect"
    return Diverges(expected, shown, f"the write of {access.name} shows another effect")


RULE = Rule(
    "HV215",
    "syndbg-access-altered",
    (Moment.MSR,),
    ("kvm_msr", "kvm_exit", "kvm_hv_syndbg_set_msr"),
    check,
    concerns=concerns,
)
