"""HV705 hypercall-input-uncalled

## What it finds
The decoded input of an IPI or flush hypercall in an exit in which the guest made no such call, of another call than the
one it made, or a second time.

## Why it matters
Processors are interrupted or flushed for nothing, or for another reason than the guest's.

## What the specification says
> Each IPI and flush hypercall shows the event of its own kind once, after the checks of its counts (kvm_hv_send_ipi,
> kvm_hv_flush_tlb).

## When it cannot tell
Where the beginning of the exit was not seen. Of a flush whose input lies in memory, on kernels before 6.2, only the
place can be wrong and nothing of what it shows: such an event does not count as judged.

## Example
    kvm_hv_hypercall: code 0x2 slow var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x104e000 out 0x0
    kvm_hv_send_ipi: vector 6a processor_mask 0x2
    expected kvm_hv_flush_tlb, observed kvm_hv_send_ipi
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import INPUTS
from hvtrace.replay.model.vp_set import Input
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(seen: Input) -> Verdict | None:
    """One event, of the call's own kind."""
    name = seen.event[2]
    if seen.call is None:
        if not seen.vcpu.whole:
            return unknown(seen.vcpu.why)
        return Diverges(f"no {name}", "one", "the guest made no hypercall in this exit")
    wanted = INPUTS.get(seen.call.code)
    if wanted != name:
        text = f"hypercall 0x{seen.call.code:x} has another input"
        return Diverges(wanted or "no decoded input", name, text)
    if not seen.first:
        return Diverges(f"one {name}", "a second one", "the input of a hypercall is decoded twice")
    return HOLDS


RULE = Rule(
    "HV705",
    "hypercall-input-uncalled",
    (Moment.INPUT,),
    ("kvm_hv_hypercall", "kvm_entry"),
    check,
    theme="hypercall",
)
