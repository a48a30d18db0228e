"""The synthetic debugger's registers of one VM (syndbg_set_msr, syndbg_get_msr in arch/x86/kvm/hyperv.c).

Every access that gets as far as the debugger shows an event, the guest's and userspace's alike, and the event does not
say whose it is. STATUS alone changes without one: userspace's answer to a write of CONTROL goes there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.msr import MSRS
from hvtrace.abi.register import Group

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu

__all__ = ["CONTROL", "REGISTERS", "STATUS", "VP_INDEX", "DebugAccess", "Debugger"]

REGISTERS = frozenset(msr.index for msr in MSRS if msr.group is Group.SYNDBG)
CONTROL, STATUS = 0x4000_00F1, 0x4000_00F2
VP_INDEX = 0x4000_0002


@dataclass(slots=True)
class DebugAccess:
    """An access that reached the debugger. `held` is what the register held (None: not known); `former` what it held
    before another vCPU's write, which may be under way still. `shown` is the VP index the event names, `own` the
    vCPU's as far as known.
    """

    vcpu: Vcpu
    index: int
    data: int
    write: bool
    held: int | None = None
    former: int | None = None
    shown: int | None = None
    own: int | None = None


@dataclass(slots=True)
class Debugger:
    """What is known of the registers."""

    values: dict[int, int] = field(default_factory=dict)
    #: Value before the last write (None: not known), and the vCPU that made it.
    former: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    #: The vCPU, and the rank of its exit, in which CONTROL was written: STATUS is about to change.
    answering: tuple[Vcpu, int] | None = None
    #: The VP index that events named, by vCPU.
    indices: dict[int, int] = field(default_factory=dict)

    def create(self) -> None:
        """The VM was just created: every register holds 0."""
        self.values.update(dict.fromkeys(REGISTERS, 0))

    def wrote(self, vcpu: Vcpu, index: int, value: int) -> None:
        """A write reached a register."""
        self.former[index] = self.values.get(index), vcpu.number
        self.values[index] = value
        if index == CONTROL:
            self.values.pop(STATUS, None)
            self.answering = vcpu, vcpu.exit_seq

    def read(self, vcpu: Vcpu, index: int) -> tuple[int | None, int | None]:
        """What a register holds, and what it may hold still because another vCPU is writing it."""
        before, writer = self.former.get(index, (None, vcpu.number))
        return self.values.get(index), None if writer == vcpu.number else before

    def saw(self, index: int, value: int) -> None:
        """A read showed a register's value."""
        if index == STATUS and self.answering is not None:
            vcpu, exit_seq = self.answering
            if vcpu.exit_seq == exit_seq:
                return
            self.answering = None
        self.values[index] = value
