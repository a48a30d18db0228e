"""KP116 async-pf-not-tried

## What it finds
A page that is said not to be present (kvm_async_pf_not_present) or to be on its way already
(kvm_async_pf_repeated_fault) without an attempt for the same address in this exit; a token that is not the
vCPU's or not new; a page that is asked for twice, or is on its way only by what KVM says.

## Why it matters
The guest puts the task that faulted to sleep under the token: with a wrong one it never wakes, or another
does.

## What the specification says
> The token holds the vCPU in bits 11:0 and a counter above (KVM, msr.rst; kvm_arch_setup_async_pf). A frame
> that is being fetched already gives a repeated fault (kvm_find_async_pf_gfn).

## When it cannot tell
Where the exit was not seen from its start, or the pages under way are not all known.

## Example
    kvm_try_async_get_page: gva = 0x7000, gfn = 0x12
    kvm_async_pf_not_present: token 0x1000 gva 0x8000
    expected gva 0x7000, observed gva 0x8000
"""

from __future__ import annotations

from hvtrace.replay.model.paravirt import AsyncFault
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

#: The vCPU's number in a token, and the values its counter takes.
VCPU, COUNTS = 0xFFF, 1 << 20


def check(fault: AsyncFault) -> Verdict | None:
    """It was tried, is new, and has its own token."""
    if fault.tried is None:
        if not fault.vcpu.whole:
            return unknown(fault.vcpu.why)
        return Diverges(
            "kvm_try_async_get_page", "none in this exit", "a page is fetched that was not asked for"
        )
    if fault.tried[5] != fault.address or fault.tried[6] != fault.frame:
        return Diverges(
            f"gva 0x{fault.tried[5]:x}",
            f"gva 0x{fault.address:x}",
            "another page than the one that was tried",
        )
    if fault.again:
        if fault.waiting:
            return HOLDS
        if not fault.known:
            return unknown(Reason.STATE_UNSEEN)
        return Diverges(
            "kvm_async_pf_not_present", "kvm_async_pf_repeated_fault", "the page is not on its way"
        )
    return _token(fault, fault.token or 0)


def _token(fault: AsyncFault, token: int) -> Verdict:
    if fault.waiting:
        return Diverges(
            "kvm_async_pf_repeated_fault", "kvm_async_pf_not_present", "the page is on its way already"
        )
    number = fault.vcpu.number
    if number <= VCPU and token & VCPU != number:
        return Diverges(f"token of vCPU {number}", f"token 0x{token:x}", "the token names another vCPU")
    if fault.last is not None and not 0 < ((token >> 12) - fault.last) % COUNTS < COUNTS // 2:
        return Diverges(f"a counter above 0x{fault.last:x}", f"token 0x{token:x}", "the token is not new")
    return HOLDS


RULE = Rule(
    "KP116",
    "async-pf-not-tried",
    (Moment.ASYNC_FAULT,),
    (
        "kvm_try_async_get_page",
        "kvm_async_pf_not_present",
        "kvm_async_pf_ready",
        "kvm_exit",
        "kvm_entry",
        RESETS,
    ),
    check,
)
