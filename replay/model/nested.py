"""What the trace shows of a nested guest (L2), and registers that only userspace sets.

A guest hypervisor (L1) runs from each exit that KVM reflects to it (kvm_nested_vmexit_inject) to its next entry
(kvm_nested_vmenter, kernels since 6.1 on both vendors). An entry may fail without an event, and a reset leaves L2
silently, so that L1 is known to run in between alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["CRASH_CTL", "NestedEvent"]

CRASH_CTL = 0x4000_0105


@dataclass(slots=True)
class NestedEvent:
    """An event that only a nested guest brings about. `outermost` is true where L1 is known to run, false where it
    was seen to enter its guest.
    """

    vcpu: Vcpu
    event: Event
    outermost: bool | None
