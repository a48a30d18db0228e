"""HV902 syndbg-access-impossible

## What it finds
An event of the synthetic debugger for an index that is none of its registers.

## Why it matters
An access meant for another register was let into the debugger.

## What the specification says
> The debugger's registers are 0x400000f1 to 0x400000f5 and 0x400000ff (hv-syndbg of QEMU).

## When it cannot tell
It always can.

## Example
    kvm_hv_syndbg_set_msr: vcpu_id 0 vp_index 0 msr 0x400000f6 data 0x1
    expected a debugger register, observed msr 0x400000f6
"""

from __future__ import annotations

from hvtrace.replay.model.debugger import REGISTERS, DebugAccess
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(access: DebugAccess) -> Verdict | None:
    """The index is a debugger register's."""
    if access.index in REGISTERS:
        return HOLDS
    return Diverges("a debugger register", f"msr 0x{access.index:x}", "there is no such debugger register")


RULE = Rule("HV902", "syndbg-access-impossible", (Moment.DEBUG,), (), check, theme="syndbg")
