"""HV503 stimer-write-altered

## What it finds
A guest's write of a timer register that did not reach the timer, reached another timer or another
register, or with another value; or a refused write that reached it.

## Why it matters
The timer runs with a time the guest did not ask for.

## What the specification says
> A write of CONFIG or COUNT takes effect with the value written. KVM shows kvm_hv_stimer_set_config or
> kvm_hv_stimer_set_count, then kvm_msr; a refused write shows kvm_msr alone.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_hv_stimer_set_count: vcpu_id 0 timer 1 count 20000 host 0
    kvm_msr: msr_write 400000b1 = 0x4e20
    expected timer 0, observed timer 1
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


CONFIG, COUNT = "kvm_hv_stimer_set_config", "kvm_hv_stimer_set_count"
STIMER0 = 0x4000_00B0


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return write and row is not None and row.group is Group.STIMER


def check(access: Access) -> Verdict | None:
    """Each write reaches its timer once, unchanged."""
    row = access.row
    if row is None or not access.write or access.late or row.group is not Group.STIMER:
        return None
    if not access.whole:
        return unknown(access.why)
    seen = [(effect[2], effect[5], effect[6]) for effect in access.effects if effect[2] in (CONFIG, COUNT)]
    number = (access.index - STIMER0) >> 1
    wanted = [(COUNT if access.index & 1 else CONFIG, number, access.value)]
    if access.refused:
        if not access.fault.expected:
            return unknown(access.fault.reason)
        wanted = []
    if seen == wanted:
        return HOLDS
    text = f"the {'refused ' if access.refused else ''}write of {access.name} shows another effect"
    return Diverges(_words(wanted), _words(seen), text)


def _words(effects: list[tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} timer {timer} 0x{value:x}" for name, timer, value in effects) or "no effect"


RULE = Rule(
    "HV503",
    "stimer-write-altered",
    (Moment.MSR,),
    ("kvm_msr", "kvm_exit", "kvm_hv_stimer_set_config", "kvm_hv_stimer_set_count"),
    check,
    concerns=concerns,
    theme="SynIC",
)
