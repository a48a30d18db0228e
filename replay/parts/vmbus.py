"""VMBus: QEMU's trace events of it, and what KVM shows of the same conversation (QEMU hw/hyperv/vmbus.c)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hvtrace.abi.vmbus import CONNECTION_MASK, POST_MESSAGE, QEMU_FIRST_CHANNEL_CONNECTION, SIGNAL_EVENT, SINT
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.synic import LOWEST_VECTOR, SINT0, masked, vector
from hvtrace.replay.model.vmbus import Answer, Bus, Phase
from hvtrace.replay.model.vmbus_calls import NO_THREAD, Joint, Judged, Receipt
from hvtrace.replay.model.vmbus_finding import Aspect, Finding
from hvtrace.replay.model.vmbus_protocol import ANSWERS, HANDLERS
from hvtrace.replay.model.vmbus_talk import Talk
from hvtrace.replay.model.vp_set import indices
from hvtrace.replay.part import Handler, Part, Resident, Stranger
from hvtrace.replay.rule import RESETS, Moment
from hvtrace.replay.tape import QEMU_TAPE
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["VmbusEvents"]

SCONTROL = 0x4000_0080

RECEIVED = "vmbus_recv_message"

#: What is judged of each event: what cannot be told where its VM is not known.
ASPECTS: dict[str, Aspect] = {
    **dict.fromkeys(QEMU_TAPE, Aspect.CALLED),
    **dict.fromkeys(HANDLERS, Aspect.HANDLED),
    RECEIVED: Aspect.SIZE,
    "vmbus_process_incoming_message": Aspect.TURN,
    "vmbus_msg_cb": Aspect.REPORTED,
    "vmbus_channel_notify_guest": Aspect.NOTIFIED,
}

#: Number of the one who is asked about events of a VM that are no vCPU's.
NOBODY = -1


class Side:
    """One VM's: the conversation, what KVM saw of it, and who stands for the VM where a vCPU is asked for."""

    def __init__(self, vm: Vm, bus: Bus, slack_ns: int) -> None:
        self.bus = bus
        self.talk = Talk(bus, resets=RESETS in vm.bench.traced)
        self.joint = Joint(bus, slack_ns)
        self.desk = Vcpu(NOBODY, vm)


class VmbusEvents(Part):
    """vmbus_*, and the hypercalls and interrupts that they go with. Without QEMU's events it takes none."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.sides: dict[int, Side] = {}
        #: Events came of which nobody knows the VM.
        self.ambiguous = False
        self.slack_ns = 0
        #: Stamps at which QEMU's losses begin and end, and how many losses there are from each on.
        self.edges: list[int] = []
        self.depth: list[int] = [0]
        if bench.vmbus is not None:
            self.slack_ns = bench.vmbus.slack_ns
            self._lose(bench.vmbus.losses)

    def handlers(self) -> dict[str, Handler]:
        if self.bench.vmbus is None:
            return {}
        return {
            "kvm_hv_hypercall": self._hypercall,
            "kvm_hv_hypercall_done": self._done,
            "kvm_hv_synic_set_irq": self._raised,
        }

    def residents(self) -> dict[str, Resident]:
        if self.bench.vmbus is None:
            return {}
        return {
            RECEIVED: self._received,
            "vmbus_process_incoming_message": self._taken,
            "vmbus_initiate_contact": self._contact,
            "vmbus_gpadl_header": self._header,
            "vmbus_gpadl_body": self._body,
            "vmbus_gpadl_teardown": self._teardown,
            "vmbus_open_channel": self._open,
            "vmbus_close_channel": self._close,
            "vmbus_send_offer": self._announced,
            "vmbus_terminate_offers": self._announced,
            "vmbus_gpadl_created": self._announced,
            "vmbus_gpadl_torndown": self._announced,
            "vmbus_channel_open": self._announced,
            "vmbus_post_msg": self._posted,
            "vmbus_msg_cb": self._reported,
            "vmbus_channel_notify_guest": self._notified,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {} if self.bench.vmbus is None else dict.fromkeys(QEMU_TAPE, self._anybodys)

    def losing(self, vm: Vm) -> None:
        side = self.sides.get(vm.number)
        if side is not None:
            self._ask_joint(side, side.joint.lose())

    def finished(self, vm: Vm) -> None:
        side = self.sides.get(vm.number)
        if side is None:
            return
        bus, why = side.bus, Reason.RECORDING_ENDED
        self._ask_joint(side, side.joint.ended(why))
        open_: list[tuple[Aspect, Event, list[bool]]] = []
        if bus.early is not None:
            open_.append((Aspect.TURN, bus.early.event, bus.early.cell))
        if bus.phase is Phase.POSTED and bus.answer is not None:
            open_.append((Aspect.REPORTED, bus.answer.event, bus.answer.cell))
        elif bus.phase is Phase.BUSY and bus.answer is not None:
            open_.append((Aspect.REPEATED, bus.answer.event, bus.answer.cell))
        elif bus.phase is Phase.TAKEN and bus.announced is not None:
            open_.append((Aspect.POSTED, bus.announced.event, bus.announced.cell))
        elif bus.phase is Phase.TAKEN and bus.message is not None and bus.message.number in ANSWERS:
            aspect = Aspect.SHARED if bus.message.likely else Aspect.ANSWERED
            open_.append((aspect, bus.message.event, bus.message.cell))
        self._ask(side, [Finding(aspect, event, cell, None, why=why) for aspect, event, cell in open_])

    # What QEMU lost, and whose events they are

    def _lose(self, losses: Iterable[tuple[int | None, int | None]]) -> None:
        changes: list[tuple[int, int]] = []
        for first, last in losses:
            if first is None:
                self.depth[0] += 1
            else:
                changes.append((first - self.slack_ns, 1))
            if last is not None:
                changes.append((last + self.slack_ns, -1))
        for at, change in sorted(changes):
            self.edges.append(at)
            self.depth.append(self.depth[-1] + change)

    def _side(self, vm: Vm) -> Side:
        side = self.sides.get(vm.number)
        if side is None:
            assert vm.vmbus is not None
            side = self.sides[vm.number] = Side(vm, vm.vmbus, self.slack_ns)
            vm.vmbus.ambiguous = self.ambiguous
        return side

    def _at(self, event: Event, vm: Vm) -> Side:
        """The VM's side when an event of QEMU's is at hand: losses are passed, what waited is compared."""
        side = self._side(vm)
        edge = bisect_right(self.edges, event[1])
        if edge != side.bus.edge:
            side.bus.edge = edge
            self._ask_joint(side, side.joint.ended(Reason.EVENTS_LOST))
            side.bus.forget(Reason.EVENTS_LOST)
        self._ask_joint(side, side.joint.settle(event[1]))
        if side.bus.heard_ns is None:
            if event[2] != RECEIVED or side.joint.posted != 1:
                # A conversation begins with a message of the guest's, and KVM shows no other one: otherwise QEMU's
                # trace has begun later, or KVM's has ended.
                side.bus.forget(side.bus.why)
            side.bus.heard_ns = event[1]
        side.desk.history.append(event)
        return side

    def _main(self, event: Event, vm: Vm) -> Side:
        """The same for an event of QEMU's main loop, which does one thing after the other."""
        side = self._at(event, vm)
        side.bus.settle(event[1])
        side.joint.do(event, signal=False)
        return side

    def _anybodys(self, event: Event, vcpu: Vcpu | None) -> None:
        """Whose event it is is not known: then nothing of the others can be judged."""
        self.ambiguous = True
        for vm in self.vms.values():
            side = self._side(vm)
            side.bus.ambiguous = True
            side.bus.forget(Reason.VM_AMBIGUOUS)
            self._ask(side, [Finding(ASPECTS[event[2]], event, [False], None)])

    def _ask(self, side: Side, found: Iterable[Finding], vcpu: Vcpu | None = None) -> None:
        for one in found:
            if side.bus.ambiguous:
                one.fits, one.why = None, Reason.VM_AMBIGUOUS
            elif self.depth[side.bus.edge]:
                one.fits, one.why = None, Reason.EVENTS_LOST
            self.judge.ask(Moment.VMBUS, one, one.event, vcpu or side.desk, one.cell)

    def _ask_joint(self, side: Side, found: Iterable[Judged]) -> None:
        for one, vcpu in found:
            self._ask(side, [one], vcpu)

    # QEMU's events

    def _received(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._at(event, vm)
        self._ask(side, side.talk.received(event, cell, event[5], event[6]))
        vcpu = next((one for one in vm.vcpus.values() if one.tid == event[4]), None)
        if event[4] == NO_THREAD or (vcpu is None and vm.vcpus):
            side.joint.foreign = True
        receipt = Receipt(event, cell, event[4], vcpu if vcpu and vcpu.whole else None)
        self._ask_joint(side, side.joint.receive(receipt))

    def _taken(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        self._ask(side, side.talk.taken(event, cell, event[5]))

    def _contact(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        numbers = indices(vm)
        # The first VP is always there.
        exists = event[7] == 0 or event[7] in numbers.values() or None
        side.talk.contact(message, event[5] << 16 | event[6], event[7], exists=exists)
        owner = next((vm.vcpus[number] for number, index in numbers.items() if index == event[7]), None)
        control = None if owner is None else owner.registers.get(SCONTROL)
        side.bus.armed = None if control is None else bool(control & 1)
        self._ask(side, found)

    def _header(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        self._ask(side, found)
        side.talk.header(message, event[5], event[6])

    def _body(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        self._ask(side, found)
        side.talk.body(message, event[5])

    def _teardown(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        self._ask(side, found)
        side.talk.teardown(message, event[5])

    def _open(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        self._ask(side, found)
        side.talk.open(message, event[5], event[6])

    def _close(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        message, found = side.talk.handled(event, cell, HANDLERS[event[2]])
        self._ask(side, found)
        side.talk.close(message, event[5])

    def _announced(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        self._ask(side, side.talk.announced(event, cell, *event[5:7]))

    def _posted(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        self._ask(side, side.talk.posted(event, cell, event[5], event[6]))

    def _reported(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._main(event, vm)
        answer = side.bus.answer if side.bus.phase is Phase.POSTED else None
        if answer is not None and not event[5]:
            self._deliver(side, vm, answer, event[1])
        self._ask(side, side.talk.reported(event, cell, event[5]))

    def _deliver(self, side: Side, vm: Vm, answer: Answer, last_ns: int) -> None:
        """A message was delivered: its interrupt is seen where the source is known to be open."""
        bus = side.bus
        owner = next((vm.vcpus[n] for n, index in indices(vm).items() if index == bus.target), None)
        source = None if owner is None else owner.registers.get(SINT0 + SINT)
        control = None if owner is None else owner.registers.get(SCONTROL)
        if owner is None or source is None or control is None or bus.armed is None:
            self._ask(side, [Finding(Aspect.DELIVERED, answer.event, answer.cell, None, why=bus.why)])
        elif bus.armed and control & 1 and not masked(source) and vector(source) >= LOWEST_VECTOR:
            self._ask_joint(side, side.joint.deliver(answer, last_ns, owner))

    def _notified(self, event: Event, vm: Vm, cell: list[bool]) -> None:
        side = self._at(event, vm)
        side.joint.do(event, signal=True)
        self._ask(side, side.talk.notified(event, cell, event[5]))

    # KVM's

    def _hypercall(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        under = self._side(vcpu.vm).joint.under
        under.pop(vcpu.number, None)
        if event[5] in (POST_MESSAGE, SIGNAL_EVENT) and vcpu.call is not None:
            under[vcpu.number] = vcpu.call

    def _done(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        side = self._side(vcpu.vm)
        call = side.joint.under.pop(vcpu.number, None)
        if call is None or call.result is None:
            return
        # A signal of a channel, without a flag number, reserved bits clear.
        channels = call.fast and QEMU_FIRST_CHANNEL_CONNECTION < call.ingpa <= CONNECTION_MASK
        if call.code == POST_MESSAGE or channels:
            self._ask_joint(side, side.joint.ended_call(call, event[1]))

    def _raised(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[5] != SINT:
            return
        side = self._side(vcpu.vm)
        self._ask_joint(side, side.joint.raise_(event, cell, vcpu))
