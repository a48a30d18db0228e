"""HV404 acknowledgement-uncalled

## What it finds
A synthetic interrupt source that is acknowledged although no interrupt with its vector ends and the guest
wrote no EOM.

## Why it matters
A timer message is tried again before the guest has read the one in its slot.

## What the specification says
> A source is acknowledged by the end of its interrupt or by a write of EOM (TLFS, Message delivery;
> kvm_hv_notify_acked_sint).

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_exit: vcpu 0 reason hlt
    kvm_hv_notify_acked_sint: vcpu_id 0 sint 2
    expected no acknowledgement, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Acknowledgement
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(seen: Acknowledgement) -> Verdict | None:
    """Nothing acknowledges by itself."""
    if seen.caused:
        return HOLDS
    text = "no interrupt of this source ends, and EOM was not written"
    return Diverges("no acknowledgement", f"sint {seen.sint}", text)


RULE = Rule(
    "HV404",
    "acknowledgement-uncalled",
    (Moment.ACK,),
    ("kvm_hv_notify_acked_sint", "kvm_hv_synic_send_eoi", "kvm_hv_synic_set_msr", "kvm_entry", "kvm_exit"),
    check,
    theme="SynIC",
)
