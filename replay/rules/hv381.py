"""HV381 misaligned-input-served

## What it finds
In the profile `tlfs`: an IPI or flush hypercall that succeeded although its input in guest memory is not aligned to 8
bytes or crosses a page.

## Why it matters
A guest that relies on it fails on Hyper-V.

## What the specification says
> Input parameters must be 8-byte aligned and must not cross a page; otherwise the call returns
> HV_STATUS_INVALID_ALIGNMENT (TLFS, Hypercall inputs). KVM looks at the alignment of SignalEvent's input alone.

## When it cannot tell
Fast calls have no input in memory. It is asked only in the profile `tlfs`, and is a warning: KVM departs from the
specification knowingly.

## Example
    kvm_hv_hypercall: code 0x2 slow var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x104f001 out 0x0
    kvm_hv_hypercall_done: result 0x0
    expected status 4, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.ending import HEADERS, PAGE, WORD
from hvtrace.replay.model.hypercall import Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """Input is aligned and within one page."""
    call = over.call
    size = HEADERS.get(call.code)
    if size is None or call.fast or over.what or call.status:
        return None
    size += WORD * ((call.var_cnt or 0) + call.rep_cnt)
    if call.ingpa % WORD == 0 and call.ingpa % PAGE + size <= PAGE:
        return HOLDS
    text = f"the input of hypercall 0x{call.code:x} is misaligned or crosses a page"
    return Diverges("status 4", f"status {call.status}", text)


RULE = Rule(
    "HV381",
    "misaligned-input-served",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    severity=Severity.WARNING,
    specification=True,
)
