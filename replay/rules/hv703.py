"""HV703 flush-input

## What it finds
A fast TLB flush whose address space or flags, as KVM decodes them, are not what the guest's registers hold.

## Why it matters
Processors that should be flushed keep stale translations.

## What the specification says
> The first input register of a fast flush holds the address space, the second one the flags; the rest is in XMM
> registers (TLFS; kvm_hv_flush_tlb).

## When it cannot tell
The input of a slow call is in guest memory.

## Example
    kvm_hv_hypercall: code 0x2 fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x1000 out 0x2
    kvm_hv_flush_tlb: processor_mask 0xf address_space 0x1000 flags 0x1
    expected address_space 0x1000, flags 0x2, observed address_space 0x1000, flags 0x1
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import INPUTS
from hvtrace.replay.model.vp_set import Input
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(seen: Input) -> Verdict | None:
    """What the registers hold."""
    call, event = seen.call, seen.event
    if not event[2].startswith("kvm_hv_flush_tlb") or call is None or INPUTS.get(call.code) != event[2]:
        return None
    if not call.fast:
        return unknown(Reason.STATE_UNSEEN)
    first = 7 if event[2] == "kvm_hv_flush_tlb_ex" else 6
    expected, observed = (call.ingpa, call.outgpa), (event[first], event[first + 1])
    if expected == observed:
        return HOLDS
    return Diverges(_words(expected), _words(observed), "the decoded input is not what the registers hold")


def _words(values: tuple[int, int]) -> str:
    return f"address_space 0x{values[0]:x}, flags 0x{values[1]:x}"


RULE = Rule("HV703", "flush-input", (Moment.INPUT,), ("kvm_hv_hypercall",), check)
