"""CPUID reads of the guest in the hypervisor's range (kvm_cpuid)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.cpuid import Answer
from hvtrace.replay.model.machine import Vcpu
from hvtrace.replay.part import Handler, Part, Stranger, ignore
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["CpuidEvents"]

#: Answers kept of one VM; a recording is untrusted.
MAX_ANSWERS = 1 << 16

U32 = 0xFFFF_FFFF


class CpuidEvents(Part):
    """kvm_cpuid: what the guest was offered, and whether the answers agree with one another."""

    def handlers(self) -> dict[str, Handler]:
        return {"kvm_cpuid": self._cpuid}

    def strangers(self) -> dict[str, Stranger]:
        return {"kvm_cpuid": ignore}

    def _cpuid(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        leaf = event[5]
        found, basic = (None if flag is None else bool(flag) for flag in event[10:12])
        given = tuple(value & U32 for value in event[6:10])
        # The highest basic leaf depends on the sub-leaf asked for and on the vCPU's state.
        values = (0, 0, 0, 0) if found is False and basic is not False else given
        exposure = vcpu.vm.exposure
        exposure.learn(leaf, values[0], values[1], values[2], values[3], found)
        known = exposure.answers.setdefault(leaf, {})
        other = next(((number, got) for number, got in known.items() if number != vcpu.number), None)
        answer = Answer(vcpu, leaf, values, given, found, basic, known.get(vcpu.number), other)
        if self.judge.ask(Moment.CPUID, answer, event, vcpu, cell):
            exposure.doubt(leaf)
        else:
            self.judge.ask(Moment.OFFER, answer, event, vcpu, cell)
        if len(known) < MAX_ANSWERS:
            known[vcpu.number] = values
