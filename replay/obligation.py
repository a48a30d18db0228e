"""Obligations: what must follow, within a bound that is counted in entries of the vCPU.

A broken obligation is reported on the event that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["Due", "Obligation", "comes"]


class Due(Enum):
    """What must follow."""

    # Members are keys in the hot path, and the same object is the same member.
    __hash__ = object.__hash__

    #: kvm_hv_stimer_cleanup after a write of CONFIG or COUNT, or after a one-shot expiration.
    CLEANUP = "cleanup"
    #: A start, expiration or cleanup once an enabled timer's registers were written or a period is over.
    PROCESS = "process"
    #: A sign of life after the host timer fired.
    CALLBACK = "callback"
    #: Another attempt after the source of a parked timer was acknowledged.
    RETRY = "retry"
    #: kvm_msr after the events of a guest's MSR write.
    MSR = "msr"
    #: kvm_hv_hypercall_done after kvm_hv_hypercall.
    HYPERCALL = "hypercall"
    #: An exit to userspace after a write that asks for one.
    EXIT = "exit"
    #: kvm_hv_synic_send_eoi after the end of an interrupt whose vector is a synthetic source's.
    SYNIC_EOI = "synic eoi"
    #: kvm_eoi after a write of the EOI register.
    EOI = "eoi"
    #: kvm_pv_eoi after a kvm_eoi that no write of the EOI register asked for.
    PV_EOI = "pv eoi"
    #: kvm_apic_ipi after or before a write of the interrupt command register.
    IPI = "ipi"
    #: Bounds without a rule: the flag of the paravirtual EOI is armed for the next exit; TPR is as it was written.
    CHANCE = "eoi chance"
    PRIORITY = "priority"
    #: kvm_pvclock_update after a write of SYSTEM_TIME or an update of the master clock.
    PVCLOCK = "pvclock"
    #: kvm_pv_tlb_flush once steal time is enabled, or a vCPU that has it comes back from userspace.
    STEAL = "steal time"
    #: The interrupt that tells that an asynchronous page fault is over.
    PAGE_READY = "page ready"
    #: An entry must *not* follow: a timer was cancelled without a cause, unless the vCPU is being destroyed.
    DESTROYED = "destroyed"
    #: kvm_vcpu_wakeup after kvm_halt_poll_ns.
    WAKEUP = "wakeup"


@dataclass(slots=True, eq=False)
class Obligation:
    """One thing owed. `entries` counts down to 0 at each entry of the vCPU; `detail` is what is owed, in
    words,
    `key` the timer concerned (-1: none).

    `met` is None while open. `excuse` says why a broken obligation cannot be held against KVM. `cell` is the
    judged-mark of the event that opened it (see `judge.Judge`).
    """

    due: Due
    vcpu: Vcpu
    event: Event
    cell: list[bool]
    entries: int
    detail: str
    key: int = -1
    met: bool | None = None
    #: The bound is passed, and an answer may still be under way (see Vcpu.entered).
    late: bool = False
    excuse: Reason | None = None
    observed: str = "nothing"


def comes(
    message: Callable[[Obligation], str], still: Callable[[Obligation], bool] | None = None
) -> Callable[[Obligation], Verdict | None]:
    """The check of a rule that says: what is owed comes within its bound. `message` tells in words what is wrong.

    `still` tells whether what was owed still is when the bound is passed (None: always): if not, nothing can be told.
    """

    def check(owed: Obligation) -> Verdict | None:
        if owed.met:
            return HOLDS
        if owed.excuse is not None:
            return unknown(owed.excuse)
        if still is not None and not still(owed):
            return unknown(Reason.STATE_UNSEEN)
        return Diverges(owed.detail, owed.observed, message(owed))

    return check
