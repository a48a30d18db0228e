"""HV303 hypercall-reps

## What it finds
A hypercall whose status is right and whose result word has the wrong number of repetitions completed, or a reserved
bit set.

## Why it matters
A guest repeats a list call from the first entry that was not completed: it flushes too little, or never comes to an
end.

## What the specification says
> Bits 43:32 of the result are the repetitions completed; bits 31:16 and 63:44 are reserved and zero (TLFS, Hypercall
> result value). KVM completes a flush of a list at once: it reports as many repetitions as were asked for, and none for
> any other call (kvm_hv_flush_tlb).

## When it cannot tell
Of a call that userspace completes only the reserved bits are judged.

## Example
    kvm_hv_hypercall: code 0x3 slow var_cnt 0x0 rep_cnt 0x3 idx 0x0 in 0x104e000 out 0x0
    kvm_hv_hypercall_done: result 0x0
    expected 3 repetitions, observed 0
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """The upper bits of the result."""
    call = over.call
    if over.what not in ("", "reps"):
        return None
    if not over.what:
        return HOLDS
    if call.reserved:
        text = "reserved bits of the result are set"
        return Diverges("reserved bits 0", f"0x{call.reserved:x}", text)
    expected = " or ".join(sorted({str(ending.reps) for ending in over.endings if ending.status is not None}))
    text = f"hypercall 0x{call.code:x} reports the wrong number of repetitions"
    return Diverges(f"{expected} repetitions", str(call.reps), text)


RULE = Rule(
    "HV303",
    "hypercall-reps",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    theme="hypercall",
)
