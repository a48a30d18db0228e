"""HV906 syndbg-other-processor

## What it finds
An event of the synthetic debugger that names another VP index than the vCPU's own, which the guest read or an earlier
event named.

## Why it matters
Hypercalls for this processor reach another one: processor masks are made of VP indices.

## What the specification says
> A virtual processor's index does not change while the partition runs (TLFS, Virtual processor index).

## When it cannot tell
Until the index was read or named once in the recording.

## Example
    kvm_msr: msr_read 40000002 = 0x1
    kvm_hv_syndbg_get_msr: vcpu_id 1 vp_index 0 msr 0x400000ff data 0x0
    expected vp_index 1, observed vp_index 0
"""

from __future__ import annotations

from hvtrace.replay.model.debugger import DebugAccess
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(access: DebugAccess) -> Verdict | None:
    """A vCPU has one index."""
    if access.shown is None:
        return None
    if access.own is None:
        return unknown(access.vcpu.why)
    if access.shown == access.own:
        return HOLDS
    text = f"the debugger's event names another processor than this vCPU's {access.own}"
    return Diverges(f"vp_index {access.own}", f"vp_index {access.shown}", text)


RULE = Rule("HV906", "syndbg-other-processor", (Moment.DEBUG,), (), check, theme="syndbg")
