"""Clocks: values of the reference time and the run time, and what moves them (kvm_update_master_clock, TSC offsets)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.clock import (
    BEHIND,
    BEHIND_TICKLESS,
    COUNT_TSC,
    JIFFY,
    REFERENCE,
    REFERENCE_TSC,
    RUNTIME,
    SKEW,
    SWITCH,
    ClockMoment,
    MasterClock,
    PageWrite,
    Reading,
    RunTime,
    Sighting,
)
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.timers import Timers
from hvtrace.replay.part import Handler, Part, Stranger
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["ClockEvents"]

#: Entries after a change of the master clock within which the reference time may move to its new formula.
CLOCK_GRACE = 3


class ClockEvents(Part):
    """Values of running clocks, kvm_update_master_clock, kvm_write_tsc_offset."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.timers = Timers()
        #: Any vCPU fills the TSC page as soon as it is invalid, so that the formula in use changes at once.
        self.prompt = bench.profile.fact("any_vcpu_fills_page") is True
        self.skew = SKEW if self.prompt else SWITCH
        self.behind = BEHIND if bench.profile.fact("tickless_run_time") is True else BEHIND_TICKLESS

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_update_master_clock": self._master_clock,
            "kvm_write_tsc_offset": self._tsc_written,
            "kvm_hv_stimer_start_periodic": self._started,
            "kvm_hv_stimer_start_one_shot": self._started,
            "kvm_hv_stimer_expiration": self._passed,
            "kvm_vcpu_wakeup": self._passed,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {"kvm_update_master_clock": self._any_master_clock}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        index, event, vcpu = access.index, access.event, access.vcpu
        if not access.refused:
            if index == REFERENCE and not access.write:
                self._reference_read(access)
            elif index == RUNTIME and not access.write:
                self._run_time_read(access)
            elif index == REFERENCE_TSC and access.write:
                vcpu.page = PageWrite(vcpu, event, access.cell, enable=bool(access.value & 1))
                vcpu.closing.append(self._page_written)
        vcpu.stamp = event[1]

    # Values

    def _reference_read(self, access: Access) -> None:
        vcpu, value = access.vcpu, access.value
        before = None if vcpu.reading is None else vcpu.reading.value
        vcpu.reading = Reading(value, access.event) if self._settled(vcpu) else None
        moment = ClockMoment(vcpu, REFERENCE, value, before)
        if self.judge.ask(Moment.CLOCK, moment, access.event, vcpu, access.cell):
            vcpu.vm.time.wrong = True
        self._sighted(vcpu, access.event, access.cell, value)
        self.timers.saw_time(vcpu, value)

    def _started(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """A timer is armed: the event has the reference time."""
        self._sighted(vcpu, event, cell, event[6])
        self._passed(event, vcpu, cell)

    def _passed(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The vCPU's thread gets here: what it reads later it reads after this."""
        if event[4] == vcpu.tid:
            vcpu.stamp = event[1]

    def _sighted(self, vcpu: Vcpu, event: Event, cell: list[bool], value: int) -> None:
        """The thread saw the reference time."""
        since = vcpu.stamp if vcpu.left is None else max(vcpu.left[1], vcpu.stamp)
        stamps, time, stamp = self.bench.stamps, vcpu.vm.time, event[1]
        if not stamps.fine and 0 < stamp - since < JIFFY:
            stamps.fine = True
        apart = None if time.untrusted else stamps.apart(counted=time.counted is True)
        skew = self.skew + int((apart or 0) * abs(stamp - since))
        seen = Sighting(vcpu, event, cell, value, since, stamp, skew)
        ready = [seen]
        if apart is not None and since >= 0 and not vcpu.vm.is_clock_frozen:
            ready = time.see(seen, apart, settled=self._settled(vcpu))
        if time.wrong or time.open is not None:
            # Whether a timer was late or early is not to be told by a time that is in doubt.
            for timer in vcpu.timers:
                timer.expired = None
        for one in ready:
            self.judge.ask(Moment.REFERENCE, one, one.event, one.vcpu, one.cell)

    def _settled(self, vcpu: Vcpu) -> bool:
        """Since the master clock was updated, the vCPU that fills the TSC page has entered the guest: the formula in
        use does not change any more.
        """
        first = vcpu if self.prompt else vcpu.vm.vcpus.get(0)
        return not vcpu.grace and first is not None and not first.grace

    def _run_time_read(self, access: Access) -> None:
        vcpu, value, event = access.vcpu, access.value, access.event
        before = vcpu.registers.get(RUNTIME)
        vcpu.registers[RUNTIME] = value
        moment = ClockMoment(vcpu, RUNTIME, value, before)
        # Linux bills by the scheduler's clock, which counts the TSC.
        apart = None if vcpu.vm.time.untrusted else self.bench.stamps.apart(counted=True)
        if before is None:
            vcpu.run_time = RunTime()
        if apart is not None and vcpu.left is not None:
            moment.most, moment.still = vcpu.run_time.see(value, vcpu.left[1], event[1], apart, self.behind)
        self.judge.ask(Moment.CLOCK, moment, event, vcpu, access.cell)

    # What moves the clocks

    def _page_written(self, vcpu: Vcpu) -> None:
        """The exit in which REFERENCE_TSC was written is over."""
        page, vcpu.page = vcpu.page, None
        if page is not None:
            page.other = page.other or vcpu.visited
            self.judge.ask(Moment.PAGE, page, page.event, vcpu, page.cell)

    def _master_clock(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The reference time may pass to another formula."""
        if vcpu.page is not None:
            vcpu.page.updates += 1
        used, host_clock, matched = bool(event[5]), event[6], bool(event[7])
        moment = MasterClock(vcpu, used, host_clock, matched)
        self.judge.ask(Moment.MASTER_CLOCK, moment, event, vcpu, cell)
        # Userspace may set the clock from a vCPU's thread as well.
        own = not vcpu.visited and "kvm_userspace_exit" in self.bench.traced
        vcpu.vm.time.anchored(event[1], used, abrupt=not (own and self.prompt))
        vcpu.vm.time.untrusted = host_clock not in COUNT_TSC
        _moved(vcpu.vm)

    def _any_master_clock(self, event: Event, vcpu: Vcpu | None) -> None:
        """The VM is not known: it may be any. Another thread than a vCPU's creates the VM or sets its clock."""
        for vm in self.vms.values():
            vm.time.lose()
            vm.time.untrusted = event[6] not in COUNT_TSC
            _moved(vm)

    def _tsc_written(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Userspace sets the TSC when it creates, resets or restores a vCPU; a guest may write it as well."""
        vcpu.vm.forget_silent()
        vcpu.vm.time.lose()
        if vcpu.page is not None:
            vcpu.page.other = True
        _moved(vcpu.vm)


def _moved(vm: Vm) -> None:
    for vcpu in vm.vcpus.values():
        vcpu.reading, vcpu.grace = None, CLOCK_GRACE
        for timer in vcpu.timers:
            # How far ahead of now an armed timer is may have changed; the host's timer does not know.
            timer.expired = timer.ahead = None
