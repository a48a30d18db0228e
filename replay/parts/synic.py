"""The SynIC and its interrupts (synic_set_msr, synic_set_irq, kvm_hv_synic_send_eoi, kvm_hv_notify_acked_sint)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hvtrace.abi.msr_synic import SINTS
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.registers import host_wrote
from hvtrace.replay.model.stimer import vector_of
from hvtrace.replay.model.synic import (
    EOM,
    SINT0,
    Accepted,
    Acknowledgement,
    EndOfInterrupt,
    Raised,
    Refused,
    SynicWrite,
    acknowledges,
)
from hvtrace.replay.model.timers import Timers
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger, ignore
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["SynicEvents"]

SET_MSR = "kvm_hv_synic_set_msr"

#: Interrupts of one thread kept, of which a synthetic source may be the cause (the idle threads of all CPUs are one),
#: and threads for which they are kept.
TAKEN, MAX_THREADS = 256, 4096

#: kvm_exit of VMX after an end of interrupt that the processor carried out.
EOI_INDUCED = (1, 45)

#: Until a vector was seen to be put into the guest, the APIC may hold it from before.
UNSEEN = -(1 << 40)

#: Vectors an APIC has.
VECTORS = 256


class SynicEvents(Part):
    """kvm_hv_synic_*, kvm_hv_notify_acked_sint, and the interrupts an APIC takes."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.timers = Timers()
        #: Threads of which something was seen since the last loss.
        self.known: set[int] = set()
        #: Interrupts that a thread's last calls made an APIC take: vCPU and vector, by thread.
        self.taken: dict[int, deque[tuple[int, int]]] = {}

    def handlers(self) -> dict[str, Handler]:
        return {
            SET_MSR: self._synic_set_msr,
            "kvm_hv_synic_set_irq": self._synic_set_irq,
            "kvm_hv_synic_send_eoi": self._send_eoi,
            "kvm_hv_notify_acked_sint": self._acked,
            "kvm_apic_accept_irq": self._accepted,
            "kvm_apicv_accept_irq": self._posted,
            "kvm_eoi": self._eoi,
            "kvm_hv_stimer_expiration": self._expired,
            "kvm_inj_virq": self._injected,
        }

    def strangers(self) -> dict[str, Stranger]:
        harmless = ("kvm_hv_synic_set_irq", "kvm_apic_accept_irq", "kvm_apicv_accept_irq", "kvm_eoi")
        return {**dict.fromkeys(harmless, ignore), SET_MSR: self._any_set_msr}

    def lost(self) -> None:
        self.known.clear()
        self.taken.clear()

    def _any_set_msr(self, event: Event, vcpu: Vcpu | None) -> None:
        if vcpu is not None:
            vcpu.registers.pop(event[5], None)
            vcpu.sources_changed()

    def _synic_set_msr(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        # An interrupt that the paravirtual EOI ended is over before the exit is handled: what a write of EOM
        # acknowledges is none of its.
        self._ended(vcpu)
        subject = SynicWrite(vcpu, event[5], event[6], bool(event[7]))
        self.judge.ask(Moment.SYNIC, subject, event, vcpu, cell)
        if event[7]:
            vcpu.vm.forget_silent()
            host_wrote(vcpu, event[5], event[6])
            vcpu.eom = vcpu.eom or event[5] == EOM
        else:
            vcpu.synic = True if vcpu.synic is None else vcpu.synic
            vcpu.effect(event, cell)

    def _synic_set_irq(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        sint, vector = event[5], event[6]
        own = event[4] == vcpu.tid
        # An unmasked source shows its vector.
        register = vcpu.registers.get(SINT0 + sint, vcpu.vectors.get(sint))
        subject = Raised(vcpu, sint, vector, register, racing=not own and _changing(vcpu, sint, vector))
        self.judge.ask(Moment.RAISED, subject, event, vcpu, cell)
        if register is None and 0 <= sint < SINTS:
            vcpu.vectors[sint] = vector
        if own:
            vcpu.raised.append((sint, cell, event))
        self._must_be_accepted(event, vcpu, cell)
        if event[7] <= 0:
            self._refused(event, vcpu, cell, vector)

    def _expired(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        timer = vcpu.timers[event[5]] if 0 <= event[5] < len(vcpu.timers) else None
        if event[6] and event[7] and timer is not None and timer.config is not None:
            self._refused(event, vcpu, cell, vector_of(timer.config))

    def _refused(self, event: Event, vcpu: Vcpu, cell: list[bool], vector: int) -> None:
        """KVM says that the APIC did not take it: then it must not come to the guest."""
        if vcpu.waiting.get(vector) == 1:
            vcpu.refused[vector] = (event, cell)

    def _injected(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vector, soft, again = event[5], event[6], event[7]
        if soft or again or event[4] != vcpu.tid:
            return
        refusal = vcpu.refused.pop(vector, None)
        if refusal is not None:
            delivered = True if vcpu.waiting.get(vector) == 1 else None
            self.judge.ask(Moment.REFUSED, Refused(vcpu, vector, delivered), refusal[0], vcpu, refusal[1])
        vcpu.waiting[vector] = 0

    def _must_be_accepted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The APIC takes the interrupt first, in the same thread."""
        taken, own = (event[3], event[6]), self.taken.get(event[4], ())
        accepted: bool | None = taken in own
        elsewhere: list[int] = []
        if accepted:
            # What the thread made other APICs take after the last time: nothing comes between that and this event, but
            # in interrupts of the idle threads, which are one thread on all CPUs.
            vm = event[3] >> 16
            for place, vector in reversed(own):
                if (place, vector) == taken:
                    break
                if vector == event[6] and place >> 16 == vm and event[4]:
                    elsewhere.append(place & 0xFFFF)
            own = self.taken[event[4]]
            own.reverse()
            own.remove(taken)
            own.reverse()
        elif event[4] not in self.known and not (event[4] == vcpu.tid and vcpu.whole):
            accepted = None
        self.judge.ask(Moment.ACCEPT, Accepted(vcpu, event[6], accepted, elsewhere), event, vcpu, cell)
        self.known.add(event[4])

    def _acknowledged_alone(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """No interrupt's end is under way: only a write of EOM acknowledges."""
        caused = vcpu.eom or any(effect[2] == SET_MSR and effect[5] == EOM for effect, _ in vcpu.effects)
        self.judge.ask(Moment.ACK, Acknowledgement(vcpu, event[5], caused), event, vcpu, cell)

    def _send_eoi(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.close()
        if event[4] == vcpu.tid:
            for due in vcpu.dues:
                if due.due is Due.SYNIC_EOI:
                    vcpu.meet(due)
            expected = acknowledges(vcpu, event[5])
            vcpu.ending = EndOfInterrupt(vcpu, event, cell, event[5], expected)
            vcpu.closing.append(self._ended)

    def _ended(self, vcpu: Vcpu) -> None:
        """All acknowledgements of an interrupt's end were seen."""
        end = vcpu.ending
        vcpu.ending = None
        if end is None:
            return
        self.judge.ask(Moment.EOI, end, end.event, vcpu, end.cell)
        if end.expected is None and 0 <= end.vector < VECTORS:
            vcpu.endings[end.vector] = end.acknowledged
        elif end.expected is not None and not self.judge.lossy:
            for event, mark in end.marks:
                self.judge.mark(event, mark)

    def _acked(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[4] == vcpu.tid:
            vcpu.visited = True
            if vcpu.ending is None and vcpu.whole:
                self._acknowledged_alone(event, vcpu, cell)
            vcpu.effects.append((event, cell))
            if vcpu.ending is not None:
                vcpu.ending.acknowledged.append(event[5])
                vcpu.ending.marks.append((event, cell))
        self.timers.acknowledged(vcpu, event[5], event, cell)

    def _accepted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.vm.has_apic = True
        if event[4] not in self.taken:
            if len(self.taken) >= MAX_THREADS:
                self.taken.clear()
                self.known.clear()
            self.taken[event[4]] = deque(maxlen=TAKEN)
        self.known.add(event[4])
        vcpu.waiting[event[5]] = vcpu.waiting.get(event[5], UNSEEN) + 1
        if event[6] or event[7]:
            # A synthetic source's is fixed and edge-triggered.
            return
        self.taken[event[4]].append((event[3], event[5]))
        if event[4] == vcpu.tid:
            vcpu.accepted.append(event[5])

    def _eoi(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[4] != vcpu.tid:
            return
        vcpu.effects.append((event, cell))
        # Only the processor's own ends (APICv) do not reach the SynIC.
        if vcpu.whole and not _accelerated(vcpu) and acknowledges(vcpu, event[5]):
            vcpu.open(Due.SYNIC_EOI, event, cell, 1, f"kvm_hv_synic_send_eoi of vector {event[5]}")

    def _posted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        # With APICv it comes beside kvm_apic_accept_irq, or alone.
        if (event[3], event[5]) not in self.taken.get(event[4], ()):
            self._accepted(event, vcpu, cell)


def _accelerated(vcpu: Vcpu) -> bool:
    """Whether this may be an exit in which the processor has ended the interrupt by itself."""
    if not vcpu.out or vcpu.left is None:
        return False
    return vcpu.left[6] is None or (vcpu.left[6], vcpu.left[5]) == EOI_INDUCED


def _changing(vcpu: Vcpu, sint: int, vector: int) -> bool:
    """Whether another thread may have seen the source's register as it was before its last write."""
    if vcpu.out:
        # The register changes between the event of its write and the kvm_msr; in userspace it may at any time.
        writing = any(effect[2] == SET_MSR and effect[5] == SINT0 + sint for effect, _ in vcpu.effects)
        if writing or vcpu.visited or vcpu.kind not in ("other", "call", "done"):
            return True
    former = vcpu.former.get(SINT0 + sint, 0)
    return former is None or former & 0xFF == vector
