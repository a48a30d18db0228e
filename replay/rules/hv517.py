"""HV517 stimer-expiration-result

## What it finds
A result of sending that cannot be: other than 0 or 1 in direct mode, a busy slot (-11) reported for a
periodic timer, anything but -2 with the message page off, -2 with the page on and the source unmasked, a
positive result in message mode.

## Why it matters
The result decides whether the timer is tried again.

## What the specification says
> With SIMP disabled or the source masked the message cannot be sent and the timer waits; a periodic timer
> whose slot is busy loses the tick (stimer_send_msg, synic_deliver_msg).

## When it cannot tell
Until SIMP, the source's register and CONFIG were seen. Where a hypercall or userspace may have raised the source in the
same exit, the result of its interrupt is not held against the expiration's.

## Example
    kvm_msr: msr_write 40000083 = 0x0
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    expected send result -2, observed send result 0
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Expiration, sint_of
from hvtrace.replay.model.synic import SIMP, SINT0, masked
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


NOT_THERE, BUSY, NOT_TAKEN = -2, -11, -14


def check(expiration: Expiration) -> Verdict | None:
    """The result is one the state allows."""
    if expiration.confirmed is not None:
        return None
    timer, result = expiration.timer, expiration.result
    if expiration.direct:
        if result in (0, 1):
            return HOLDS
        return Diverges("send result 0 or 1", f"send result {result}", "direct mode sends or does not")
    if result > 0:
        return Diverges("send result 0 or negative", f"send result {result}", "a message has an error number")
    registers = expiration.vcpu.registers
    page = registers.get(SIMP)
    if timer.config is None or page is None:
        return unknown(expiration.vcpu.why)
    if not page & 1:
        if result == NOT_THERE:
            return HOLDS
        return Diverges(
            "send result -2", f"send result {result}", f"the message page is off (SIMP 0x{page:x})"
        )
    if timer.periodic and result == BUSY:
        text = f"timer {timer.number} is periodic: a busy slot costs the tick and gives 0"
        return Diverges("send result 0", "send result -11", text, "periodic-retry")
    source = registers.get(SINT0 + sint_of(timer.config))
    if source is None:
        return unknown(expiration.vcpu.why)
    if result == NOT_THERE and not masked(source):
        text = f"the message page is on and SINT{sint_of(timer.config)} is not masked (0x{source:x})"
        return Diverges("no send result -2", "send result -2", text)
    # What a hypercall or userspace raised in the same exit has nothing to do with the timer.
    for sint, taken in () if expiration.vcpu.visited else expiration.raised:
        if (
            sint == sint_of(timer.config)
            and (taken == 0) != (result == NOT_TAKEN)
            and result in (0, NOT_TAKEN)
        ):
            text = f"the interrupt of SINT{sint} gave {taken}"
            return Diverges(f"send result {0 if taken else NOT_TAKEN}", f"send result {result}", text)
    if result == 0 and masked(source) and not timer.periodic:
        text = f"SINT{sint_of(timer.config)} is masked (0x{source:x})"
        return Diverges("send result -2", "send result 0", text)
    return HOLDS


RULE = Rule(
    "HV517",
    "stimer-expiration-result",
    (Moment.EXPIRATION,),
    ("kvm_hv_stimer_set_config", "kvm_hv_synic_set_msr", "kvm_msr"),
    check,
    theme="SynIC",
)
