"""Hyper-V hypercalls (kvm_hv_hypercall, kvm_hv_hypercall_complete)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.hypercall import Call
from hvtrace.replay.model.machine import Vcpu
from hvtrace.replay.part import Handler, Part
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["HypercallEvents"]


class HypercallEvents(Part):
    """kvm_hv_hypercall and kvm_hv_hypercall_done."""

    def handlers(self) -> dict[str, Handler]:
        return {"kvm_hv_hypercall": self._hypercall, "kvm_hv_hypercall_done": self._done}

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.hyperv = vcpu.visited = True
        vcpu.call = event[5]

    def _done(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if vcpu.call is not None:
            self.judge.ask(Moment.CALL, Call(vcpu, vcpu.call, event[5]), event, vcpu, cell)
        vcpu.call = None
