"""Folding: whole exits in which nothing happens that the model looks at are counted instead of replayed.

A *dull* unit is one exit of a vCPU from kvm_exit to kvm_entry with nothing between but a return to userspace
for I/O, or the access to a register that is no synthetic one. Of several dull units in a row, with no other
event of the tape among them, all but the last change nothing except that the vCPU entered the guest: they are
replaced by one mark that says how many there were.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "ENTRY",
    "EXIT",
    "INNER",
    "MSR",
    "MSR_EXIT",
    "MSR_EXITS",
    "OTHER",
    "Rows",
    "fold",
    "kind_of_exits",
    "kind_of_returns",
]

#: What a row is: something to look at; a dull exit; an exit for an MSR access; a dull return to userspace; an
#: access to a register that is not synthetic; an entry.
OTHER, EXIT, MSR_EXIT, INNER, MSR, ENTRY = range(6)

Rows = npt.NDArray[np.int64]

#: kvm_exit reasons by instruction set (1 VMX, 2 SVM). Of an MSR access: RDMSR, WRMSR and their immediate forms.
MSR_EXITS = frozenset({(1, 31), (1, 32), (1, 84), (1, 85), (2, 0x7C)})

#: Exits that nothing but their own events tell about: interrupts, windows, CPUID, I/O, control and debug registers,
#: exceptions, page faults, PAUSE, the preemption timer, cache and TLB instructions.
DULL_EXITS = frozenset(
    {(1, reason) for reason in (0, 1, 7, 10, 14, 16, 28, 29, 30, 40, 44, 48, 49, 51, 52, 54, 55)}
    | {
        (2, code)
        for code in (*range(0x64), 0x64, 0x6E, 0x72, 0x76, 0x77, 0x79, 0x7B, 0x87, 0x89, 0x8D, 0x400)
    }
)

#: Returns of KVM_RUN that nothing but their own events tell about: I/O, MMIO, interrupt window, signal.
DULL_RETURNS = (2, 6, 7, 10)


def kind_of_exits(reason: Rows, isa: Rows) -> Rows:
    """What rows of kvm_exit are. Both negative where the recording does not tell."""
    code = isa << 32 | reason
    kind = np.full(len(code), OTHER, dtype=np.int64)
    kind[np.isin(code, [of << 32 | number for of, number in DULL_EXITS])] = EXIT
    kind[np.isin(code, [of << 32 | number for of, number in MSR_EXITS])] = MSR_EXIT
    kind[(reason < 0) | (isa < 0)] = OTHER
    return kind


def kind_of_returns(reason: Rows, errno: Rows) -> Rows:
    """What rows of kvm_userspace_exit are. `reason` is negative where the recording does not tell, `errno` 0."""
    return np.where(np.isin(reason, DULL_RETURNS) | (errno < 0), INNER, OTHER)


def fold(place: Rows, kind: Rows) -> tuple[npt.NDArray[np.bool_], Rows, Rows]:
    """Decide which rows of a stretch of tape, in its order, can be left out.

    `place` is each row's vCPU (negative: none), `kind` what it is. Returns the mask of rows to keep, the rows at which
    a mark is to stand (the last entry of each run that is left out), and how many entries each mark stands for.
    """
    order = np.argsort(place, kind="stable")
    where, what = place[order], kind[order]
    rows = len(order)
    number = np.arange(rows)
    # An access to another register directly behind its exit belongs to a dull unit.
    pairs = (what[:-1] == MSR_EXIT) & (what[1:] == MSR) & (where[:-1] == where[1:])
    behind = np.concatenate(([False], pairs))
    opens = what == EXIT
    opens[:-1] |= behind[1:]
    inner = (what == INNER) | behind
    # The unit of an entry opens at the last row before it that is not inside one.
    outer = np.maximum.accumulate(np.where(inner, -1, number)) if rows else number
    entry = np.flatnonzero(what == ENTRY)
    first = np.concatenate(([-1], outer[:-1]))[entry]
    whole = (first >= 0) & opens[first] & (where[first] == where[entry]) & (where[entry] >= 0)
    entry, first = entry[whole], first[whole]
    starts = np.zeros(rows + 1, dtype=np.bool_)
    starts[first] = True
    # Left out is a unit that follows an entry and that another unit follows at once, with nothing else on the
    # tape between their beginnings.
    other = np.ones(rows, dtype=np.int64)
    other[order] = _inside(first, entry, rows) == 0
    others = np.cumsum(other)[order]
    ends = np.append(where, -1)[entry + 1] == where[entry]
    quiet = np.append(others, -1)[entry + 1] == others[first]
    after = (what[first - 1] == ENTRY) & (where[first - 1] == where[first]) & (first > 0)
    out = starts[entry + 1] & ends & quiet & after
    entry, first = entry[out], first[out]
    keep = np.ones(rows, dtype=np.bool_)
    keep[order] = _inside(first, entry, rows) == 0
    # A run ends where the next unit is kept.
    last = np.append(first[1:], -1) != entry + 1
    count = np.diff(np.concatenate(([0], np.flatnonzero(last) + 1)))
    return keep, order[entry[last]], count


def _inside(first: Rows, last: Rows, rows: int) -> Rows:
    """1 for each row within one of the stretches, which do not overlap; 0 elsewhere."""
    change = np.zeros(rows + 1, dtype=np.int64)
    change[first] += 1
    change[last + 1] -= 1
    return np.cumsum(change[:-1])
