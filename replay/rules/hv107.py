"""HV107 cpuid-dependency-missing

## What it finds
An enlightenment offered without another that it needs: synthetic timers without the SynIC or reference time, the SynIC,
hypercall flushes or IPIs without VP indices, EVMCS or direct flush without the assist page, and so on. A warning: the
configuration is userspace's, and QEMU refuses most of these.

## Why it matters
Windows does not use, or crashes on, an enlightenment without what it builds upon.

## What the specification says
> hv-stimer needs hv-synic and hv-time, hv-synic needs hv-vpindex, … (hv-* flags of QEMU, dependencies).

## When it cannot tell
Where the leaf with the needed bit was not read and no -cpu flags are known.

## Example
    kvm_cpuid: func 40000003 rax 6c rbx 30 rcx 0 rdx 8
    expected hv-time for hv-stimer, observed its bits clear
"""

from __future__ import annotations

from hvtrace.abi.cpuid import FEATURES, NESTED, RECOMMENDATIONS
from hvtrace.abi.flags import FLAGS, Flag, flag_by_name
from hvtrace.replay.model.cpuid import REGISTERS, Answer
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Severity, Verdict, unknown

__all__ = ["RULE"]

#: Flags with dependencies, by the leaf that shows them.
DEPENDENT: dict[int, tuple[Flag, ...]] = {
    leaf: tuple(flag for flag in FLAGS if flag.needs and flag.sets and flag.sets[0].leaf == leaf)
    for leaf in (FEATURES, RECOMMENDATIONS, NESTED)
}


def check(answer: Answer) -> Verdict | None:
    """What an enlightenment needs is offered too."""
    exposure = answer.vcpu.vm.exposure
    if answer.leaf not in DEPENDENT or not answer.found or not exposure.hyperv:
        return None
    open_ = judged = False
    for flag in DEPENDENT[answer.leaf]:
        if not _shown(answer, flag):
            continue
        for name in flag.needs:
            needed = _offered(exposure, name)
            judged |= needed is True
            open_ |= needed is None
            if needed is False:
                text = f"{flag.name} is offered without {name}"
                return Diverges(f"{name} for {flag.name}", "its bits clear", text)
    return HOLDS if judged else unknown(Reason.CPUID_UNKNOWN) if open_ else None


def _shown(answer: Answer, flag: Flag) -> bool:
    """Whether the answer has every bit that a flag sets in this leaf, those of dependencies apart."""
    own = [gate for gate in flag.sets if gate.leaf == answer.leaf and gate.register != "ebx"]
    return all(answer.values[REGISTERS.index(gate.register)] >> gate.bit & 1 for gate in own)


def _offered(exposure: Exposure, name: str) -> bool | None:
    """Whether a flag's bits are offered; None: not known."""
    flag = flag_by_name(name)
    if flag is None:
        return None
    seen = [exposure.has(gate) for gate in flag.sets if gate.register != "ebx"]
    return False if False in seen else None if None in seen else True


RULE = Rule(
    "HV107",
    "cpuid-dependency-missing",
    (Moment.OFFER,),
    ("kvm_cpuid",),
    check,
    severity=Severity.WARNING,
    theme="offer",
)
