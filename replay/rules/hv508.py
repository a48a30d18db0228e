"""HV508 stimer-start-kind

## What it finds
A periodic timer that is armed as a one-shot timer, or the other way round.

## Why it matters
A period that ends after one tick, or a deadline that comes again and again.

## What the specification says
> Bit 1 of CONFIG makes the timer periodic (TLFS, Synthetic timer configuration register).

## When it cannot tell
Until CONFIG was seen.

## Example
    kvm_hv_stimer_set_config: vcpu_id 0 timer 0 config 0x20003 host 0
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 0 time_now 100 count 20000
    expected a periodic start, observed a one-shot start
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(start: Start) -> Verdict | None:
    """The kind is CONFIG's."""
    if start.timer.enable is False:
        return None
    if start.timer.config is None:
        return unknown(start.vcpu.why)
    periodic = bool(start.timer.periodic)
    if periodic == start.periodic:
        return HOLDS
    words = {True: "kvm_hv_stimer_start_periodic", False: "kvm_hv_stimer_start_one_shot"}
    text = f"CONFIG of timer {start.timer.number} says {'periodic' if periodic else 'one-shot'}"
    return Diverges(words[periodic], words[start.periodic], text)


RULE = Rule(
    "HV508", "stimer-start-kind", (Moment.START,), ("kvm_hv_stimer_set_config",), check, theme="SynIC"
)
