"""The local APIC: interrupts taken, delivered and ended, its registers through synthetic MSRs, the flag of the
paravirtual EOI (apic_set_eoi, apic_sync_pv_eoi_from_guest, kvm_hv_vapic_msr_write in arch/x86/kvm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.msr_synic import SINTS
from hvtrace.replay.model.access import ASSIST_PAGE, EOI, ICR, PV_EOI_EN, TPR, Access
from hvtrace.replay.model.apic import (
    BUSY,
    CLASSES,
    ENABLED,
    EOI_REGISTER,
    ICR_HIGH,
    ICR_LOW,
    ID_REGISTER,
    MODE_FIXED,
    MODE_INIT,
    MODE_LOWEST,
    MODE_MASK,
    SPURIOUS,
    TPR_REGISTER,
    UNASKED_UNSURE,
    Armed,
    Delivery,
    EndOfService,
    Inhibition,
    Ipi,
    LazyEnd,
    Pending,
    Skipped,
    Through,
    automatic,
    destinations,
    moves_automatic,
    served,
    settled,
    uses_automatic,
)
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.synic import SINT0
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger, ignore
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["ApicEvents"]

LOW = 0xFFFF_FFFF

#: The APIC register behind each synthetic MSR.
BEHIND = {EOI: EOI_REGISTER, ICR: ICR_LOW, TPR: TPR_REGISTER}

CHANGED = "kvm_apicv_inhibit_changed"

#: What shows that the guest is a hypervisor: kernels before 5.18 do not trace entries of its guests on VMX.
NESTED = ("kvm_nested_vmenter", "kvm_nested_vmexit", "kvm_nested_vmexit_inject")

#: apicv_inhibit reason 0: switched off by module parameter, for every VM.
SWITCHED_OFF = 1

#: apicv_inhibit reason 1: a source with auto-EOI.
BY_HYPERV = 1


class ApicEvents(Part):
    """kvm_apic, kvm_apic_ipi, kvm_apic_accept_irq, kvm_inj_virq, kvm_eoi, kvm_pv_eoi."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        #: The interrupt a thread is sending.
        self.sending: dict[int, Ipi] = {}
        #: APICv shows where it is switched on or off while a VM runs.
        self.visible = bool(bench.profile.fact("apicv_events")) and CHANGED in bench.traced

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_apic": self._register,
            "kvm_apic_ipi": self._send,
            "kvm_apic_accept_irq": self._accept,
            "kvm_apicv_accept_irq": self._accelerated,
            CHANGED: self._inhibited,
            "kvm_inj_virq": self._deliver,
            "kvm_eoi": self._end,
            "kvm_pv_eoi": self._end_lazily,
            **dict.fromkeys(NESTED, self._nested),
        }

    def strangers(self) -> dict[str, Stranger]:
        harmless = ("kvm_apicv_accept_irq", "kvm_eoi", "kvm_pv_eoi")
        return {
            **dict.fromkeys(harmless, ignore),
            "kvm_apic_accept_irq": self._any_accept,
            CHANGED: self._any_inhibited,
        }

    def losing(self, vm: Vm) -> None:
        vm.apics.accelerated = None

    def lost(self) -> None:
        self.sending.clear()

    # How the guest is served

    def _nested(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.vm.apics.nested = True

    def _accelerated(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if self.bench.apicv is None:
            self.bench.apicv = True
        _accelerate(vcpu.vm, accelerated=True)

    def _inhibited(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[7] & SWITCHED_OFF:
            self.bench.apicv = False
        if event[4] == vcpu.tid:
            _act(vcpu, event, cell)
        _accelerate(vcpu.vm, accelerated=not event[7])

    def _any_inhibited(self, event: Event, vcpu: Vcpu | None) -> None:
        if event[7] & SWITCHED_OFF:
            self.bench.apicv = False
        if self.bench.apicv is False:
            return
        for vm in self.vms.values():
            _accelerate(vm, accelerated=None)

    def _judgeable(self, vcpu: Vcpu) -> bool:
        """Whether every delivery and every end shows: no APICv, and no nested exits."""
        if vcpu.vm.apics.nested:
            return False
        return self.bench.apicv is False or vcpu.vm.apics.accelerated is False or vcpu.apic.software

    # Interrupts

    def _any_accept(self, event: Event, vcpu: Vcpu | None) -> None:
        sent = self.sending.get(event[4])
        if sent is not None:
            sent.expected, sent.exact = None, False

    def _accept(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vector, mode, level = event[5], event[6], bool(event[7])
        sent = self.sending.get(event[4])
        own = sent is not None and sent.command & 0xFF == vector and sent.command & MODE_MASK == mode
        if sent is not None and own:
            sent.taken.append((event, cell, vcpu.number))
        apic = vcpu.apic
        if mode == MODE_INIT:
            # The APIC is reset, when the vCPU comes to it.
            apic.unknown()
            apic.pending.clear()
            apic.enabled = False
            apic.lazy = apic.command = None
            return
        if mode in (MODE_FIXED, MODE_LOWEST):
            apic.suspects.pop(vector, None)
            mine = event[4] == vcpu.tid
            apic.take(vector, Pending(event[0], mine, level, own, mine and apic.enabled))
            if apic.chance is not None:
                vcpu.drop(apic.chance)
                apic.chance = None

    def _deliver(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """kvm_inj_virq: the vCPU enters the guest at this vector's handler."""
        vector, apic = event[5], vcpu.apic
        if event[6]:
            return
        apic.seen = True
        if event[7] or vector in apic.service:
            # The same delivery again.
            return
        taken = apic.pending.pop(vector, None)
        legacy = vcpu.vm.apics.legacy
        apic.ended_lazily = -1
        if (early := apic.suspects.pop(vector, None)) is not None and vector >> 3 not in legacy:
            self.judge.ask(Moment.ARMED, Armed(vcpu, vector, early[0][5]), early[0], vcpu, early[1])
        if taken is None or vcpu.vm.apics.accelerated:
            # By a 8259, or taken before anything was seen. What APICv delivers does not show here.
            legacy.add(vector >> 3)
            apic.deliver(vector, event[0], certain=False)
            return
        if (auto := automatic(vcpu, vector)) is True:
            return
        certain = auto is False and vector >> 3 not in legacy
        apic.deliver(vector, event[0], certain=certain)
        if not certain:
            return
        if self.visible:
            apic.software = True
        apic.enabled = True
        waiting = [
            other
            for other, p in apic.pending.items()
            if p.sure and other > vector and (p.seq < taken.seq or p.seq < settled(vcpu))
        ]
        if self._judgeable(vcpu) and event[7] is not None:
            self.judge.ask(Moment.DELIVERY, Delivery(vector, taken.sure, waiting), event, vcpu, cell)
        # The I/O APIC waits for the ends of some of its interrupts: they never arm the flag.
        if apic.lazy and apic.clear and not apic.pending and taken.ipi and not taken.again:
            apic.chance = vcpu.open(Due.CHANCE, event, cell, 2, f"the end of vector {vector} by the flag")

    def _end(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[4] != vcpu.tid:
            return
        apic, vector = vcpu.apic, event[5]
        known, apic.seen = apic.seen or vcpu.whole, True
        judgeable = self._judgeable(vcpu)
        apic.skipped = None
        asked, apic.asked = apic.asked, None
        if asked is not None and asked.met is not None:
            asked = None
        vcpu.meet(asked)
        subject = EndOfService(
            vcpu, vector, max(apic.service, default=-1), vector in apic.perhaps, vector >> 4 >= apic.unseen,
            judgeable, apic.ended_lazily if asked is not None else -1,
        )  # fmt: skip
        self.judge.ask(Moment.ENDED, subject, event, vcpu, cell)
        if vector in apic.perhaps:
            # It ends at the APIC: no 8259 has it.
            vcpu.vm.apics.legacy.discard(vector >> 3)
        apic.delivered_seq = apic.delivered.get(vector, -1)
        if asked is not None:
            self._skipped(event, vcpu, cell)
        apic.end(vector)
        if asked is None:
            key = -1 if judgeable and known else UNASKED_UNSURE
            apic.unasked = vcpu.open(Due.PV_EOI, event, cell, 1, f"kvm_pv_eoi of vector {vector}", key)

    def _skipped(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """A write of EOI ends an interrupt whose delivery armed the flag."""
        apic = vcpu.apic
        chance, apic.chance = apic.chance, None
        if chance is None or chance.met is not None or chance.event[5] != event[5] or apic.lazy is not True:
            return
        vcpu.drop(chance)
        if not self._judgeable(vcpu):
            return
        if event[5] in apic.lazy_vectors or apic.lazy_by == PV_EOI_EN:
            self._unarmed(vcpu, event, cell)
        else:
            # A guest may have registered the page for another purpose, and end its interrupts in another way.
            apic.skipped = (event, cell)

    def _unarmed(self, vcpu: Vcpu, event: Event, cell: list[bool]) -> None:
        apics = vcpu.vm.apics
        apics.skipped += 1
        known, ever = event[5] in vcpu.apic.lazy_vectors, apics.used
        if not ever:
            # What the sixth shows was true of the first.
            apics.first_skipped = apics.first_skipped or (vcpu, event, cell)
            vcpu, event, cell = apics.first_skipped
        self.judge.ask(
            Moment.SKIPPED, Skipped(False, event[5], apics.skipped, known, ever), event, vcpu, cell
        )

    def _end_lazily(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """kvm_pv_eoi: the guest had cleared the flag."""
        if event[4] != vcpu.tid:
            return
        apic, vector = vcpu.apic, event[5]
        ended, apic.unasked = apic.unasked, None
        before = ended.event[5] if ended is not None and ended.met is None else None
        subject = LazyEnd(vcpu, vector, before, apic.seen or vcpu.whole, apic.lazy, served(vcpu))
        self.judge.ask(Moment.LAZY, subject, event, vcpu, cell)
        vcpu.meet(ended)
        chance, apic.chance = apic.chance, None
        if chance is not None:
            vcpu.drop(chance)
        apic.seen = True
        if before is None:
            return
        if chance is not None and chance.met and chance.event[5] == vector:
            known = vector in apic.lazy_vectors
            self.judge.ask(Moment.SKIPPED, Skipped(True, vector, 0, known, True), event, vcpu, cell)
        apic.lazy = apic.clear = vcpu.vm.apics.used = True
        apic.ended_lazily = vector
        if vector >= 0:
            apic.lazy_vectors.add(vector)
        for other, taken in apic.pending.items():
            if taken.own and taken.seq < apic.delivered_seq:
                apic.suspects[other] = (event, cell)

    # Registers

    def _register(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[4] != vcpu.tid:
            return
        apic = vcpu.apic
        apic.seen = True
        _act(vcpu, event, cell)
        write, register = event[5], event[6]
        if not write:
            return
        if register == EOI_REGISTER:
            apic.asked = vcpu.open(Due.EOI, event, cell, 1, "kvm_eoi")
        elif register == SPURIOUS:
            apic.enabled = bool(event[7] & ENABLED)
        elif register == ID_REGISTER:
            vcpu.vm.apics.renumbered = True
        elif register in (ICR_LOW, ICR_HIGH):
            apic.command = None
            if register == ICR_LOW:
                self._commanded(event, vcpu, cell)
        elif register == TPR_REGISTER and apic.priority is not None:
            vcpu.drop(apic.priority)
            apic.priority = None

    def _commanded(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """A write of the command register sends an interrupt, which is traced after it, or before it in one piece."""
        apic = vcpu.apic
        command = event[7] & LOW & ~BUSY
        sent, apic.unclaimed = apic.unclaimed, None
        apic.commanded = vcpu.open(Due.IPI, event, cell, 1, f"kvm_apic_ipi of 0x{command:x}")
        if sent is not None and sent[5] & ~BUSY == command:
            vcpu.meet(apic.commanded)
        elif not vcpu.whole:
            # It may have been sent before anything was seen.
            vcpu.drop(apic.commanded)

    def _send(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.close()
        apic = vcpu.apic
        apic.seen = True
        _act(vcpu, event, cell)
        waiting, apic.commanded, apic.unclaimed = apic.commanded, None, event
        if waiting is not None and waiting.met is None and waiting.event[7] & LOW & ~BUSY == event[5] & ~BUSY:
            apic.unclaimed = None
            vcpu.meet(waiting)
        expected, exact = destinations(vcpu, event[5], event[6])
        vcpu.apic.sent = self.sending[event[4]] = Ipi(vcpu, event, cell, expected, exact)
        vcpu.closing.append(self._sent)

    def _sent(self, vcpu: Vcpu) -> None:
        """The interrupt's sending is over."""
        sent, vcpu.apic.sent = vcpu.apic.sent, None
        if sent is None:
            return
        self.sending.pop(sent.event[4], None)
        diverged = self.judge.ask(Moment.IPI, sent, sent.event, vcpu, sent.cell)
        if sent.expected and not diverged and not self.judge.lossy:
            for event, mark, _ in sent.taken:
                self.judge.mark(event, mark)

    # Synthetic MSRs

    def accessing(self, access: Access) -> None:
        register = BEHIND.get(access.index)
        vcpu = access.vcpu
        apic = vcpu.apic
        if register is None:
            return
        acts = apic.acts if apic.unit == vcpu.exit_seq else []
        if access.index == EOI and access.write and not acts:
            # The write ended it, if in another way than by the register.
            vcpu.drop(apic.unasked)
        elif access.index == ICR and access.write:
            # Judged with the value that was written.
            vcpu.drop(apic.commanded)
        priority = apic.priority
        written = None if priority is None or priority.met is not None else priority.event[7]
        command = apic.command if self._judgeable(vcpu) else None
        subject = Through(access, register, [act for act, _ in acts], command, written)
        diverged = self.judge.ask(Moment.THROUGH, subject, access.event, vcpu, access.cell)
        if not diverged and not access.refused and vcpu.whole and not self.judge.lossy:
            for act, mark in acts:
                self.judge.mark(act, mark)

    def accessed(self, access: Access, *, diverged: bool) -> None:
        vcpu = access.vcpu
        apic = vcpu.apic
        if access.index in (ASSIST_PAGE, PV_EOI_EN):
            if access.write and not access.refused:
                # The guest may look at another word than the one that counts now.
                apic.lazy, apic.lazy_by = bool(access.value & 1), access.index
                apic.lazy_vectors.clear()
                vcpu.vm.apics.skipped, vcpu.vm.apics.first_skipped = 0, None
                vcpu.drop(apic.chance)
                apic.chance = None
            elif access.write:
                # Whether the word of before still counts depends on the kernel.
                apic.lazy = None
            return
        if access.write and not access.refused and SINT0 <= access.index < SINT0 + SINTS:
            self._source_written(access)
        if access.index not in BEHIND:
            return
        apic.acts = []
        if access.refused or not access.write:
            return
        skipped, apic.skipped = apic.skipped, None
        if access.index == EOI and skipped is not None and vcpu.whole:
            self._unarmed(vcpu, *skipped)
        elif access.index == ICR:
            apic.command = access.value & ~BUSY
        elif access.index == TPR:
            # Until the guest has run twice: it may write CR8 without an exit.
            apic.priority = vcpu.open(Due.PRIORITY, access.event, access.cell, 2, "TPR as written")

    def _source_written(self, access: Access) -> None:
        """Whether the VM's use of auto-EOI begins or ends, which APICv cannot serve (synic_update_vector)."""
        vcpu, index = access.vcpu, access.index
        if not vcpu.whole or not self.visible:
            return
        before, after = uses_automatic(vcpu, (index, vcpu.former.get(index))), uses_automatic(vcpu)
        acts = vcpu.apic.acts if vcpu.apic.unit == vcpu.exit_seq else []
        shown = [act for act, _ in acts if act[2] == CHANGED and act[5] == BY_HYPERV]
        uses = [uses_automatic(other) for other in vcpu.vm.vcpus.values()]
        used = True if True in uses else None if None in uses else False
        changed = None if before is None or after is None else before != after
        moved = changed is False and before is True and moves_automatic(vcpu, index, vcpu.former.get(index))
        subject = Inhibition(access, changed, moved, self.bench.apicv, used, shown)
        self.judge.ask(Moment.INHIBITION, subject, access.event, vcpu, access.cell)


def _act(vcpu: Vcpu, event: Event, cell: list[bool]) -> None:
    """Keep what the APIC did in this exit."""
    apic = vcpu.apic
    if apic.unit != vcpu.exit_seq:
        apic.acts = []
        apic.unclaimed = None
        apic.unit = vcpu.exit_seq
    apic.acts.append((event, cell))


def _accelerate(vm: Vm, *, accelerated: bool | None) -> None:
    """The guest may now be served in hardware, or no longer."""
    vm.apics.accelerated = accelerated
    if accelerated is not False:
        for vcpu in vm.vcpus.values():
            vcpu.apic.software = False
            vcpu.apic.unknown()
            vcpu.apic.unseen = CLASSES
