"""Halt polling (kvm_vcpu_halt): kvm_halt_poll_ns, and the kvm_vcpu_wakeup that follows it or comes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.halt_poll import POLL_CONTROL, Adjustment, Change, Learnt, Run, Wakeup
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger, ignore
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["HaltPollEvents"]

#: kvm_exit reasons of HLT, by instruction set: VMX; SVM, and SVM with a virtual interrupt pending.
HALTS = frozenset({(1, 12), (2, 0x78), (2, 0xA6)})

#: A vCPU thread may be stopped at any point, so that one odd time says nothing. Odd is a halt that never slept and
#: lasted longer than polling may by more than SLACK ns (where polling takes less than that: a thread that polls for
#: long is often stopped while it does), and one that took less than one part in SMALL of the time since kvm_exit, where
#: that was more than SLACK ns.
SLACK, SMALL = 1_000_000, 100


class HaltPollEvents(Part):
    """kvm_halt_poll_ns, kvm_vcpu_wakeup, and kvm_write_tsc_offset, which shows the creation of a vCPU."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        fact = bench.profile.fact
        self.clamps, self.floors = fact("halt_poll_clamps"), fact("halt_poll_floors")
        #: By VM: VMs may be replayed in different processes.
        self.learnt: dict[int, Learnt] = {}
        #: The cap is the module parameter at any time, not what it was when the VM was created.
        self.current = fact("halt_poll_vm_cap") is False
        self.controlled = "kvm_msr" in bench.traced

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_halt_poll_ns": self._change,
            "kvm_vcpu_wakeup": self._wakeup,
            "kvm_write_tsc_offset": self._tsc_offset,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {"kvm_halt_poll_ns": self._any_change, "kvm_vcpu_wakeup": ignore}

    def _tsc_offset(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """An offset that was 0 is that of a vCPU just created, which does not poll (kvm_arch_vcpu_postcreate)."""
        halting = vcpu.halting
        if event[5] == 0 and vcpu.tid is None and halting.left is None and halting.poll is None:
            halting.poll, halting.born = 0, True
        else:
            # Userspace writes the TSC where it resets or restores a vCPU, and the register as well.
            vcpu.registers.pop(POLL_CONTROL, None)

    def _any_change(self, event: Event, vcpu: Vcpu | None) -> None:
        """It may be this vCPU's."""
        if vcpu is not None:
            vcpu.halting.forget()

    def _change(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        halting, learnt = vcpu.halting, self._learnt(vcpu.vm)
        grew, new, old = bool(event[5]), event[6], event[7]
        cap = self._cap(vcpu)
        values = learnt.grown(old, cap) if grew else learnt.shrunk(old)
        change = Change(
            vcpu, event, cell, grew, new, old, _kept(halting.poll, old, cap, learnt.clamps), values, cap,
            self._allowed(vcpu), grew and values is None and learnt.is_no_multiple(old, new),
        )  # fmt: skip
        self.judge.ask(Moment.HALT_POLL, change, event, vcpu, cell)
        self._close(vcpu, "another kvm_halt_poll_ns")
        learnt.learn(change, cap)
        if change.allowed is None:
            vcpu.registers.setdefault(POLL_CONTROL, 1)
        halting.poll, halting.change = new, change
        vcpu.open(Due.WAKEUP, event, cell, 1, "kvm_vcpu_wakeup of the halt")

    def _wakeup(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        halting, change = vcpu.halting, vcpu.halting.change
        ns, waited, valid = event[5], bool(event[6]), bool(event[7])
        cap, allowed = self._cap(vcpu), self._allowed(vcpu)
        poll = halting.poll if change is None else change.old
        if poll is not None and cap is not None and self._learnt(vcpu.vm).clamps is not True:
            poll = min(poll, cap)
        elapsed = event[1] - vcpu.left[1] if vcpu.whole and vcpu.out and vcpu.left is not None else None
        timeless = self.bench.stamps.rate is None
        wakeup = Wakeup(vcpu, ns, waited, valid, change, poll, cap, allowed, elapsed, timeless)
        self.judge.ask(Moment.WAKEUP, wakeup, event, vcpu, cell)
        self._run(wakeup, event, cell)
        halting.left, halting.change = vcpu.left, None
        if change is not None:
            self.judge.ask(Moment.ADJUSTED, Adjustment(change, ns), change.event, vcpu, change.cell)
            for owed in vcpu.dues:
                if owed.due is Due.WAKEUP:
                    vcpu.meet(owed)
            return
        if allowed and cap is not None and (ns > cap or cap == 0):
            # Had it polled, it would have shrunk; and with polling off the value is dropped.
            halting.poll = 0
        else:
            halting.poll = poll

    def _run(self, wakeup: Wakeup, event: Event, cell: list[bool]) -> None:
        """Times that are odd, but not for themselves."""
        vcpu, elapsed = wakeup.vcpu, wakeup.elapsed
        window = 0 if wakeup.allowed is False else wakeup.poll
        odd = not wakeup.waited and window is not None and window < SLACK < wakeup.ns - window
        self._alike("unscheduled", wakeup, event, cell, odd=odd, known=window is not None)
        left = vcpu.left
        if elapsed is None or left is None:
            self._alike("short", wakeup, event, cell, odd=False, known=False)
        elif (left[6], left[5]) not in HALTS or left is vcpu.halting.left or vcpu.visited:
            # Not the first halt after HLT: it began later than this exit.
            vcpu.halting.runs.pop("short", None)
        else:
            odd = elapsed > SLACK and wakeup.ns * SMALL < elapsed
            self._alike("short", wakeup, event, cell, odd=odd, known=True)

    def _alike(
        self, kind: str, wakeup: Wakeup, event: Event, cell: list[bool], *, odd: bool, known: bool
    ) -> None:
        vcpu = wakeup.vcpu
        runs = vcpu.halting.runs
        number, first, mark = runs.get(kind, (0, event, cell))
        if odd:
            number += 1
            runs[kind] = (number, first, mark)
        else:
            runs.pop(kind, None)
            number, first, mark = 0, event, cell
        window = 0 if wakeup.allowed is False else wakeup.poll
        run = Run(vcpu, kind, number, wakeup.ns, window, wakeup.elapsed, known, wakeup.timeless)
        self.judge.ask(Moment.WAKEUPS, run, first, vcpu, mark)

    def _close(self, vcpu: Vcpu, observed: str) -> None:
        for owed in vcpu.dues:
            if owed.due is Due.WAKEUP:
                vcpu.break_(owed, observed)

    def _cap(self, vcpu: Vcpu) -> int | None:
        return self.bench.halt_poll.cap if self.current or vcpu.halting.born else None

    def _allowed(self, vcpu: Vcpu) -> bool | None:
        """Whether the guest lets the host poll."""
        control = vcpu.registers.get(POLL_CONTROL) if self.controlled else None
        return None if control is None else bool(control & 1)

    def _learnt(self, vm: Vm) -> Learnt:
        known = self.learnt.get(vm.number)
        if known is None:
            known = self.learnt[vm.number] = Learnt(self.bench.halt_poll, self.clamps, self.floors)
        return known


def _kept(poll: int | None, old: int, cap: int | None, clamps: bool | None) -> int | None:
    """What the vCPU holds once the halt itself has silently held it under the cap."""
    if poll is None or clamps is True:
        return poll
    if cap is not None:
        return min(poll, cap)
    # A cap that is not known may have held it down.
    return poll if old >= poll else None
