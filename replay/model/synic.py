"""SynIC: interrupts of synthetic sources (TLFS, Inter-partition communication; synic_set_irq)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.msr import by_index
from hvtrace.abi.msr_synic import SINTS
from hvtrace.abi.register import Group

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = [
    "EOM",
    "SIMP",
    "SINT0",
    "SOURCES",
    "Accepted",
    "Acknowledgement",
    "EndOfInterrupt",
    "EndOfMessage",
    "Raised",
    "Refused",
    "SynicWrite",
    "Unsent",
    "acknowledges",
    "is_register",
    "masked",
    "vector",
]

#: The lowest vector of an interrupt.
LOWEST_VECTOR = 16

SINT0 = 0x4000_0090
SOURCES = range(SINT0, SINT0 + SINTS)
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


@dataclass(slots=True)
class EndOfInterrupt:
    """An interrupt is over: the sources that must be acknowledged (None: not known), and those that were."""

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    vector: int
    expected: list[int] | None
    acknowledged: list[int] = field(default_factory=list)
    marks: list[tuple[Event, list[bool]]] = field(default_factory=list)


@dataclass(slots=True)
class Acknowledgement:
    """A source is acknowledged while no interrupt ends: `caused` by a write of EOM, or by nothing."""

    vcpu: Vcpu
    sint: int
    caused: bool


@dataclass(slots=True)
class Accepted:
    """A source was raised with a vector that the APIC took before (None: may have been taken unseen), and the APICs of
    the vCPUs `elsewhere` as well.
    """

    vcpu: Vcpu
    vector: int
    accepted: bool | None
    elsewhere: list[int]


@dataclass(slots=True)
class Refused:
    """KVM says that the APIC did not take an interrupt, and what became of it: `delivered`, or not known (None)."""

    vcpu: Vcpu
    vector: int
    delivered: bool | None


@dataclass(slots=True)
class Unsent:
    """The vCPU's own thread raised a source, and no timer's expiration accounts for it before the entry."""

    vcpu: Vcpu
    sint: int


@dataclass(slots=True)
class SynicWrite:
    """A SynIC register is written."""

    vcpu: Vcpu
    index: int
    value: int
    host: bool


def is_register(index: int) -> bool:
    """Whether an index is a SynIC register's."""
    row = by_index(index)
    return row is not None and row.group is Group.SYNIC


def acknowledges(vcpu: Vcpu, ended: int) -> list[int] | None:
    """Sources an EOI of vector `ended` acknowledges, ascending; None where a register is not known.

    Userspace may leave a source unmasked with a vector below 16: the SynIC does not look for the end of those
    (synic_update_vector).
    """
    if ended < LOWEST_VECTOR:
        return []
    registers = list(map(vcpu.registers.get, SOURCES))
    if None in registers:
        # As the same vector's end did before: no source was written since.
        return vcpu.endings.get(ended) or None
    return [n for n, r in enumerate(registers) if r and vector(r) == ended and not masked(r)]


def masked(register: int) -> bool:
    """SINT bit 16."""
    return bool(register >> 16 & 1)


def vector(register: int) -> int:
    """SINT bits 7:0."""
    return register & 0xFF
