"""What a rule is, and the moments at which rules are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hvtrace.abi.register import Msr
from hvtrace.replay.obligation import Due
from hvtrace.replay.verdict import Severity, Verdict

__all__ = ["RESETS", "Moment", "Rule"]

#: Among the tracepoints a rule needs: the recording has something that shows a reset or a restore by userspace.
RESETS = "signs of a reset"


class Moment(Enum):
    """When rules are asked; each moment hands its rules one kind of object (named here)."""

    #: A guest's access to a synthetic MSR is complete (`model.access.Access`).
    MSR = "msr"
    #: An exit accesses an MSR, or ends without having done so (`model.access.Accesses`).
    ACCESSES = "msr exit"
    #: A read of a running clock (`model.clock.Reading`).
    CLOCK = "clock"
    #: A value of the reference time can be held against the others (`model.clock.Sighting`).
    REFERENCE = "reference time"
    #: The exit in which REFERENCE_TSC was written is over (`model.clock.PageWrite`).
    PAGE = "reference tsc"
    #: KVM takes the host's time anew (`model.clock.MasterClock`).
    MASTER_CLOCK = "master clock"
    #: A synthetic timer is armed (`model.stimer.Start`).
    START = "stimer start"
    #: A synthetic timer expires (`model.stimer.Expiration`).
    EXPIRATION = "stimer expiration"
    #: The host timer fires (`model.stimer.Callback`).
    CALLBACK = "stimer callback"
    #: A timer is cancelled (`model.stimer.Cleanup`).
    CLEANUP = "stimer cleanup"
    #: A synthetic interrupt is raised (`model.synic.Raised`).
    RAISED = "synic set irq"
    #: A guest's write of EOM is complete (`model.synic.EndOfMessage`).
    EOM = "end of message"
    #: An interrupt with a synthetic source's vector is over (`model.synic.EndOfInterrupt`).
    EOI = "end of interrupt"
    #: A source is acknowledged while no interrupt ends (`model.synic.Acknowledgement`).
    ACK = "acknowledgement"
    #: A source was raised: did the APIC take it (`model.synic.Accepted`)?
    ACCEPT = "accepted"
    #: The vCPU enters the guest after its thread raised a source by itself (`model.synic.Unsent`).
    UNSENT = "raised alone"
    #: A SynIC register is written, by the guest or by userspace (`model.synic.SynicWrite`).
    SYNIC = "synic write"
    #: A Hyper-V hypercall is complete (`model.hypercall.Call`).
    CALL = "hypercall"
    #: A CPUID read in the hypervisor's range (`model.cpuid.Answer`).
    CPUID = "cpuid"
    #: An access reached the synthetic debugger (`model.debugger.DebugAccess`).
    DEBUG = "debugger"
    #: An event that only a nested guest brings about (`model.nested.NestedEvent`).
    NESTED = "nested guest"
    #: KVM_RUN returns with KVM_EXIT_HYPERV (`model.machine.Exit`).
    EXIT = "userspace exit"
    #: Something that had to follow did, or the bound is passed (`obligation.Obligation`).
    DUE = "obligation"


@dataclass(frozen=True, slots=True)
class Rule:
    """One named expectation.

    `code` never changes its meaning; `name` says what the rule finds. `needs` are the tracepoints without which it
    cannot be judged at all (RESETS: a sign of resets). `check` is asked at each of `moments` and answers None where
    the rule is not concerned. Divergences of rules with one `theme` in one VM are different faces of one fault and are
    reported together, under the first. `concerns` tells of a rule that is asked at MSR which registers' reads (False)
    or writes (True) it is asked about (None: all), `due` of one that is asked at DUE about which obligations. A rule of the
    `specification` reports where KVM knowingly departs from the TLFS and is asked in the profile "tlfs" alone. The page
    of the rule is the docstring of its module.
    """

    code: str
    name: str
    moments: tuple[Moment, ...]
    needs: tuple[str, ...]
    check: Callable[[Any], Verdict | None]
    severity: Severity = Severity.ERROR
    theme: str = ""
    concerns: Callable[[Msr | None, bool], bool] | None = None
    due: Due | None = None
    specification: bool = False
