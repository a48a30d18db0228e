"""Profiles: which reference the model follows, chosen from the host's kernel release.

What differs between kernels is a row of FACTS, with one answer for each kernel tree that was read. Stable
kernels carry back-ports and many releases lie between two trees: where the neighbouring trees differ, or
where
a tree carries a change as a back-port only, the answer is None, and either behaviour is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hvtrace.replay.bugs import BUGS, Bug

__all__ = ["FACTS", "PROFILES", "TLFS", "TREES", "Fact", "Profile", "profile_for", "profile_named"]

#: The kernel trees the facts were read from.
TREES: tuple[tuple[int, int], ...] = ((5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 16), (7, 1))

_Y, _N, _E = True, False, None


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that differs: its answer in each of TREES (None: either), and why."""

    name: str
    answers: tuple[bool | None, ...]
    reason: str


FACTS: tuple[Fact, ...] = (
    Fact(
        "needs_cpuid",
        (_N, _N, _Y, _Y, _Y, _Y, _Y),
        "Hyper-V MSRs exist only where CPUID 0x40000001 says Hv#1",
    ),
    Fact("enforces", (_N, _N, _Y, _Y, _Y, _Y, _Y), "KVM_CAP_HYPERV_ENFORCE_CPUID exists"),
    Fact("high_half_faults", (_N, _N, _N, _Y, _Y, _Y, _Y), "EOI and TPR with bits 63:32 set raise #GP"),
    Fact(
        "icr_reserved_faults",
        (_E, _E, _E, _E, _E, _Y, _Y),
        "ICR's reserved bits raise #GP (2024, back-ported)",
    ),
    Fact(
        "apicv_events",
        (_N, _N, _N, _Y, _Y, _Y, _Y),
        "kvm_apicv_inhibit_changed and kvm_apicv_accept_irq exist (5.18)",
    ),
    Fact(
        "icr_whole",
        (_N, _N, _N, _Y, _Y, _Y, _Y),
        "ICR is one register of 64 bits where it is written by an MSR",
    ),
    Fact("invariant_control", (_N, _N, _N, _N, _Y, _Y, _Y), "TSC_INVARIANT_CONTROL exists (6.2)"),
    Fact(
        "pv_enforces",
        (_N, _Y, _Y, _Y, _Y, _Y, _Y),
        "KVM_CAP_ENFORCE_PV_FEATURE_CPUID exists (5.10, 66570e966dd9)",
    ),
    Fact(
        "async_pf_int",
        (_N, _Y, _Y, _Y, _Y, _Y, _Y),
        "pages that became ready are told by an interrupt, not by #PF (5.8, 2635b5c4a0e4)",
    ),
    Fact("sched_info", (_E, _E, _Y, _Y, _Y, _Y, _Y), "the host always accounts scheduling delays (5.14)"),
    Fact(
        "pvclock_final_version",
        (_N, _N, _N, _Y, _Y, _Y, _Y),
        "kvm_pvclock_update shows the final, even version, not the odd one before it (5.18, 916d3608df82)",
    ),
    Fact(
        "pvclock_raw",
        (_N, _Y, _Y, _Y, _Y, _Y, _Y),
        "kvmclock follows the raw clock, which nobody slews (5.6, 53fafdbb8b21)",
    ),
    Fact("syndbg", (_N, _Y, _Y, _Y, _Y, _Y, _Y), "the synthetic debugger's MSRs exist (5.8)"),
    Fact("cpuid_fixed", (_N, _N, _N, _Y, _Y, _Y, _Y), "CPUID cannot be set once the vCPU ran (5.16)"),
    Fact(
        "halt_poll_clamps",
        (_Y, _Y, _Y, _N, _N, _N, _N),
        "a grown polling time is held under the cap at once, not at the next halt (6.1)",
    ),
    Fact(
        "halt_poll_floors",
        (_E, _E, _Y, _Y, _Y, _Y, _Y),
        "a polling time shrunk below halt_poll_ns_grow_start becomes 0 (5.15, back-ported)",
    ),
    Fact(
        "halt_poll_vm_cap",
        (_N, _Y, _Y, _N, _N, _N, _N),
        "a VM keeps the cap of the time it was created (5.8 to 6.0)",
    ),
    Fact(
        "nested_vmenter", (_N, _N, _N, _Y, _Y, _Y, _Y), "entries of nested guests are traced on VMX as well"
    ),
    Fact("xmm_input", (_N, _N, _Y, _Y, _Y, _Y, _Y), "calls take input in XMM registers (5.14)"),
    Fact("extended_hypercalls", (_N, _N, _N, _N, _Y, _Y, _Y), "extended calls go to userspace (6.3)"),
    Fact(
        "nested_flush", (_N, _N, _N, _N, _Y, _Y, _Y), "flushes of nested guests may be served directly (6.2)"
    ),
    Fact("gva_list_read", (_N, _N, _N, _N, _Y, _Y, _Y), "a TLB flush reads its list of addresses (6.2)"),
    Fact("hypercall_done", (_N, _N, _Y, _Y, _Y, _Y, _Y), "kvm_hv_hypercall_done exists (5.13)"),
    Fact(
        "abi_by_page",
        (_Y, _N, _N, _N, _N, _N, _N),
        "the hypercall page's enable bit, not GUEST_OS_ID, chooses the Hyper-V ABI (until 5.7)",
    ),
    Fact(
        "flush_stops_targets",
        (_N, _N, _N, _E, _Y, _Y, _Y),
        "a TLB flush waits until its targets left the guest (1ebfaa11ebb5) and kvm_exit is not late on SVM (6.6)",
    ),
    Fact("apic_frequency_fixed", (_Y, _Y, _Y, _Y, _Y, _N, _N), "APIC_FREQUENCY is 10^9 for every VM"),
    Fact(
        "tickless_run_time",
        (_N, _N, _E, _Y, _Y, _Y, _Y),
        "the run time of a thread on a CPU without ticks is up to date (5.16, e7f2be115f07)",
    ),
    Fact(
        "any_vcpu_fills_page", (_N, _N, _N, _Y, _Y, _Y, _Y), "any vCPU fills the TSC page, not only the first"
    ),
)


class Profile:
    """A reference. `version` is the kernel's major and minor number; None: not known, either behaviour goes.

    `ported` is true for distributions that bring whole features to an old version: whatever came later may be there.
    With `specification`, KVM's known departures from the TLFS are reported as well.
    """

    __slots__ = ("bugs", "facts", "name", "specification", "version")

    def __init__(
        self,
        name: str,
        version: tuple[int, int] | None,
        *,
        ported: bool = False,
        specification: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.specification = specification
        self.facts = {fact.name: _answer(fact.answers, version, ported=ported) for fact in FACTS}
        self.bugs = {
            bug.name: (bug, _answer(bug.answers, version, ported=ported) is not False) for bug in BUGS
        }

    def bug(self, name: str) -> tuple[Bug, bool]:
        """A known bug, and whether this kernel may have it. KeyError: no such bug."""
        return self.bugs[name]

    def is_fixed(self, name: str) -> bool:
        """Whether this kernel surely lacks a known bug. KeyError: no such bug."""
        return not self.bugs[name][1]

    def fact(self, name: str) -> bool | None:
        """The answer of a fact for this kernel; None: either behaviour is right. KeyError: no such fact."""
        return self.facts[name]


def _answer(
    answers: tuple[bool | None, ...], version: tuple[int, int] | None, *, ported: bool
) -> bool | None:
    """A fact's answer: both neighbouring trees must agree, and all later ones where features are ported."""
    if version is None:
        return answers[0] if len(set(answers)) == 1 else None
    older = max((i for i, tree in enumerate(TREES) if tree <= version), default=0)
    newer = min((i for i, tree in enumerate(TREES) if tree >= version), default=len(TREES) - 1)
    if answers[older] != answers[newer] or (ported and len(set(answers[older:])) > 1):
        return None
    return answers[older]


#: The profile of the specification.
TLFS = "tlfs"

PROFILES: tuple[str, ...] = (*(f"kvm-{major}.{minor}" for major, minor in TREES), TLFS)

#: Releases of Red Hat's family and of SUSE's.
_PORTED = re.compile(r"\.el\d|\.amzn\d|-\d{6}\.|-default$")

_RELEASE = re.compile(r"(?:kvm-)?(\d{1,3})\.(\d{1,3})")


def profile_for(release: str | None) -> Profile:
    """The profile of a kernel release ("6.1.0-56-amd64"); of an unknown one, the profile "kvm" with no version."""
    match = _RELEASE.match(release or "")
    if match is None:
        return Profile("kvm", None)
    version = int(match[1]), int(match[2])
    return Profile(f"kvm-{version[0]}.{version[1]}", version, ported=_is_ported(release))


def profile_named(name: str, release: str | None = None) -> Profile:
    """The profile of a name such as "kvm-6.1". ValueError where it is none.

    "tlfs" is the profile of the recording's kernel `release`, with what departs from the specification beside it.
    """
    if name == "kvm":
        return Profile("kvm", None)
    if name == TLFS:
        kernel = profile_for(release)
        return Profile(TLFS, kernel.version, ported=_is_ported(release), specification=True)
    if not name.startswith("kvm-") or _RELEASE.fullmatch(name) is None:
        raise ValueError(f"no profile {name!r}: one of kvm, {', '.join(PROFILES)} or kvm-MAJOR.MINOR")
    return profile_for(name)


def _is_ported(release: str | None) -> bool:
    return _PORTED.search(release or "") is not None
