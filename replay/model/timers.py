"""What events do to synthetic timers (TLFS, Timers; stimer_* and kvm_hv_process_stimers in arch/x86/kvm/hyperv.c).

Registers change at a write; what follows from them (a start, an expiration) happens when the vCPU's thread serves the
request just before it enters the guest. So a write or a callback opens an obligation, and the events that the thread
makes before the entry meet it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.stimer import (
    AUTO_ENABLE,
    DIRECT,
    ENABLE,
    HOST_COUNT,
    PERIODIC,
    Callback,
    Cleanup,
    Expiration,
    Expiry,
    Start,
    Stimer,
    sint_of,
)
from hvtrace.replay.obligation import Due
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["Timers"]

U64 = (1 << 64) - 1

#: Entries for which a cancellation of a disabled timer waits for a read of its registers to tell more.
PATIENCE = 64


class Timers:
    """What the events of one vCPU's timers do to the model."""

    def set_config(
        self, vcpu: Vcpu, number: int, event: Event, cell: list[bool], config: int, host: bool
    ) -> None:
        """stimer_set_config: cancel, store, and look at the timer before the next entry if it is enabled."""
        timer = vcpu.timers[number]
        self._written(vcpu, timer, event, cell)
        enable: bool | None = bool(config & ENABLE)
        if enable and not config & DIRECT and sint_of(config) == 0:
            # A timer that was enabled loses its enable bit; one that was not keeps it.
            enable = None if timer.enable is None else not timer.enable
        timer.config, timer.enable, timer.kind = config & ~ENABLE, enable, None
        self._look(vcpu, timer, event, cell)

    def set_count(
        self, vcpu: Vcpu, number: int, event: Event, cell: list[bool], count: int, host: bool
    ) -> None:
        """stimer_set_count: cancel, store; 0 disables, auto-enable enables; then as for CONFIG."""
        timer = vcpu.timers[number]
        self._written(vcpu, timer, event, cell)
        timer.count = count
        enable: bool | None
        if count == 0:
            enable = False
        elif timer.config is None:
            enable = True if timer.enable else None
        else:
            enable = True if timer.config & AUTO_ENABLE else timer.enable
        timer.revived = False
        if host and enable != timer.enable:
            # Since d6800af51c76 userspace's write leaves the enable bit alone.
            timer.revived = enable is True and timer.enable is False
            enable = timer.enable if timer.revived or vcpu.bench.profile.is_fixed(HOST_COUNT) else None
        timer.enable = enable
        self._look(vcpu, timer, event, cell)

    def _written(self, vcpu: Vcpu, timer: Stimer, event: Event, cell: list[bool]) -> None:
        self._settle_suspect(vcpu, timer)
        self.check_cleanups(vcpu, event[2])
        if timer.cleanup is not None:
            vcpu.break_(timer.cleanup, f"{event[2]} comes first")
        self._given_up(vcpu, timer, event)
        vcpu.drop(timer.process)
        vcpu.drop(timer.retry)
        timer.callback = timer.process = timer.retry = None
        timer.cleanup = vcpu.open(
            Due.CLEANUP, event, cell, 1, f"kvm_hv_stimer_cleanup of timer {timer.number}", timer.number
        )
        if timer.armed is not False:
            vcpu.raced = True
        timer.expiry, timer.parked, timer.pending, timer.armed, timer.fired = 0, False, False, False, False

    def _look(self, vcpu: Vcpu, timer: Stimer, event: Event, cell: list[bool]) -> None:
        """The registers are stored: an enabled timer is looked at before the next entry."""
        timer.pending = timer.enable
        if timer.enable:
            timer.process = vcpu.open(Due.PROCESS, event, cell, 1, self._expected(timer), timer.number)

    def _expected(self, timer: Stimer) -> str:
        if timer.count == 0:
            return f"kvm_hv_stimer_cleanup of timer {timer.number} (enabled with count 0)"
        if timer.periodic:
            return f"kvm_hv_stimer_start_periodic of timer {timer.number}"
        return f"kvm_hv_stimer_start_one_shot or kvm_hv_stimer_expiration of timer {timer.number}"

    def _settle_suspect(self, vcpu: Vcpu, timer: Stimer) -> None:
        if timer.suspect is not None:
            vcpu.break_(timer.suspect, "a cancellation without a cause")
            timer.suspect = None

    def _given_up(self, vcpu: Vcpu, timer: Stimer, event: Event) -> None:
        """A write or a cancellation ends what a callback asked for, unless the answer was long overdue."""
        owed = timer.callback
        if owed is not None and owed.late:
            vcpu.break_(owed, f"two entries of the vCPU, then {event[2]}")
        else:
            vcpu.meet(owed)

    def _overdue(self, vcpu: Vcpu, timer: Stimer, event: Event) -> None:
        """The timer does something although its cancellation is owed: what KVM takes it for is not known."""
        if timer.cleanup is not None:
            owed = timer.cleanup
            vcpu.break_(owed, f"{event[2]} comes first")
            timer.broken(owed)

    def cleaned(self, vcpu: Vcpu, number: int, event: Event, cell: list[bool]) -> None:
        """kvm_hv_stimer_cleanup: asked for by a write, an expiration, a count of 0, or the end of the
        vCPU.
        """
        timer = vcpu.timers[number]
        asked = timer.cleanup or (timer.process if timer.count == 0 else None)
        if asked is not None:
            cause: str | None = asked.detail
        elif timer.enable is None or (timer.enable and (timer.pending is None or timer.count is None)):
            cause = None
        elif timer.pending and timer.enable and timer.count == 0:
            cause = "a count of 0"
        else:
            cause = ""
        vcpu.bench.judge.ask(Moment.CLEANUP, Cleanup(vcpu, timer, cause), event, vcpu, cell)
        if (
            asked is not None
            and asked.event[2] == "kvm_hv_stimer_expiration"
            and vcpu.injected > asked.event[0]
        ):
            vcpu.break_(asked, "an injection comes first")
        if asked is not None and asked.met is None:
            # Of another timer it would leave this one's cancellation owed.
            vcpu.bench.judge.mark(event, cell, by="HV504")
        vcpu.meet(asked)
        if timer.cleanup is asked:
            timer.cleanup = None
        if timer.process is asked:
            timer.process = None
        timer.expiry = 0
        if asked is None or asked.due is Due.PROCESS:
            self._given_up(vcpu, timer, event)
            if cause == "":
                # Harmless on a disabled timer: then the next read of its registers tells more.
                harmless = timer.enable is False and not timer.armed
                detail = f"no cancellation of timer {number} without a cause"
                entries = PATIENCE if harmless else 1
                timer.suspect = vcpu.open(Due.DESTROYED, event, cell, entries, detail, number)
            vcpu.drop(timer.process)
            vcpu.drop(timer.retry)
            timer.callback = timer.process = timer.retry = None
            if timer.armed is not False:
                vcpu.raced = True
            timer.expiry, timer.parked, timer.pending, timer.armed, timer.fired = (
                0,
                False,
                False,
                False,
                False,
            )

    def started(
        self,
        vcpu: Vcpu,
        number: int,
        event: Event,
        cell: list[bool],
        now: int,
        expiry: int,
        *,
        periodic: bool,
    ) -> None:
        """kvm_hv_stimer_start_*: the host timer runs."""
        timer = vcpu.timers[number]
        self._settle_suspect(vcpu, timer)
        self._overdue(vcpu, timer, event)
        self.saw_time(vcpu, now)
        start = Start(vcpu, timer, periodic, now, expiry, _lag(vcpu, event) if timer.fired else None)
        if vcpu.bench.judge.ask(Moment.START, start, event, vcpu, cell):
            # One fault, one report: an interrupt without its expiration is explained by it.
            vcpu.raised.clear()
        for due in (timer.process, timer.callback, timer.retry):
            vcpu.meet(due)
        timer.process = timer.callback = timer.retry = None
        timer.enable, timer.expiry, timer.armed, timer.revived = True, expiry, True, False
        timer.pending = timer.parked = timer.fired = False
        timer.ahead = expiry - now & U64
        timer.kind = periodic
        if not periodic:
            timer.count = expiry
        if timer.config is not None:
            timer.config = timer.config | PERIODIC if periodic else timer.config & ~PERIODIC

    def fired(self, vcpu: Vcpu, number: int, event: Event, cell: list[bool]) -> None:
        """kvm_hv_stimer_callback: the vCPU must look at the timer before its second next entry."""
        timer = vcpu.timers[number]
        vcpu.bench.judge.ask(Moment.CALLBACK, Callback(vcpu, timer, vcpu.raced), event, vcpu, cell)
        if timer.armed is False and vcpu.raced:
            return
        if timer.armed and timer.callback is None:
            detail = f"an expiration, a start, a write or a cleanup of timer {number}"
            timer.callback = vcpu.open(Due.CALLBACK, event, cell, 2, detail, number)
        timer.armed = False
        timer.pending = timer.fired = True

    def maybe_fired(self, vcpu: Vcpu, number: int) -> None:
        """A callback of some VM's vCPU of this number: perhaps this one's."""
        timer = vcpu.timers[number]
        if timer.armed is not False:
            timer.armed = timer.pending = None

    def expired(
        self, vcpu: Vcpu, number: int, event: Event, cell: list[bool], *, direct: bool, result: int
    ) -> None:
        """kvm_hv_stimer_expiration: sent, or parked until its source is acknowledged."""
        timer = vcpu.timers[number]
        self._settle_suspect(vcpu, timer)
        self._overdue(vcpu, timer, event)
        raised, accepted = [(sint, seen[7]) for sint, _, seen in vcpu.raised], vcpu.accepted
        subject = Expiration(vcpu, timer, direct, result, raised, accepted)
        judge = vcpu.bench.judge
        judged = cell[0]
        judge.ask(Moment.EXPIRATION, subject, event, vcpu, cell)
        if cell[0] and not judged and result == 0 and timer.config is not None and not timer.periodic:
            for _, mark, raise_event in vcpu.raised:
                judge.mark(raise_event, mark)
        vcpu.raised.clear()
        vcpu.accepted.clear()
        for due in (timer.process, timer.callback, timer.retry):
            vcpu.meet(due)
        timer.process = timer.callback = timer.retry = None
        expiry = timer.expiry or (timer.count if timer.periodic is False else None)
        timer.expired = Expiry(expiry, event, cell) if expiry else None
        timer.armed = timer.pending = timer.fired = False
        if result != 0:
            timer.enable, timer.parked = True, True
            if "kvm_hv_notify_acked_sint" not in vcpu.bench.traced:
                # It may be tried again at any time.
                timer.pending = None
            if timer.expiry == 0:
                timer.expiry = timer.count if timer.periodic is False else None
            return
        timer.parked = False
        if timer.periodic is None:
            timer.enable = timer.pending = timer.expiry = None
        elif timer.periodic:
            timer.enable = True
            timer.pending = None
            # A timer that was armed before has a count, known or not.
            if timer.count or (timer.count is None and timer.kind):
                timer.pending = True
                timer.process = vcpu.open(Due.PROCESS, event, cell, 1, self._expected(timer), number)
        else:
            timer.enable = False
            detail = f"kvm_hv_stimer_cleanup of timer {number}"
            timer.cleanup = vcpu.open(Due.CLEANUP, event, cell, 1, detail, number)

    def acknowledged(self, vcpu: Vcpu, sint: int, event: Event, cell: list[bool]) -> None:
        """kvm_hv_notify_acked_sint: timers parked on that source are tried again, if their time has come: it has unless
        the reference time was set back, or is wrong.
        """
        doubtful = bool(vcpu.grace) or vcpu.vm.time.wrong
        for timer in vcpu.timers:
            if timer.parked is False or timer.enable is False or timer.direct:
                continue
            if timer.config is not None and sint_of(timer.config) != sint:
                continue
            if timer.parked and timer.enable and timer.config is not None and not doubtful:
                timer.pending = True
                if timer.retry is None:
                    detail = f"kvm_hv_stimer_expiration of timer {timer.number}"
                    timer.retry = vcpu.open(Due.RETRY, event, cell, 1, detail, timer.number)
            else:
                timer.pending = None

    def saw_time(self, vcpu: Vcpu, now: int) -> None:
        """The vCPU's thread saw the reference time: expirations before it must have been due by then."""
        for timer in vcpu.timers:
            waiting = timer.expired
            if waiting is None:
                continue
            timer.expired = None
            if vcpu.grace:
                # The reference time is passing to another formula.
                continue
            waiting.seen = now
            subject = Expiration(vcpu, timer, False, 0, [], [], confirmed=waiting)
            vcpu.bench.judge.ask(Moment.EXPIRATION, subject, waiting.event, vcpu, waiting.cell)

    def check_cleanups(self, vcpu: Vcpu, first: str) -> None:
        """Something else comes after a register's write: the write's cancellation must have come before it."""
        for timer in vcpu.timers:
            due = timer.cleanup
            if due is not None and due.event[2] != "kvm_hv_stimer_expiration":
                vcpu.break_(due, f"{first} comes first")
                timer.broken(due)

    def read_back(self, vcpu: Vcpu, index: int, value: int, *, diverged: bool) -> None:
        """CONFIG or COUNT was read: the state takes what was observed."""
        timer = vcpu.timers[(index - 0x4000_00B0) >> 1]
        if diverged:
            # One fault, one report: a strange cancellation just before is explained by it.
            vcpu.drop(timer.suspect)
            timer.suspect = None
        else:
            self._settle_suspect(vcpu, timer)
        if index & 1:
            if timer.count != value:
                timer.count = value
        else:
            timer.config, timer.enable = value & ~ENABLE, bool(value & ENABLE)


def _lag(vcpu: Vcpu, event: Event) -> int | None:
    """For how long the vCPU's thread has shown nothing, in ns."""
    stamps = vcpu.bench.stamps
    if stamps.apart(counted=True) is None or vcpu.vm.time.untrusted:
        return None
    before: list[int] = [seen[1] for seen in (vcpu.just_before(), vcpu.left) if seen is not None]
    return int(event[1]) - max(before) if before else None
