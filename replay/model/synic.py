"""SynIC: interrupts of synthetic sources (TLFS, Inter-partition communication; synic_set_irq)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu

__all__ = ["EOM", "SIMP", "SINT0", "EndOfMessage", "Raised", "masked", "vector"]

SINT0 = 0x4000_0090
SIMP = 0x4000_0083
EOM = 0x4000_0084


@dataclass(slots=True)
class EndOfMessage:
    """A guest's write of EOM is complete: the sources acknowledged since, in order."""

    vcpu: Vcpu
    acknowledged: list[int]
    whole: bool


@dataclass(slots=True)
class Raised:
    """A source was raised: its register's value (None: not known) and what the record says.

    `racing` is true where another thread raised it while the vCPU may be writing the register.
    """

    vcpu: Vcpu
    sint: int
    vector: int
    register: int | None
    racing: bool


def masked(register: int) -> bool:
    """SINT bit 16."""
    return bool(register >> 16 & 1)


def vector(register: int) -> int:
    """SINT bits 7:0."""
    return register & 0xFF
