"""HV215 syndbg-access-altered

## What it finds
A guest's access to a synthetic debugger register that did not reach the debugger, reached it with another value or at
another register, or reached it although it was refused.

## Why it matters
The debugger's connection breaks off.

## What the specification says
> An access that is not refused takes effect once, with the value the guest wrote or got; KVM shows
> kvm_hv_syndbg_set_msr or kvm_hv_syndbg_get_msr, then kvm_msr.

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

EVENTS = ("kvm_hv_syndbg_get_msr", "kvm_hv_syndbg_set_msr")


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return row is not None and row.group is Group.SYNDBG


def check(access: Access) -> Verdict | None:
    """Each access reaches the debugger once, unchanged."""
    row = access.row
    if row is None or access.late or row.group is not Group.SYNDBG:
        return None
    if not access.whole:
        return unknown(access.why)
    seen = [effect for effect in access.effects if effect[2] in EVENTS]
    wanted = [] if access.refused else [(EVENTS[access.write], access.index, access.value)]
    if [(effect[2], effect[5], effect[6]) for effect in seen] == wanted:
        return HOLDS
    shown = ", ".join(f"{effect[2]} msr 0x{effect[5]:x} data 0x{effect[6]:x}" for effect in seen)
    expected = f"{EVENTS[access.write]} data 0x{access.value:x}" if wanted else "no effect"
    return Diverges(expected, shown or "none", f"{access.verb} of {access.name} shows another effect")


RULE = Rule(
    "HV215",
    "syndbg-access-altered",
    (Moment.MSR,),
    ("kvm_msr", "kvm_exit", *EVENTS),
    check,
    theme="syndbg",
    concerns=concerns,
)
