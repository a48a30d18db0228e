"""Reasons for which KVM keeps APICv or AVIC off, by the number that a kernel's tracepoint prints.

Source: arch/x86/include/asm/kvm_host.h of 5.15, 6.1, 6.6, 6.12, 6.16 and 7.1. Between 5.18 and 6.0 the numbers changed
from those of 5.15 to those of 6.1, and between 6.1 and 6.6 those from 4 on: there only a number is known.
"""

from __future__ import annotations

import re

__all__ = ["ABSENT", "DISABLED", "HYPERV", "inhibit_name"]

#: What all kernels since 5.7 count alike.
DISABLED, HYPERV = "DISABLED", "HYPERV"
ABSENT = "ABSENT"

#: kvm_apicv_update_request, 5.7 to 5.17.
_REQUESTED: tuple[str, ...] = (
    DISABLED,
    HYPERV,
    "NESTED",
    "IRQWIN",
    "PIT_REINJ",
    "X2APIC",
    "BLOCKIRQ",
    ABSENT,
    "SEV",
)
#: kvm_apicv_inhibit_changed: first kernel of a numbering → names.
_CHANGED: dict[tuple[int, int], tuple[str, ...]] = {
    (5, 18): (DISABLED, HYPERV),
    (6, 1): (
        DISABLED,
        HYPERV,
        ABSENT,
        "BLOCKIRQ",
        "APIC_ID_MODIFIED",
        "APIC_BASE_MODIFIED",
        "NESTED",
        "IRQWIN",
        "PIT_REINJ",
        "SEV",
    ),
    (6, 2): (DISABLED, HYPERV, ABSENT, "BLOCKIRQ"),
    (6, 6): (
        DISABLED,
        HYPERV,
        ABSENT,
        "BLOCKIRQ",
        "PHYSICAL_ID_ALIASED",
        "APIC_ID_MODIFIED",
        "APIC_BASE_MODIFIED",
        "NESTED",
        "IRQWIN",
        "PIT_REINJ",
        "SEV",
        "LOGICAL_ID_ALIASED",
        "PHYSICAL_ID_TOO_BIG",
    ),
}


def inhibit_name(reason: int, kernel: str | None, *, requested: bool = False) -> str:
    """Name of a reason as a kernel release ("6.1.0-56-amd64") counts them; "reason 5" where it is not known.

    `requested`: of the older tracepoint kvm_apicv_update_request, which had numbers of its own.
    """
    if requested:
        names = _REQUESTED
    else:
        found = re.match(r"(\d+)\.(\d+)", kernel or "")
        release = (int(found[1]), int(found[2])) if found else (5, 18)
        names = next(
            (own for first, own in reversed(_CHANGED.items()) if release >= first), (DISABLED, HYPERV)
        )
    return names[reason] if 0 <= reason < len(names) else f"reason {reason}"
