"""A Hyper-V hypercall under way, and the ways in which it may end (TLFS, Hypercall interface; kvm_hv_hypercall).

What a call's registers hold is in `kvm_hv_hypercall`. Input in guest memory, in XMM registers and the reserved bits of
the control word are not: then several endings are possible, and an ending that is none of them diverges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.hypercall import EXTENDED, Fast, Handler, by_code, hypercall_name
from hvtrace.abi.status import STATUSES

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.obligation import Obligation
    from hvtrace.replay.tape import Event

__all__ = ["INPUTS", "AbiUse", "Call", "Ending", "Finish", "Mismatch", "current", "is_unserved"]

#: Tracepoint that shows the decoded input of a call, by call code.
INPUTS: dict[int, str] = {
    0x0002: "kvm_hv_flush_tlb",
    0x0003: "kvm_hv_flush_tlb",
    0x0013: "kvm_hv_flush_tlb_ex",
    0x0014: "kvm_hv_flush_tlb_ex",
    0x000B: "kvm_hv_send_ipi",
    0x0015: "kvm_hv_send_ipi_ex",
}

#: Statuses that have a name.
ANY = frozenset(status.value for status in STATUSES)

#: The result word: status, and repetitions completed. All other bits are reserved.
STATUS, REPS, REPS_SHIFT = 0xFFFF, 0xFFF << 32, 32


@dataclass(slots=True, eq=False)
class Call:
    """One call: what its registers hold, what was seen of it so far, and its result (None: not seen).

    `var_cnt` is None where the kernel does not trace it. `shown` is the event of the decoded input. `accepted` are the
    interrupts that the caller's thread made APICs take since. `userspace` tells that the thread left for userspace,
    `diverged` that the call was found wrong: what follows from that is not reported again.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    code: int
    fast: bool
    var_cnt: int | None
    rep_cnt: int
    rep_idx: int
    ingpa: int
    outgpa: int
    shown: Event | None = None
    shown_cell: list[bool] = field(default_factory=lambda: [False])
    accepted: list[tuple[Event, list[bool]]] = field(default_factory=list)
    userspace: bool = False
    diverged: bool = False
    result: int | None = None
    owed: Obligation | None = None

    @property
    def rep(self) -> bool:
        """A rep call: repetitions or a start index other than 0."""
        return bool(self.rep_cnt or self.rep_idx)

    @property
    def status(self) -> int | None:
        """The status; None: not seen."""
        return None if self.result is None else self.result & STATUS

    @property
    def reps(self) -> int | None:
        """Repetitions completed; None: not seen."""
        return None if self.result is None else (self.result & REPS) >> REPS_SHIFT

    @property
    def reserved(self) -> int:
        """Reserved bits that are set in the result."""
        return 0 if self.result is None else self.result & ~(STATUS | REPS)

    @property
    def by_xmm(self) -> bool:
        """The call has input in XMM registers."""
        row = by_code(self.code) if self.fast else None
        return row is not None and row.fast is Fast.XMM

    def is_traced(self, name: str) -> bool:
        """Whether a tracepoint was recorded."""
        return name in self.vcpu.bench.traced

    def describe(self) -> str:
        """The call in words."""
        return f"0x{self.code:x} {hypercall_name(self.code) or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class Ending:
    """One way in which a call may end.

    `status` None: userspace chooses it, from `choice`. `shown`: the event of the decoded input was traced before.
    `userspace`: the thread left for userspace. `fault`: #UD instead of a result. `hidden`: for a reason that no trace
    shows.
    """

    status: int | None
    shown: bool = False
    userspace: bool = False
    fault: bool = False
    reps: int = 0
    hidden: bool = False
    choice: frozenset[int] = ANY

    def gives(self, status: int) -> bool:
        """Whether the call may return a status when it ends like this."""
        if self.fault:
            return False
        return status in self.choice if self.status is None else self.status == status

    def __str__(self) -> str:
        if self.fault:
            return "#UD"
        if self.status is not None:
            return f"status {self.status}"
        of = f", one of {', '.join(map(str, sorted(self.choice)))}" if self.choice != ANY else ""
        return f"userspace's status{of}"


@dataclass(slots=True)
class Mismatch:
    """A call that is complete, and whether it ended in a way it may.

    `what` is the first thing that no possible ending has: "gate" (a status that CPUID decides), "status", "userspace",
    "input", "reps", or "" where all fits; `endings` are the possible ones that agree up to there. `bug` names the known
    bug that explains it, or, where all fits, the one that would have shown. `hidden`: it fits, for a reason that no
    trace shows.
    """

    call: Call
    what: str
    endings: list[Ending]
    bug: str = ""
    hidden: bool = False


@dataclass(slots=True)
class Finish:
    """A result is traced: the call it belongs to, if one is under way in this exit."""

    vcpu: Vcpu
    call: Call | None


@dataclass(slots=True)
class AbiUse:
    """A hypercall is taken by the Hyper-V ABI or by KVM's own; `enabled`: the guest enabled the former (None: open)."""

    vcpu: Vcpu
    hyperv: bool
    enabled: bool | None


def current(vcpu: Vcpu) -> Call | None:
    """The call that the guest made in this exit and that is not over."""
    call = vcpu.call
    return None if call is None or call.event[0] < vcpu.exit_seq else call


def is_unserved(code: int) -> bool:
    """Whether no kernel serves a call code, nor hands it to userspace."""
    if EXTENDED[0] <= code <= EXTENDED[1]:
        return False
    row = by_code(code)
    return row is None or row.handler is Handler.NOBODY
