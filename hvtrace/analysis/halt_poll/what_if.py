"""What polling would have cost and saved under other parameters: the recorded halts, run again.

When the guest halts, and when what ends each halt comes, is taken as recorded. A halt that other parameters let poll
long enough ends as polled halts do; one that they let sleep ends as slept ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll.arrivals import Arrivals
from hvtrace.analysis.halt_poll.halts import UNKNOWN, Recorded
from hvtrace.analysis.halt_poll.machine import walks
from hvtrace.analysis.halt_poll.rules import Halts, Setting

__all__ = ["Again", "Outcome", "again", "ranked", "run"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Steps of this share of the whole visit everything evenly (the golden section).
GOLDEN = 0.6180339887498949

#: So many latencies of one cause are enough to draw from.
ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Again:
    """Halts ready to be run again, and what waking up takes either way (`polled`, `blocked`), known or drawn.

    `waits`: halts that something ended which was not there at once; only these have a latency. `known`: how many of
    them have one that was measured, by whether they polled; `drawn`: how many have none.
    """

    halts: Halts
    polled: I64
    blocked: I64
    waits: Flags
    known: dict[str, int]
    drawn: int


@dataclass(slots=True)
class Outcome:
    """What comes of one setting. Times in ns.

    `successes`: halts that polling ended; `failures`: halts that polled in vain, and slept. `polled_ns`: time polled
    with success, `vain_ns`: in vain; `burnt_ns`: both; `cpu_share` of one CPU. Latencies are those of waking up, over
    all halts that had to wait for something.
    """

    name: str
    setting: dict[str, Any]
    successes: int
    failures: int
    polled_ns: int
    vain_ns: int
    cpu_share: float | None
    latency_mean_ns: int | None
    latency_p50_ns: int | None
    latency_p99_ns: int | None

    @property
    def burnt_ns(self) -> int:
        """CPU time that polling took."""
        return self.polled_ns + self.vain_ns

    def as_dict(self) -> dict[str, Any]:
        """Return all figures."""
        return {**asdict(self), "burnt_ns": self.burnt_ns}


def ranked(values: I64, wanted: int) -> I64:
    """Draw `wanted` of `values`, spread as they are and without chance; zeros where there are none."""
    if not len(values):
        return np.zeros(wanted, np.int64)
    share = (np.arange(1, wanted + 1) * GOLDEN) % 1
    return np.sort(values)[(share * len(values)).astype(np.int64)]


def again(halts: Recorded, arrived: Arrivals, in_force: I64) -> Again:
    """Make halts ready. `in_force`: the polling time before each (UNKNOWN where not known)."""
    polls = np.where(halts.allowed == 0, 0, np.maximum(in_force, 0))
    slept = halts.waited
    # Without polling, a halt that did not sleep was over at once; so is one that lasted less than any clock tells.
    at_once = ~slept & ((polls == 0) & (in_force != UNKNOWN) | (halts.ns == 0))
    ways = {"polled": ~slept & ~at_once, "blocked": slept}
    polled, blocked = (_latencies(halts, arrived, mine) for mine in ways.values())
    # What ended a halt came after polling where it slept, and while it polled where it did not.
    came = halts.ns - np.where(slept, blocked, polled)
    longest = np.where(in_force == UNKNOWN, halts.ns, np.minimum(polls, halts.ns))
    came = np.where(slept, np.maximum(came, polls + 1), np.clip(came, 1, np.maximum(longest, 1)))
    came = np.where(at_once, -1, came)
    first = np.where(halts.first, np.maximum(in_force, 0), UNKNOWN)
    ready = Halts(
        came,
        np.where(slept, came + polled, halts.ns),
        np.where(slept, halts.ns, came + blocked),
        halts.allowed != 0,
        first,
    )
    known = arrived.latency != UNKNOWN
    counts = {way: int((mine & known).sum()) for way, mine in ways.items()}
    return Again(ready, polled, blocked, ~at_once, counts, int((~at_once & ~known).sum()))


def _latencies(halts: Recorded, arrived: Arrivals, mine: Flags) -> I64:
    """What waking up each halt takes in the way that the halts in `mine` were woken.

    Of these it is known where a cause was traced; of all others it is drawn, from those of the same cause where there
    are enough of them.
    """
    known = arrived.latency != UNKNOWN
    drawn = ranked(arrived.latency[known & mine], len(halts))
    for cause in np.unique(arrived.cause[known]).tolist():
        alike = arrived.cause == cause
        pool = arrived.latency[alike & known & mine]
        if len(pool) >= ENOUGH:
            drawn[alike] = ranked(pool, int(alike.sum()))
    # Waking up took no longer than the halt.
    own = np.where(known, arrived.latency, np.minimum(drawn, halts.ns))
    return np.where(mine, own, drawn)


def run(
    recorded: Again, settings: Sequence[tuple[str, Setting, dict[str, Any]]], length_ns: int | None
) -> list[Outcome]:
    """Run halts through settings, each with its name and how it is written. `length_ns`: time in which they were."""
    found = []
    halts, waits = recorded.halts, recorded.waits
    # Where the guest itself polls there is no halt to wake up from.
    latencies = {
        guest: _Latencies(
            np.zeros_like(recorded.polled) if guest else recorded.polled, recorded.blocked, waits
        )
        for guest in {setting.guest for _, setting, _ in settings}
    }
    every = walks([setting for _, setting, _ in settings], halts)
    for (name, setting, shown), in_force in zip(settings, every, strict=True):
        value = np.where(halts.allowed, in_force, 0)
        success = (halts.arrival <= value) & (value > 0)
        spent = np.maximum(halts.arrival, 0) if setting.guest else halts.polled
        polled = int(spent[success].sum())
        # What is not a success polled in vain, if at all.
        vain = int(value.sum()) - int(value[success].sum())
        found.append(
            Outcome(
                name,
                shown,
                int(success.sum()),
                int(np.count_nonzero(value)) - int(success.sum()),
                polled,
                vain,
                (polled + vain) / length_ns if length_ns else None,
                *latencies[setting.guest].figures(success),
            )
        )
    return found


class _Latencies:
    """Mean and percentiles of latencies, each of which is one of two, without sorting them anew each time."""

    #: Values are counted in so many steps, and only those of the step that matters are looked at.
    STEPS = 1 << 16

    def __init__(self, polled: I64, blocked: I64, waits: Flags) -> None:
        self._waits = waits
        both = np.stack([polled[waits], blocked[waits]])
        self._values, rank = np.unique(both, return_inverse=True)
        self._ranks = rank.reshape(both.shape).astype(np.int32)
        self._shift = max(0, len(self._values).bit_length() - self.STEPS.bit_length() + 1)

    def figures(self, success: Flags) -> tuple[int | None, int | None, int | None]:
        """Mean, median and 99th percentile (nearest rank: values that occur) where `success` polled, the others not."""
        ranks = np.where(success[self._waits], self._ranks[0], self._ranks[1])
        if not len(ranks):
            return None, None, None
        steps = ranks >> self._shift
        upto = np.cumsum(np.bincount(steps))
        mean = round(float(self._values[ranks].mean()))

        def at(permille: int) -> int:
            place = (len(ranks) * permille + 999) // 1000 - 1
            step = int(np.searchsorted(upto, place, side="right"))
            inside = np.sort(ranks[steps == step])
            return int(self._values[inside[place - (upto[step - 1] if step else 0)]])

        return mean, at(500), at(990)
