"""HV702 ipi-input

## What it finds
A fast IPI hypercall whose vector, mask or format, as KVM decodes it, is not what the guest's registers hold.

## Why it matters
The wrong processors are interrupted, or with the wrong vector.

## What the specification says
> The first input register of a fast SendSyntheticClusterIpi holds the vector in its low half, the second one the mask;
> of the Ex form, the second one the format of the set (TLFS; kvm_hv_send_ipi).

## When it cannot tell
The input of a slow call is in guest memory.

## Example
    kvm_hv_hypercall: code 0xb fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x6a out 0x6
    kvm_hv_send_ipi: vector 6a processor_mask 0x2
    expected vector 0x6a, processor_mask 0x6, observed vector 0x6a, processor_mask 0x2
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import INPUTS
from hvtrace.replay.model.vp_set import Input
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

VECTOR = 0xFFFF_FFFF


def check(seen: Input) -> Verdict | None:
    """What the registers hold."""
    call, event = seen.call, seen.event
    if not event[2].startswith("kvm_hv_send_ipi") or call is None or INPUTS.get(call.code) != event[2]:
        return None
    if not call.fast:
        return unknown(Reason.STATE_UNSEEN)
    extended = event[2] == "kvm_hv_send_ipi_ex"
    name = "format" if extended else "processor_mask"
    expected, observed = (call.ingpa & VECTOR, call.outgpa), (event[5], event[6])
    if expected == observed:
        return HOLDS
    text = "the decoded input is not what the registers hold"
    return Diverges(_words(name, expected), _words(name, observed), text)


def _words(name: str, values: tuple[int, int]) -> str:
    return f"vector 0x{values[0]:x}, {name} 0x{values[1]:x}"


RULE = Rule("HV702", "ipi-input", (Moment.INPUT,), ("kvm_hv_hypercall",), check)
