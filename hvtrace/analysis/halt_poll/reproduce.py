"""Whether the recorded changes of polling times are those that the algorithm makes of the recorded halts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll.halts import UNKNOWN, Recorded
from hvtrace.analysis.halt_poll.rules import HostSetting

__all__ = ["EXAMPLES", "Reproduced", "forbidden", "reproduces"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Mismatches that are listed.
EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One change that differs, at the event `seq` (that of the wakeup where no change was recorded).

    `kind`: "value" (old is right, new is not), "old" (another polling time was in force), "position" (nothing changes
    there, or the other way), "missing" (a change is due and none was recorded). `expected`, `recorded`: (old, new).
    """

    kind: str
    seq: int
    ts_ns: int
    vm: int
    vcpu: int
    halt_ns: int | None
    expected: tuple[int, int] | None
    recorded: tuple[int, int] | None


@dataclass(slots=True)
class Reproduced:
    """Recorded changes and recomputed ones.

    `recorded` = `matched` + `value` + `old` + `position` + `unknown`; `missing` are halts after which a change is due
    and none was recorded. `unknown`: the polling time before it was not known (the recording begins in mid-life, or
    events were lost); what follows is judged from there on. `unjudged`: halts without a change of which for the same
    reason, or because it is not known whether the guest lets the host poll, none can be expected.
    """

    recorded: int = 0
    matched: int = 0
    value: int = 0
    old: int = 0
    position: int = 0
    missing: int = 0
    unknown: int = 0
    unjudged: int = 0
    examples: list[Mismatch] = field(default_factory=list)

    @property
    def mismatched(self) -> int:
        """Changes that differ."""
        return self.value + self.old + self.position + self.missing

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, `mismatched`, and some of the mismatches."""
        return {**asdict(self), "mismatched": self.mismatched}


def _expected(halts: Recorded, own: HostSetting) -> tuple[I64, I64, Flags, Flags]:
    """The polling time before each halt, the one after it (UNKNOWN: no change), whether it grows, whether it shrinks.

    Where it is not known (UNKNOWN), the halt's own change says what was before.
    """
    known = halts.stored(own)
    before = np.where(known == UNKNOWN, UNKNOWN, own.held(known))
    base = np.where(before == UNKNOWN, np.maximum(halts.old, 0), before)
    grows, shrinks = own.due(base, halts.ns)
    barred = halts.allowed == 0
    grows, shrinks = grows & ~barred, shrinks & ~barred
    after = np.where(grows, own.grown(base), np.where(shrinks, own.shrunk(base), UNKNOWN))
    return before, after, grows, shrinks


def forbidden(halts: Recorded, own: HostSetting) -> Flags:
    """Halts of a vCPU of which nothing says whether the guest lets the host poll, and which shows that it does not.

    Changes are due and none comes: the guest has forbidden it before the recording began.
    """
    before, _, grows, shrinks = _expected(halts, own)
    due = (halts.allowed == UNKNOWN) & ~halts.changed & (grows | shrinks) & (before != UNKNOWN)
    begins = halts.first | (np.diff(halts.allowed, prepend=UNKNOWN - 1) != 0)
    run = np.cumsum(begins)
    silent = np.bincount(run, due, minlength=len(halts) + 2) > 0
    # Where a change comes after all, it was another fault.
    silent[run[np.flatnonzero(begins & ~halts.first & halts.changed)] - 1] = False
    found: Flags = silent[run]
    return found


def reproduces(halts: Recorded, own: HostSetting) -> Reproduced:
    """Recompute each halt's change from the polling time before it, and hold it against the recorded one.

    After a change the recorded polling time is in force, right or wrong, so that one fault is counted once.
    """
    before, new, grows, shrinks = _expected(halts, own)
    changed = halts.changed
    unknown = changed & (before == UNKNOWN)
    judged = changed & ~unknown
    aright = judged & np.where(halts.grew, grows, shrinks)
    old = aright & (halts.old != before)
    value = aright & ~old & (halts.new != new)
    due = ~changed & (grows | shrinks) & (before != UNKNOWN)
    missing = due & (halts.allowed == 1)
    position = judged & ~aright
    found = Reproduced(
        recorded=int(changed.sum()) + len(halts.orphans),
        matched=int((aright & ~old & ~value).sum()),
        value=int(value.sum()),
        old=int(old.sum()),
        position=int(position.sum()),
        missing=int(missing.sum()),
        unknown=int(unknown.sum()) + len(halts.orphans),
        unjudged=int((~changed & (before == UNKNOWN)).sum() + (due & ~missing).sum()),
    )
    kinds = {"value": value, "old": old, "position": position, "missing": missing}
    which = np.select(list(kinds.values()), range(len(kinds)), UNKNOWN)
    for i in np.flatnonzero(which != UNKNOWN)[:EXAMPLES].tolist():
        kind = list(kinds)[which[i]]
        found.examples.append(
            Mismatch(
                kind,
                int(halts.change_seq[i] if changed[i] else halts.seq[i]),
                int(halts.ts[i]),
                int(halts.owner[i]) >> 16,
                int(halts.owner[i]) & 0xFFFF,
                int(halts.ns[i]),
                (int(before[i]), int(new[i])) if new[i] != UNKNOWN else None,
                (int(halts.old[i]), int(halts.new[i])) if changed[i] else None,
            )
        )
    return found
