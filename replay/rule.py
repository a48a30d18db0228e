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

    # Members are keys in the hot path, and the same object is the same member.
    __hash__ = object.__hash__

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
    #: An interrupt that KVM says was refused is put into the guest (`model.synic.Refused`).
    REFUSED = "refused"
    #: The vCPU enters the guest after its thread raised a source by itself (`model.synic.Unsent`).
    UNSENT = "raised alone"
    #: A SynIC register is written, by the guest or by userspace (`model.synic.SynicWrite`).
    SYNIC = "synic write"
    #: A Hyper-V hypercall is complete (`model.hypercall.Mismatch`).
    CALL = "hypercall"
    #: The result of a hypercall is traced (`model.hypercall.Finish`).
    FINISH = "hypercall result"
    #: A hypercall is taken by one of the two ABIs (`model.hypercall.AbiUse`).
    ABI = "hypercall abi"
    #: The decoded input of an IPI or flush hypercall is traced (`model.vp_set.Input`).
    INPUT = "hypercall input"
    #: An IPI hypercall is over (`model.vp_set.Sent`).
    SENT = "ipi"
    #: A TLB flush is over, and it is seen which of its targets left the guest (`model.vp_set.Flushed`).
    FLUSHED = "tlb flush"
    #: A CPUID read in the hypervisor's range (`model.cpuid.Answer`).
    CPUID = "cpuid"
    #: The same, where the answer itself is in order: does it fit what else the guest is offered?
    OFFER = "cpuid offer"
    #: An access reached the synthetic debugger (`model.debugger.DebugAccess`).
    DEBUG = "debugger"
    #: An event that only a nested guest brings about (`model.nested.NestedEvent`).
    NESTED = "nested guest"
    #: A vCPU's polling time changes (`model.halt_poll.Change`).
    HALT_POLL = "halt poll"
    #: The halt after which it changed is over (`model.halt_poll.Adjustment`).
    ADJUSTED = "halt poll adjusted"
    #: A halt is over (`model.halt_poll.Wakeup`), and how it compares with those before (`model.halt_poll.Run`).
    WAKEUP = "wakeup"
    WAKEUPS = "wakeups"
    #: An interrupt is over for its APIC (`model.apic.EndOfService`).
    ENDED = "end of service"
    #: An interrupt was ended by the flag of the paravirtual EOI (`model.apic.LazyEnd`).
    LAZY = "paravirtual eoi"
    #: An interrupt was ended by a write although the flag was armed (`model.apic.Skipped`).
    SKIPPED = "paravirtual eoi unused"
    #: An interrupt was ended by the flag while another one was pending (`model.apic.Armed`).
    ARMED = "paravirtual eoi armed"
    #: An interrupt is delivered to a vCPU (`model.apic.Delivery`).
    DELIVERY = "delivery"
    #: A source with auto-EOI may make APICv stop (`model.apic.Inhibition`).
    INHIBITION = "apicv inhibition"
    #: An APIC register is accessed through a synthetic MSR (`model.apic.Through`).
    THROUGH = "apic register"
    #: An interrupt was sent through the command register (`model.apic.Ipi`).
    IPI = "apic ipi"
    #: A hypercall of KVM's own ABI begins, and is over (`model.kvm_call.KvmCall`).
    KVM_CALL = "kvm hypercall"
    KVM_CALLED = "kvm hypercall ended"
    #: An exit for a hypercall ends without one (`model.kvm_call.Uncalled`).
    UNCALLED = "no hypercall"
    #: kvmclock is published to a vCPU (`model.pvclock.Update`).
    PVCLOCK = "pvclock update"
    #: The master clock is updated (`model.pvclock.OldClock`).
    OLD_CLOCK = "old clock"
    #: Steal time is brought up to date (`model.paravirt.TlbFlush`).
    TLB_FLUSH = "pv tlb flush"
    #: A page is fetched while the vCPU goes on (`model.paravirt.AsyncFault`), and is there (`model.paravirt.Request`).
    ASYNC_FAULT = "async page fault"
    PAGE_READY = "page ready"
    #: An event of VMBus, as QEMU traces it (`model.vmbus_finding.Finding`).
    VMBUS = "vmbus"
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
    or writes (True) it is asked about (None: all), `due` of one that is asked at DUE about which obligations. A rule of
    the `specification` reports where KVM knowingly departs from the TLFS and is asked in the profile "tlfs" alone. The
    page of the rule is the docstring of its module.
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
