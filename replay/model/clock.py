"""Running clocks: partition reference time and the run time of a virtual processor (TLFS, Timers).

The reference time of a VM runs at 10 MHz, so that in terms of the trace's stamps it is a line whose slope is known and
whose origin is learnt. A value was read at some moment between the thread's last event before it and the stamp of the
event that carries it; that gives an interval of origins, and all intervals of one VM must have an origin in common
(get_time_ref_counter in arch/x86/kvm/hyperv.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = [
    "COUNT_TSC",
    "EMULATION_CONTROL",
    "REFERENCE",
    "REFERENCE_TSC",
    "RUNTIME",
    "ClockMoment",
    "MasterClock",
    "PageWrite",
    "Reading",
    "ReferenceTime",
    "RunTime",
    "Sighting",
    "Stamps",
]

RUNTIME = 0x4000_0010
REFERENCE = 0x4000_0020
REFERENCE_TSC = 0x4000_0021
EMULATION_CONTROL = 0x4000_0107

#: Host clocks that count the TSC: VDSO_CLOCKMODE_TSC and VDSO_CLOCKMODE_HVCLOCK.
COUNT_TSC = (1, 3)

#: A tick of the reference time and of the run time, in ns.
TICK = 100

#: How far two clocks that both count the TSC may run apart: Linux takes a refined rate of the TSC that is up to 1 %
#: off the one it used before (tsc_refine_calibration_work), and each of the two may have either.
COUNTED = 0.01
#: The same where one of them follows NTP: chrony slews by up to 83333 ppm.
STEERED = 0.1

#: Names of the clocks of traces that count the TSC, and of those that follow NTP or whose rate may be converted badly;
#: text does not tell which clock it has. The others have no stamps to reckon with (jiffies, steps, plain counts).
COUNTED_CLOCKS = frozenset({"local", "global", "perf", "mono_raw"})
STEERED_CLOCKS = frozenset({"mono", "boot", "x86-tsc", "tsc2nsec"})
UNNAMED_CLOCK = "unknown"

#: ns by which a stamp may be off: clocks of two CPUs differ by less than a TSC that passes for synchronous may (it is
#: less than a cache line takes), text ends at a µs, and the formulas of the reference time round.
SKEW = 10_000
#: The same where the first vCPU alone fills the TSC page, and the formula in use may change unseen.
SWITCH = 500_000

#: ns by which the kernel's account of a running thread may be behind: it is brought up to date at ticks, 10 ms apart
#: at most, which a host that is itself a guest may get tens of ms late; and once a second on CPUs without ticks.
BEHIND, BEHIND_TICKLESS = 50_000_000, 2_000_000_000

#: Sightings in a row that agree with one another and not with the others: the time was set.
CERTAIN = 8

#: A stamp of jiffies does not change for this many ns.
JIFFY = 1_000_000


@dataclass(slots=True)
class Stamps:
    """What is known of the trace's stamps: `rate` is how far an ideal clock may run apart from them (None: they are of
    no use). `fine` is false until it is known that they are no jiffies.
    """

    rate: float | None = None
    fine: bool = True

    @classmethod
    def of(cls, name: object, unit: object) -> Stamps:
        """The stamps of a clock by its name and the unit of what the recording gives."""
        if unit != "ns":
            return cls()
        if name in COUNTED_CLOCKS:
            return cls(COUNTED)
        if name in STEERED_CLOCKS or name == UNNAMED_CLOCK:
            return cls(STEERED, fine=name != UNNAMED_CLOCK)
        return cls()

    def apart(self, *, counted: bool) -> float | None:
        """How far another clock may run apart from the stamps; `counted`: it is known to count the TSC."""
        if self.rate is None or not self.fine:
            return None
        return self.rate if counted else STEERED


@dataclass(frozen=True, slots=True)
class Reading:
    """A value of the reference time that this vCPU's thread saw, in 100 ns, and where."""

    value: int
    event: Event


@dataclass(slots=True)
class ClockMoment:
    """A clock is read. `before` is what the same thread saw last (None: nothing that can be compared).

    Of the run time, `most` is the largest value that the time passed allows (None: not known), and `still` tells for
    how long the value has been the same, in ns, where that is longer than it can be.
    """

    vcpu: Vcpu
    index: int
    value: int
    before: int | None
    most: int | None = None
    still: int = 0


@dataclass(slots=True)
class Sighting:
    """A value of the reference time, in 100 ns, read not before `since` and stamped `stamp` (ns).

    Both may be off by `skew` ns.

    `fits` tells whether it lies on the VM's line (None: there is none yet), `low` and `high` what it should have been.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    value: int
    since: int
    stamp: int
    skew: int
    fits: bool | None = None
    low: int = 0
    high: int = 0

    @property
    def earliest(self) -> int:
        """The smallest origin (reference time at stamp 0, in ns) that explains the value."""
        return TICK * self.value - self.stamp - self.skew

    @property
    def latest(self) -> int:
        """The largest such origin."""
        return TICK * (self.value + 1) - self.since + self.skew


@dataclass(slots=True)
class Line:
    """Origins that all sightings so far have in common, as of the last one's stamp."""

    low: float
    high: float
    at: int
    sightings: int = 1

    def widened(self, stamp: int, apart: float) -> tuple[float, float]:
        """The origins possible at another stamp: the clocks have run apart since."""
        drift = abs(stamp - self.at) * apart
        return self.low - drift, self.high + drift

    def has(self, seen: Sighting, apart: float) -> bool:
        """Whether the sighting is on the line; tells it what it should have been."""
        low, high = self.widened(seen.stamp, apart)
        seen.low = int(low - seen.skew + seen.since) // TICK
        seen.high = int(high + seen.skew + seen.stamp) // TICK
        return seen.latest >= low and seen.earliest <= high

    def take(self, seen: Sighting, apart: float) -> None:
        """The sighting is on the line: it narrows it."""
        low, high = self.widened(seen.stamp, apart)
        self.low, self.high = max(low, seen.earliest), min(high, seen.latest)
        self.at = seen.stamp
        self.sightings += 1


@dataclass(slots=True)
class ReferenceTime:
    """The reference time of one VM.

    Where two sightings contradict each other and no more are known, the third decides which was wrong. `anchor` is the
    stamp at which KVM last took the host's time for the origin, `counted` whether it counts the TSC since then (master
    clock).
    """

    line: Line | None = None
    #: The line of the sightings since the last that was on the line, as far as they agree: it takes over once it has
    #: more than the other has, or many. And the first sighting that is off, while it is open which of two is wrong.
    rival: Line | None = None
    open: Sighting | None = None
    anchor: int | None = None
    counted: bool | None = None
    #: The reference time was found to be wrong: nothing is to be judged by it any more.
    wrong: bool = False
    #: The host does not trust its TSC: stamps of different CPUs cannot be compared.
    untrusted: bool = False

    def see(self, seen: Sighting, apart: float, *, settled: bool) -> list[Sighting]:
        """A value is seen: returns the sightings that can be judged now. `settled`: the line may be learnt from it."""
        line, rival, owed = self.line, self.rival, self.open
        if not settled:
            seen.fits = None if line is None else line.has(seen, apart)
            self.wrong = self.wrong or seen.fits is False
            return [seen]
        if line is None:
            self.line = Line(seen.earliest, seen.latest, seen.stamp)
            return [seen]
        if line.has(seen, apart):
            line.take(seen, apart)
            self.rival = self.open = None
            seen.fits = True
            self.wrong = self.wrong or owed is not None
            return [seen] if owed is None else [owed, seen]
        low, high = seen.low, seen.high
        self.open = None
        if rival is not None and rival.has(seen, apart):
            rival.take(seen, apart)
            if rival.sightings > min(line.sightings, CERTAIN):
                self.line, self.rival = rival, None
                seen.fits = True
                if owed is not None:
                    owed.fits = True
        else:
            self.rival = Line(seen.earliest, seen.latest, seen.stamp)
            if line.sightings == 1 and rival is None:
                seen.fits, self.open = False, seen
                return []
        if not seen.fits:
            seen.low, seen.high, seen.fits, self.wrong = low, high, False, True
        return [seen] if owed is None else [owed, seen]

    def anchored(self, stamp: int, counted: bool, *, abrupt: bool) -> None:
        """KVM takes the host's time for the origin anew: the reference time moves by as much as both ran apart since
        the last time. `abrupt`: by any amount.
        """
        self.rival = self.open = None
        # A host that slept finds that its TSC went back, and gives up the master clock.
        abrupt = abrupt or self.counted is not counted
        if self.line is not None and self.anchor is not None and not abrupt:
            drift = abs(stamp - self.anchor) * STEERED + SWITCH
            self.line.low -= drift
            self.line.high += drift
        else:
            self.line = None
        self.anchor, self.counted = stamp, counted

    def lose(self) -> None:
        """Nothing is known any more."""
        self.line = self.rival = self.open = self.anchor = self.counted = None
        self.wrong = False


@dataclass(slots=True)
class RunTime:
    """The run time of one vCPU's thread. `ceiling` (ns) is the largest the run time can have been when the stamp was 0,
    had the thread run all the time; `first` the stamp at which the present value was seen first.
    """

    value: int = -1
    first: int = 0
    ceiling: float | None = None
    at: int = 0

    def see(self, value: int, since: int, stamp: int, apart: float, behind: int) -> tuple[int | None, int]:
        """A value is seen, read between `since` and `stamp`: returns the most it can be, and for how long it has been
        the same, where that is too long.
        """
        most, still = None, 0
        if self.ceiling is not None:
            self.ceiling += abs(stamp - self.at) * apart
            most = int(self.ceiling + stamp + behind) // TICK
        if value == self.value and since - self.first > behind:
            still = since - self.first
        if value != self.value:
            self.value, self.first = value, stamp
        ceiling = TICK * (value + 1) - since
        if self.ceiling is None or (most is not None and value > most) or ceiling < self.ceiling:
            self.ceiling = ceiling
        self.at = stamp
        return most, still


@dataclass(slots=True)
class PageWrite:
    """A guest wrote REFERENCE_TSC. `updates` counts the master clock's updates by its thread before the next entry;
    `other` is true where something else may have asked for one.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    enable: bool
    updates: int = 0
    other: bool = False


@dataclass(slots=True)
class MasterClock:
    """kvm_update_master_clock: whether the VM uses the master clock, the host's clock (0 none, 1 TSC, 2 pvclock,
    3 Hyper-V's page), and whether the TSCs of all vCPUs match.
    """

    vcpu: Vcpu
    used: bool
    host_clock: int
    matched: bool
