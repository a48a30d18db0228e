"""HV516 stimer-expiration-mode

## What it finds
A timer in direct mode that sends a message, or a timer in message mode that sends an interrupt directly.

## Why it matters
The guest waits for the one and gets the other.

## What the specification says
> Bit 12 of CONFIG selects direct mode (TLFS, Synthetic timer configuration register).

## When it cannot tell
Until CONFIG was seen.

## Example
    kvm_hv_stimer_set_config: vcpu_id 0 timer 0 config 0x1ed1 host 0
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    expected direct 1, observed direct 0
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Expiration
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(expiration: Expiration) -> Verdict | None:
    """Direct is CONFIG's bit 12."""
    if expiration.confirmed is not None:
        return None
    direct = expiration.timer.direct
    if direct is None:
        return unknown(expiration.vcpu.why)
    if direct == expiration.direct:
        return HOLDS
    text = f"CONFIG of timer {expiration.timer.number} has direct mode {'on' if direct else 'off'}"
    return Diverges(f"direct {int(direct)}", f"direct {int(expiration.direct)}", text)


RULE = Rule(
    "HV516",
    "stimer-expiration-mode",
    (Moment.EXPIRATION,),
    ("kvm_hv_stimer_set_config",),
    check,
    theme="SynIC",
)
