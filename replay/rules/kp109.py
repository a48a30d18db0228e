"""KP109 pvclock-version

## What it finds
A clock page whose version is not the last one plus 2, or has the wrong parity.

## Why it matters
The guest reads the page without a lock: the version alone tells that nobody wrote it meanwhile. A version that
does not move lets it combine halves of two updates.

## What the specification says
> The version is odd while the page is written and even when it is whole (KVM, msr.rst). kvm_pvclock_update
> shows the final one; until 5.17 the odd one before it.

## When it cannot tell
The step at the first update since the page was registered, where two vCPUs have one page, and where the version
begins anew: KVM counts on from what the page holds, and the guest may clear it. Parity where the kernel's version is
not known.
Where Xen's interface is offered as well, its pages show the same event.

## Example
    kvm_pvclock_update: vcpu_id 0, pvclock { version 4, … }
    kvm_pvclock_update: vcpu_id 0, pvclock { version 4, … }
    expected version 6, observed version 4
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import Update
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

_U32 = (1 << 32) - 1

#: Highest version of a page that was all zeros before its update.
CLEARED = 2


def check(update: Update) -> Verdict | None:
    """Two more than before, and whole."""
    vcpu = update.vcpu
    before, even = vcpu.paravirt.clock.version, vcpu.bench.profile.fact("pvclock_final_version")
    if vcpu.vm.paravirt.xen:
        return unknown(Reason.STATE_UNSEEN)
    if even is not None and bool(update.version & 1) == even:
        parity = "even" if even else "odd"
        return Diverges(f"an {parity} version", f"version {update.version}", "the page is not whole")
    if before is None or update.active is None:
        return HOLDS if even is not None else unknown(vcpu.why)
    expected = (before + 2) & _U32
    if update.version == expected:
        return HOLDS
    if update.shared or update.version <= CLEARED < before:
        return unknown(Reason.STATE_UNSEEN)
    return Diverges(
        f"version {expected}", f"version {update.version}", "the version of a clock page moves by 2"
    )


RULE = Rule(
    "KP109",
    "pvclock-version",
    (Moment.PVCLOCK,),
    ("kvm_pvclock_update", "kvm_msr", RESETS),
    check,
    theme="pvclock",
)
