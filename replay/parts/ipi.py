"""IPIs and TLB flushes by hypercall (kvm_hv_send_ipi, kvm_hv_flush_tlb, kvm_make_vcpus_request_mask)."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.ending import HEADERS, PAGE, endings, is_nested
from hvtrace.replay.model.hypercall import INPUTS, Call, current
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.vp_set import VP_INDEX, Flushed, Input, Sent, VpSet, indices, vp_set
from hvtrace.replay.part import Handler, Part, Stranger
from hvtrace.replay.rule import Moment
from hvtrace.replay.tape import FIELDS, TAPE

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["IpiEvents"]

SEND_IPI, ACCEPTED, DONE = "kvm_hv_send_ipi", "kvm_apic_accept_irq", "kvm_hv_hypercall_done"

#: The flush by mask, and where it says whether it is L2's (kernels since 6.2).
FLUSH, GUEST_MODE = "kvm_hv_flush_tlb", FIELDS + TAPE["kvm_hv_flush_tlb"].index("guest_mode")

#: Says which clock the host takes its time from (the vDSO's mode: 1 is the TSC).
CLOCK, HOST_TSC = "kvm_update_master_clock", 1

#: Delivery and trigger mode of an IPI: fixed, edge.
FIXED, EDGE = 0, 0

#: Stamps of two CPUs are in the order of the events if they are further apart than this.
SKEW_NS = 100_000

#: Interrupts kept of one call: two events for each vCPU a VM may have.
MAX_ACCEPTED = 8192

#: Flushes kept of which a target was not yet seen to leave the guest; threads that may have a call under way; pages of
#: guest memory known to exist.
MAX_WAITING, MAX_THREADS, MAX_PAGES = 64, 4096, 4096


@dataclass(slots=True)
class Sending:
    """A call whose input was traced: whom it addresses, the vCPUs known then, the targets that were in the guest."""

    call: Call
    targets: VpSet
    known: frozenset[int]
    inside: list[Vcpu]
    finished_ns: int = 0

    def running(self) -> list[Vcpu]:
        """Targets that have not left the guest since the event of the input."""
        assert self.call.shown is not None
        return [vcpu for vcpu in self.inside if vcpu.exit_seq < self.call.shown[0]]


class IpiEvents(Part):
    """kvm_hv_send_ipi(_ex), kvm_hv_flush_tlb(_ex), and what they bring about."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        #: Results are traced.
        self.finishes = bool(bench.profile.fact("hypercall_done")) and DONE in bench.traced
        #: Calls under way, by the caller's thread.
        self.calls: dict[int, Sending] = {}
        #: Flushes that are over while a target was still in the guest.
        self.waiting: deque[Sending] = deque(maxlen=MAX_WAITING)
        #: VMs whose host was seen to take its time from another clock than the TSC: stamps of its CPUs may differ by
        #: a tick. All of them, where it was not seen for which VM.
        self.unsteady: set[int | None] = set()

    def handlers(self) -> dict[str, Handler]:
        return {
            **dict.fromkeys(set(INPUTS.values()), self._input),
            "kvm_hv_hypercall": self._hypercall,
            DONE: self._done,
            ACCEPTED: self._accepted,
            "kvm_apicv_accept_irq": self._accepted,
            CLOCK: self._clock,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {CLOCK: self._any_clock}

    def lost(self) -> None:
        self.calls.clear()
        self.waiting.clear()

    def _clock(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[6] != HOST_TSC:
            self.unsteady.add(vcpu.vm.number)

    def _any_clock(self, event: Event, vcpu: Vcpu | None) -> None:
        if event[6] != HOST_TSC:
            self.unsteady.add(None)

    def accessed(self, access: Access, *, diverged: bool) -> None:
        if access.index == VP_INDEX and not access.write and not access.refused and not diverged:
            access.vcpu.vp_index = access.value

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self.calls.pop(event[4], None)
        while self.waiting and event[1] - self.waiting[0].finished_ns >= SKEW_NS:
            sending = self.waiting.popleft()
            self._flushed(sending, sending.running())

    def _input(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        call = current(vcpu)
        subject = Input(vcpu, call, event, first=call is None or call.shown is None)
        # Of a slow flush only its place can be wrong: that says nothing of what it shows.
        counted = [True] if event[2] == FLUSH and event[GUEST_MODE] is None else cell
        diverged = self.judge.ask(Moment.INPUT, subject, event, vcpu, counted)
        if call is not None:
            call.diverged |= diverged
        if call is None or call.shown is not None or INPUTS.get(call.code) != event[2]:
            return
        call.shown, call.shown_cell = event, cell
        vm, targets = vcpu.vm, vp_set(event)
        if not call.fast and not is_nested(call):
            if len(vm.input_pages) >= MAX_PAGES:
                vm.input_pages.clear()
            vm.input_pages.update((call.ingpa // PAGE, (call.ingpa + HEADERS[call.code] - 1) // PAGE))
        inside: list[Vcpu] = []
        flush = not event[2].startswith(SEND_IPI)
        # A nested guest names its own processors, whichever vCPUs those run on.
        nested = flush and (is_nested(call) if event[-1] is None else bool(event[-1]))
        steady = self.unsteady.isdisjoint((vm.number, None))
        if flush and not nested and steady and self.bench.profile.fact("flush_stops_targets"):
            numbers = indices(vm)
            inside = [
                other
                for other in vm.vcpus.values()
                if other is not vcpu and other.whole and not other.out and targets.has(numbers[other.number])
            ]
        if len(self.calls) >= MAX_THREADS:
            self.calls.clear()
        self.calls[event[4]] = Sending(call, targets, frozenset(vm.vcpus), inside)
        if not self.finishes:
            vcpu.closing.append(self._unfinished)

    def _accepted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        sending = self.calls.get(event[4])
        if sending is None or sending.call.vcpu.vm is not vcpu.vm:
            return
        if len(sending.call.accepted) < MAX_ACCEPTED:
            sending.call.accepted.append((event, cell))

    def _done(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        sending = self.calls.pop(event[4], None)
        if sending is not None and sending.call.result is not None and not sending.call.diverged:
            sending.finished_ns = event[1]
            self._over(sending)

    def _unfinished(self, vcpu: Vcpu) -> None:
        """The exit is over, and no result is traced (before 5.13)."""
        sending = self.calls.get(vcpu.tid) if vcpu.tid is not None else None
        if sending is not None and sending.call.vcpu is vcpu:
            del self.calls[sending.call.event[4]]
            self._over(sending)

    def _over(self, sending: Sending) -> None:
        call = sending.call
        assert call.shown is not None
        if call.shown[2].startswith(SEND_IPI):
            self._sent(sending)
        elif sending.inside and call.status == 0:
            if sending.running():
                self.waiting.append(sending)
            else:
                self._flushed(sending, [])

    def _sent(self, sending: Sending) -> None:
        call = sending.call
        assert call.shown is not None
        sent = Sent(call, sending.targets, _succeeded(call), sending.known)
        posted: Counter[int] = Counter()
        vector = call.shown[5]
        for event, cell in call.accepted:
            if event[5] == vector and event[6] == FIXED and event[7] in (EDGE, None):
                (sent.took if event[2] == ACCEPTED else posted)[event[3] & 0xFFFF] += 1
                if sent.succeeded and not self.judge.lossy:
                    self.judge.mark(event, cell)
            else:
                sent.others.append(event[5])
        # With APICv it comes beside kvm_apic_accept_irq, or alone.
        for number, count in posted.items():
            sent.took[number] = max(sent.took[number], count)
        self.judge.ask(Moment.SENT, sent, call.shown, call.vcpu, call.shown_cell)

    def _flushed(self, sending: Sending, running: list[Vcpu]) -> None:
        call = sending.call
        assert call.shown is not None
        self.judge.ask(Moment.FLUSHED, Flushed(call, running), call.shown, call.vcpu, call.shown_cell)


def _succeeded(call: Call) -> bool | None:
    """Whether the call succeeded; where no result is traced, as far as its input tells."""
    if call.status is not None:
        return call.status == 0
    statuses = {ending.status == 0 for ending in endings(call) if ending.shown}
    return statuses.pop() if len(statuses) == 1 else None
