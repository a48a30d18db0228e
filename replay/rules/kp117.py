"""KP117 async-pf-ready-unasked

## What it finds
kvm_async_pf_ready for a token under which nothing is being fetched, or with another address than the fault's;
a token for everyone though nobody enabled the interface.

## Why it matters
The guest wakes a task whose page is not there, or none where one waits.

## What the specification says
> "Page ready" carries the token of the "page not present" it ends; the token of all ones, which wakes
> everyone, follows the enabling write (KVM, msr.rst; kvm_async_pf_wakeup_all).

## When it cannot tell
Where it is not known what is being fetched: in mid-life, after INIT, a reset or a loss.

## Example
    kvm_async_pf_not_present: token 0x1000 gva 0x7000
    kvm_async_pf_ready: token 0x2000 gva 0x7000
    expected a token that waits, observed token 0x2000
"""

from __future__ import annotations

from hvtrace.replay.model.paravirt import Request
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(ready: Request) -> Verdict | None:
    """Somebody asked."""
    if ready.asked is None:
        return unknown(Reason.STATE_UNSEEN)
    if not ready.asked:
        return Diverges(
            "a token that waits", f"token 0x{ready.token:x}", "a page is ready that nobody asked for"
        )
    if ready.expected is None or ready.expected == ready.address:
        return HOLDS
    return Diverges(
        f"gva 0x{ready.expected:x}", f"gva 0x{ready.address:x}", "another page is ready than was asked for"
    )


RULE = Rule(
    "KP117",
    "async-pf-ready-unasked",
    (Moment.PAGE_READY,),
    ("kvm_async_pf_not_present", "kvm_async_pf_ready", "kvm_msr", "kvm_apic_accept_irq", RESETS),
    check,
)
