"""Known bugs of kernels: a divergence that one of them explains is a warning that names the fixing commit.

A row says which of the kernel trees (`profile.TREES`) have the bug; None: not known, or back-ported into some releases
of that line. The rule whose expectation the bug breaks names the row in its verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BUGS", "Bug"]

_Y, _N, _E = True, False, None


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug: a name, the commit that fixed it, whether each tree has it, and how it shows in a trace."""

    name: str
    commit: str
    answers: tuple[bool | None, ...]
    shows: str


#: Trees:                    5.4 5.10 5.15 6.1 6.6 6.16 7.1
BUGS: tuple[Bug, ...] = (
    Bug(
        "host-count-enables",
        "d6800af51c76",
        (_E, _Y, _Y, _E, _N, _N, _N),
        "userspace's write of COUNT arms an auto-enable timer that had already fired",
    ),
    Bug(
        "host-write-inactive",
        "b1e34d325397",
        (_E, _Y, _E, _E, _N, _N, _N),
        "userspace sets SynIC or timer registers of a vCPU whose SynIC is not active",
    ),
    Bug(
        "fast-ipi-ex",
        "47d3e5cdfe60",
        (_N, _N, _E, _N, _N, _N, _N),
        "a fast SEND_IPI_EX is refused with status 3 although XMM input is offered",
    ),
    Bug(
        "fast-flush-banks",
        "7321f47eada5",
        (_N, _N, _Y, _E, _N, _N, _N),
        "a fast TLB flush with more banks than the XMM registers hold succeeds",
    ),
    Bug(
        "ipi-ex-all-empty",
        "3244867af8c0",
        (_Y, _Y, _E, _N, _N, _N, _N),
        "SEND_IPI_EX to all processors with an empty set sends nothing",
    ),
    Bug(
        "control-word-unchecked",
        "bd38b32053eb",
        (_Y, _Y, _Y, _N, _N, _N, _N),
        "reserved bits or a variable header where none belongs do not fail with status 3",
    ),
    Bug(
        "emulation-status",
        "d2547cf59793",
        (_E, _Y, _N, _N, _N, _N, _N),
        "a guest may write another value than 0 to TSC_EMULATION_STATUS",
    ),
    Bug(
        "xmm-unchecked",
        "4e62aa96d6e5",
        (_N, _N, _E, _N, _N, _N, _N),
        "a fast call with XMM input works although CPUID does not offer it",
    ),
    Bug(
        "oneshot-livelock",
        "f1ff89ec4447",
        (_N, _N, _N, _N, _N, _N, _N),
        "a one-shot timer whose slot is busy expires again and again with -11",
    ),
    Bug(
        "periodic-retry",
        "7deec5e0df74",
        (_N, _N, _N, _N, _N, _N, _N),
        "a periodic timer whose slot is busy reports -11 and is tried again",
    ),
    Bug(
        "stimer-overflow",
        "3097582b73a8",
        (_E, _E, _E, _E, _Y, _Y, _Y),
        "a very large COUNT overflows: the host timer fires at once, again and again",
    ),
)
