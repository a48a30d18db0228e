"""kvmclock: the time of a VM as KVM publishes it to each vCPU (kvm_guest_time_update, kvm_setup_guest_pvclock).

A page holds a point of a straight line: at `tsc_timestamp` it was `system_time` (ns); the slope is
`tsc_to_system_mul` * 2**(`tsc_shift` - 32) ns per cycle. With the master clock all vCPUs get the same point until
kvm_update_master_clock takes another one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["SYSTEM_TIME", "Clock", "Master", "OldClock", "Point", "Update", "elapsed"]

SYSTEM_TIME = 0x4B56_4D01

#: Size of a page's contents (struct pvclock_vcpu_time_info).
SIZE = 32

#: Flags of a page: the TSC is stable; the guest was stopped.
STABLE, STOPPED = 1, 2

#: Points of the master clock kept that a vCPU may still publish.
FORMER = 8

_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Point:
    """What was published: cycles, ns, and the slope."""

    tsc: int
    time: int
    mul: int
    shift: int


@dataclass(slots=True)
class Clock:
    """One vCPU's page: the version shown last since it was registered, the last stable point, the master clock's
    update under which that was published, and updates to be judged at the end of the exit.
    """

    version: int | None = None
    point: Point | None = None
    rate: tuple[int, int] | None = None
    epoch: int = -1
    updates: list[Update] = field(default_factory=list)


@dataclass(slots=True)
class Master:
    """One VM's master clock: how often it was updated, whether it is in use, the time of its point. None: not known.

    `former_used` and `former` are what was before, which a vCPU may still publish that was reading it meanwhile;
    `stale` are the vCPUs that may still publish what was before an update nobody saw.
    """

    epoch: int = 0
    used: bool | None = None
    time: int | None = None
    former_used: bool | None = None
    former: deque[int] = field(default_factory=lambda: deque(maxlen=FORMER))
    stale: set[int] = field(default_factory=set)

    def updated(self, used: bool) -> None:
        """kvm_update_master_clock of a vCPU."""
        self.epoch += 1
        if self.time is not None:
            self.former.append(self.time)
        self.former_used, self.used, self.time = self.used, used, None

    def lost(self, vcpus: dict[int, Vcpu]) -> None:
        """It may have been updated."""
        self.epoch += 1
        self.used = self.former_used = self.time = None
        self.former.clear()
        self.stale = {number for number, vcpu in vcpus.items() if vcpu.out}


@dataclass(slots=True)
class Update:
    """kvm_pvclock_update, which is judged at the end of the exit.

    `active` says whether SYSTEM_TIME is enabled (None: not known), `epoch` is the master clock's.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    version: int
    point: Point
    flags: int
    active: bool | None
    epoch: int

    @property
    def shared(self) -> bool:
        """Another vCPU has the same page, and its updates count as well."""
        vm, own = self.vcpu.vm, self.vcpu.registers.get(SYSTEM_TIME, 0)
        others = (vcpu.registers.get(SYSTEM_TIME, 0) for vcpu in vm.vcpus.values() if vcpu is not self.vcpu)
        return any(other & 1 and abs(other - own) < SIZE for other in others)

    @property
    def stable(self) -> bool:
        """The guest is told that its TSCs agree."""
        return bool(self.flags & STABLE)

    @property
    def overtaken(self) -> bool:
        """The master clock was updated before the exit was over: it is open which point is shown."""
        return self.epoch != self.vcpu.vm.master.epoch

    @property
    def late(self) -> bool:
        """The vCPU published nothing since the master clock's last update, and may have read what was before."""
        return self.vcpu.paravirt.clock.epoch != self.vcpu.vm.master.epoch


@dataclass(slots=True)
class OldClock:
    """kvm_update_master_clock: whether the master clock is used, and whether the boot vCPU has the old clock MSR."""

    vcpu: Vcpu
    used: bool
    old: bool | None


def elapsed(before: Point, tsc: int) -> int:
    """What a guest computes, in ns, from `before` to a later count of cycles (pvclock_scale_delta)."""
    delta = (tsc - before.tsc) & _U64
    if delta >> 63:
        delta -= 1 << 64
    shifted = delta << before.shift if before.shift >= 0 else delta >> -before.shift
    return shifted * before.mul >> 32
